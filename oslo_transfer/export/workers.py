# SPDX-License-Identifier: Apache-2.0
"""Threads for what would block the one that answers."""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Hashable
import threading
import time

# Seconds that a thread waits for work before it ends.
_IDLE = 10.0
# The part of the threads that may be busy for one purpose: an origin that
# hangs is not to hold up what is asked of others.
_SHARE = 4

Job = Callable[[], None]


class Workers:
    """Threads, started when there is work. Thread-safe.

    :param most: how many there are at once
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._share = max(1, most // _SHARE)
        self._jobs: collections.deque[tuple[Hashable, Job]] = (
            collections.deque()
        )
        # What is due or being done for each purpose, and what waits for it.
        self._taken: collections.Counter[Hashable] = collections.Counter()
        self._parked: dict[Hashable, collections.deque[Job]] = {}
        self._changed = threading.Condition()
        self._count = 0
        self._idle = 0
        self._ended = False

    def do(self, job: Job, whose: Hashable = None) -> None:
        """Have something done, in turn; it MUST NOT raise.

        :param whose: what it is done for: one purpose does not take all
            threads. None for one that has no bound
        """
        with self._changed:
            if whose is not None:
                if self._taken[whose] >= self._share:
                    self._parked.setdefault(whose, collections.deque()).append(
                        job
                    )
                    return
                self._taken[whose] += 1
            self._jobs.append((whose, job))
            if len(self._jobs) <= self._idle:
                self._changed.notify()
            elif self._count < self._most:
                self._count += 1
                threading.Thread(
                    target=self._work,
                    name='oslo-transfer-export',
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
                whose, job = self._jobs.popleft()
            job()
            with self._changed:
                self._let_go(whose)

    def _let_go(self, whose: Hashable) -> None:
        if whose is None:
            return
        parked = self._parked.get(whose)
        if parked:
            # This thread looks for work right away.
            self._jobs.append((whose, parked.popleft()))
            return
        self._parked.pop(whose, None)
        self._taken[whose] -= 1
        if not self._taken[whose]:
            del self._taken[whose]

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
