# SPDX-License-Identifier: Apache-2.0
"""A LUN as a source, without the kernel's initiator."""

from __future__ import annotations

from collections.abc import Iterator
import threading
import time
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.iscsi import ahead as _ahead
from oslo_transfer.drivers.iscsi import blocks as _blocks
from oslo_transfer.drivers.iscsi import holes
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import pool as _pool
from oslo_transfer.drivers.iscsi import waiting
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

# A stream begins with small reads, and doubles them while they are quick:
# on a slow line each brings something within the stall rule's window.
_FIRST = 64 * 1024
_QUICK = 0.2
_SLOW = 2.0
# Seconds for a read to notice that its stream was closed.
_PATIENCE = 0.5


class ISCSISource(base.Source):
    """A LUN that is logged in to.

    What a LUN holds can change at any time and leaves no trace, so there
    is nothing to tell versions apart by, but its size.

    :param lun: what to log in to
    :param ctx: the limits
    """

    in_place = True

    def __init__(self, lun: _lun.Lun, ctx: _context.Context) -> None:
        self._where = lun.where
        self._pool = _pool.Pool(lun, ctx)
        try:
            unit = self._pool.open()
        except BaseException:
            self._pool.close()
            raise
        self._unit = unit
        #: What tells the LUN from others.
        self.disk = unit.disk
        self._blocks = _blocks.Blocks(self._pool, unit, lun.where)
        self.capabilities = base.Capability.READ | base.Capability.RANDOM_READ
        if unit.status:
            self.capabilities |= base.Capability.EXTENTS
        self.size = unit.capacity.size
        self.geometry = base.Geometry(
            align=unit.capacity.block_size,
            preferred=_blocks.MOST,
            max_streams=self._pool.most,
        )
        self._holes = holes.Holes(self._pool, unit)

    def stream(self, offset: int, length: int | None) -> ISCSIStream:
        """Start to read; blocks for a round trip.

        :raises IntegrityError: another LUN has taken its place
        :raises SourceChanged: the LUN was resized
        """
        self._check_open()
        assert self.size is not None
        end = self.size if length is None else offset + length
        if not 0 <= offset <= end <= self.size:
            raise exceptions.SourceChanged(
                f'{self._where} has {self.size} bytes; {offset}..{end} were '
                f'asked for'
            )
        closed = threading.Event()
        waiter = self._pool.waiter(closed)
        self.check(waiter)
        ahead = _ahead.Ahead(self._pool, self._blocks)
        return ISCSIStream(
            self, self._blocks, ahead, waiter, closed, offset, end
        )

    def check(self, waiter: waiting.Waiter) -> None:
        """See that it is the LUN that was opened.

        :raises IntegrityError: it is another
        :raises SourceChanged: it has another size
        """
        self._pool.check(waiter)

    def extents(
        self, offset: int, length: int
    ) -> Iterator[base.Extent] | None:
        """What is allocated, as the target tells (GET LBA STATUS)."""
        if not self._unit.status:
            return None
        self._check_open()
        return self._holes.extents(offset, length, self._pool.waiter())

    def _check_open(self) -> None:
        if self._pool.closed.is_set():
            raise exceptions.TransferCancelled(f'{self._where} was closed')

    def close(self) -> None:
        """Log out."""
        self._pool.close()

    def __repr__(self) -> str:
        return f'<ISCSISource {self._where}>'


class ISCSIStream(base.Stream):
    """A run of bytes of a LUN."""

    def __init__(
        self,
        source: ISCSISource,
        blocks: _blocks.Blocks,
        ahead: _ahead.Ahead,
        waiter: waiting.Waiter,
        closing: threading.Event,
        offset: int,
        end: int,
    ) -> None:
        super().__init__()
        self._source = source
        self._blocks = blocks
        self._ahead = ahead
        # Closing waits for a read that it has woken up.
        self._reading = threading.Lock()
        self._waiter = waiter
        self._closing = closing
        self._position = offset
        self._end = end
        self._step = _FIRST
        self._kept = memoryview(b'')
        self._kept_from = 0
        # The largest buffer so far.
        self._widest = 0

    @property
    def waited(self) -> float:  # type: ignore[override]
        """Seconds spent waiting for the target."""
        return self._waiter.waited

    def readinto(self, buffer: typing.Any) -> int:
        """Read straight into the buffer."""
        view = memoryview(buffer).cast('B')
        with self._reading:
            self._waiter.check()
            if self._position == self._end:
                self._source.check(self._waiter)
                return 0
            if not view:
                return 0
            small = len(view) < min(_FIRST, self._end - self._position)
            count = self._from_kept(view)
            if not count and small:
                self._keep(_FIRST)
                count = self._from_kept(view)
            count = count or self._from_ahead(view) or self._read(view)
            self._position += count
            if not small and not self._has_kept():
                # What is left of this buffer, or the next one.
                self._widest = max(self._widest, len(view))
                self._ask_ahead(len(view) - count or self._widest)
        return count

    def _has_kept(self) -> bool:
        return 0 <= self._position - self._kept_from < len(self._kept)

    def _from_kept(self, view: memoryview) -> int:
        """Serve small buffers from a larger one."""
        if not self._has_kept():
            return 0
        at = self._position - self._kept_from
        count = min(len(view), len(self._kept) - at)
        view[:count] = self._kept[at : at + count]
        return count

    def _keep(self, count: int) -> None:
        """Read more than was asked for."""
        kept = memoryview(bytearray(min(count, self._end - self._position)))
        self._blocks.read(kept, self._position, self._waiter)
        self._kept, self._kept_from = kept, self._position

    def _from_ahead(self, view: memoryview) -> int:
        """What was asked for before."""
        length = self._ahead.there(self._position)
        if len(view) >= length:
            took = length and self._ahead.take(view[:length], self._waiter)
            return length if took else 0
        # The buffers have become smaller.
        kept = memoryview(bytearray(length))
        if not self._ahead.take(kept, self._waiter):
            return 0
        self._kept, self._kept_from = kept, self._position
        return self._from_kept(view)

    def _read(self, view: memoryview) -> int:
        left = self._end - self._position
        count = min(len(view), left, self._step)
        # Where there is more to come, it goes on with a whole block.
        if self._blocks.block < count < left:
            count -= (self._position + count) % self._blocks.block
        started = time.monotonic()
        self._blocks.read(view[:count], self._position, self._waiter)
        self._pace(time.monotonic() - started)
        return count

    def _ask_ahead(self, count: int) -> None:
        """Have the target go on where it is read fast and in order."""
        while not self._ahead.full:
            start = self._ahead.end(self._position)
            if start > self._position:
                count = self._widest
            count = min(count, self._end - start, _blocks.MOST)
            if (
                not _FIRST <= count <= self._step
                or (start | count) % self._blocks.block
                or not self._ahead.ask(start, count, self._waiter)
            ):
                return

    def _pace(self, seconds: float) -> None:
        if seconds < _QUICK:
            self._step = min(2 * self._step, _blocks.MOST)
        elif seconds > _SLOW:
            self._step = max(self._step // 2, _FIRST)

    def close(self) -> None:
        """End a read of another thread."""
        self._closing.set()
        if self._reading.acquire(timeout=_PATIENCE):
            self._ahead.drop()
            self._reading.release()
        super().close()
