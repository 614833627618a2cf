# SPDX-License-Identifier: Apache-2.0
"""What a driver owes whose sources have FILL."""

from __future__ import annotations

import collections
import os
import threading
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer.drivers import target
from oslo_transfer import exceptions
from oslo_transfer import location as _location
from oslo_transfer import ranges
from oslo_transfer.testing import harness


class FillingConformance(harness.Harness):
    """Sources that fill a file by themselves keep the contract."""

    def target(
        self, size: int, held: dict[int, bytes] | None = None
    ) -> RecordingTarget:
        """A part file to fill.

        :param held: what an earlier copy has left in it, by offset
        """
        path = self.temporary()
        found = RecordingTarget(path, size, held or {})
        self.addCleanup(found.close)
        return found

    def fill(
        self, url: str, into: RecordingTarget, **changes: typing.Any
    ) -> None:
        """Fill a target, and see that it has all of it in the end."""
        with self.open(url, **changes) as source:
            self.assertIn(base.Capability.FILL, source.capabilities)
            source.fill(into)
        self.assertEqual([], into.problems)
        self.assertTrue(into.was_checked)
        self.assertEqual(into.size, into.in_place.total)
        self.assertEqual(into.inode, os.stat(into.path).st_ino)

    def test_filling(self) -> None:
        """All bytes are there, each was reported once, when it was."""
        for size in self.sizes:
            with self.subTest(size=size):
                data = harness.pattern(size)
                into = self.target(size)
                self.fill(self.put(data), into)
                self.assert_same(data, into.content)
                self.assertNotIn('resumed', into.by_origin)

    def test_filling_zeros(self) -> None:
        """Zeros come out as zeros, however they are known."""
        size = 3 * harness.MIB
        data = harness.spread(
            size, {harness.MIB: harness.pattern(harness.MIB + 1)}
        )
        into = self.target(size)
        self.fill(self.put(data), into)
        self.assert_same(data, into.content)

    def test_filling_goes_on(self) -> None:
        """What is held and right is not fetched again."""
        data = harness.pattern(3 * harness.MIB)
        held = 2 * harness.MIB
        into = self.target(len(data), {0: data[:held]})
        self.fill(self.put(data), into)
        self.assert_same(data, into.content)
        self.assertEqual(held, into.by_origin['resumed'])

    def test_filling_does_not_trust(self) -> None:
        """What is held and wrong is replaced."""
        data = harness.pattern(3 * harness.MIB)
        wrong = bytearray(data[: 2 * harness.MIB])
        wrong[harness.MIB] ^= 1
        into = self.target(len(data), {0: bytes(wrong)})
        self.fill(self.put(data), into)
        self.assert_same(data, into.content)
        self.assertLess(into.by_origin['resumed'], 2 * harness.MIB)

    def test_filling_clears_what_was_between(self) -> None:
        """Only what is held says anything; the rest may be anything."""
        data = harness.spread(
            3 * harness.MIB, {0: harness.pattern(harness.MIB)}
        )
        into = self.target(len(data), {0: data[: harness.MIB]})
        os.pwrite(into.fd, b'x' * harness.MIB, 2 * harness.MIB)
        self.fill(self.put(data), into)
        self.assert_same(data, into.content)

    def test_helper(self) -> None:
        """Bytes of another location are used and counted as its own."""
        data = harness.pattern(4 * harness.MIB)
        into = self.target(len(data))
        into.helpers = [LocalHelper(self, data)]
        self.fill(self.put(data), into)
        self.assert_same(data, into.content)
        by_helper = into.by_helper['helper']
        self.assertLessEqual(by_helper, into.by_origin['origin'])

    def test_wrong_helper(self) -> None:
        """Its bytes do no harm, and it is told on if they were used."""
        data = harness.pattern(4 * harness.MIB)
        into = self.target(len(data))
        helper = LocalHelper(self, harness.pattern(len(data), 'other'))
        into.helpers = [helper]
        self.fill(self.put(data), into)
        self.assert_same(data, into.content)
        self.assertEqual(0, into.by_helper['helper'])

    def test_cancelled_filling(self) -> None:
        """It ends within a second; what has arrived is right."""
        data = harness.pattern(4 * harness.MIB)
        url, cancel = self.put(data), threading.Event()
        into = self.target(len(data))
        into.limit = 64 * harness.KIB  # It would take a minute.
        with self.open(url, cancel=cancel) as source:
            timer = threading.Timer(0.2, cancel.set)
            timer.start()
            started = time.monotonic()
            self.assert_fails(exceptions.TransferCancelled, source.fill, into)
            self.assertLess(time.monotonic() - started, 0.2 + harness.PROMPT)
            timer.join()
        self.assertEqual([], into.problems)

    def test_closed_filling(self) -> None:
        """A closed source fills nothing."""
        data = harness.pattern(harness.MIB)
        into = self.target(len(data))
        source = self.open(self.put(data))
        source.close()
        self.assert_fails(exceptions.TransferCancelled, source.fill, into)
        self.assertEqual(0, into.in_place.total)

    def test_filling_from_missing(self) -> None:
        """What does not exist is NotFound, before anything is filled."""
        self.assert_fails(exceptions.NotFound, self.open, self.missing())


