# SPDX-License-Identifier: Apache-2.0
"""Counts bytes, and tells the caller now and then."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import threading
import time
import typing

#: ``progress(chunk_bytes, total_bytes)``: the bytes since the last call,
#: and all bytes that are in place so far. Called from the thread that
#: called ``copy()``. ``chunk_bytes`` is negative when bytes had to be
#: dropped. Raising in it stops the transfer.
ProgressCallback = Callable[[int, int], object]

_INTERVAL = 0.1


class Progress:
    """The progress of one call, over all its attempts.

    :param callback: told about it, or None. If it has an attribute
        ``figures``, that is set to a dictionary of further figures
        where a driver has some, like ``peers``.
    """

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        self._total = 0
        self._told = 0
        self._told_at = time.monotonic()

    def add(self, count: int) -> None:
        """Bytes are in place; may be called by any thread."""
        with self._lock:
            self._total += count

    def restart(self, total: int) -> None:
        """A new attempt begins with so many bytes in place."""
        with self._lock:
            self._total = total

    def note(self, figures: Mapping[str, int]) -> None:
        """Give further figures to a callback that has a place for them."""
        callback: typing.Any = self._callback
        if hasattr(callback, 'figures'):
            callback.figures = figures

    def tell(self, at_once: bool = False) -> None:
        """Call the callback if it is time; only in the caller's thread."""
        if self._callback is None:
            return
        now = time.monotonic()
        if not at_once and now < self._told_at + _INTERVAL:
            return
        with self._lock:
            total = self._total
        chunk = total - self._told
        self._told_at = now
        if chunk:
            self._told = total
            self._callback(chunk, total)
