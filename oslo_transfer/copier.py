# SPDX-License-Identifier: Apache-2.0
"""Moves the bytes of a source into a sink.

Worker threads each read a stream and write what comes; the thread that
called coordinates: it tells progress, keeps the journal durable, and adds
streams while they pay. It knows sources and sinks, and no driver.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import logging
import threading
import time
import typing

from oslo_transfer import buffers
from oslo_transfer import checkpoint
from oslo_transfer import claims
from oslo_transfer import context as _context
from oslo_transfer import digest as _digest
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import growth
from oslo_transfer import journal as _journal
from oslo_transfer import oserrors
from oslo_transfer import progress as _progress
from oslo_transfer import ranges
from oslo_transfer import writer

LOG = logging.getLogger(__name__)

_TICK = 0.01
_PATIENCE = 0.5
# Zeroing is asked for in steps, so that a cancel is noticed in between.
_ZERO_STEP = 256 << 20
_SPLICE = 8 << 20
_SHARED_STEP = 256 * 1024
# Streams that begin together take turns by so much: neither disks nor those
# that hash should have to go to and fro for them.
_STRIP = 64 << 20
_JOIN_TIMEOUT = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What to copy, and how.

    :ivar source: the open source, retrying and throttled
    :ivar sink: the open sink
    :ivar size: bytes to copy; None if only the end of the source tells
    :ivar limit: the most bytes to take if the size is not known
    :ivar held: ranges that the sink has already
    :ivar digester: hashes what arrives, or None
    :ivar taps: see each byte in order as it is written, on sinks that
        cannot be read back
    :ivar journal: notes what is in place, or None
    :ivar progress: counts it
    :ivar joinable: bytes of several requests may be joined
    """

    source: base.Source
    sink: base.Sink
    size: int | None
    limit: int
    held: ranges.RangeSet
    digester: _digest.Digester | None
    taps: Sequence[typing.Any]
    journal: _journal.Journal | None
    progress: _progress.Progress
    joinable: bool


