# SPDX-License-Identifier: Apache-2.0
"""What is wanted of an object: blocks that somebody waits for, and others.

Each block is asked for once, however many want it. Runs of blocks wait in
three queues, by how badly they are needed.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
import copy
import threading
import time

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer import context as _context
from oslo_transfer import exceptions

#: What is needed: somebody waits, a reader will come to it, or some day.
NOW, SOON, SOMEDAY = range(3)

#: The most bytes of a run that nobody waits for: each costs a round trip or
#: more, and gives way when it has to.
RUN_BYTES = 32 << 20
#: Seconds that it takes to read what is read at once, about.
CHUNK_SECONDS = 0.04
#: Seconds after which blocks that could not be stored are tried again.
FULL_SECONDS = 5.0
# The most bytes of a run that somebody waits for: others come to wait for
# something else.
_URGENT_BYTES = 1 << 20
# Seconds that one can wait for a block of a run which is being read.
_SHORTLY = 0.1
# The most that is queued of each kind that nobody waits for, in bytes.
_QUEUE_BYTES = 256 << 20


class Flight:
    """A block that was asked for and is not there yet.

    :ivar taken: a thread is reading it
    :ivar wanted: somebody waits for it
    :ivar landed: it is there, or will not come
    :ivar data: the block, where it could not be stored
    :ivar error: why it does not come
    """

    __slots__ = ('data', 'error', 'landed', 'taken', 'wanted')

    def __init__(self) -> None:
        self.taken = False
        self.wanted = False
        self.landed = False
        self.data: bytes | None = None
        self.error: exceptions.TransferError | None = None


class Run:
    """Blocks that one stream is to bring.

    :ivar first: the first block
    :ivar end: the block behind
    :ivar level: how badly they are needed
    :ivar owner: who foresaw the need
    :ivar flights: one for each block, once it was taken
    :ivar chunk: how many blocks are being read now, from the first one on
    :ivar opened: its bytes are coming
    :ivar abandoned: the need is gone
    """

    __slots__ = (
        'abandoned',
        'chunk',
        'end',
        'first',
        'flights',
        'level',
        'opened',
        'owner',
    )

    def __init__(
        self, first: int, end: int, level: int, owner: object = None
    ) -> None:
        self.first = first
        self.end = end
        self.level = level
        self.owner = owner
        self.flights: list[Flight] = []
        self.chunk = 1
        self.opened = False
        self.abandoned = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for any of it."""
        return any(flight.wanted for flight in self.flights)

    def part(self, first: int, end: int) -> Run:
        """A part of it."""
        return Run(first, end, self.level, self.owner)


