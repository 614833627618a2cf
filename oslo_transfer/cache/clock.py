# SPDX-License-Identifier: Apache-2.0
"""When blocks were used, so that those long unused can be let go of.

Time is told by what is put: whenever a part of the limit was put, a byte
that all objects share goes up. A group of blocks has the byte's value of
when it was used last. What is older than all values of a byte looks newer
than it is; but it was let go of long before.
"""

from __future__ import annotations

from collections.abc import Iterator

from oslo_transfer.cache import claimer

# Of a group that has nothing.
_NEVER = 0
_TIMES = 255


def start() -> bytearray:
    """The time to begin with: one byte."""
    return bytearray([1])


def advance(now: bytearray) -> None:
    """Let time go on."""
    now[0] = now[0] % _TIMES + 1


class Clock:
    """Knows when blocks of one object were used.

    :param there: a byte for each block, 1 where it is there
    :param now: the present time
    """

    def __init__(self, there: bytes, now: bytearray) -> None:
        self.now = now
        #: A byte for each group: when it was used.
        self.touched = bytearray(-(-len(there) // claimer.GROUP))
        index = there.find(1)
        while index >= 0:
            self.touch(range(index, index + 1))
            behind = index - index % claimer.GROUP + claimer.GROUP
            index = there.find(1, behind)

    def touch(self, blocks: range) -> None:
        """Some blocks, at least one, are used."""
        first = blocks.start // claimer.GROUP
        last = (blocks.stop - 1) // claimer.GROUP
        self.touched[first : last + 1] = self.now * (last + 1 - first)

    def forget(self, group: int) -> None:
        """A group has nothing."""
        self.touched[group] = _NEVER

    def ages(self) -> set[int]:
        """How long ago groups were used."""
        times = set(self.touched) - {_NEVER}
        return {(self.now[0] - each) % _TIMES for each in times}

    def old(self, age: int) -> Iterator[int]:
        """Groups that were not used for so long."""
        now = self.now[0]
        kinds = bytes(
            each != _NEVER and (now - each) % _TIMES >= age
            for each in range(256)
        )
        is_old = self.touched.translate(kinds)
        group = is_old.find(1)
        while group >= 0:
            yield group
            group = is_old.find(1, group + 1)
