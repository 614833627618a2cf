# SPDX-License-Identifier: Apache-2.0
"""What a driver with READ owes."""

from __future__ import annotations

from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import location as _location
from oslo_transfer.testing import harness
from oslo_transfer.testing import reading_suite
from oslo_transfer.testing import waiting_suite


class SourceConformance(
    reading_suite.ReadingConformance, waiting_suite.WaitingConformance
):
    """Sources keep the contract."""

    def change(self, url: str, data: bytes) -> None:
        """Replace an object by another version.

        The validator of the new version, if there is any, must be another
        one. Needed if sources have a validator.
        """
        raise NotImplementedError

    def test_validator(self) -> None:
        """It is the same as long as the object is, and no longer."""
        url = self.put(harness.pattern(1000))
        first = self.open(url).validator
        source = self.open(url)
        self.read(source)
        self.assertEqual(first, source.validator)
        self.assertEqual(first, self.open(url).validator)
        if first is None:
            return
        self.assertIsInstance(first.strong, bool)
        self.change(url, harness.pattern(1001, 'new'))
        source = self.open(url)
        self.assertNotEqual(first, source.validator)
        self.assert_same(harness.pattern(1001, 'new'), self.read(source))

    def test_change_before_a_stream(self) -> None:
        """A source never gives bytes of another version."""
        old = harness.pattern(harness.MIB)
        for new in (
            harness.pattern(harness.MIB, 'new'),
            harness.pattern(1000, 'new'),
            harness.pattern(2 * harness.MIB, 'new'),
        ):
            with self.subTest(size=len(new)):
                url = self.put(old)
                source = self.open(url)
                if source.validator is None:
                    continue  # Nobody can tell.
                # The answer to the opening may be on its way already.
                self.read(source, 0, 1)
                self.change(url, new)
                self._check_old(source, old, 0)
                if self.source_has(base.Capability.RANDOM_READ):
                    self._check_old(source, old, len(old) // 2)

    def _check_old(self, source: base.Source, old: bytes, offset: int) -> None:
        try:
            found = self.read(source, offset, len(old) - offset)
        except exceptions.SourceChanged as exc:
            self.assert_presentable(exc)
            return
        self.assert_same(old[offset:], found)

    def test_change_while_a_stream_is_read(self) -> None:
        """What was begun ends as it began, or with SourceChanged.

        A peer may know no better than to break off; who asks again is told.
        """
        old = harness.pattern(5 * harness.MIB // 2)
        url = self.put(old)
        source = self.open(url)
        if source.validator is None:
            return
        found = bytearray()
        buffer = memoryview(bytearray(64 * harness.KIB))
        with source.stream(0, None) as stream:
            found += buffer[: stream.readinto(buffer)]
            self.change(url, harness.pattern(len(old), 'new'))
            try:
                while count := stream.readinto(buffer):
                    found += buffer[:count]
            except exceptions.SourceChanged as exc:
                self.assert_presentable(exc)
                return
            except exceptions.Unavailable as exc:
                self.assert_presentable(exc)
        self.assert_same(old[: len(found)], bytes(found))
        if len(found) < len(old):
            random = self.source_has(base.Capability.RANDOM_READ)
            start = len(found) if random else 0
            length = len(old) - start
            self.assert_fails(
                exceptions.SourceChanged, self.read, source, start, length
            )

    def test_sources_are_independent(self) -> None:
        """Closing one does nothing to another one of the same object."""
        data = harness.pattern(harness.MIB)
        url = self.put(data)
        first, second = self.open(url), self.open(url)
        with second.stream(0, None) as stream:
            buffer = memoryview(bytearray(1000))
            found = bytes(buffer[: stream.readinto(buffer)])
            first.close()
            found += self.drain(stream)
        self.assert_same(data, found)

    def test_untrusted(self) -> None:
        """POLICED: the address is checked; without it there is no way."""
        url = self.put(harness.pattern(1000))
        endpoint = _endpoint.parse(url)
        end = ends.LocationEnd(
            _location.Location(url, trusted=False), endpoint, self.driver
        )
        self.assert_fails(
            exceptions.PolicyRefused, end.open_source, self.context()
        )
        if base.Capability.POLICED in self.driver.capabilities:
            # A test's own servers are on a loopback address.
            self.assert_fails(
                exceptions.PolicyRefused,
                self.driver.open_source,
                endpoint,
                self.context(trusted=False),
            )

    def test_secrets(self) -> None:
        """A login and a query show in no error, repr or log line."""
        for url in (
            self.with_secrets(self.missing()),
            self.with_secrets(self.put(harness.pattern(1000))),
        ):
            # Not every scheme has such URLs. An error is as good, as long
            # as it does not repeat them.
            try:
                source = self.open(url)
            except exceptions.TransferError as exc:
                self.assert_presentable(exc)
                continue
            for secret in harness.SECRETS:
                self.assertNotIn(secret, repr(source))
            source.close()
            self.assert_fails(exceptions.TransferError, self.read, source)
