# SPDX-License-Identifier: Apache-2.0
"""Claims on blocks that may leave a data file by sendfile(2), lock-free.

One who claims writes down the range *before* he looks whether its blocks
are there; one who evicts takes the blocks away *before* he looks at what
was written down. Whichever of the two is later sees the other: the global
interpreter lock puts all of these steps into one order.
"""

from __future__ import annotations

#: Blocks whose last use is remembered together.
GROUP = 16


class Claimer:
    """Claims one range at a time. For one thread at a time.

    :param checked: a byte for each block, 0 where it cannot be claimed
    :param touched: a byte for each group of blocks: when it was used
    :param now: one byte, the present time
    :param block_bytes: size of a block
    """

    __slots__ = (
        '__weakref__',
        '_block_bytes',
        '_checked',
        '_now',
        '_touched',
        'held',
    )

    def __init__(
        self,
        checked: bytearray,
        touched: bytearray,
        now: bytearray,
        block_bytes: int,
    ) -> None:
        self._checked = checked
        self._touched = touched
        self._now = now
        self._block_bytes = block_bytes
        #: First block and the one behind of what is claimed, and the first
        #: that was missing, if any; None if nothing is claimed.
        self.held: tuple[int, ...] | None = None

    def claim(self, offset: int, length: int) -> int:
        """Keep what is there of a range where it is; the last claim ends.

        Never blocks. The range MUST be inside of the object.

        :returns: how many of its bytes are there, were compared with their
            checksums, and stay until :meth:`release` or the next claim
        """
        size = self._block_bytes
        first = offset // size
        end = (offset + length - 1) // size + 1
        self.held = first, end
        missing = self._checked.find(0, first, end)
        self._touched[first // GROUP] = self._now[0]
        if missing < 0:
            return length
        self.held = first, end, missing
        return missing * size - offset if missing > first else 0

    def release(self) -> None:
        """Give the claim up; idempotent."""
        self.held = None
