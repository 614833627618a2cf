# SPDX-License-Identifier: Apache-2.0
"""Sinks take all bytes to their place."""

from __future__ import annotations

from collections.abc import Iterable
import functools
import os
import random
import typing

from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import harness

Capability = base.Capability

_HANDLE = (
    Capability.WRITE
    | Capability.RANDOM_WRITE
    | Capability.ATOMIC
    | Capability.READBACK
    | Capability.RESUME
)
_STEP = 100_003


def view(data: bytes) -> memoryview:
    """What sinks are given: a view."""
    return memoryview(data)


class WritingConformance(harness.Harness):
    """What is written is there after the commit."""

    #: What sinks can do that are opened here, if that is less than what
    #: the driver can.
    sink_capabilities: typing.ClassVar[Capability | None] = None

    #: The size in bytes of what ``sink_url()`` names, if that is like a
    #: device: it is there always, has no name to appear under, is written
    #: whether or not it may be replaced, and keeps its size. Data is the
    #: start of it then. At least 4 MiB.
    sink_size: typing.ClassVar[int | None] = None

    def sink_url(self) -> str:
        """A URL that can be written, and where there is nothing yet."""
        raise NotImplementedError

    def read_sink(self, url: str) -> bytes | None:
        """What others see at a URL of a sink; None for nothing.

        Not by the driver. All of it, also of what is like a device.
        """
        raise NotImplementedError

    def write_sink(self, url: str, data: bytes) -> None:
        """Put something at a URL of a sink; not by the driver."""
        raise NotImplementedError

    # Tools

    def sink_has(self, flag: Capability) -> bool:
        """Whether sinks that are opened here have to have a flag."""
        if self.sink_capabilities is None:
            return flag in self.driver.capabilities & _HANDLE
        return flag in self.sink_capabilities

    def open_to_write(
        self,
        url: str,
        size: int | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        **changes: typing.Any,
    ) -> base.Sink:
        """Open a sink that is aborted when the test ends."""
        sink = self.driver.open_sink(
            _endpoint.parse(url),
            self.context(**changes),
            size=size,
            resume=resume,
            overwrite=overwrite,
        )
        self.addCleanup(sink.abort, False)
        self.assertIn(Capability.WRITE, sink.capabilities)
        self.assertIn(sink.capabilities, self.driver.capabilities)
        for flag in _HANDLE:
            if self.sink_has(flag):
                self.assertIn(flag, sink.capabilities)
        return sink

    def assert_shows(self, data: bytes, url: str) -> None:
        """Others see this and, but on a device, nothing else."""
        found = self.read_sink(url)
        if found is not None and self.sink_size is not None:
            self.assertEqual(self.sink_size, len(found))
            found = found[: len(data)]
        self.assert_same(data, found)

    def write_all(self, sink: base.Sink, data: bytes, start: int = 0) -> None:
        """Write in order, with one buffer that is used again and again."""
        buffer = bytearray(_STEP)
        for offset in range(start, len(data), _STEP):
            part = data[offset : offset + _STEP]
            buffer[: len(part)] = part
            sink.pwrite(memoryview(buffer)[: len(part)], offset)
            # A sink must not keep the buffer.
            buffer[:] = b'\xaa' * _STEP

    def back(self, sink: base.Sink, offset: int, length: int) -> bytes:
        """Read from a sink; shorter at its end."""
        found = bytearray(length)
        rest = memoryview(found)
        while rest:
            count = sink.pread(rest, offset + length - len(rest))
            self.assertIn(count, range(len(rest) + 1))
            if not count:
                break
            rest = rest[count:]
        return bytes(found[: length - len(rest)])

    # Tests

    def test_sink_describes_itself(self) -> None:
        """A sink says what it is and what it can hold."""
        sink = self.open_to_write(self.sink_url(), 1000)
        if self.sink_size is None:
            self.assertIn(sink.form, ('file', 'device'))
            self.assertIsInstance(sink.zeroed, bool)
        else:
            self.assertEqual('device', sink.form)
            self.assertEqual(self.sink_size, sink.capacity)
            self.assertFalse(sink.zeroed, 'anything may be there')
            self.assertNotIn(Capability.ATOMIC, sink.capabilities)
        for number in (sink.capacity, sink.free):
            if number is not None:
                self.assertGreaterEqual(number, 1000)
        if sink.fd is not None:
            os.fstat(sink.fd)

    def test_every_size_in_order(self) -> None:
        """All bytes arrive, with the size told before or not."""
        for size in harness.SIZES:
            for told in (size, None):
                with self.subTest(size=size, told=told):
                    data = harness.pattern(size)
                    url = self.sink_url()
                    sink = self.open_to_write(url, told)
                    self.write_all(sink, data)
                    sink.sync()
                    sink.commit(size)
                    self.assert_shows(data, url)

    def test_empty_writes(self) -> None:
        """No bytes change nothing, and are not the end."""
        data = harness.pattern(1000)
        for told in (len(data), None):
            with self.subTest(told=told):
                url = self.sink_url()
                sink = self.open_to_write(url, told)
                sink.pwrite(view(b''), 0)
                sink.pwrite(view(data[:500]), 0)
                sink.pwrite(view(b''), 500)
                self.assertNotEqual(data[:500], self.read_sink(url))
                sink.pwrite(view(data[500:]), 500)
                sink.pwrite(view(b''), 1000)
                sink.commit(1000)
                self.assert_shows(data, url)

    def test_sync_at_any_time(self) -> None:
        """Also before the first byte and twice."""
        data = harness.pattern(harness.MIB)
        url = self.sink_url()
        sink = self.open_to_write(url, len(data))
        sink.sync()
        half = len(data) // 2
        self.write_all(sink, data[:half])
        sink.sync()
        sink.sync()
        self.write_all(sink, data, half)
        sink.commit(len(data))
        self.assert_shows(data, url)

    def test_any_order(self) -> None:
        """RANDOM_WRITE: bytes come at any offset."""
        data = harness.pattern(5 * harness.MIB // 2)
        url = self.sink_url()
        sink = self.open_to_write(url, len(data))
        if not self.sink_has(Capability.RANDOM_WRITE):
            self._check_no_random_write(sink)
            return
        offsets = list(range(0, len(data), _STEP))
        random.Random(1).shuffle(offsets)  # noqa: S311
        self._write_at(sink, data, offsets)
        # Once more over what is there.
        self._write_at(sink, data, offsets[:3])
        sink.commit(len(data))
        self.assert_shows(data, url)

    def _write_at(
        self, sink: base.Sink, data: bytes, offsets: Iterable[int]
    ) -> None:
        for offset in offsets:
            sink.pwrite(view(data)[offset : offset + _STEP], offset)

    def _check_no_random_write(self, sink: base.Sink) -> None:
        for offset in (1, 1 << 20):
            self.assert_fails(
                exceptions.CapabilityMissing,
                sink.pwrite,
                view(b'x'),
                offset,
            )

    def test_threads_at_once(self) -> None:
        """RANDOM_WRITE: several threads write one sink."""
        data = harness.pattern(5 * harness.MIB // 2)
        for told in (len(data), None):
            with self.subTest(told=told):
                url = self.sink_url()
                sink = self.open_to_write(url, told)
                if not self.sink_has(Capability.RANDOM_WRITE):
                    self._check_no_random_write(sink)
                    continue
                offsets = list(range(0, len(data), _STEP))
                random.Random(2).shuffle(offsets)  # noqa: S311
                self.together(
                    *(
                        functools.partial(
                            self._write_at, sink, data, offsets[i::4]
                        )
                        for i in range(4)
                    )
                )
                sink.commit(len(data))
                self.assert_shows(data, url)

    def test_sinks_at_once(self) -> None:
        """A driver and its sinks do not mind one another."""
        contents = [harness.pattern(harness.MIB, str(i)) for i in range(3)]
        urls = [self.sink_url() for _ in contents]

        def write(url: str, data: bytes) -> None:
            sink = self.open_to_write(url, len(data))
            self.write_all(sink, data)
            sink.commit(len(data))

        self.together(
            *(functools.partial(write, *each) for each in zip(urls, contents))
        )
        for url, data in zip(urls, contents):
            self.assert_shows(data, url)

    def test_what_is_not_written(self) -> None:
        """RANDOM_WRITE: on a zeroed sink, gaps and the end are zeros."""
        size = harness.MIB
        run = harness.pattern(1000)
        for told in (size, None):
            url = self.sink_url()
            sink = self.open_to_write(url, told)
            if not self.sink_has(Capability.RANDOM_WRITE):
                self._check_no_random_write(sink)
                continue
            with self.subTest(told=told):
                if sink.zeroed:
                    expected = harness.spread(size, {70000: run})
                    sink.pwrite(view(run), 70000)
                    if told and self.sink_has(Capability.READBACK):
                        found = self.back(sink, 0, size)
                        self.assert_same(expected, found)
                else:
                    expected = harness.pattern(size)
                    self.write_all(sink, expected)
                sink.commit(size)
                self.assert_shows(expected, url)

    def test_zero(self) -> None:
        """After True the run reads as zeros, whatever was there."""
        size = harness.MIB
        data = harness.pattern(size)
        for offset, length in (
            (0, size),
            (0, 1),
            (64 * harness.KIB, 128 * harness.KIB),
            (12345, 67890),
            (size - 5, 5),
            (size - 100_000, 100_000),
        ):
            with self.subTest(offset=offset, length=length):
                url = self.sink_url()
                sink = self.open_to_write(url, size)
                if self.sink_has(Capability.RANDOM_WRITE):
                    self.write_all(sink, data)
                    expected = bytearray(data)
                else:
                    self.write_all(sink, data[:offset])
                    expected = bytearray(data[: offset + length])
                expected[offset : offset + length] = bytes(length)
                if not sink.zero(offset, length):
                    sink.pwrite(view(bytes(length)), offset)
                if self.sink_has(Capability.READBACK):
                    found = self.back(sink, offset, length)
                    self.assertFalse(any(found))
                if len(expected) < size:
                    expected += data[len(expected) :]
                    self.write_all(sink, bytes(expected), offset + length)
                sink.commit(size)
                self.assert_shows(bytes(expected), url)

    def test_zero_where_nothing_is(self) -> None:
        """The first of all, or the last, may be a run of zeros."""
        run, gap = harness.pattern(100_000), bytes(200_000)
        for parts in ((run, gap), (gap, run), (gap,), (run, gap, run)):
            expected = b''.join(parts)
            url = self.sink_url()
            sink = self.open_to_write(url, len(expected))
            position = 0
            for part in parts:
                if part is run or not sink.zero(position, len(part)):
                    sink.pwrite(view(part), position)
                position += len(part)
            sink.commit(len(expected))
            self.assert_shows(expected, url)

    def test_readback(self) -> None:
        """READBACK: what was written can be read at once."""
        data = harness.pattern(harness.MIB)
        sink = self.open_to_write(self.sink_url(), len(data))
        self.write_all(sink, data)
        if not self.sink_has(Capability.READBACK):
            self.assert_fails(
                exceptions.CapabilityMissing,
                sink.pread,
                memoryview(bytearray(10)),
                0,
            )
            return
        for offset, length in (
            (0, len(data)),
            (1, 100_000),
            (len(data) - 1, 1),
        ):
            found = self.back(sink, offset, length)
            self.assert_same(data[offset : offset + length], found)
        if sink.capacity is None:
            self.assertEqual(b'', self.back(sink, len(data), 10))
            self.assertEqual(b'', self.back(sink, 1 << 40, 1))

    def test_far_offset_of_a_sink(self) -> None:
        """RANDOM_WRITE: offsets beyond 32 bits."""
        sink = self.open_to_write(self.sink_url())
        if not self.sink_has(Capability.RANDOM_WRITE):
            self._check_no_random_write(sink)
            return
        if sink.capacity is not None or not sink.zeroed:
            return  # Nobody wants to fill up the way there.
        runs = {
            (1 << 32) - 500: harness.pattern(1000),
            5 << 30: harness.pattern(1000, 'far'),
        }
        for offset, run in runs.items():
            sink.pwrite(view(run), offset)
        if self.sink_has(Capability.READBACK):
            for offset, run in runs.items():
                self.assert_same(run, self.back(sink, offset, len(run)))
            found = self.back(sink, 1000, 1000)
            self.assertFalse(any(found), 'it went elsewhere')
        sink.abort(False)

    def test_descriptor(self) -> None:
        """What goes in by ``fd`` is as if it had been written."""
        data = harness.pattern(harness.MIB)
        url = self.sink_url()
        sink = self.open_to_write(url, len(data))
        if sink.fd is None:
            self.write_all(sink, data)
        else:
            os.pwrite(sink.fd, data[1000:], 1000)
            sink.pwrite(view(data)[:1000], 0)
        sink.sync()
        sink.commit(len(data))
        self.assert_shows(data, url)
