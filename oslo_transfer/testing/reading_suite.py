# SPDX-License-Identifier: Apache-2.0
"""Sources give the right bytes, however they are asked for them."""

from __future__ import annotations

import array
import functools
import hashlib
import os
import random
import typing

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.testing import harness

Capability = base.Capability

_HANDLE = (
    Capability.READ
    | Capability.RANDOM_READ
    | Capability.EXTENTS
    | Capability.PIECES
)
_FAR = 5 << 30


class ReadingConformance(harness.Harness):
    """What is read is what was put."""

    #: What sources can do that are opened here, if that is less than what
    #: the driver can.
    source_capabilities: typing.ClassVar[Capability | None] = None

    #: Whether the size of what was put is known; None if it varies.
    sized: typing.ClassVar[bool | None] = True

    def big_sparse(
        self, size: int, runs: typing.Mapping[int, bytes]
    ) -> str | None:
        """Make an object of zeros with runs of data at some offsets.

        :returns: its URL; None if there is no way to make one this large
        """
        if size > 64 * harness.MIB:
            return None
        return self.put(harness.spread(size, runs))

    def source_has(self, flag: Capability) -> bool:
        """Whether sources that are opened here have to have a flag."""
        if self.source_capabilities is None:
            return flag in self.driver.capabilities & _HANDLE
        return flag in self.source_capabilities

    def test_source_describes_itself(self) -> None:
        """A handle has what is due, no more than its driver, and says so."""
        data = harness.pattern(1000)
        source = self.open(self.put(data))
        for flag in _HANDLE:
            if self.source_has(flag):
                self.assertIn(flag, source.capabilities)
        if self.sized is not None:
            self.assertEqual(len(data) if self.sized else None, source.size)
        self.assertIn(source.size, (None, len(data)))
        geometry = source.geometry
        self.assertGreaterEqual(geometry.align, 1)
        self.assertGreaterEqual(geometry.preferred, 1)
        self.assertGreaterEqual(geometry.first_streams, 1)
        self.assertGreaterEqual(geometry.max_streams, geometry.first_streams)
        self.assertGreaterEqual(geometry.max_request or 1, 1)
        self.assertIsInstance(source.delimited, bool)
        self.assertTrue(source.origin)

    def test_every_size(self) -> None:
        """All bytes come, and then the end, by any stream from 0."""
        for size in self.sizes:
            with self.subTest(size=size):
                data = harness.pattern(size)
                source = self.open(self.put(data))
                # Size 0 is that of an empty object, and of no other.
                self.assertIn(source.size, (None, size))
                self.assert_same(data, self.read(source))
                self.assert_same(data, self.read(source, 0, size))
                source.close()

    def test_stream_from_0_again_and_again(self) -> None:
        """A run at offset 0 can always be asked for again."""
        data = harness.pattern(harness.MIB + 1)
        source = self.open(self.put(data))
        first = bytearray(10)
        for length in (None, 1, 1000, None, len(data), 70000, None):
            with self.subTest(length=length):
                # One that is dropped in the middle, or before it began.
                with source.stream(0, None) as stream:
                    if length:
                        self.assertGreater(stream.readinto(first), 0)
                found = self.read(source, 0, length)
                self.assert_same(data[:length], found)

    def test_any_run(self) -> None:
        """RANDOM_READ: runs start and end anywhere."""
        data = harness.pattern(5 * harness.MIB // 2)
        size = len(data)
        source = self.open(self.put(data))
        if not self.source_has(Capability.RANDOM_READ):
            self._check_no_random_read(source, data)
            return
        choose = random.Random(size)  # noqa: S311
        runs: list[tuple[int, int | None]] = [
            (1, None),
            (size - 1, 1),
            (size - 1, None),
            (0, 1),
            (64 * harness.KIB - 1, 2),
            (harness.MIB, harness.MIB),
        ]
        for _ in range(12):
            offset = choose.randrange(size)
            runs.append((offset, choose.randint(1, size - offset)))
        for offset, length in runs:
            with self.subTest(offset=offset, length=length):
                end = size if length is None else offset + length
                found = self.read(source, offset, length)
                self.assert_same(data[offset:end], found)

    def _check_no_random_read(self, source: base.Source, data: bytes) -> None:
        self.assert_fails(exceptions.CapabilityMissing, source.stream, 1, None)
        self.assertNotIn(Capability.RANDOM_READ, source.capabilities)
        self.assert_fails(
            exceptions.CapabilityMissing, source.stream, len(data) // 2, 1
        )
        self.assert_same(data, self.read(source))

    def test_streams_at_once(self) -> None:
        """RANDOM_READ: several threads read one source."""
        data = harness.pattern(2 * harness.MIB)
        source = self.open(self.put(data))
        if not self.source_has(Capability.RANDOM_READ):
            self._check_no_random_read(source, data)
            return
        count = min(4, max(2, source.geometry.max_streams))
        part = len(data) // count
        found = self.together(
            *(
                functools.partial(self.read, source, index * part, part)
                for index in range(count)
            )
        )
        self.assert_same(data, b''.join(found))

    def test_streams_interleaved(self) -> None:
        """RANDOM_READ: streams that are open at once do not interfere."""
        data = harness.pattern(harness.MIB)
        source = self.open(self.put(data))
        if not self.source_has(Capability.RANDOM_READ):
            self._check_no_random_read(source, data)
            return
        half = len(data) // 2
        left, right = bytearray(), bytearray()
        with (
            source.stream(0, half) as first,
            source.stream(half, half) as second,
        ):
            for _ in range(half >> 14):
                right += self.take(second, 1 << 14)
                left += self.take(first, 1 << 14)
        self.assert_same(data, bytes(left + right))

    def test_sources_at_once(self) -> None:
        """A driver and its sources do not mind one another."""
        contents = [harness.pattern(harness.MIB, str(i)) for i in range(3)]
        urls = [self.put(data) for data in contents]
        urls.append(urls[0])
        found = self.together(
            *(lambda url=url: self.read(self.open(url)) for url in urls)
        )
        for data, each in zip([*contents, contents[0]], found):
            self.assert_same(data, each)

    def test_buffers(self) -> None:
        """Any buffer will do: tiny, huge, of another format."""
        data = harness.pattern(5000)
        url = self.put(data)
        for buffer in (
            bytearray(1),
            bytearray(7),
            bytearray(8 * harness.MIB),
            memoryview(bytearray(4096))[100:200],
            array.array('I', bytes(64)),
        ):
            view = memoryview(buffer).cast('B')
            with self.subTest(bytes=len(view)):
                found = bytearray()
                source = self.open(url)
                with source.stream(0, None) as stream:
                    self.assertTrue(stream.readable())
                    while count := stream.readinto(buffer):
                        self.assertIn(count, range(1, len(view) + 1))
                        found += view[:count]
                self.assert_same(data, bytes(found))
                source.close()

    def test_end_of_run(self) -> None:
        """A run ends where it was asked to, and not before."""
        data = harness.pattern(200000)
        source = self.open(self.put(data))
        huge = memoryview(bytearray(harness.MIB))
        for length in (1, 65536, 65537, 199999):
            with self.subTest(length=length):
                with source.stream(0, length) as stream:
                    self.take(stream, length - 1)
                    self.assertEqual(1, stream.readinto(huge))
                    self.assertEqual(0, stream.readinto(huge))
                    self.assertEqual(0, stream.readinto(huge))

    def test_beyond_the_end(self) -> None:
        """A run that is not all there is an error, never a short one."""
        data = harness.pattern(1000)
        source = self.open(self.put(data))
        runs = [(0, 1001)]
        if self.source_has(Capability.RANDOM_READ):
            runs += [(999, 2), (1001, 1), (1 << 40, 1)]
        for offset, length in runs:
            with self.subTest(offset=offset, length=length):
                if source.size is None and not source.delimited:
                    # Nobody can tell: the core refuses it for that.
                    continue
                self.assert_fails(
                    exceptions.TransferError,
                    self.read,
                    source,
                    offset,
                    length,
                )

    def test_empty_run(self) -> None:
        """No bytes asked for, none given."""
        data = harness.pattern(1000)
        source = self.open(self.put(data))
        offsets = [0]
        if self.source_has(Capability.RANDOM_READ):
            offsets += [1, 999, 1000]
        for offset in offsets:
            with self.subTest(offset=offset):
                self.assertEqual(b'', self.read(source, offset, 0))
        if self.source_has(Capability.RANDOM_READ):
            self.assertEqual(b'', self.read(source, 1000, None))
        self.assert_same(data, self.read(source))

    def test_far_offset(self) -> None:
        """Offsets beyond 32 bits."""
        runs = {
            0: harness.pattern(1000),
            (1 << 32) - 500: harness.pattern(1000, 'middle'),
            _FAR - 1000: harness.pattern(1000, 'end'),
        }
        url = self.big_sparse(_FAR, runs)
        if url is None:
            return
        source = self.open(url)
        if self.sized:
            self.assertEqual(_FAR, source.size)
        self.assert_same(runs[0], self.read(source, 0, 1000))
        for offset, run in list(runs.items())[1:]:
            if self.source_has(Capability.RANDOM_READ):
                self.assert_same(run, self.read(source, offset, len(run)))
            else:
                self.assert_fails(
                    exceptions.CapabilityMissing, source.stream, offset, 1
                )

    def test_extents(self) -> None:
        """EXTENTS: they cover the range, and what is no data is zeros."""
        size = 8 * harness.MIB
        runs = {
            harness.MIB: harness.pattern(100000),
            5 * harness.MIB + 123: harness.pattern(harness.MIB),
        }
        data = harness.spread(size, runs)
        url = self.big_sparse(size, runs)
        assert url is not None
        source = self.open(url)
        if not self.source_has(Capability.EXTENTS):
            self.assertIsNone(source.extents(0, size))
            return
        for offset, length in (
            (0, size),
            (0, 1),
            (harness.MIB + 5, 10),
            (harness.MIB - 7, 4 * harness.MIB),
            (size - 1, 1),
            (5 * harness.MIB, 3 * harness.MIB),
        ):
            with self.subTest(offset=offset, length=length):
                self._check_extents(source, data, offset, length)
        found = source.extents(0, size)
        assert found is not None
        zeros = sum(each.length for each in found if not each.data)
        self.assertGreater(zeros, size // 2, 'holes are taken for data')

    def _check_extents(
        self, source: base.Source, data: bytes, offset: int, length: int
    ) -> None:
        extents = source.extents(offset, length)
        self.assertIsNotNone(extents)
        assert extents is not None
        position = offset
        for each in extents:
            self.assertEqual(position, each.offset, 'a gap, or no order')
            self.assertGreater(each.length, 0)
            position += each.length
            if not each.data:
                run = data[each.offset : position]
                self.assertFalse(any(run), 'data is taken for a hole')
        self.assertEqual(offset + length, position)

    def test_extents_of_one_kind(self) -> None:
        """EXTENTS: all of it data, all of it zeros, nothing at all."""
        for data in (harness.pattern(harness.MIB), bytes(harness.MIB), b''):
            if len(data) < self.smallest:
                continue
            source = self.open(self.put(data))
            if not self.source_has(Capability.EXTENTS):
                self.assertIsNone(source.extents(0, len(data)))
                continue
            self._check_extents(source, data, 0, len(data))

    def test_pieces(self) -> None:
        """PIECES: there is one for each part, and they are right."""
        data = harness.pattern(harness.MIB + 1)
        source = self.open(self.put(data))
        pieces = source.pieces
        if not self.source_has(Capability.PIECES):
            self.assertIsNone(pieces)
            return
        assert pieces is not None
        starts = range(0, len(data), pieces.length)
        self.assertEqual(len(starts), len(pieces.digests))
        for start, digest in zip(starts, pieces.digests):
            part = data[start : start + pieces.length]
            found = hashlib.new(pieces.algorithm, part).digest()
            self.assertEqual(digest, found)

    def test_splice(self) -> None:
        """Bytes that the kernel moves are the same, and end the same."""
        for size in (0, 1, 64 * harness.KIB + 1, 5 * harness.MIB // 2):
            if size < self.smallest:
                continue
            data = harness.pattern(size)
            source = self.open(self.put(data))
            for lead in (0, 100):
                with self.subTest(size=size, lead=lead):
                    found = self._spliced(source, min(lead, size))
                    self.assert_same(data, found)
            source.close()

    def _spliced(self, source: base.Source, lead: int) -> bytes:
        """Read some, splice the rest behind a gap of three bytes."""
        buffer = memoryview(bytearray(harness.MIB))
        with (
            open(self.temporary(), 'w+b', buffering=0) as file,
            source.stream(0, None) as stream,
        ):
            head = self.take(stream, lead)
            position = 3
            while True:
                moved = stream.splice(file.fileno(), position, 1 << 20)
                if moved is None:
                    # Then nothing was moved, and reading goes on here.
                    moved = stream.readinto(buffer)
                    os.pwrite(file.fileno(), buffer[:moved], position)
                if not moved:
                    break
                position += moved
            self.assertEqual(0, stream.readinto(buffer))
            file.seek(0)
            found = file.read()
        self.assertEqual(bytes(3)[: len(found)], found[:3])
        return head + found[3:]

    def test_splice_into_what_cannot_be_written(self) -> None:
        """That is the file's error and not the source's."""
        path = self.temporary()
        with open(path, 'wb'):
            pass
        source = self.open(self.put(harness.pattern(1000)))
        with open(path, 'rb') as file, source.stream(0, None) as stream:
            try:
                moved = stream.splice(file.fileno(), 0, 1000)
            except OSError:
                return
            self.assertIsNone(moved)
            self.assertEqual(1000, len(self.drain(stream)))
