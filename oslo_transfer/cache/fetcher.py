# SPDX-License-Identifier: Apache-2.0
"""Brings blocks of an object, each once, however many wait for it.

Whoever needs blocks asks for a run of them. Threads take runs - those that
somebody waits for before those that will only be needed later - and read
each by one stream, so that a round trip brings a run and not a block, and
several are on their way at once. Blocks are handed over one by one as they
come.
"""

from __future__ import annotations

import collections
import logging
import threading
import typing

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import exceptions

LOG = logging.getLogger(__name__)

# The most blocks of a run that somebody waits for, in bytes: others may come
# to wait for something else meanwhile.
_URGENT_BYTES = 1 << 20
# Of one that is needed later. With four of them on their way a line of
# 1 Gbit/s is full at a round trip of 250 ms.
_LATER_BYTES = 8 << 20
# What is read and stored in one go.
_AT_ONCE = 256 * 1024
# Seconds that a thread waits for work before it ends.
_IDLE = 10.0
# Seconds for a thread to notice that it has to end.
_PATIENCE = 1.0


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


class Run(typing.NamedTuple):
    """Blocks that one stream brings.

    :ivar first: the first block
    :ivar flights: one for each block
    :ivar urgent: somebody waits for them
    """

    first: int
    flights: list[Flight]
    urgent: bool


