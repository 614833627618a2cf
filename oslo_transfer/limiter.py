# SPDX-License-Identifier: Apache-2.0
"""Bandwidth limits, shared by all streams of a transfer."""

from __future__ import annotations

import threading
import time


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

    def chunk(self, size: int) -> int:
        """The most bytes to move at once, so that no burst shows."""
        if self.rate is None:
            return size
        return max(1, min(size, int(self.rate * self.BURST)))

    def moved(self, count: int) -> float:
        """Take ``count`` bytes; returns the seconds to wait now."""
        if self.rate is None:
            return 0.0
        now = time.monotonic()
        with self._lock:
            self._next = max(self._next, now - self.BURST)
            self._next += count / self.rate
            return max(0.0, self._next - now)
