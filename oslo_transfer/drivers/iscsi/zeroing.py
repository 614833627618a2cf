# SPDX-License-Identifier: Apache-2.0
"""Making runs of a LUN zeros without sending them."""

from __future__ import annotations

from collections.abc import Iterator

from oslo_transfer import buffers
from oslo_transfer.drivers.iscsi import blocks as _blocks
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import holes
from oslo_transfer.drivers.iscsi import pool as _pool
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import session as _session
from oslo_transfer.drivers.iscsi import unit as _unit
from oslo_transfer.drivers.iscsi import waiting

# One WRITE SAME, whatever the target allows: it has to end within the time
# limit, and some targets count bytes with 32 bits (tgt).
_MOST = 32 << 20
_ZEROS = bytes(_blocks.MOST)
# In deallocated runs a block is looked at in each step of so many bytes.
_SAMPLE = 8 << 20


class Zeroing:
    """Zeros runs of whole blocks by WRITE SAME(16). Thread-safe.

    Blocks are deallocated where the target can do that, and promises that
    they read as zeros then (LBPRZ). The promise is not believed: they are
    looked at, and if one holds anything else that way is not used again.

    :param pool: sessions with the unit
    :param blocks: reads and writes it
    :param unit: what it is
    """

    def __init__(
        self, pool: _pool.Pool, blocks: _blocks.Blocks, unit: _unit.Unit
    ) -> None:
        self._pool = pool
        self._blocks = blocks
        self._unit = unit
        self._block = unit.capacity.block_size
        self._most = _MOST // self._block
        if unit.limits.same:
            self._most = min(self._most, unit.limits.same)
        self._holes = holes.Holes(pool, unit)
        self._deallocates = (
            unit.capacity.provisioned
            and unit.capacity.zeros
            and unit.provisioning.write_same
        )
        self._writes = True

    def zero(self, offset: int, length: int, waiter: waiting.Waiter) -> bool:
        """Make a run zeros.

        :returns: False where the target has no way to
        """
        for part in _blocks.split(offset, length, self._block):
            if not part.whole:
                self._blocks.write(
                    memoryview(_ZEROS)[: part.length], part.offset, waiter
                )
            elif not self._zero(part, waiter):
                return False
        return True

    def _zero(self, part: _blocks.Part, waiter: waiting.Waiter) -> bool:
        if self._deallocates:
            if self._same(part, waiter, unmap=True) and all(
                self._is_zero(*run, waiter)
                for run in self._doubtful(part, waiter)
            ):
                return True
            self._deallocates = False
        if self._writes:
            if self._same(part, waiter, unmap=False):
                return True
            self._writes = False
        return False

    def _same(
        self, part: _blocks.Part, waiter: waiting.Waiter, *, unmap: bool
    ) -> bool:
        first = part.offset // self._block
        end = first + part.length // self._block
        for lba in range(first, end, self._most):
            count = min(self._most, end - lba)
            command = _session.Command(
                f'zeroing {count * self._block} bytes at byte '
                f'{lba * self._block}',
                scsi.write_same_16(lba, count, unmap),
                data=memoryview(_ZEROS)[: self._block],
            )
            try:
                self._pool.run([command], waiter)
            except failures.SenseError as exc:
                if exc.unsupported:
                    return False
                raise exc.translated(waiter.where) from exc
        return True

    def _doubtful(
        self, part: _blocks.Part, waiter: waiting.Waiter
    ) -> Iterator[tuple[int, int]]:
        """What to look at after deallocating: offsets and lengths.

        All that the target still has, and samples of what it has not.
        """
        if not self._unit.status:
            yield part.offset, part.length
            return
        self._holes.forget()
        for each in self._holes.extents(part.offset, part.length, waiter):
            if each.data:
                yield each.offset, each.length
                continue
            last = each.offset + each.length - self._block
            for offset in range(each.offset, last, _SAMPLE):
                yield offset, self._block
            yield last, self._block

    def _is_zero(
        self, offset: int, length: int, waiter: waiting.Waiter
    ) -> bool:
        buffer = buffers.aligned(min(length, len(_ZEROS)))
        for start in range(offset, offset + length, len(buffer)):
            view = buffer[: offset + length - start]
            self._blocks.read(view, start, waiter)
            if not _ZEROS.startswith(view):
                return False
        return True
