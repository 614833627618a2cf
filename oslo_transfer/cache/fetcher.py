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
import logging
import threading
import time

from oslo_transfer import buffers
from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import demand
from oslo_transfer.cache.demand import NOW
from oslo_transfer.cache.demand import Run
from oslo_transfer.cache.demand import SOMEDAY
from oslo_transfer.cache.demand import SOON
from oslo_transfer.cache import origin as _origin
from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import exceptions

LOG = logging.getLogger(__name__)

# Streams for what nobody waits for: to begin with, and the parts of its time
# that one waits for the peer from which on there is one more, or one less.
_WIDE = 2
_WAITS_MOSTLY, _WAITS_LITTLE = 0.8, 0.4
# What is read and stored in one go: to begin with, and at most.
_AT_ONCE = 256 << 10, 2 << 20
_ZEROS = memoryview(bytes(256 << 10))
# Seconds after which one who waits gets what has come of it.
_SOON_ENOUGH = 0.005
# Seconds that a thread waits for work before it ends.
_IDLE = 2.0
# One that was busy takes longer than it is far away: the quickest counts, of
# so many.
_ANSWERS = 8
# Seconds that a run gives way for, before it goes on for a while.
_PATIENCE = 2.0
# Seconds for all threads to notice that they have to end.
_END = 5.0


