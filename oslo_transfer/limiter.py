# SPDX-License-Identifier: Apache-2.0
"""Bandwidth limits, shared by streams, transfers and the whole process."""

from __future__ import annotations

import collections
import threading
import time

# Hosts whose limiters are kept; a host that is forgotten gets one burst.
_MOST_HOSTS = 1024


class Limiter:
    """A token bucket; thread-safe and never blocking.

    Bytes are reported after they moved, and the answer says how long to
    wait before the next ones: the caller does the waiting, because only
    it knows what may interrupt the wait.

    :param rate: bytes per second; None for no limit
    """

    #: Seconds of silence that may be made up for by a burst.
    BURST = 0.1

    def __init__(self, rate: int | None = None) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._next = 0.0
        # The streams of each transfer that moves bytes now.
        self._streams: collections.Counter[object] = collections.Counter()

    def chunk(self, size: int) -> int:
        """The most bytes to move at once, so that no burst shows."""
        if self.rate is None:
            return size
        return max(1, min(size, int(self.rate * self.BURST)))

    def moved(self, count: int) -> float:
        """Take ``count`` bytes; returns the seconds to wait now."""
        rate = self.rate
        if rate is None:
            return 0.0
        now = time.monotonic()
        with self._lock:
            self._next = max(self._next, now - self.BURST)
            self._next += count / rate
            return max(0.0, self._next - now)

    def share(self, transfer: object) -> Share:
        """The part of one stream; give it back in the end.

        Transfers get equal parts, however many streams each of them has.

        :param transfer: stands for the transfer that the stream belongs to
        """
        with self._lock:
            self._streams[transfer] += 1
        return Share(self, transfer)

    def leave(self, transfer: object) -> None:
        """One stream of a transfer has ended."""
        with self._lock:
            self._streams[transfer] -= 1
            if not self._streams[transfer]:
                del self._streams[transfer]

    def turn(self, transfer: object) -> int | None:
        """The bytes that a stream moves before it waits; None for any."""
        if self.rate is None:
            return None
        with self._lock:
            parts = len(self._streams) * self._streams[transfer]
        return max(1, int(self.rate * self.BURST / max(1, parts)))

    @property
    def idle(self) -> bool:
        """Whether nobody uses it."""
        return not self._streams


class Share:
    """What one stream takes of a limiter.

    Streams take turns, and wait once in a turn. A turn is counted in
    bytes, not in reads: a stream that comes in small pieces loses nothing.

    :param limiter: the limiter
    :param transfer: the transfer that the stream belongs to
    """

    def __init__(self, limiter: Limiter, transfer: object) -> None:
        self._limiter = limiter
        self._transfer = transfer
        self._owed = 0
        self._open = True

    def chunk(self, size: int) -> int:
        """The most bytes to move at once."""
        turn = self._limiter.turn(self._transfer)
        return size if turn is None else max(1, min(size, turn - self._owed))

    def moved(self, count: int) -> float:
        """Take ``count`` bytes; returns the seconds to wait now."""
        self._owed += count
        turn = self._limiter.turn(self._transfer)
        if turn is None or self._owed >= turn:
            owed, self._owed = self._owed, 0
            return self._limiter.moved(owed)
        return 0.0

    def close(self) -> None:
        """End it; idempotent. What is owed is for the others to wait."""
        if self._open:
            self._open = False
            self._limiter.moved(self._owed)
            self._limiter.leave(self._transfer)


class Limiters:
    """The limiters of a process; thread-safe.

    The rate is the one of the configuration that was used last, so that
    a changed option holds for transfers that are under way, too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = Limiter()
        self._hosts: collections.OrderedDict[str, Limiter] = (
            collections.OrderedDict()
        )

    def process(self, rate: int) -> Limiter:
        """The limiter of the whole process.

        :param rate: bytes per second
        """
        self._process.rate = rate
        return self._process

    def host(self, name: str, rate: int) -> Limiter:
        """The limiter of a host.

        :param name: the host's name or address
        :param rate: bytes per second
        """
        with self._lock:
            found = self._hosts.setdefault(name, Limiter())
            found.rate = rate
            self._hosts.move_to_end(name)
            if len(self._hosts) > _MOST_HOSTS:
                for each, limiter in list(self._hosts.items()):
                    if limiter.idle and limiter is not found:
                        del self._hosts[each]
                        break
            return found
