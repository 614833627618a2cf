# SPDX-License-Identifier: Apache-2.0
"""Which blocks to let go of: those that were not used for the longest time.

Time is told by what is put: whenever a part of the limit was put, a byte
that all share goes up. A group of blocks has the byte's value of when it was
used last; what differs by a whole turn of it was let go of long before.
"""

from __future__ import annotations

from collections.abc import Iterator

from oslo_transfer.cache import claimer
from oslo_transfer.cache import datafile

_TURN = 256


class Clock:
    """Knows when blocks of one object were used.

    :param count: how many blocks there are
    :param block_bytes: size of a block
    :param now: one byte, the present time
    """

    def __init__(self, count: int, block_bytes: int, now: bytearray) -> None:
        self._count = count
        self._block_bytes = block_bytes
        self.now = now
        #: A byte for each group: when it was used.
        self.touched = bytearray(now * -(-count // claimer.GROUP))

    def touch(self, index: int) -> None:
        """A block is used."""
        self.touched[index // claimer.GROUP] = self.now[0]

    def ages(self) -> set[int]:
        """How long ago groups were used."""
        now = self.now[0]
        return {(now - each) % _TURN for each in set(self.touched)}

    def old(
        self, file: datafile.DataFile, wanted: int, age: int
    ) -> Iterator[list[int]]:
        """Blocks that take space and were not used lately, some each time.

        :param wanted: how many bytes of the disk to find each time
        :param age: for how long
        :raises TransferError: the disk does not work
        """
        step = claimer.GROUP * self._block_bytes
        found: list[int] = []
        count = group = 0
        for start, end in file.allocated(0, self._count * self._block_bytes):
            group = max(group, start // step)
            while group * step < end:
                if (self.now[0] - self.touched[group]) % _TURN >= age:
                    at = group * step
                    count += min(end, at + step) - max(start, at)
                    first = group * claimer.GROUP
                    last = min(first + claimer.GROUP, self._count)
                    found.extend(range(first, last))
                group += 1
                if count >= wanted:
                    yield found
                    found, count = [], 0
        if found:
            yield found