class Copier:
    """Runs one job.

    :param job: what to do
    :param ctx: the limits; its ``stop`` is set when the job fails
    """

    def __init__(self, job: Job, ctx: _context.Context) -> None:
        group = ctx.conf.oslo_transfer
        self._job = job
        self._ctx = ctx
        self._buffer_bytes: int = group.buffer_bytes
        self._segment_bytes: int = group.segment_bytes
        random_write = base.Capability.RANDOM_WRITE in job.sink.capabilities
        detect_zeros: bool = group.detect_zeros and random_write
        self._writer = writer.Writer(job.sink, ctx, detect_zeros, job.taps)
        self._skip_zeros = random_write
        self._splice = (
            job.sink.fd is not None
            and not detect_zeros
            and job.digester is None
            and not job.taps
        )
        self._parallel = job.joinable or job.source.in_place
        geometry = job.source.geometry
        self._list = claims.WorkList(
            [(0, None)] if job.size is None else job.held.gaps(job.size),
            _STRIP if self._parallel and geometry.first_streams > 1 else None,
        )
        most = (
            min(group.max_streams, geometry.max_streams)
            if self._parallel and random_write and job.size is not None
            else 1
        )
        self._growth = growth.Growth(most)
        # A small copy is over before another stream could help.
        self._first = max(
            1, min(geometry.first_streams, most, self._list.count)
        )
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._checkpoint = checkpoint.Checkpoint(
            job.sink, job.journal, job.held, ctx
        )
        # Ahead of what is in place by what buffers hold.
        self._arrived = 0
        self._workers: dict[threading.Thread, base.Stream | None] = {}
        # Those whose work has ended, though their thread may have not.
        self._ended: set[threading.Thread] = set()
        self._errors: list[BaseException] = []
        self._end: int | None = None
        #: How the bytes moved: ``read``, ``splice`` or ``server-copy``.
        self.method = 'read'

    @property
    def bytes_written(self) -> int:
        """Bytes stored at the sink: less than moved, zeros are not."""
        return self._writer.bytes_written

    @property
    def total(self) -> int:
        """Bytes in place, those that were there before included."""
        return self._checkpoint.total

    @property
    def damaged(self) -> bool:
        """Whether bytes are lost that were written: a flush failed."""
        return self._checkpoint.damaged

    def run(self) -> int:
        """Copy everything; returns the size in bytes.

        Blocks until all is handed to the sink, and every thread is gone.

        :raises TransferError: what stopped it
        """
        try:
            for _ in range(self._first):
                self._add_worker()
            while self._workers:
                with self._changed:
                    self._changed.wait(_TICK)
                self._job.progress.tell()
                self._reap()
                self._ctx.check()
                self._checkpoint.tick()
                self._grow()
            self._checkpoint.finish()
        finally:
            self._stop_all()
        self._job.progress.tell(at_once=True)
        if self._job.size is not None:
            return self._job.size
        assert self._end is not None
        return self._end

    # The coordinator

    def _add_worker(self) -> None:
        worker = threading.Thread(
            target=self._work, name='oslo-transfer-copy', daemon=True
        )
        self._workers[worker] = None
        worker.start()

    def _reap(self) -> None:
        """Forget workers that ended; give up if the last one failed."""
        with self._lock:
            errors, self._errors = self._errors, []
            for worker in self._ended & self._workers.keys():
                del self._workers[worker]
        for error in errors:
            if not self._is_bearable(error) or not self._workers:
                raise error
            # One stream too many for this server: the others do its part.
            LOG.info('going on with %d streams: %s', len(self._workers), error)
            self._growth.refused()
        if not self._workers and self._list.unfinished:
            # They had just ended, and did not see what was given back.
            self._add_worker()

    def _grow(self) -> None:
        streams = [s for s in self._workers.values() if s is not None]
        with self._lock:
            arrived = self._arrived
        if (
            base.Capability.RANDOM_READ in self._job.source.capabilities
            and self._growth.wants_more(
                streams=len(self._workers),
                waited=[stream.waited for stream in streams],
                total=arrived,
            )
            and self._list.can_share()
        ):
            self._add_worker()
        if self._growth.too_many:
            self._growth.too_many = False
            self._list.retire()

    def _stop_all(self) -> None:
        if self._workers:
            self._ctx.stop.set()
        end = time.monotonic() + _JOIN_TIMEOUT
        for stream in list(self._workers.values()):
            if stream is not None:
                stream.close()
        for thread in {*self._workers, *self._ended}:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                LOG.warning('%s is stuck and left behind', thread.name)
        self._checkpoint.stop()

    # A worker

    def _work(self) -> None:
        me = threading.current_thread()
        error: BaseException | None = None
        try:
            while (claim := self._list.take(split=self._parallel)) is not None:
                try:
                    self._run_claim(claim, me)
                except BaseException:
                    self._list.give_back(claim)
                    raise
                self._list.finish(claim)
        except BaseException as exc:
            error = exc
        try:
            self._checkpoint.save()
        except Exception as exc:
            error = error or exc
        with self._changed:
            if error is not None:
                self._errors.append(error)
            self._ended.add(me)
            self._changed.notify_all()

    def _run_claim(self, claim: claims.Claim, me: threading.Thread) -> None:
        noted = claim.position
        while self._list.reserve(claim, 1):
            limit = claim.end
            if limit is not None:
                extent = self._next_extent(claim.position, limit)
                if not extent.data:
                    self._zero_claim(claim, extent.length)
                    continue
                limit = extent.offset + extent.length
            stream = self._job.source.stream(
                claim.position,
                None if limit is None else limit - claim.position,
            )
            self._workers[me] = stream
            try:
                noted = self._copy_run(claim, stream, limit, noted)
                if claim.end is None:
                    break
            finally:
                self._workers[me] = None
                stream.close()

    def _next_extent(self, position: int, end: int) -> base.Extent:
        if self._skip_zeros:
            found = self._job.source.extents(position, end - position)
            if found is not None:
                return next(iter(found))
        return base.Extent(position, end - position, True)

    def _zero_claim(self, claim: claims.Claim, length: int) -> None:
        while length and (
            count := self._list.reserve(claim, min(length, _ZERO_STEP))
        ):
            self._ctx.check()
            position = claim.position
            self._writer.zero(position, count)
            if self._job.digester is not None:
                self._job.digester.zeros(position, count)
            self._advance(claim, count)
            length -= count

    def _copy_run(
        self,
        claim: claims.Claim,
        stream: base.Stream,
        limit: int | None,
        noted: int,
    ) -> int:
        """Copy what one stream brings; returns what the journal knows."""
        step = _SPLICE if self._splice else self._buffer_bytes
        while True:
            most = step
            if len(self._workers) > 1 and not self._job.source.in_place:
                # What one has begun, another cannot take over.
                most = min(most, _SHARED_STEP)
            if limit is not None:
                most = min(most, limit - claim.position)
            most = most and self._list.reserve(claim, most)
            if not most:
                break
            count = self._move(stream, claim.position, most)
            if not count:
                break
            self._advance(claim, count)
            self._ctx.breathe()
            if claim.position - noted >= self._segment_bytes:
                noted = claim.position
                self._checkpoint.save()
        self._check_end(stream, claim, limit)
        return noted

    def _check_end(
        self, stream: base.Stream, claim: claims.Claim, limit: int | None
    ) -> None:
        if limit is None:
            self._end = claim.position
            claim.end = claim.position
        elif claim.position == limit:
            # The end is where a source notices that it was changed, or
            # that it sends more than it said.
            if stream.readinto(memoryview(bytearray(1))):
                raise exceptions.ProtocolError(
                    f'the source sends more than the {limit} bytes it said'
                )
        elif claim.end is not None and claim.position < claim.end:
            raise exceptions.Unavailable(
                f'the source ended at byte {claim.position} of {limit}'
            )

    def _move(self, stream: base.Stream, position: int, most: int) -> int:
        if self._splice:
            assert self._job.sink.fd is not None
            try:
                moved = stream.splice(self._job.sink.fd, position, most)
            except OSError as exc:
                raise oserrors.translate(
                    exc, f'writing byte {position}'
                ) from exc
            if moved is not None:
                self.method = 'splice'
                self._writer.stored(moved)
                self._count_arrived(moved)
                return moved
            self._splice = False
        return self._read(stream, position, min(most, self._buffer_bytes))

    def _count_arrived(self, count: int) -> None:
        with self._lock:
            self._arrived += count

    def _read(self, stream: base.Stream, position: int, most: int) -> int:
        digester = self._job.digester
        buffer = digester.buffer() if digester else self._own_buffer()
        count = 0
        try:
            # A slow source shows progress before the buffer is full.
            enough = time.monotonic() + _PATIENCE
            while count < most:
                step = stream.readinto(buffer[count:most])
                count += step
                self._count_arrived(step)
                # Time is looked at last: no bytes would mean the end.
                if not step or time.monotonic() >= enough:
                    break
            if self._job.size is None and position + count > self._job.limit:
                raise exceptions.SizeMismatch(
                    self._job.limit, position + count, 'at least'
                )
            self._writer.write(buffer[:count], position)
        except BaseException:
            if digester:
                digester.give_back(buffer)
            raise
        if digester:
            if count:
                digester.wrote(position, buffer, count)
            else:
                digester.give_back(buffer)
        return count

    def _own_buffer(self) -> memoryview:
        if not hasattr(self._mine, 'buffer'):
            self._mine.buffer = buffers.aligned(self._buffer_bytes)
        return typing.cast(memoryview, self._mine.buffer)

    def _advance(self, claim: claims.Claim, count: int) -> None:
        start = claim.position
        self._list.advance(claim, count)
        self._checkpoint.add(start, start + count)
        self._job.progress.add(count)

    def _is_bearable(self, error: BaseException) -> bool:
        """Whether other streams can do what one could not."""
        return isinstance(error, exceptions.CapabilityMissing) or (
            self._job.joinable
            and isinstance(error, exceptions.TransferError)
            and error.retryable
            and not isinstance(error, exceptions.SourceChanged)
        )
