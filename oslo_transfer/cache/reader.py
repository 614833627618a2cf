# SPDX-License-Identifier: Apache-2.0
"""Reads an object through its blocks on this host."""

from __future__ import annotations

import threading

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import fetcher as _fetcher
from oslo_transfer import context as _context

# Who reads on is soon far ahead: it doubles from here to there.
_FIRST = 1 << 20
_MOST = 64 << 20


class Reader:
    """One who reads; several threads may share him.

    :param image: what is on this host
    :param fetcher: brings the rest
    :param ctx: the limits of the one who reads
    """

    def __init__(
        self,
        image: _blocks.Blocks,
        fetcher: _fetcher.Fetcher,
        ctx: _context.Context,
    ) -> None:
        self._image = image
        self._fetcher = fetcher
        self._ctx = ctx
        self._lock = threading.Lock()
        self._next = 0
        self._ahead = 0
        self._window = 0

    def read(self, view: memoryview, offset: int) -> None:
        """Fill a buffer; it MUST be inside of the object.

        Blocks until all of it is there.

        :raises TransferError: it cannot be had
        """
        end = offset + len(view)
        self._look_ahead(offset, end)
        while view:
            count = self._image.read(view, offset)
            if not count:
                count = self._wait(view, offset)
            view = view[count:]
            offset += count

    def _wait(self, view: memoryview, offset: int) -> int:
        """Have what is missing brought; returns how much was taken.

        It is nothing where it was stored, and is read from there.
        """
        size = self._image.block_bytes
        first = offset // size
        flights = self._fetcher.want(first, -(-(offset + len(view)) // size))
        if flights[0] is None:
            return 0
        self._fetcher.wait(flights[0], self._ctx)
        block = flights[0].data
        if block is None:
            return 0
        part = block[offset - first * size :][: len(view)]
        view[: len(part)] = part
        return len(part)

    def _look_ahead(self, offset: int, end: int) -> None:
        """Have what comes next brought where it is read in order."""
        with self._lock:
            in_order = offset == self._next
            self._next = end
            if not in_order:
                self._window = self._ahead = 0
                return
            self._window = min(_MOST, 2 * self._window or _FIRST)
            start = max(end, self._ahead)
            stop = min(end + self._window, self._image.size)
            # In steps that are worth a request.
            if stop - start < self._window // 2 and stop < self._image.size:
                return
            self._ahead = max(stop, self._ahead)
        size = self._image.block_bytes
        if start < stop:
            self._fetcher.want_later(start // size, -(-stop // size))
