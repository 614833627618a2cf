# SPDX-License-Identifier: Apache-2.0
"""Brings blocks of an object, each once, however many wait for it.

Whoever needs blocks asks for a run of them. Threads take runs - those that
somebody waits for first - and read each by one stream, so that a round trip
brings a run and not a block, and several are on their way at once. Blocks
are handed over as they come. A run that nobody waits for gives way to one
that somebody does.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
import contextlib
import copy
import logging
import threading
import time

from oslo_transfer import buffers
from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import origin as _origin
from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import exceptions

LOG = logging.getLogger(__name__)

#: What is needed: somebody waits, a reader will come to it, or some day.
NOW, SOON, SOMEDAY = range(3)

#: The most bytes of a run that nobody waits for: each costs a round trip or
#: more, and gives way when it has to.
RUN_BYTES = 32 << 20
# Of one that somebody waits for: others come to wait for something else.
_URGENT_BYTES = 1 << 20
# The most that is queued of each kind that nobody waits for, in bytes.
_QUEUE_BYTES = 256 << 20
# Streams for what nobody waits for: to begin with, and the parts of its time
# that one waits for the peer from which on there is one more, or one less.
_WIDE = 2
_WAITS_MOSTLY, _WAITS_LITTLE = 0.8, 0.4
# What is read and stored in one go.
_AT_ONCE = 1 << 20
# Seconds after which one who waits gets what has come of it.
_SOON_ENOUGH = 0.005
# Seconds that a thread waits for work before it ends.
_IDLE = 10.0
# Seconds that a run gives way for, before it goes on for a while.
_PATIENCE = 2.0
# Seconds for all threads to notice that they have to end.
_END = 5.0
# Seconds after which blocks that could not be stored are tried again.
_FULL = 5.0


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
    :ivar abandoned: the need is gone
    """

    __slots__ = ('abandoned', 'end', 'first', 'flights', 'level', 'owner')

    def __init__(
        self, first: int, end: int, level: int, owner: object = None
    ) -> None:
        self.first = first
        self.end = end
        self.level = level
        self.owner = owner
        self.flights: list[Flight] = []
        self.abandoned = False

    def part(self, first: int, end: int) -> Run:
        """A part of it."""
        return Run(first, end, self.level, self.owner)


