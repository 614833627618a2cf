# SPDX-License-Identifier: Apache-2.0
"""Which blocks of an image a prefetch wants, and how many are here."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import typing

from oslo_transfer import exceptions
from oslo_transfer.service.proxy import prefetch_records as _records

if typing.TYPE_CHECKING:
    from oslo_transfer.cache import blocks as _blocks
    from oslo_transfer.service import images


class Plan:
    """The blocks that are wanted of an image, in their order.

    :param ranges: offsets and lengths in bytes; what is behind the end of
        the image is left out
    :param blocks: those that are here
    """

    def __init__(
        self, ranges: Iterable[tuple[int, int]], blocks: _blocks.Blocks
    ) -> None:
        self._blocks = blocks
        self._runs: list[tuple[int, int]] = []
        # One byte for each block: whether it is wanted.
        wanted = bytearray(blocks.count)
        size = blocks.block_bytes
        for offset, length in ranges:
            first = offset // size
            end = -(-min(offset + length, blocks.size) // size)
            if first < end:
                self._runs.append((first, end))
                wanted[first:end] = b'\1' * (end - first)
        self._wanted = int.from_bytes(wanted, 'little')
        self._has_last = bool(wanted and wanted[-1])
        #: How many bytes that is.
        self.wanted = self._bytes(wanted.count(1), self._has_last)

    def _bytes(self, count: int, has_last: bool) -> int:
        blocks = self._blocks
        short = blocks.count * blocks.block_bytes - blocks.size
        return count * blocks.block_bytes - (short if has_last else 0)

    @property
    def here(self) -> int:
        """How many bytes of these are here."""
        there = self._blocks.presence()
        count = (self._wanted & int.from_bytes(there, 'little')).bit_count()
        return self._bytes(count, self._has_last and bool(there[-1]))

    def missing(self, piece: int) -> Iterator[tuple[int, int]]:
        """Offsets and lengths of the rest.

        :param piece: the most bytes of each, about
        """
        size = self._blocks.block_bytes
        step = max(1, piece // size)
        there = self._blocks.presence()
        for first, end in self._runs:
            while (first := there.find(0, first, end)) >= 0:
                stop = there.find(1, first, min(end, first + step))
                stop = min(end, first + step) if stop < 0 else stop
                length = min(stop * size, self._blocks.size) - first * size
                yield first * size, length
                first = stop


def make(wanted: _records.Wanted, shared: images.Shared) -> Plan:
    """What is wanted of an image.

    :raises NotFound: nobody knows what is hot
    """
    return Plan(_ranges(wanted, shared), shared.blocks)


def _ranges(
    wanted: _records.Wanted, shared: images.Shared
) -> Iterable[tuple[int, int]]:
    blocks = shared.blocks
    if wanted.kind == _records.FULL:
        return [(0, blocks.size)]
    if wanted.kind == _records.RANGES:
        return wanted.ranges
    if wanted.kind == _records.TRACE:
        trace = _records.trace_of(wanted.iolog)
    else:
        trace = shared.trace()
        if not trace.touches:
            raise exceptions.NotFound(
                'nobody has noted yet what is read of it first; have it '
                'prefetched by a trace from where it was read'
            )
    return trace.plan(blocks.size, blocks.block_bytes)
