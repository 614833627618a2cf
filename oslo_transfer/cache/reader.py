# SPDX-License-Identifier: Apache-2.0
"""Reads an image through its blocks on this host."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import os
import typing

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import demand as _demand
from oslo_transfer.cache import fetcher as _fetcher
from oslo_transfer import context as _context

# Bytes in order from which on one seems to go on reading.
_AFTER = 128 * 1024
# The part of what was read in order that is brought ahead: little is lost when
# it ends. Where the origin takes long to answer, more is worth it; much more
# once it is likely to go on.
_PART, _MORE, _MUCH_MORE = 0.125, 1, 4
_SURELY = 1 << 20
_LONG = 0.03
# The most that is brought ahead.
_MOST = 64 << 20
# The most that is asked for at once by one who waits.
_DEMAND = 8 << 20
# One who reads in order may leave so much out, and may come back to so much:
# requests overtake one another.
_NEAR = 64 * 1024
_BEHIND = 1 << 20
_NOWHERE = -(1 << 62), 1 << 62

Touch = Callable[[int, int], None]


class Reader:
    """One who reads; see :class:`oslo_transfer.export.exported.Reader`.

    :param blocks: what is on this host
    :param fetcher: brings the rest
    :param ctx: the limits of the one who reads
    :param on_touch: called with what is read: offset and length, not twice
        in a row for one block
    """

    def __init__(
        self,
        blocks: _blocks.Blocks,
        fetcher: _fetcher.Fetcher,
        ctx: _context.Context,
        on_touch: Touch | None = None,
    ) -> None:
        self._blocks = blocks
        self._fetcher = fetcher
        self._ctx = ctx
        self._on_touch = on_touch
        self._size = blocks.size
        self._block_bytes = blocks.block_bytes
        self._claimer = blocks.claimer()
        self._claim = self._claimer.claim
        # A block that could not be stored: its number, and what it has.
        self._kept: tuple[int, bytes] | None = None
        # Where reading in order began, where it goes on, how far was looked
        # ahead, and from where on to look again.
        self._begun = self._ahead = 0
        self._next, self._mark = _NOWHERE
        self._last = -1
        #: Of the data file.
        self.fd = blocks.fd
        #: How often bytes were there, and were not; how many were given.
        self.hits = self.misses = self.served = 0

    def claim(self, offset: int, length: int) -> int:
        """How many bytes may go out of :attr:`fd` now; never blocks."""
        count = self._claim(offset, length)
        end = offset + length
        gap = offset - self._next
        if gap:
            if self._ahead or -_BEHIND < gap <= _NEAR:
                end = self._jumped(gap, offset, end)
            else:
                self._begun = offset
                self._mark = end + _AFTER
        if end > self._mark:
            self._look_ahead(end)
        self._next = end
        if self._on_touch is not None:
            # By its end: what goes on in the block of the one before, and
            # beyond, is news.
            block = (offset + length - 1) // self._block_bytes
            if block != self._last:
                self._last = block
                self._on_touch(offset, length)
        if count:
            self.hits += 1
            self.served += count
        return count

    def release(self) -> None:
        """Give the claim up; idempotent."""
        self._claimer.held = None

    def bring(self, offset: int, length: int) -> bool:
        """Block until the first byte of a run can be claimed.

        :raises TransferError: it cannot be had
        """
        self.misses += 1
        size = self._block_bytes
        first = offset // size
        end = -(-(offset + min(length, _DEMAND)) // size)
        while True:
            flight = self._fetcher.want(first, end)[0]
            if flight is not None:
                self._fetcher.wait(flight, self._ctx)
                if flight.data is None:
                    return True
                self._kept = first, flight.data
                return False
            # It is here, but was not compared yet.
            with self._blocks.pinned(offset, length) as count:
                if count:
                    return True

    def read(self, view: memoryview, offset: int) -> None:
        """Fill a buffer; blocks until all of it is there.

        :raises TransferError: it cannot be had
        """
        asked: dict[int, _demand.Flight | None] = {}
        while view:
            count = self.claim(offset, len(view))
            if count:
                self._read_here(view[:count], offset)
            else:
                count = self._get(view, offset, asked)
            view = view[count:]
            offset += count
        self.release()

    def _read_here(self, view: memoryview, offset: int) -> None:
        try:
            while view:
                count = os.preadv(self.fd, [view], offset)
                if not count:
                    raise OSError('the data file was cut short')
                view = view[count:]
                offset += count
        except OSError:
            self._blocks.doubt(offset, len(view))
            self._fetcher.read_past(view, offset)

    def _get(
        self,
        view: memoryview,
        offset: int,
        asked: dict[int, _demand.Flight | None],
    ) -> int:
        """Have what is missing brought; returns how much was taken.

        It is nothing where it was stored, and is read from there.

        :param asked: what was asked for already, by number
        """
        size = self._block_bytes
        first = offset // size
        if self._kept is not None:
            kept, self._kept = self._kept, None
            if kept[0] == first:
                return self._take(kept[1], view, offset)
        if first not in asked:
            self.misses += 1
            end = -(-(offset + min(len(view), _DEMAND)) // size)
            asked.clear()
            asked.update(
                zip(range(first, end), self._fetcher.want(first, end))
            )
        flight = asked.pop(first)
        if flight is None:
            # It was not compared yet.
            with self._blocks.pinned(offset, len(view)):
                return 0
        self._fetcher.wait(flight, self._ctx)
        if flight.data is None:
            return 0
        return self._take(flight.data, view, offset)

    def _take(self, block: bytes, view: memoryview, offset: int) -> int:
        part = memoryview(block)[offset % self._block_bytes :][: len(view)]
        view[: len(part)] = part
        self.served += len(part)
        return len(part)

    def _jumped(self, gap: int, offset: int, end: int) -> int:
        """It is not what comes next; returns where it goes on from here."""
        if 0 < gap <= _NEAR:
            self._begun += gap
            self._mark += gap
            return end
        if gap < 0 and offset >= max(self._begun, self._next - _BEHIND):
            return max(end, self._next)
        if self._ahead:
            self._fetcher.forget(self)
            self._ahead = 0
        self._begun = offset
        self._mark = end + _AFTER
        return end

    def _look_ahead(self, end: int) -> None:
        """Have what comes next brought where it is read in order."""
        if self._blocks.present == self._blocks.count:
            self._mark = end + _MOST
            return
        have = end - self._begun
        part = _PART
        if self._fetcher.latency > _LONG:
            part = _MORE if have < _SURELY else _MUCH_MORE
        window = min(_MOST, max(_AFTER, int(part * have)))
        stop = min(end + window, self._size)
        size = self._block_bytes
        first = -(-max(end, self._ahead) // size)
        behind = -(-stop // size)
        if first < behind and self._fetcher.later(
            first, behind, _demand.SOON, self
        ):
            self._ahead = behind * size
        self._mark = end + max(size, (self._ahead - end) // 2)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """Lengths, and whether they read as zeros, as far as is known."""
        return self._blocks.extents(offset, length)

    def close(self) -> None:
        """End it; idempotent."""
        self.release()
        self._kept = None
        self._fetcher.forget(self)

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
