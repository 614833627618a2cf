# SPDX-License-Identifier: Apache-2.0
"""What a strategy owes that returns before the data has arrived."""

from __future__ import annotations

import threading
import typing

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer.testing import harness
from oslo_transfer.testing import strategy_suite


class AttachingConformance(strategy_suite.StrategyHarness):
    """An attaching strategy keeps the contract."""

    def setUp(self) -> None:
        """Keep the records of attachments to this test."""
        super().setUp()
        self.conf.set_override(
            'state_path', self.temporary(), group='oslo_transfer'
        )

    # Hooks

    def attached(self) -> list[str]:
        """What is attached on this host just now, in words."""
        return []

    # Tests

    def check_nothing(self, target: str) -> None:
        """Nothing shows, nothing is attached, and there is no record."""
        self.assertIsNone(self.read_target(target))
        self.assertEqual([], oslo_transfer.attachments(self.conf))
        self.assertEqual([], self.attached())
        self.assertEqual([], self.leftovers())

    def test_copy(self) -> None:
        """It can be read at once, and stays until it is detached."""
        data, target = harness.pattern(3 * harness.MIB), self.target()
        url = self.put(data)
        result = self.copy(url, target)
        self.assertTrue(self.strategy_class.attaching)
        self.assertEqual(self.strategy_class.name, result.strategy)
        self.assertIn(result.form, self.strategy_class.forms)
        self.assertFalse(result.verified)
        self.assertIsNotNone(result.attachment)
        self.assert_same(data, self.read_target(target))
        self.assertEqual(
            [result.attachment], oslo_transfer.attachments(self.conf)
        )
        assert result.attachment is not None
        result.attachment.detach()
        self.assertEqual([], oslo_transfer.attachments(self.conf))
        self.assertEqual([], self.attached())
        self.assertEqual([], self.leftovers())

    def test_only_if_it_is_wanted(self) -> None:
        """A call that accepts files alone is not given what is none."""
        self.conf.set_override(
            'strategy_order', [self.strategy_class.name], 'oslo_transfer'
        )
        url, target = self.put(harness.pattern(1 << 20)), self.target()
        self.assert_fails(
            exceptions.CapabilityMissing,
            oslo_transfer.copy,
            url,
            target,
            conf=self.conf,
        )
        self.check_nothing(target)
        result = oslo_transfer.copy(
            url, target, conf=self.conf, accept=self.strategy_class.forms
        )
        self.assertEqual(self.strategy_class.name, result.strategy)
        assert result.attachment is not None
        result.attachment.detach()

    def test_nothing_after_a_failure(self) -> None:
        """What fails shows nothing and leaves nothing."""
        url = self.put(harness.pattern(1 << 20))
        cancel = threading.Event()
        cancel.set()
        failures: list[tuple[type[BaseException], str, typing.Any]] = [
            (exceptions.TransferError, self.missing(), {}),
            (exceptions.SizeMismatch, url, {'expected_size': 5}),
            (exceptions.TransferCancelled, url, {'cancel': cancel}),
            (exceptions.DeadlineExceeded, url, {'deadline': 0.0}),
        ]
        for kind, source, options in failures:
            with self.subTest(kind=kind.__name__):
                target = self.target()
                self.assert_fails(kind, self.copy, source, target, **options)
                self.check_nothing(target)

    def test_existing(self) -> None:
        """What is there stays, and nothing is attached."""
        old = harness.pattern(1 << 20, 'old')
        target = self.target()
        result = self.copy(self.put(old), target)
        self.assert_fails(
            (exceptions.AlreadyExists, exceptions.InvalidEndpoint),
            self.copy,
            self.put(harness.pattern(1 << 20)),
            target,
        )
        self.assert_same(old, self.read_target(target))
        self.assertEqual(1, len(oslo_transfer.attachments(self.conf)))
        assert result.attachment is not None
        result.attachment.detach()
