# SPDX-License-Identifier: Apache-2.0
"""Threads for what would block the one that answers."""

from __future__ import annotations

import collections
from collections.abc import Callable
import threading
import time

# Seconds that a thread waits for work before it ends.
_IDLE = 10.0


class Workers:
    """Threads, started when there is work. Thread-safe.

    :param most: how many there are at once
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: collections.deque[Callable[[], None]] = collections.deque()
        self._changed = threading.Condition()
        self._count = 0
        self._idle = 0
        self._ended = False

    def do(self, job: Callable[[], None]) -> None:
        """Have something done, in turn; it MUST NOT raise."""
        with self._changed:
            self._jobs.append(job)
            if len(self._jobs) <= self._idle:
                self._changed.notify()
            elif self._count < self._most:
                self._count += 1
                threading.Thread(
                    target=self._work,
                    name='oslo-transfer-http-read',
                    daemon=True,
                ).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(self._is_due, _IDLE)
                self._idle -= 1
                if not self._jobs:
                    self._count -= 1
                    self._changed.notify_all()
                    return
                job = self._jobs.popleft()
            job()

    def _is_due(self) -> bool:
        return bool(self._jobs) or self._ended

    def close(self, seconds: float) -> None:
        """Do what is left and end; waits for so long at most.

        A thread that is still busy then ends by itself.
        """
        end = time.monotonic() + seconds
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            while self._count and time.monotonic() < end:
                self._changed.wait(end - time.monotonic())
