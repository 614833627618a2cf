# SPDX-License-Identifier: Apache-2.0
"""A source that fails on purpose, and a sink that compares."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import ranges
from oslo_transfer.wrappers import base as wrappers


def _unavailable() -> exceptions.TransferError:
    return exceptions.Unavailable('failed on purpose')


class Faults:
    """What goes wrong with the streams of a source.

    One plan may serve several sources, one after the other or at once: it
    counts for all of them.

    :param fail_at: a read that would give the byte at this offset fails;
        those before it come
    :param fail_every: each read with a number that this divides fails
    :param times: after so many failures all goes well; None for no end
    :param error: makes what a failing read raises
    :param most: a read gives at most so many bytes
    :param delay: seconds that a read takes
    :param stall_at: nothing comes from this offset on, until the stream is
        closed or the context says stop
    """

    def __init__(
        self,
        *,
        fail_at: int | None = None,
        fail_every: int | None = None,
        times: int | None = None,
        error: Callable[[], Exception] = _unavailable,
        most: int | None = None,
        delay: float = 0.0,
        stall_at: int | None = None,
    ) -> None:
        self._fail_at = fail_at
        self._fail_every = fail_every
        self._times = times
        self._error = error
        self._most = most
        self._delay = delay
        self._stall_at = stall_at
        self._lock = threading.Lock()
        #: How many reads there were.
        self.reads = 0
        #: How many of them failed.
        self.failures = 0
        #: Set when a stream begins to stall.
        self.stalled = threading.Event()

    def allow(self, stream: FaultyStream, most: int) -> int:
        """How many bytes a read may give; raises if it fails.

        :param stream: the one that is read
        :param most: bytes that were asked for, at least 1
        """
        with self._lock:
            self.reads += 1
            fail_at, stall_at = self._fail_at, self._stall_at
            if self._times is not None and self.failures >= self._times:
                fail_at = None
            elif self._fail_every and self.reads % self._fail_every == 0:
                self.failures += 1
                raise self._error()
            if fail_at is not None and stream.position >= fail_at:
                self.failures += 1
                raise self._error()
        if stall_at is not None and stream.position >= stall_at:
            self.stalled.set()
            stream.wait(None)
        if self._delay:
            stream.wait(self._delay)
        if self._most is not None:
            most = min(most, self._most)
        for limit in (fail_at, stall_at):
            if limit is not None and stream.position < limit:
                most = min(most, limit - stream.position)
        return most


class FaultySource(wrappers.SourceWrapper):
    """Wraps a source whose streams fail as planned.

    :param source: the open source; owned from now on
    :param faults: the plan
    :param ctx: ends waits; without it only a close does
    """

    def __init__(
        self,
        source: base.Source,
        faults: Faults,
        ctx: _context.Context | None = None,
    ) -> None:
        super().__init__(source)
        self._faults = faults
        self._ctx = ctx

    def stream(self, offset: int, length: int | None) -> FaultyStream:
        """A stream that fails as planned."""
        stream = self._source.stream(offset, length)
        return FaultyStream(stream, offset, self._faults, self._ctx)


class FaultyStream(base.Stream):
    """A stream that fails as planned.

    It does not splice, so that each byte passes the plan.
    """

    def __init__(
        self,
        stream: base.Stream,
        offset: int,
        faults: Faults,
        ctx: _context.Context | None,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._faults = faults
        self._ctx = ctx
        self._closed = threading.Event()
        #: The offset of the next byte in the source.
        self.position = offset
        self.waited = 0.0

    def readinto(self, buffer: typing.Any) -> int:
        """Read, or fail."""
        view = memoryview(buffer).cast('B')
        if view and not self._closed.is_set():
            view = view[: self._faults.allow(self, len(view))]
        count = self._stream.readinto(view)
        self.position += count
        return count

    def wait(self, seconds: float | None) -> None:
        """Wait, and end early only by an error.

        :param seconds: None for ever
        :raises TransferCancelled: closed, or the context says stop
        :raises Stalled: the context's stall rule is broken
        """
        started = time.monotonic()
        most = seconds
        if self._ctx is not None and seconds is None:
            most = self._ctx.stall.seconds
        while not self._closed.wait(
            _context.TICK / 4 if seconds is None else min(seconds, 0.05)
        ):
            passed = time.monotonic() - started
            self.waited += passed
            if self._ctx is not None:
                self._ctx.check()
            if most is None or passed < most:
                continue
            if seconds is None:
                raise exceptions.Stalled('stalled on purpose')
            return
        raise exceptions.TransferCancelled('the stream was closed')

    def close(self) -> None:
        """Close; ends a wait in another thread."""
        self._closed.set()
        self._stream.close()
        super().close()


class CheckingSink(base.Sink):
    """Compares with what is expected instead of writing.

    Its commit fails unless all of it was written.

    :param expected: the content
    """

    capabilities = (
        base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.ATOMIC
        | base.Capability.READBACK
    )

    def __init__(self, expected: bytes) -> None:
        self._expected = memoryview(expected)
        self._covered = ranges.RangeSet()
        self._lock = threading.Lock()
        #: Bytes that came by ``pwrite`` and by ``zero``.
        self.written = 0
        self.zeros = 0
        #: Whether it was committed; None as long as it is open.
        self.committed: bool | None = None

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Compare.

        :raises IntegrityError: other bytes are expected
        """
        self._check(buffer, offset)
        with self._lock:
            self.written += len(buffer)

    def zero(self, offset: int, length: int) -> bool:
        """Compare with zeros.

        :raises IntegrityError: other bytes are expected
        """
        self._check(memoryview(bytes(length)), offset)
        with self._lock:
            self.zeros += length
        return True

    def _check(self, found: memoryview, offset: int) -> None:
        self._check_open()
        due = self._expected[offset : offset + len(found)]
        if due != found:
            at = next(
                (i for i, (a, b) in enumerate(zip(due, found)) if a != b),
                len(due),
            )
            raise exceptions.IntegrityError(
                f'byte {offset + at} is not the expected one'
            )
        with self._lock:
            self._covered.add(offset, offset + len(found))

    def _check_open(self) -> None:
        if self.committed is not None:
            raise exceptions.TransferCancelled('the sink was closed')

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Read what was written; what was not is zeros."""
        self._check_open()
        due = self._expected[offset : offset + len(buffer)]
        buffer[: len(due)] = bytes(len(due))
        with self._lock:
            covered = list(self._covered)
        for start, end in covered:
            start, end = max(start, offset), min(end, offset + len(due))
            if start < end:
                buffer[start - offset : end - offset] = self._expected[
                    start:end
                ]
        return len(due)

    def sync(self) -> None:
        """Nothing."""

    def commit(self, size: int) -> None:
        """See whether all is there.

        :raises SizeMismatch: it is another size
        :raises IntegrityError: something was not written
        """
        self._check_open()
        if size != len(self._expected):
            raise exceptions.SizeMismatch(len(self._expected), size)
        for start, end in self._covered.gaps(size):
            raise exceptions.IntegrityError(
                f'bytes {start} to {end} were never written'
            )
        self.committed = True

    def abort(self, keep: bool) -> None:
        """Close."""
        if self.committed is None:
            self.committed = False
