# SPDX-License-Identifier: Apache-2.0
"""Fills a target by slices, each copied by one dd(1)."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import fcntl
import logging
import os
import selectors
import threading
import time
import typing

from oslo_transfer import children
from oslo_transfer import context as _context
from oslo_transfer.drivers import dd_opts
from oslo_transfer.drivers import dd_program
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors
from oslo_transfer import ranges

if typing.TYPE_CHECKING:
    from oslo_transfer.drivers import file
    from oslo_transfer.drivers import target as _target

LOG = logging.getLogger(__name__)

_ALIGNMENT = dd_program.ALIGNMENT
#: Seconds that a slice is to take: starting dd is nothing then.
_SECONDS = 1.0
#: The same where there is a limit, which is kept between slices.
_LIMITED_SECONDS = 0.25
# Bytes of a slice: the first, and the bounds.
_FIRST = 16 << 20
_LEAST = 8 << 20
_MOST = 1 << 30
# Seconds that one that was killed may take to end by itself.
_DYING = 0.3
# What splits a slice costs one more process: so many bytes have to be there
# already, and so many have to be a hole, which is read fast.
_KEPT = 1 << 19
_SKIPPED = 8 << 20
#: Bytes at the end of what is held that are compared with the source's.
_OVERLAP = 64 << 10


@dataclasses.dataclass
class _Job:
    """A slice that is being copied.

    :ivar run: its dd
    :ivar began: ``time.monotonic()``
    :ivar told: the end of what was reported as arrived
    """

    run: dd_program.Run
    began: float
    told: int


class Filling:
    """Fills one target; for one thread.

    :param source: what to copy
    :param where: its redacted name
    :param target: what to fill
    :param ctx: the limits
    :param closed: set to end it
    :param abort: has all reads of the source fail that are under way
    :param beat: called again and again as long as nothing hangs
    """

    def __init__(
        self,
        source: file.FileSource,
        where: str,
        target: _target.Target,
        ctx: _context.Context,
        closed: threading.Event,
        abort: Callable[[], object],
        beat: Callable[[], object],
    ) -> None:
        self._source = source
        self._where = where
        self._target = target
        self._ctx = ctx
        self._closed = closed
        self._abort = abort
        self._beat = beat
        options = ctx.conf[dd_opts.GROUP]
        self._parallel: int = options.parallel
        self._block: int = _down(options.block_bytes)
        self._length = _FIRST
        # No slice starts before that; the limit says when.
        self._due = 0.0
        self._direct_input = self._direct_output = False
        # Nothing is known of what is on a device, or between held ranges.
        self._sparse = not target.device and not target.held.total
        self._jobs: list[_Job] = []
        self._stall = _Stall(ctx.stall)

    def run(self) -> None:
        """Copy all that is missing; see :meth:`~.dd.DdSource.fill`."""
        self._check()
        program = dd_program.find()
        assert self._source.size is not None
        flags = os.O_RDWR | os.O_CLOEXEC
        if not self._target.device:
            flags |= os.O_NOFOLLOW
        with (
            contextlib.ExitStack() as stack,
            selectors.DefaultSelector() as self._selector,
        ):
            with oserrors.os_errors(f'opening {self._target.path}'):
                fd = os.open(self._target.path, flags)
            stack.callback(oserrors.close, fd)
            self._ends = dd_program.Ends(self._where, fd, self._target.path)
            self._idle: list[int] = []
            stack.callback(self._close_idle)
            self._idle.append(self._source.open_again())
            self._direct_input = _can_be_direct(self._idle[0])
            self._direct_output = _can_open_direct(fd)
            self._gaps = self._missing(self._source.size)
            stack.callback(self._kill)
            self._copy(program)
        self._source.check_unchanged()

    # What is to be copied

    def _missing(self, size: int) -> list[tuple[int, int]]:
        """Report what is there already; the rest as (start, end)."""
        start = self._target.start
        there = ranges.RangeSet([(0, start)])
        for held_start, held_end in self._target.held:
            # Direct input and output needs whole blocks in between.
            run = max(start, _up(held_start)), _whole(held_end, size)
            if run[1] - run[0] >= _KEPT and self._is_right(*run):
                self._target.arrived(run[0], run[1] - run[0], 'resumed')
                there.add(*run)
        self._target.checked()
        extents = self._source.extents(start, size - start)
        if self._sparse and extents is not None:
            for extent in extents:
                self._beat()
                self._check()
                run = (
                    max(start, _up(extent.offset)),
                    _whole(extent.offset + extent.length, size),
                )
                if not extent.data and run[1] - run[0] >= _SKIPPED:
                    self._target.arrived(run[0], run[1] - run[0], 'zeros')
                    there.add(*run)
        return list(there.gaps(size))

    def _is_right(self, start: int, end: int) -> bool:
        """Whether what is held ends with the bytes of the source."""
        self._beat()
        self._check()
        offset = max(start, end - _OVERLAP)
        count = end - offset
        with oserrors.os_errors(f'reading {self._target.path}'):
            held = os.pread(self._ends.target, count, offset)
        with oserrors.os_errors(f'reading {self._where} at byte {offset}'):
            return held == os.pread(self._source.fd, count, offset)

    def _next(self) -> dd_program.Slice | None:
        """Take the next slice of what is missing."""
        if not self._gaps:
            return None
        start, stop = self._gaps[0]
        left = sum(end - begin for begin, end in self._gaps)
        rate = self._target.rate
        # The last slices are to end together.
        length = max(_LEAST, min(self._length, -(-left // self._parallel)))
        if rate is not None:
            length = min(length, int(rate * _LIMITED_SECONDS))
        end = min(stop, start + max(_ALIGNMENT, _down(length)))
        if end - start > _ALIGNMENT:
            # What is behind the last whole block is a slice of its own.
            end = _down(end)
        self._gaps[0] = end, stop
        if end == stop:
            del self._gaps[0]
        whole = (start | end) % _ALIGNMENT == 0
        return dd_program.Slice(
            start,
            end,
            direct_input=self._direct_input and whole,
            direct_output=self._direct_output and whole,
            sparse=self._sparse,
        )

    # Copying it

    def _copy(self, program: str) -> None:
        while True:
            self._beat()
            self._start_more(program)
            if not self._jobs and not self._gaps:
                return
            self._wait()
            self._check()
            for job in list(self._jobs):
                self._arrived(job, job.run.position())
            self._stall.check(self._jobs)

    def _start_more(self, program: str) -> None:
        while len(self._jobs) < self._parallel:
            if time.monotonic() < self._due:
                return
            slice_ = self._next()
            if slice_ is None:
                return
            fd = self._idle.pop() if self._idle else self._source.open_again()
            try:
                run = dd_program.Run(
                    program, self._ends, fd, slice_, self._block
                )
            except BaseException:
                self._idle.append(fd)
                raise
            job = _Job(run, time.monotonic(), slice_.start)
            self._jobs.append(job)
            self._selector.register(run.stderr, selectors.EVENT_READ, job)
            rate = self._target.rate
            if rate is not None:
                seconds = (slice_.end - slice_.start) / rate
                self._due = max(self._due, job.began) + seconds

    def _wait(self) -> None:
        """Until some dd ends, or a slice is due, or for a tick."""
        seconds = _context.TICK
        if len(self._jobs) < self._parallel and self._gaps:
            due = self._due - time.monotonic()
            seconds = min(seconds, max(0.0, due))
        for key, _ in self._selector.select(seconds):
            self._ended(key.data)

    def _ended(self, job: _Job) -> None:
        if not job.run.collect():
            return
        self._selector.unregister(job.run.stderr)
        self._jobs.remove(job)
        self._idle.append(job.run.source)
        end = job.run.finish()
        self._arrived(job, end)
        if job.run.slice.sparse:
            self._target.left_out(self._holes(job.run.slice.start, end))
        try:
            job.run.check(end)
        except dd_program.NotDirect:
            LOG.info('%s: O_DIRECT does not work', self._where)
            self._direct_input = self._direct_output = False
            self._gaps.insert(0, (end, job.run.slice.end))
            return
        seconds = max(time.monotonic() - job.began, 0.001)
        rate = (end - job.run.slice.start) / seconds
        self._length = max(_LEAST, min(int(rate * _SECONDS), _MOST))

    def _arrived(self, job: _Job, end: int) -> None:
        if end > job.told:
            count = end - job.told
            self._target.arrived(job.told, count, 'origin')
            wait = self._target.moved(count)
            self._due = max(self._due, time.monotonic() + wait)
            self._stall.moved(count)
            job.told = end

    def _holes(self, start: int, end: int) -> int:
        """Bytes that dd has left out; it does not tell."""
        with oserrors.os_errors(f'looking for holes in {self._target.path}'):
            return sum(
                extent.length
                for extent in localfs.extents(
                    self._ends.target, start, end - start
                )
                if not extent.data
            )

    def _check(self) -> None:
        if self._closed.is_set():
            raise exceptions.TransferCancelled('the source was closed')
        self._ctx.check()

    def _kill(self) -> None:
        for job in self._jobs:
            job.run.kill()
        if self._reap(_DYING):
            return
        # What waits for an answer in the kernel gets an error instead.
        self._abort()
        if not self._reap(children.DYING):
            LOG.warning(
                '%s: dd hangs in the kernel and cannot be ended', self._where
            )

    def _reap(self, seconds: float) -> bool:
        limit = time.monotonic() + seconds
        left = []
        for job in self._jobs:
            if job.run.reap(max(0.0, limit - time.monotonic())):
                self._idle.append(job.run.source)
            else:
                left.append(job)
        self._jobs = left
        return not left

    def _close_idle(self) -> None:
        for fd in self._idle:
            oserrors.close(fd)


class _Stall:
    """Gives up where dd runs and too little moves.

    :param rule: what a window has to bring
    """

    def __init__(self, rule: _context.StallRule) -> None:
        self._rule = rule
        self._begin(time.monotonic())

    def _begin(self, now: float) -> None:
        self._since = now
        self._moved = 0

    def moved(self, count: int) -> None:
        """Bytes are in place."""
        self._moved += count

    def check(self, jobs: list[_Job]) -> None:
        """Look at the window if it is over.

        :raises Stalled: it was too little
        """
        now = time.monotonic()
        if not jobs:
            # It is the limit that is waited for.
            self._begin(now)
        elif now - self._since >= self._rule.seconds:
            if self._moved < self._rule.bytes_per_second * self._rule.seconds:
                raise exceptions.Stalled(
                    f'dd copied {self._moved} bytes in '
                    f'{now - self._since:.0f} seconds'
                )
            self._begin(now)


def _can_be_direct(fd: int) -> bool:
    """Whether what is open takes O_DIRECT; some only fail later."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
    except OSError:
        return False
    return True


def _can_open_direct(fd: int) -> bool:
    """Whether a file can be opened with O_DIRECT to write to it."""
    flags = os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC
    try:
        again = os.open(f'/proc/self/fd/{fd}', flags)
    except OSError:
        return False
    os.close(again)
    return True


def _down(value: int) -> int:
    return value - value % _ALIGNMENT


def _up(value: int) -> int:
    return _down(value + _ALIGNMENT - 1)


def _whole(end: int, size: int) -> int:
    """Where whole blocks end that end there at the latest."""
    return end if end == size else _down(end)
