# SPDX-License-Identifier: Apache-2.0
"""Which parts of an object are known to be zeros."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import itertools
import operator

from oslo_transfer.cache import blockmap
from oslo_transfer.cache import datafile
from oslo_transfer.cache import table as _table
from oslo_transfer import exceptions

# Blocks that are looked at together.
_AT_ONCE = 1024


class Extents:
    """Tells zeros from data, without asking for what is not here.

    :param header: the object
    :param file: its data
    :param table: what is known of its blocks
    :param compare: compares a block with its checksum
    """

    def __init__(
        self,
        header: blockmap.Header,
        file: datafile.DataFile,
        table: _table.Table,
        compare: Callable[[int], object],
    ) -> None:
        self._size = header.size
        self._block_bytes = header.block_bytes
        self._file = file
        self._table = table
        self._compare = compare

    def of(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """As :meth:`oslo_transfer.cache.blocks.Blocks.extents`."""
        runs = self._runs(offset, offset + length)
        for zero, some in itertools.groupby(runs, operator.itemgetter(1)):
            yield sum(count for count, _zero in some), zero

    def _runs(self, at: int, end: int) -> Iterator[tuple[int, bool]]:
        size = self._block_bytes
        last = -(-end // size)
        for first in range(at // size, last, _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, last))
            for length in {size, self._length(some[-1])}:
                self._find_zeros(some, length)
            for behind, zero in self._table.runs(some):
                stop = min(behind * size, end)
                yield stop - at, zero
                at = stop

    def _find_zeros(self, blocks: range, length: int) -> None:
        """Have a look at what should be zeros, and was not compared yet."""
        checksum = datafile.checksum_of_zeros(length)
        found = [*self._table.unchecked(checksum, blocks)]
        data = self._data(blocks) if found else set()
        for index in found:
            if index in data or self._length(index) != length:
                self._compare(index)
            else:
                # There is no need to read a hole.
                self._table.judge(index, checksum, _table.ZERO)

    def _data(self, blocks: range) -> set[int]:
        """Those of some blocks that take space."""
        size = self._block_bytes
        end = min(blocks.stop * size, self._size)
        found: set[int] = set()
        try:
            for start, stop in self._file.allocated(blocks.start * size, end):
                found.update(range(start // size, -(-stop // size)))
        except exceptions.TransferError:
            return {*blocks}
        return found

    def _length(self, index: int) -> int:
        start = index * self._block_bytes
        return min(self._block_bytes, self._size - start)