class LocalHelper(target.Helper):
    """Another location: a local file."""

    def __init__(self, case: harness.Harness, data: bytes) -> None:
        self.name = 'helper'
        self._path = case.temporary()
        with open(self._path, 'wb') as file:
            file.write(data)
        self.error: exceptions.TransferError | None = None

    def open(self, ctx: _context.Context, start: int) -> base.Source:
        """Open the file."""
        return ctx.open_source(_location.Location(self._path))

    def failed(self, error: exceptions.TransferError) -> None:
        """Remember it."""
        self.error = error


class RecordingTarget(target.Target):
    """A part file that keeps account, and looks at what is reported."""

    def __init__(self, path: str, size: int, held: dict[int, bytes]) -> None:
        self.path = path
        self.size = size
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(self.fd, size)
        self.inode = os.fstat(self.fd).st_ino
        self.held = ranges.RangeSet()
        for offset, data in held.items():
            os.pwrite(self.fd, data, offset)
            self.held.add(offset, offset + len(data))
        self.helpers = ()
        self.in_place = ranges.RangeSet()
        self.by_origin: collections.Counter[str] = collections.Counter()
        self.by_helper: collections.Counter[str] = collections.Counter()
        self.was_checked = False
        self.holes = 0
        self.problems: list[str] = []
        self.limit: int | None = None
        self._seen: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()

    @property
    def content(self) -> bytes:
        """All of the file; the same as when it was reported."""
        found = os.pread(self.fd, self.size + 1, 0)
        for offset, data in self._seen:
            if found[offset : offset + len(data)] != data:
                self.problems.append(f'{offset} was reported too early')
        if self.problems:
            raise AssertionError(self.problems)
        return found

    @property
    def rate(self) -> int | None:
        """As the test says."""
        return self.limit

    def arrived(
        self, offset: int, length: int, origin: str, by: str | None = None
    ) -> None:
        """Read it, and see that it is new."""
        with self._lock:
            before = self.in_place.total
            self.in_place.add(offset, offset + length)
            if self.in_place.total != before + length:
                self.problems.append(f'{offset} was reported twice')
            if offset + length > self.size:
                self.problems.append(f'{offset + length} is behind the end')
            self.by_origin[origin] += length
            if by is not None:
                self.by_helper[by] += length
            self._seen.append((offset, os.pread(self.fd, length, offset)))

    def left_out(self, count: int) -> None:
        """Zeros that take no space."""
        with self._lock:
            self.holes += count

    def checked(self) -> None:
        """What was held has been looked at."""
        self.was_checked = True

    def moved(self, count: int) -> float:
        """Not looked at."""
        return 0.0

    def waste(self, count: int) -> None:
        """Not looked at."""

    def note(self, **figures: int) -> None:
        """All of them are counts."""
        if any(figure < 0 for figure in figures.values()):
            self.problems.append(f'negative figures: {figures}')

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)
