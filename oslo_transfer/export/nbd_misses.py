# SPDX-License-Identifier: Apache-2.0
"""What one connection asked for and has to be fetched first.

Others fetch it, several at once. The connection's own thread goes on with
what is there, and looks again when it is told that something has come.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable
import logging
import os
import threading
import typing

from oslo_transfer import exceptions
from oslo_transfer.export import exported
from oslo_transfer import nbd_wire as wire
from oslo_transfer import oserrors

LOG = logging.getLogger(__name__)

#: What is sent at once of a reply that may come in parts.
PART = 1 << 20
# How many of one connection are fetched at once: more would keep others
# waiting.
_AT_ONCE = 16
# How often a block may go again before anybody has seen it.
_MOST_VAIN = 3
# What CACHE waits for.
_MOST_CACHED = 32 * PART
# One who has missed so much in order has as much again brought, at most so
# much. As soon as he finds what he reads, the reader looks ahead by itself.
_AFTER, _MOST_AHEAD = 128 * 1024, PART
# What he may leave out.
_NEAR = 64 * 1024
# What is held for one connection of what cannot be kept.
_MOST_HELD = 4 * PART


class Miss:
    """A request that waits.

    :ivar kind: READ or CACHE
    :ivar offset: the first byte that is still to be sent
    :ivar length: how many
    :ivar whole: the reply may not come in parts
    :ivar ahead: bytes behind it that are worth being brought with it
    :ivar vain: how often it was fetched, and gone again
    :ivar error: why it cannot be had
    :ivar data: the first bytes, if they cannot be kept in the cache
    :ivar unkept: they cannot, and there is no room for them here either
    """

    __slots__ = (
        'ahead',
        'cookie',
        'data',
        'error',
        'kind',
        'length',
        'offset',
        'unkept',
        'vain',
        'whole',
    )

    def __init__(
        self, kind: int, cookie: int, offset: int, length: int, whole: bool
    ) -> None:
        self.kind = kind
        self.cookie = cookie
        self.offset = offset
        self.length = length
        self.whole = whole
        self.ahead = 0
        self.vain = 0
        self.error: str | None = None
        self.data: memoryview | None = None
        self.unkept = False

    def advance(self, count: int) -> None:
        """So many bytes were sent."""
        self.offset += count
        self.length -= count
        self.vain = 0


class Workers(typing.Protocol):
    """Threads that do what would block."""

    def do(self, job: typing.Callable[[], None], whose: Hashable) -> None:
        """Have something done, in turn.

        :param whose: what it is done for: it does not get all threads
        """


class Budget:
    """Bytes that all connections may hold. Thread-safe."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Whether there is room."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give(self, count: int) -> None:
        """It is not held any more."""
        with self._lock:
            self._left += count


def told_of(error: exceptions.TransferError) -> str:
    """What a client is told of an error.

    Where an image comes from, and where it is here, is not its business.
    """
    LOG.info('a client of NBD gets an error: %s', error)
    return f'the image cannot be read now ({type(error).__name__})'