class Fetcher:
    """Brings blocks of one image. Thread-safe.

    :param blocks: where they go
    :param origin: where they come from; owned
    :param ctx: the limits
    :param streams: how many runs are read at once, at most
    """

    def __init__(
        self,
        blocks: _blocks.Blocks,
        origin: _origin.Origin,
        ctx: _context.Context,
        streams: int,
    ) -> None:
        self._blocks = blocks
        self._origin = origin
        self._ctx = ctx
        self._streams = streams
        # In blocks.
        self._at_once = max(1, _AT_ONCE // blocks.block_bytes)
        lock = threading.Lock()
        # For the threads, and for those who wait for blocks.
        self._changed = threading.Condition(lock)
        self._landings = threading.Condition(lock)
        self._flights: dict[int, Flight] = {}
        self._queues: list[collections.deque[Run]] = [
            collections.deque() for _level in (NOW, SOON, SOMEDAY)
        ]
        self._reading: set[Run] = set()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        # Those who wait for blocks, and runs whose bytes they get now.
        self._waiting = 0
        self._urgent_ones = 0
        self._wide = _WIDE
        self._closed = False
        self._full_since = 0.0
        #: Bytes that came from the origin.
        self.fetched = 0
        #: How often somebody had to wait for a block.
        self.waits = 0
        #: How many runs failed, and why the last one did.
        self.failures = 0
        self.error: exceptions.TransferError | None = None
        #: Why blocks cannot be stored now; None while they can.
        self.bypassed: exceptions.TransferError | None = None

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
        for run in self._reading:
            if run.first + self._at_once <= index < run.end:
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
        :returns: False where so much is queued that it is not taken
        """
        size = self._blocks.block_bytes
        step = max(1, RUN_BYTES // size)
        with self._changed:
            self._check_open()
            if (
                self.bypassed is not None
                and time.monotonic() < self._full_since + _FULL
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

    def read_past(self, view: memoryview, offset: int) -> None:
        """Read from the origin, for what is here cannot be read.

        :raises TransferError: it cannot be had
        """
        with self._origin.stream(offset, len(view)) as stream:
            self._fill(stream, view, 0)
        with self._changed:
            self.fetched += len(view)

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

    # The threads

    def _employ(self) -> None:
        """Have a thread for each run that may be read now."""
        due = sum(map(len, self._queues))
        while due > self._idle and len(self._threads) < self._streams:
            thread = threading.Thread(
                target=self._work, name='oslo-transfer-fetch', daemon=True
            )
            self._threads.add(thread)
            due -= 1
            thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        buffer = buffers.aligned(self._at_once * self._blocks.block_bytes)
        try:
            while (run := self._take()) is not None:
                try:
                    self._bring(run, buffer)
                except exceptions.TransferError as exc:
                    LOG.info('block %d: %s', run.first, exc)
                    self._lose(run, exc)
                except BaseException as exc:
                    self._lose(run, exceptions.Unavailable(repr(exc)))
                    raise
                finally:
                    with self._changed:
                        self._reading.discard(run)
                        self._changed.notify_all()
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()

    def _take(self) -> Run | None:
        """The next run to read; None when there was none for long."""
        with self._changed:
            while not self._closed:
                for level in (NOW, SOON, SOMEDAY):
                    if self._may(level) and (run := self._next(level)):
                        self._reading.add(run)
                        return run
                self._idle += 1
                try:
                    if not self._changed.wait(_IDLE):
                        return None
                finally:
                    self._idle -= 1
            return None

    def _may(self, level: int) -> bool:
        """Whether a thread is left for what is needed more badly."""
        if level == NOW:
            return True
        later = sum(run.level != NOW for run in self._reading)
        left = 1 if level == SOON else 2
        return later < max(1, min(self._streams - left, self._wide))

    def _judge(self, waited: float) -> None:
        """Read by more streams where the peer is slow, by less where not.

        :param waited: the part of its time that a stream has waited
        """
        if waited > _WAITS_MOSTLY and self._wide < self._streams:
            with self._changed:
                busy = sum(run.level != NOW for run in self._reading)
                if self._wide <= busy < self._streams:
                    self._wide += 1
                    self._changed.notify_all()
        elif waited < _WAITS_LITTLE and self._wide > _WIDE:
            with self._changed:
                self._wide = max(_WIDE, self._wide - 1)

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

    def _bring(self, run: Run, buffer: memoryview) -> None:
        size = self._blocks.block_bytes
        start = run.first * size
        end = min(run.end * size, self._blocks.size)
        if run.level == SOMEDAY and not self._goes_on(run):
            return
        began = time.monotonic()
        with (
            self._origin.stream(start, end - start) as stream,
            self._first_served(run),
        ):
            # Opening it is waiting, too.
            waited = stream.waited - time.monotonic() + began
            carried = 0
            while True:
                filled = self._fill(
                    stream, buffer[: end - start], carried, run
                )
                if run.level != NOW:
                    now = time.monotonic()
                    self._judge((stream.waited - waited) / (now - began))
                    began, waited = now, stream.waited
                whole = filled
                if start + filled < end:
                    whole -= filled % size
                self._arrived(run, buffer[:whole])
                start += whole
                if start == end or not self._goes_on(run):
                    return
                # Its end may have been cut off.
                end = min(run.end * size, self._blocks.size)
                if start == end:
                    return
                carried = filled - whole
                buffer[:carried] = buffer[whole:filled]

    @contextlib.contextmanager
    def _first_served(self, run: Run) -> Iterator[None]:
        """Have others leave the line to a run that somebody waits for."""
        if run.level != NOW:
            yield
            return
        with self._changed:
            self._urgent_ones += 1
        try:
            yield
        finally:
            with self._changed:
                self._urgent_ones -= 1
                self._changed.notify_all()

    def _is_in_the_way(self, level: int) -> bool:
        """Whether what is needed more badly has to have the line.

        What a reader will come to has it while the peer of one who waits has
        yet to answer.
        """
        if level == SOON:
            return self._urgent_ones > 0
        return level == SOMEDAY and self._waiting > 0

    def _goes_on(self, run: Run) -> bool:
        """Leave the line to what somebody waits for.

        :returns: False where what is left of the run is not to be read now
        """
        if run.level == NOW:
            return True
        with self._changed:
            given_up = time.monotonic() + _PATIENCE
            while not self._closed:
                if any(flight.wanted for flight in run.flights):
                    return True
                if run.abandoned:
                    break
                if self._takes_a_place(run):
                    self._queues[run.level].appendleft(
                        run.part(run.first, run.end)
                    )
                    break
                if (
                    not self._is_in_the_way(run.level)
                    or time.monotonic() > given_up
                ):
                    return True
                self._changed.wait(_context.TICK)
                self._ctx.check()
            if not self._closed:
                for number in range(len(run.flights)):
                    del self._flights[run.first + number]
                run.flights.clear()
            return False

    def _takes_a_place(self, run: Run) -> bool:
        """Whether no thread is left for what is needed more badly."""
        if self._queues[NOW]:
            return not self._idle and len(self._threads) >= self._streams
        return (
            run.level == SOMEDAY
            and bool(self._queues[SOON])
            and not self._may(SOON)
        )

    def _fill(
        self,
        stream: base.Stream,
        view: memoryview,
        filled: int,
        run: Run | None = None,
    ) -> int:
        """Read until a buffer is full, or blocks of a run are to be used."""
        started = time.monotonic()
        while filled < len(view):
            count = stream.readinto(view[filled:])
            if not count:
                raise exceptions.Unavailable('the origin ended too early')
            filled += count
            if run is not None and self._is_enough(run, filled, started):
                break
        return filled

    def _is_enough(self, run: Run, filled: int, started: float) -> bool:
        """Whether one who waits can be served, or has to be."""
        count = filled // self._blocks.block_bytes
        if not (self._waiting and count):
            return False
        if any(flight.wanted for flight in run.flights[:count]):
            return time.monotonic() - started > _SOON_ENOUGH
        return self._is_in_the_way(run.level)

    def _arrived(self, run: Run, data: memoryview) -> None:
        error = None
        try:
            self._blocks.put(run.first, data)
        except (exceptions.NoSpace, exceptions.StorageError) as exc:
            error = exc
        size = self._blocks.block_bytes
        with self._changed:
            self.fetched += len(data)
            self._note_full(error)
            count = -(-len(data) // size)
            wanted = False
            for number, flight in enumerate(run.flights[:count]):
                if error is not None and flight.wanted:
                    start = number * size
                    flight.data = bytes(data[start : start + size])
                del self._flights[run.first + number]
                flight.landed = True
                wanted |= flight.wanted
            del run.flights[:count]
            run.first += count
            if wanted:
                self._landings.notify_all()

    def _note_full(self, error: exceptions.TransferError | None) -> None:
        if error is not None and self.bypassed is None:
            LOG.error('the cache does not store any more: %s', error)
        elif error is None and self.bypassed is not None:
            LOG.warning('the cache stores again')
        self.bypassed = error
        if error is not None:
            self._full_since = time.monotonic()
            for level in (SOON, SOMEDAY):
                self._queues[level].clear()

    def _land(self, index: int, flight: Flight) -> None:
        del self._flights[index]
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

    def close(self) -> None:
        """End all threads, within seconds; idempotent."""
        with self._changed:
            self._closed = True
            threads = [*self._threads]
            self._changed.notify_all()
        self._origin.close()
        end = time.monotonic() + _END
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        error = exceptions.TransferCancelled('the cache was closed')
        with self._changed:
            for index, flight in [*self._flights.items()]:
                flight.error = error
                self._land(index, flight)