class Fetcher(demand.Demand):
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
        super().__init__(blocks)
        self._origin = origin
        self._ctx = ctx
        self._streams = streams
        # In blocks: to begin with, and at most.
        self._chunks = tuple(
            max(1, count // blocks.block_bytes) for count in _AT_ONCE
        )
        self._threads: set[threading.Thread] = set()
        self._answers: collections.deque[float] = collections.deque(
            maxlen=_ANSWERS
        )
        self._idle = 0
        # How many of them bring what nobody waits for.
        self._wide = _WIDE
        #: Bytes that came from the origin.
        self.fetched = 0

    def read_past(self, view: memoryview, offset: int) -> None:
        """Read from the origin, for what is here cannot be read.

        :raises TransferError: it cannot be had
        """
        with self._origin.stream(offset, len(view)) as stream:
            self._fill(stream, view, 0)
        with self._changed:
            self.fetched += len(view)

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
        buffer = buffers.aligned(self._chunks[1] * self._blocks.block_bytes)
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
                        run.chunk = self._chunks[0]
                        self._reading.add(run)
                        return run
                self._idle += 1
                try:
                    if not self._changed.wait(_IDLE) and not any(self._queues):
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

    def _judge(
        self, run: Run, count: int, seconds: float, waited: float
    ) -> None:
        """Read by more streams where the peer is slow, by less where not.

        And in pieces that do not take long.

        :param count: bytes of a piece
        :param seconds: that it took
        :param waited: seconds of them spent waiting for the peer
        """
        fits = count / max(seconds, 1e-6) * demand.CHUNK_SECONDS
        most = min(2 * run.chunk, self._chunks[1])
        with self._changed:
            run.chunk = max(1, min(most, int(fits / self._blocks.block_bytes)))
            if run.level == NOW:
                return
            if waited > _WAITS_MOSTLY * seconds:
                busy = sum(run.level != NOW for run in self._reading)
                if self._wide <= busy < self._streams:
                    self._wide += 1
                    self._changed.notify_all()
            elif waited < _WAITS_LITTLE * seconds:
                self._wide = max(_WIDE, self._wide - 1)

    def _bring(self, run: Run, buffer: memoryview) -> None:
        """Bring a run, or as much of it as nothing else is in the way of."""
        if run.level == SOMEDAY:
            self._give_way(run)
        for stop, is_zero in self._parts(run):
            while run.first < min(stop, run.end):
                if is_zero:
                    self._bring_zeros(run, min(stop, run.end))
                else:
                    self._bring_bytes(run, min(stop, run.end), buffer)
                if run.first < run.end:
                    self._give_way(run)

    def _parts(self, run: Run) -> list[tuple[int, bool]]:
        """Ends of parts of a run, and whether they read as zeros.

        To ask takes a round trip, which is nothing for one who waits.
        """
        size, end = self._blocks.block_bytes, run.end
        if run.level == NOW or run.first == end:
            return [(end, False)]
        start = run.first * size
        length = min(end * size, self._blocks.size) - start
        parts: list[tuple[int, bool]] = []
        for extent in self._origin.extents(start, length):
            if extent.data:
                continue
            first = -(-extent.offset // size)
            stop = (extent.offset + extent.length) // size
            if extent.offset + extent.length == self._blocks.size:
                stop = self._blocks.count
            if first < stop:
                parts += [(first, False), (stop, True)]
        return [*parts, (end, False)]

    def _bring_zeros(self, run: Run, stop: int) -> None:
        """Put what the origin is known to have as a hole."""
        size = self._blocks.block_bytes
        stop = min(stop, run.first + max(1, len(_ZEROS) // size))
        length = min(stop * size, self._blocks.size) - run.first * size
        zeros = _ZEROS if length <= len(_ZEROS) else memoryview(bytes(size))
        self._arrived(run, zeros[:length])

    def _bring_bytes(self, run: Run, stop: int, buffer: memoryview) -> None:
        """Read up to a block by one stream."""
        size = self._blocks.block_bytes
        start = run.first * size
        end = min(stop * size, self._blocks.size)
        began = time.monotonic()
        with self._origin.stream(start, end - start) as stream:
            run.opened = True
            answered = time.monotonic() - began
            self._note_answer(answered)
            # It is waiting, too.
            waited = stream.waited - answered
            carried = 0
            while start < (
                end := min(min(stop, run.end) * size, self._blocks.size)
            ):
                filled = self._fill(
                    stream,
                    buffer[: min(end - start, run.chunk * size)],
                    carried,
                    run,
                )
                now = time.monotonic()
                piece = filled - carried, now - began, stream.waited - waited
                began, waited = now, stream.waited
                whole = filled
                if start + filled < end:
                    whole -= filled % size
                with self._changed:
                    self.fetched += whole
                self._arrived(run, buffer[:whole])
                # Not before: it may be cut off behind the chunk.
                self._judge(run, *piece)
                start += whole
                carried = filled - whole
                buffer[:carried] = buffer[whole:filled]
                if start < end:
                    now = time.monotonic()
                    self._give_way(run)
                    began += time.monotonic() - now

    def _note_answer(self, seconds: float) -> None:
        """Say how far away the origin is, by how soon it has answered."""
        with self._changed:
            self._answers.append(seconds)
            self.latency = min(self._answers)

    def _is_in_the_way(self, level: int) -> bool:
        """Whether what is needed more badly has to have the line.

        What a reader will come to has it while the peer of one who waits has
        yet to answer.
        """
        if level == SOON:
            return self._waiting > 0 and any(
                run.level == NOW and run.opened and run.is_wanted
                for run in tuple(self._reading)
            )
        return level == SOMEDAY and self._waiting > 0

    def _give_way(self, run: Run) -> None:
        """Leave the line to what somebody waits for.

        What is left of the run may be cut off, for another time.
        """
        if run.level == NOW:
            return
        with self._changed:
            given_up = time.monotonic() + _PATIENCE
            while not self._closed:
                if run.is_wanted:
                    return
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
                    return
                self._changed.wait(_context.TICK)
                self._ctx.check()
            if not self._closed:
                for number in range(len(run.flights)):
                    del self._flights[run.first + number]
                run.flights.clear()
            run.end = run.first

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
        now = time.monotonic()
        if error is not None:
            if self.bypassed is None:
                LOG.error('the cache does not store any more: %s', error)
            self.bypassed, self._full_since = error, now
            for level in (SOON, SOMEDAY):
                self._queues[level].clear()
            # What nobody waits for would be fetched in vain.
            for run in self._reading:
                run.abandoned = run.level != NOW
        elif (
            self.bypassed is not None
            # Zeros take no room.
            and now > self._full_since + demand.FULL_SECONDS
        ):
            LOG.warning('the cache stores again')
            self.bypassed = None

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