class Demand:
    """The blocks of one image that are wanted. Thread-safe.

    :param blocks: those that are there
    """

    def __init__(self, blocks: _blocks.Blocks) -> None:
        self._blocks = blocks
        lock = threading.Lock()
        # For the threads, and for those who wait for blocks.
        self._changed = threading.Condition(lock)
        self._landings = threading.Condition(lock)
        self._flights: dict[int, Flight] = {}
        self._queues: list[collections.deque[Run]] = [
            collections.deque() for _level in (NOW, SOON, SOMEDAY)
        ]
        self._reading: set[Run] = set()
        # How many wait for blocks.
        self._waiting = 0
        self._closed = False
        self._full_since = 0.0
        #: Seconds that the origin takes to answer.
        self.latency = 0.0
        #: How often somebody had to wait for a block.
        self.waits = 0
        #: How many runs failed, and why the last one did.
        self.failures = 0
        self.error: exceptions.TransferError | None = None
        #: Why blocks cannot be stored now; None while they can.
        self.bypassed: exceptions.TransferError | None = None

    def _employ(self) -> None:
        """Have those who bring blocks look at the queues."""
        self._changed.notify_all()

    # Those who want blocks

    def want(self, first: int, end: int) -> list[Flight | None]:
        """Ask for a run of blocks at once.

        :returns: for each what to wait for; None where it is there
        """
        with self._changed:
            self._check_open()
            self._cut(first)
            found: list[Flight | None] = []
            missing: list[tuple[int, int]] = []
            for index in range(first, end):
                flight = self._flights.get(index)
                if flight is None and not self._blocks.has(index):
                    flight = self._flights[index] = Flight()
                    if missing and missing[-1][1] == index:
                        missing[-1] = missing[-1][0], index + 1
                    else:
                        missing.append((index, index + 1))
                if flight is not None:
                    flight.wanted = True
                found.append(flight)
            for start, stop in missing:
                self._queues[NOW].extend(self._urgent(start, stop))
            if missing:
                self._employ()
        return found

    def _urgent(self, first: int, end: int) -> Iterator[Run]:
        """Runs of blocks, and of what was foreseen to follow on them."""
        queue = self._queues[SOON]
        for run in queue:
            if run.first < end < run.end:
                queue.remove(run)
                if run.first < first:
                    queue.append(run.part(run.first, first))
                yield Run(first, run.end, NOW, run.owner)
                return
        step = max(1, _URGENT_BYTES // self._blocks.block_bytes)
        for start in range(first, end, step):
            yield Run(start, min(start + step, end), NOW)

    def _cut(self, index: int) -> None:
        """Part a run before a block that it would come to late."""
        # A request of its own takes its time, too, and what is under way for
        # the other one comes in vain.
        near = (_SHORTLY + 3 * self.latency) / CHUNK_SECONDS
        for run in self._reading:
            if run.first + int(near * run.chunk) <= index < run.end:
                break
        else:
            return
        rest = run.flights[index - run.first :]
        del run.flights[index - run.first :]
        stop, run.end = run.end, index
        for number, flight in enumerate(rest, index):
            flight.taken = False
            if flight.wanted:
                self._queues[NOW].append(Run(number, number + 1, NOW))
            else:
                del self._flights[number]
        self._queues[run.level].appendleft(run.part(index, stop))
        self._employ()

    def later(
        self, first: int, end: int, level: int, owner: object = None
    ) -> bool:
        """Have a run of blocks brought when nothing else is to be done.

        :param owner: see :meth:`forget`
        :returns: False where it is not taken: much is queued, or the disk is
            full, or the cache was closed
        """
        size = self._blocks.block_bytes
        step = max(1, RUN_BYTES // size)
        with self._changed:
            if self._closed or (
                self.bypassed is not None
                and time.monotonic() < self._full_since + FULL_SECONDS
            ):
                return False
            queue = self._queues[level]
            queued = sum(run.end - run.first for run in queue)
            if queue and (queued + end - first) * size > _QUEUE_BYTES:
                return False
            for start in range(first, end, step):
                queue.append(Run(start, min(start + step, end), level, owner))
            self._employ()
        return True

    def forget(self, owner: object) -> None:
        """What somebody has foreseen is not needed any more."""
        with self._changed:
            for level in (SOON, SOMEDAY):
                queue = self._queues[level]
                kept = [run for run in queue if run.owner is not owner]
                queue.clear()
                queue.extend(kept)
            for run in self._reading:
                if run.owner is owner and run.level != NOW:
                    # It ends with the chunk that is being read.
                    run.abandoned = True

    def wait_until_owed(
        self, level: int, most: int, ctx: _context.Context
    ) -> None:
        """Wait until no more bytes than that are queued or being read.

        :raises TransferError: the context's, or the cache was closed
        """
        most = most // self._blocks.block_bytes
        with self._changed:
            while self._owed(level) > most:
                self._check_open()
                self._changed.wait(_context.TICK)
                ctx.check()

    def _owed(self, level: int) -> int:
        return sum(
            run.end - run.first
            for run in (*self._queues[level], *self._reading)
            if run.level == level
        )

    def under_way(self) -> list[int]:
        """The blocks that are being brought, or that somebody waits for."""
        with self._changed:
            return list(self._flights)

    def _check_open(self) -> None:
        if self._closed:
            raise exceptions.TransferCancelled('the cache was closed')

    def wait(self, flight: Flight, ctx: _context.Context) -> None:
        """Wait until a block has landed.

        :raises TransferError: the context's, or why it does not come
        """
        with self._changed:
            self.waits += 1
            self._waiting += 1
            try:
                while not flight.landed:
                    self._landings.wait(_context.TICK)
                    ctx.check()
            finally:
                self._waiting -= 1
                if not self._waiting:
                    self._changed.notify_all()
        if flight.error is not None:
            # A new one each time: a traceback belongs to one thread.
            raise copy.copy(flight.error)

    # Those who bring blocks

    def _next(self, level: int) -> Run | None:
        queue = self._queues[level]
        while queue:
            run = queue.popleft()
            first = run.first
            while first < run.end and not self._is_due(first):
                first += 1
            end = first
            while end < run.end and self._is_due(end):
                end += 1
            if end < run.end:
                queue.appendleft(run.part(end, run.end))
            if first < end:
                run.first, run.end = first, end
                for index in range(first, end):
                    flight = self._flights.setdefault(index, Flight())
                    flight.taken = True
                    run.flights.append(flight)
                return run
        return None

    def _is_due(self, index: int) -> bool:
        flight = self._flights.get(index)
        if flight is not None and flight.taken:
            return False
        if self._blocks.has(index):
            if flight is not None:
                self._land(index, flight)
            return False
        return True

    def _land(self, index: int, flight: Flight) -> None:
        # It has landed already where the cache was closed without waiting.
        self._flights.pop(index, None)
        flight.landed = True
        if flight.wanted:
            self._landings.notify_all()

    def _lose(self, run: Run, error: exceptions.TransferError) -> None:
        """Tell those who wait for the rest of a run."""
        with self._changed:
            self.failures += 1
            self.error = error
            for number, flight in enumerate(run.flights):
                flight.error = error
                self._land(run.first + number, flight)
