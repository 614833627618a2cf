# SPDX-License-Identifier: Apache-2.0
"""Has a source fill the destination by a transport of its own.

The counterpart of the copier for sources with FILL: the driver moves the
bytes, and what is done beside that is the same: digest, journal, progress.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import dataclasses
import threading
import time
import typing

from oslo_transfer import buffers
from oslo_transfer import checkpoint
from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer.drivers import target
from oslo_transfer import exceptions
from oslo_transfer import opening
from oslo_transfer import ranges
from oslo_transfer import shared
from oslo_transfer.wrappers import throttle

if typing.TYPE_CHECKING:
    from oslo_transfer import copier
    from oslo_transfer import ends

_TICK = 0.05
# Seconds between two notes in the journal.
_NOTE_INTERVAL = 1.0
_JOIN_TIMEOUT = 5.0


class Helper(target.Helper):
    """Another location of the call.

    :param end: the location
    :param hosts: further hosts whose limits apply
    """

    def __init__(self, end: ends.End, hosts: Sequence[str]) -> None:
        self.end = end
        self.name = str(end)
        self._hosts = hosts
        #: Why it was given up.
        self.error: exceptions.TransferError | None = None

    def open(self, ctx: _context.Context, start: int) -> base.Source:
        """Open it; its bytes are checked piece by piece."""
        return opening.alone(
            self.end,
            ctx.replace(start=start),
            hosts=self._hosts,
            checked=True,
        )

    def failed(self, error: exceptions.TransferError) -> None:
        """Remember it for the result, and for the next call."""
        self.error = error
        shared.current().locations.failed(self.end, error)


@dataclasses.dataclass
class Shares:
    """Who brought how many bytes.

    :ivar by_origin: by the keys of ``bytes_by_origin``
    :ivar by_helper: by the helper's name
    """

    by_origin: collections.Counter[str]
    by_helper: collections.Counter[str]


class Filler(target.Target):
    """Runs one job; the counterpart of :class:`~oslo_transfer.copier.Copier`.

    :param job: what to do; its sink is the part file, or the device
    :param path: the part file, or the device
    :param helpers: the call's other locations
    :param hosts: whose bandwidth limits apply
    :param ctx: the limits; its ``stop`` is set when the job fails
    """

    #: How the bytes moved.
    method = 'fill'

    def __init__(
        self,
        job: copier.Job,
        path: str,
        helpers: Sequence[Helper],
        hosts: Sequence[str],
        ctx: _context.Context,
    ) -> None:
        assert job.size is not None
        self._job = job
        self._size = job.size
        self._ctx = ctx
        self.path = path
        self.device = job.sink.form == 'device'
        self.start = min(job.sink.held_back, job.size)
        self.held = job.held
        self.helpers = helpers
        self._limiters = throttle.limiters(ctx, hosts)
        self._checked = not job.held.total
        self._checkpoint = checkpoint.Checkpoint(
            job.sink, job.journal, ranges.RangeSet(), ctx
        )
        self._lock = threading.Lock()
        self.shares = Shares(collections.Counter(), collections.Counter())
        #: Bytes that were wrong, or came twice.
        self.wasted = 0
        self._left_out = 0
        self._ended = threading.Event()
        self._error: BaseException | None = None

    @property
    def bytes_written(self) -> int:
        """Bytes stored at the sink."""
        given = self.shares.by_origin
        there = given['resumed'] + given['zeros'] + self._left_out
        return given.total() - there

    @property
    def total(self) -> int:
        """Bytes in place; what is held counts until it was checked."""
        return self._checkpoint.total if self._checked else self.held.total

    @property
    def damaged(self) -> bool:
        """Whether bytes are lost that were written: a flush failed."""
        return self._checkpoint.damaged

    def run(self) -> int:
        """Fill the file; returns the size in bytes.

        Blocks until all is in place.

        :raises TransferError: what stopped it
        """
        self._job.progress.restart(0)
        worker = threading.Thread(
            target=self._fill, name='oslo-transfer-fill', daemon=True
        )
        worker.start()
        noted = time.monotonic()
        try:
            while not self._ended.wait(_TICK):
                self._job.progress.tell()
                self._ctx.check()
                self._checkpoint.tick()
                if time.monotonic() >= noted + _NOTE_INTERVAL:
                    noted = time.monotonic()
                    if self._checked:
                        self._checkpoint.save()
            if self._error is not None:
                raise self._error
            self._checkpoint.finish()
        finally:
            if not self._ended.is_set():
                self._ctx.stop.set()
            worker.join(_JOIN_TIMEOUT)
            if self._checked:
                self._checkpoint.stop()
        if self.total != self._size:
            raise exceptions.Unavailable(
                f'{self._size - self.total} bytes are missing'
            )
        self._job.progress.tell(at_once=True)
        return self._size

    def _fill(self) -> None:
        try:
            self._copy_start()
            self._job.source.fill(self)
        except BaseException as exc:
            self._error = exc
        self._ended.set()

    def _copy_start(self) -> None:
        """What the sink holds back has to pass through it."""
        if not self.start:
            return
        buffer = buffers.aligned(self.start)
        filled = 0
        with self._job.source.stream(0, self.start) as stream:
            while filled < self.start:
                self._ctx.check()
                count = stream.readinto(buffer[filled:])
                if not count:
                    raise exceptions.SourceChanged(
                        f'the source ends at byte {filled}'
                    )
                filled += count
        self._job.sink.pwrite(buffer, 0)
        self.arrived(0, self.start, self._job.source.origin)

    # For the source

    @property
    def rate(self) -> int | None:
        """The smallest of the limits; what is over them is waited for."""
        rates = [each.rate for each in self._limiters if each.rate]
        return min(rates, default=None)

    def arrived(
        self, offset: int, length: int, origin: str, by: str | None = None
    ) -> None:
        """Bytes are in place and can be read."""
        self._checkpoint.add(offset, offset + length)
        with self._lock:
            self.shares.by_origin[origin] += length
            if by is not None:
                self.shares.by_helper[by] += length
        if self._job.digester is not None:
            self._job.digester.in_place(offset, length)
        self._job.progress.add(length)

    def left_out(self, count: int) -> None:
        """Bytes that have arrived did not have to be stored."""
        with self._lock:
            self._left_out += count

    def checked(self) -> None:
        """From now on only what has arrived is noted."""
        self._checked = True

    def moved(self, count: int) -> float:
        """Bytes came from peers; tells how long to wait for more."""
        waits = [each.moved(count) for each in self._limiters]
        return max(waits, default=0.0)

    def waste(self, count: int) -> None:
        """Bytes were wrong, or came twice."""
        with self._lock:
            self.wasted += count

    def note(self, **figures: int) -> None:
        """Pass figures on to whoever watches."""
        with self._lock:
            figures['origin_bytes'] = self.shares.by_origin['origin']
            figures['peer_bytes'] = self.shares.by_origin['peer']
        self._job.progress.note(figures)