class Misses:
    """Of one connection, whose thread calls all of it.

    :param image: where they are fetched
    :param workers: who fetches
    :param budget: for what the cache does not keep
    """

    def __init__(
        self, image: exported.Exported, workers: Workers, budget: Budget
    ) -> None:
        self._image = image
        self._workers = workers
        self._budget = budget
        self._lock = threading.Lock()
        self._queue: collections.deque[Miss] = collections.deque()
        self._ready: list[Miss] = []
        self._running = 0
        self._held = 0
        self._spare: list[exported.Reader] = []
        # What was asked for in order begins and ends there.
        self._begun = self._end = 0
        self._ahead = 0
        self._closed = False
        #: Readable when :meth:`taken` has something; -1 before the first.
        self.fd = -1
        #: How many wait.
        self.waiting = 0

    def add(self, miss: Miss) -> None:
        """Have something fetched."""
        if self.fd < 0:
            self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._look_ahead(miss)
        with self._lock:
            self.waiting += 1
            self._queue.append(miss)
            if self._running == _AT_ONCE:
                return
            self._running += 1
        self._workers.do(self._work, id(self._image))

    def _look_ahead(self, miss: Miss) -> None:
        """See whether it is in order.

        Many small requests at once would else be as many at the origin.
        """
        end = miss.offset + miss.length
        if not self._begun <= miss.offset <= self._end + _NEAR:
            self._begun, self._end, self._ahead = miss.offset, end, 0
            return
        done = end - self._begun
        # Before it has got there.
        if done > _AFTER and end > self._end - self._ahead // 2:
            self._ahead = min(done, _MOST_AHEAD)
            self._end = min(
                max(end, self._end) + self._ahead, self._image.size
            )
            miss.ahead = self._end - end
        self._end = max(end, self._end)

    def taken(self) -> list[Miss]:
        """Those whose waiting is over."""
        os.eventfd_read(self.fd)
        with self._lock:
            ready, self._ready = self._ready, []
            self.waiting -= len(ready)
        return ready

    def let_go(self, data: memoryview) -> None:
        """The data of a miss is not held any more."""
        with self._lock:
            self._held -= len(data)
        self._budget.give(len(data))

    def close(self) -> None:
        """Want nothing any more; idempotent. What is fetched goes on."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            spare, self._spare = self._spare, []
            held, self._held = self._held, 0
            fd, self.fd = self.fd, -1
        self._budget.give(held)
        for reader in spare:
            reader.close()
        if fd >= 0:
            oserrors.close(fd)

    def _work(self) -> None:
        """Fetch one, in a worker, and leave the next to another turn."""
        with self._lock:
            if not self._queue:
                self._running -= 1
                return
            miss = self._queue.popleft()
            reader = self._spare.pop() if self._spare else None
        try:
            reader = reader or self._image.reader()
            self._fetch(miss, reader)
        except exceptions.TransferError as exc:
            miss.error = told_of(exc)
        except Exception:
            LOG.exception('fetching for a client of NBD')
            miss.error = 'internal error'
        with self._lock:
            closed = self._closed
            if not closed:
                if reader is not None:
                    self._spare.append(reader)
                self._ready.append(miss)
                os.eventfd_write(self.fd, 1)
            more = bool(self._queue)
            if not more:
                self._running -= 1
        if closed and reader is not None:
            reader.close()
        if more:
            self._workers.do(self._work, id(self._image))

    def _fetch(self, miss: Miss, reader: exported.Reader) -> None:
        length = miss.length
        if miss.kind == wire.Command.CACHE:
            # Nobody waits for it: the rest is on its way.
            length = min(length, _MOST_CACHED)
        elif not miss.whole:
            length = min(length, PART)
        at, end = miss.offset, miss.offset + length
        vain = 0
        try:
            while at < end and not self._closed:
                count = reader.claim(at, end - at)
                at += count
                vain = 0 if count else vain + 1
                if not count and (
                    vain > _MOST_VAIN
                    or not reader.bring(at, end - at + miss.ahead)
                ):
                    if miss.kind == wire.Command.READ:
                        self._hold(miss, length, reader)
                    return
        finally:
            reader.release()

    def _hold(self, miss: Miss, length: int, reader: exported.Reader) -> None:
        """Read what the cache cannot keep, if there is room for it."""
        with self._lock:
            fits = (
                length <= PART
                and not self._closed
                and self._held + length <= _MOST_HELD
                and self._budget.take(length)
            )
            if not fits:
                miss.unkept = True
                return
            self._held += length
        data = memoryview(bytearray(length))
        try:
            reader.read(data, miss.offset)
        except BaseException:
            with self._lock:
                # Who closed it has given all of it back.
                given = self._closed
                if not given:
                    self._held -= length
            if not given:
                self._budget.give(length)
            raise
        miss.data = data
