# SPDX-License-Identifier: Apache-2.0
"""Ends calls that the kernel has wait for a FUSE server that hangs."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
import typing

from oslo_transfer import context as _context

# Seconds that a call may go on when it is not wanted any more.
_GRACE = 0.5


class Watch:
    """Looks after one thread while it works; a context manager.

    :param seconds: how long it may give no sign
    :param abort: has its call fail; called once
    :param over: whether it is to end
    """

    def __init__(
        self,
        seconds: float,
        abort: Callable[[], object],
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._seconds = seconds
        self._abort = abort
        self._over = over
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name='oslo-transfer-dd-watch', daemon=True
        )
        #: Whether it gave no sign.
        self.fired = False

    def beat(self) -> None:
        """It goes on."""
        self._last = time.monotonic()

    def __enter__(self) -> typing.Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_context.TICK):
            quiet = time.monotonic() - self._last
            if quiet > self._seconds or (quiet > _GRACE and self._over()):
                self.fired = True
                self._abort()
                return
