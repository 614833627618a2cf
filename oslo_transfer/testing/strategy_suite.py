# SPDX-License-Identifier: Apache-2.0
"""What a strategy owes."""

from __future__ import annotations

import hashlib
import threading
import typing

import oslo_transfer
from oslo_transfer import _loader
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import progress
from oslo_transfer import proxied
from oslo_transfer import request as _request
from oslo_transfer.strategies import base
from oslo_transfer.testing import harness


class StrategyHarness(harness.Harness):
    """What every strategy owes, and how it is tested."""

    #: The strategy to test.
    strategy_class: typing.ClassVar[type[base.Strategy]]

    def make_driver(self) -> drivers_base.Driver:
        """A strategy works with any; the harness need not have one."""
        return drivers_base.Driver(self.conf)

    # Hooks

    def target(self) -> str:
        """A URL or path that it can write; nothing is there yet."""
        raise NotImplementedError

    def read_target(self, url: str) -> bytes | None:
        """What others see there; None for nothing."""
        raise NotImplementedError

    def leftovers(self) -> list[str]:
        """What is left of failed copies, in words."""
        return []

    def unservable(self) -> tuple[str, str] | None:
        """A source and a destination that it cannot serve, by its nature."""
        return None

    # Tools

    def copy(
        self, src: typing.Any, dst: str, **options: typing.Any
    ) -> oslo_transfer.TransferResult:
        """Copy by this strategy and no other."""
        return oslo_transfer.copy(
            src,
            dst,
            self.strategy_class.name,
            conf=self.conf,
            **options,
        )

    def request(self, src: str, dst: str) -> _request.Request:
        """What a strategy plans with."""

        def load(scheme: str) -> drivers_base.Driver:
            return _loader.driver(scheme, self.conf)

        sources, _ = proxied.expand((ends.end_of(src, load),), self.conf, load)
        return _request.Request(
            sources=tuple(sources),
            destination=ends.end_of(dst, load),
            progress=progress.Progress(None),
        )

    # Tests

    def test_registered(self) -> None:
        """It is found by its name."""
        cls = self.strategy_class
        self.assertIs(cls, _loader.strategy_class(cls.name))
        self.assertRegex(cls.name, r'^[a-z][a-z0-9_]*$')
        self.assertTrue((cls.__doc__ or '').strip())

    def test_plan(self) -> None:
        """It says what would be done, and touches nothing."""
        url, target = self.put(harness.pattern(1000)), self.target()
        request = self.request(url, target)
        plans = [self.strategy_class().plan(request) for _ in range(2)]
        self.assertEqual(plans[0], plans[1])
        self.assertEqual(self.strategy_class.name, plans[0].strategy)
        self.assertEqual(
            list(map(str, request.sources)), list(map(str, plans[0].sources))
        )
        self.assertTrue(plans[0].steps)
        self.assertIsNone(self.read_target(target))
        # Whether there is anything to copy shows only when it runs.
        self.strategy_class().plan(self.request(self.missing(), target))

    def test_plan_refuses(self) -> None:
        """What it cannot serve is CapabilityMissing, with the reason."""
        pair = self.unservable()
        if pair is None:
            return
        self.assert_fails(
            exceptions.CapabilityMissing,
            self.strategy_class().plan,
            self.request(*pair),
        )
        self.assert_fails(exceptions.CapabilityMissing, self.copy, *pair)
        self.assertIsNone(self.read_target(pair[1]))


class StrategyConformance(StrategyHarness):
    """A completing strategy keeps the contract."""

    def test_copy(self) -> None:
        """All bytes arrive, and the result says how."""
        for size in (0, 1, 64 * harness.KIB + 1, 5 * harness.MIB // 2):
            for algorithm in (None, 'sha256'):
                with self.subTest(size=size, algorithm=algorithm):
                    self._check_copy(harness.pattern(size), algorithm)

    def _check_copy(self, data: bytes, algorithm: str | None) -> None:
        target = self.target()
        value = algorithm and hashlib.new(algorithm, data).hexdigest()
        result = self.copy(
            self.put(data), target, hash_algo=algorithm, hash_value=value
        )
        self.assert_same(data, self.read_target(target))
        self.assertEqual(self.strategy_class.name, result.strategy)
        self.assertIn(result.form, self.strategy_class.forms)
        self.assertEqual(bool(algorithm), result.verified)
        self.assertEqual(len(data), result.size)
        self.assertEqual(0, result.wasted)
        self.assertLessEqual(result.bytes_written, len(data))
        if algorithm:
            self.assertEqual(f'{algorithm}:{value}', result.digest)
        self.assertEqual([], self.leftovers())

    def test_nothing_visible_after_a_failure(self) -> None:
        """What fails shows nothing, leaves nothing, and says why."""
        other = hashlib.sha256(b'other').hexdigest()
        self._check_failure(
            exceptions.DigestMismatch, hash_algo='sha256', hash_value=other
        )
        self._check_failure(exceptions.SizeMismatch, expected_size=5)
        target = self.target()
        self.assert_fails(
            exceptions.NotFound, self.copy, self.missing(), target
        )
        self.assertIsNone(self.read_target(target))
        self.assertEqual([], self.leftovers())

    def test_nothing_visible_after_a_stop(self) -> None:
        """Nothing shows; what may be resumed is left."""
        cancel = threading.Event()
        cancel.set()
        self._check_failure(exceptions.TransferCancelled, cancel=cancel)
        self._check_failure(exceptions.DeadlineExceeded, deadline=0.0)

    def _check_failure(
        self, kind: type[BaseException], **options: typing.Any
    ) -> None:
        target = self.target()
        url = self.put(harness.pattern(harness.MIB))
        self.assert_fails(kind, self.copy, url, target, **options)
        self.assertIsNone(self.read_target(target))

    def test_existing(self) -> None:
        """A destination that is there is replaced if it was asked for."""
        old, new = harness.pattern(1000, 'old'), harness.pattern(2000)
        target = self.target()
        self.copy(self.put(old), target)
        self.assert_fails(
            exceptions.AlreadyExists, self.copy, self.put(new), target
        )
        self.assert_same(old, self.read_target(target))
        self.copy(self.put(new), target, overwrite=True)
        self.assert_same(new, self.read_target(target))

    def test_observers(self) -> None:
        """They see each byte once and in order, and may say no."""
        data = harness.pattern(5 * harness.MIB // 2)
        seen = bytearray()

        class Observer:
            def update(self, chunk: bytes) -> None:
                seen.extend(chunk)

        class Refusal(Exception):
            pass

        class Refuser:
            def update(self, _chunk: bytes) -> None:
                raise Refusal

        self.copy(self.put(data), self.target(), observers=[Observer()])
        self.assert_same(data, bytes(seen))
        target = self.target()
        with self.assertRaises(Refusal):
            self.copy(self.put(data), target, observers=[Refuser()])
        self.assertIsNone(self.read_target(target))