class Fetcher:
    """Brings blocks of one image. Thread-safe.

    :param image: where they go
    :param source: the open source, with retries and limits; owned
    :param ctx: the limits
    :param streams: how many runs are read at once, at most
    """

    def __init__(
        self,
        image: _blocks.Blocks,
        source: base.Source,
        ctx: _context.Context,
        streams: int,
    ) -> None:
        self._image = image
        self._source = source
        self._ctx = ctx.replace(stop=threading.Event())
        self._streams = streams
        # How many blocks are read and stored at once.
        self._at_once = max(1, _AT_ONCE // image.block_bytes)
        lock = threading.Lock()
        # For the threads, and for those who wait for blocks.
        self._changed = threading.Condition(lock)
        self._landings = threading.Condition(lock)
        self._flights: dict[int, Flight] = {}
        # Runs as (first block, block behind).
        self._urgent: collections.deque[tuple[int, int]] = collections.deque()
        self._later: collections.deque[tuple[int, int]] = collections.deque()
        # How many runs of each kind are being read.
        self._reading = {True: 0, False: 0}
        self._threads: set[threading.Thread] = set()
        self._open: set[base.Stream] = set()
        self._idle = 0
        self._closed = False
        #: Bytes that came from the source.
        self.fetched = 0
        #: Why blocks cannot be stored any more; None while they can.
        self.bypassed: exceptions.TransferError | None = None

    # Those who want blocks

    def want(self, first: int, end: int) -> list[Flight | None]:
        """Ask for a run of blocks at once.

        :returns: for each what to wait for; None where it is there
        """
        block = self._image
        missing: list[tuple[int, int]] = []
        with self._changed:
            self._check_open()
            found: list[Flight | None] = []
            for index in range(first, end):
                flight = self._flights.get(index)
                if flight is None and not block.has(index):
                    flight = self._flights[index] = Flight()
                    if missing and missing[-1][1] == index:
                        missing[-1] = (missing[-1][0], index + 1)
                    else:
                        missing.append((index, index + 1))
                if flight is not None:
                    flight.wanted = True
                found.append(flight)
            if missing:
                self._urgent.extend(missing)
                self._employ()
        return found

    def want_later(self, first: int, end: int) -> None:
        """Have a run of blocks brought when nothing else is to be done."""
        with self._changed:
            self._check_open()
            self._later.append((first, end))
            self._employ()

    def forget_later(self) -> None:
        """Nothing is needed later any more."""
        with self._changed:
            self._later.clear()

    @property
    def busy(self) -> bool:
        """Whether anything is still to be brought."""
        with self._changed:
            return bool(
                self._urgent or self._later or any(self._reading.values())
            )

    def _check_open(self) -> None:
        if self._closed:
            raise exceptions.TransferCancelled('the cache was closed')

    def wait(self, flight: Flight, ctx: _context.Context) -> None:
        """Wait until a block has landed.

        :raises TransferError: the context's, or why it does not come
        """
        with self._changed:
            while not flight.landed:
                self._landings.wait(_context.TICK)
                ctx.check()
        if flight.error is not None:
            # A new one each time: a traceback belongs to one thread.
            raise type(flight.error)(*flight.error.args)

    # The threads

    def _employ(self) -> None:
        """Have a thread for each run that may be read now."""
        due = len(self._urgent) + len(self._later)
        while due > self._idle and len(self._threads) < self._streams:
            thread = threading.Thread(
                target=self._work, name='oslo-transfer-fetch', daemon=True
            )
            self._threads.add(thread)
            due -= 1
            thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        buffer = memoryview(bytearray(self._at_once * self._image.block_bytes))
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
                        self._reading[run.urgent] -= 1
                        self._changed.notify_all()
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()

    def _take(self) -> Run | None:
        """The next run to read; None when there was none for long."""
        with self._changed:
            while not self._closed:
                for urgent in (True, False):
                    run = self._next(urgent)
                    if run is not None:
                        self._reading[urgent] += 1
                        return run
                self._idle += 1
                try:
                    if not self._changed.wait(_IDLE):
                        return None
                finally:
                    self._idle -= 1
            return None

    def _next(self, urgent: bool) -> Run | None:
        queue = self._urgent if urgent else self._later
        # One thread is always left for what somebody waits for.
        if not urgent and self._reading[False] >= max(1, self._streams - 1):
            return None
        most = _URGENT_BYTES if urgent else _LATER_BYTES
        most = max(1, most // self._image.block_bytes)
        while queue:
            first, end = queue.popleft()
            while first < end and not self._is_due(first):
                first += 1
            flights: list[Flight] = []
            while (
                first + len(flights) < end
                and len(flights) < most
                and self._is_due(first + len(flights))
            ):
                flight = self._flights.setdefault(
                    first + len(flights), Flight()
                )
                flight.taken = True
                flights.append(flight)
            if first + len(flights) < end:
                queue.appendleft((first + len(flights), end))
            if flights:
                return Run(first, flights, urgent)
        return None

    def _is_due(self, index: int) -> bool:
        flight = self._flights.get(index)
        if flight is not None and flight.taken:
            return False
        if self._image.has(index):
            if flight is not None:
                self._land(index, flight)
            return False
        return True

    def _bring(self, run: Run, buffer: memoryview) -> None:
        image = self._image
        start = run.first * image.block_bytes
        end = (run.first + len(run.flights)) * image.block_bytes
        stream = self._source.stream(start, min(end, image.size) - start)
        with self._changed:
            self._open.add(stream)
        try:
            done = 0
            while done < len(run.flights):
                if not run.urgent:
                    self._give_way(run.flights[done:])
                first = run.first + done
                flights = run.flights[done : done + self._at_once]
                offset = first * image.block_bytes
                stop = offset + len(flights) * image.block_bytes
                data = buffer[: min(stop, image.size) - offset]
                self._fill(stream, data)
                self._arrived(first, flights, data)
                done += len(flights)
        finally:
            with self._changed:
                self._open.discard(stream)
            stream.close()

    def _give_way(self, flights: list[Flight]) -> None:
        """Leave the line to what somebody waits for."""
        with self._changed:
            while (
                (self._urgent or self._reading[True])
                and not self._closed
                and not any(flight.wanted for flight in flights)
            ):
                self._changed.wait(_context.TICK)
                self._ctx.check()

    def _fill(self, stream: base.Stream, view: memoryview) -> None:
        while view:
            count = stream.readinto(view)
            if not count:
                raise exceptions.Unavailable('the source ended too early')
            view = view[count:]

    def _arrived(
        self, first: int, flights: list[Flight], data: memoryview
    ) -> None:
        stored = True
        try:
            self._image.put(first, data)
        except (exceptions.NoSpace, exceptions.StorageError) as exc:
            if self.bypassed is None:
                LOG.error('the cache does not store any more: %s', exc)
            self.bypassed, stored = exc, False
        size = self._image.block_bytes
        with self._changed:
            self.fetched += len(data)
            for number, flight in enumerate(flights):
                if not stored:
                    start = number * size
                    flight.data = bytes(data[start : start + size])
                self._land(first + number, flight)

    def _land(self, index: int, flight: Flight) -> None:
        del self._flights[index]
        flight.landed = True
        if flight.wanted:
            self._landings.notify_all()

    def _lose(self, run: Run, error: exceptions.TransferError) -> None:
        """Tell those who wait for the rest of a run."""
        with self._changed:
            for number, flight in enumerate(run.flights):
                if self._flights.get(run.first + number) is flight:
                    flight.error = error
                    self._land(run.first + number, flight)

    def close(self) -> None:
        """End all threads, within a second; idempotent."""
        with self._changed:
            self._closed = True
            streams = [*self._open]
            threads = [*self._threads]
            self._changed.notify_all()
        self._ctx.stop.set()
        for stream in streams:
            stream.close()
        self._source.close()
        for thread in threads:
            thread.join(_PATIENCE)
        error = exceptions.TransferCancelled('the cache was closed')
        with self._changed:
            for index, flight in [*self._flights.items()]:
                flight.error = error
                self._land(index, flight)
