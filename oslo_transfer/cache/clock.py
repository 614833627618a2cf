# SPDX-License-Identifier: Apache-2.0
"""Which blocks to let go of: a clock with a second chance."""

from __future__ import annotations

from oslo_transfer.cache import claimer
from oslo_transfer.cache import datafile


class Clock:
    """Goes through what an object has on the disk, again and again.

    A group of blocks that was used since it came by the last time is spared
    once. For one thread at a time.

    :param file: where it looks
    :param size: of the object in bytes
    :param block_bytes: size of a block
    :param touched: a byte for each group, set when it is used
    """

    def __init__(
        self,
        file: datafile.DataFile,
        size: int,
        block_bytes: int,
        touched: bytearray,
    ) -> None:
        self._file = file
        self._size = size
        self._step = claimer.GROUP * block_bytes
        self._count = -(-size // block_bytes)
        self._touched = touched
        # The group where it goes on.
        self._hand = 0

    @property
    def swept(self) -> bool:
        """Whether it has come to the end."""
        return not self._hand

    def coldest(self, wanted: int) -> list[int]:
        """Go on, at most to the end; returns blocks to let go of.

        :param wanted: how many bytes of the disk to find, if possible
        :raises TransferError: the disk does not work
        """
        found: list[int] = []
        hand = self._hand
        for start, end in self._file.allocated(hand * self._step, self._size):
            hand = max(hand, start // self._step)
            while hand * self._step < end:
                if wanted <= 0:
                    self._hand = hand
                    return found
                if self._touched[hand]:
                    self._touched[hand] = 0
                else:
                    at = hand * self._step
                    wanted -= min(end, at + self._step) - max(start, at)
                    first = hand * claimer.GROUP
                    last = min(first + claimer.GROUP, self._count)
                    found.extend(range(first, last))
                hand += 1
        self._hand = 0
        return found
