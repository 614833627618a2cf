# SPDX-License-Identifier: Apache-2.0
"""Waits for what clients send next, awake for a moment if they are quick.

A thread that sleeps has to be woken up, and its CPU as well: with one read
at a time that takes longer than to answer it. QEMU polls so, too.
"""

from __future__ import annotations

from collections.abc import Callable
import os
import threading
import time
import typing

# Seconds to wait awake, and what is quick; how often clients have to be
# quick again where that was in vain.
_AWAKE, _QUICK, _VAIN = 100e-6, 200e-6, 4
# One thread of the process waits awake at a time.
_ALONE = threading.Lock()

_Found = typing.TypeVar('_Found')


class Vigil(typing.Generic[_Found]):
    """One thread waits by it.

    :param now: tells what is there, None if nothing is
    :param later: waits for it
    """

    def __init__(
        self,
        now: Callable[..., _Found | None],
        later: Callable[..., _Found],
    ) -> None:
        self._now = now
        self._later = later
        # Above 0: they are quick; below: how often they have to be first.
        self._quick = 0
        # With one CPU nobody could send meanwhile.
        self._may = len(os.sched_getaffinity(0)) > 1

    def wait(self, *arguments: typing.Any) -> _Found:
        """Wait; both functions get the arguments."""
        if self._quick > 0 and _ALONE.acquire(blocking=False):
            try:
                end = time.perf_counter() + _AWAKE
                while time.perf_counter() < end:
                    found = self._now(*arguments)
                    if found is not None:
                        return found
            finally:
                _ALONE.release()
            self._quick = -_VAIN
        started = time.perf_counter()
        found = self._later(*arguments)
        if self._may and time.perf_counter() - started < _QUICK:
            self._quick += 1
        return found
