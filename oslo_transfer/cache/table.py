# SPDX-License-Identifier: Apache-2.0
"""What is known of the blocks of one object; it touches no disk."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import itertools
import re
import threading
import time
import weakref

from oslo_transfer.cache import blockmap
from oslo_transfer.cache import claimer
from oslo_transfer.cache import clock
from oslo_transfer.cache import datafile
from oslo_transfer import exceptions

#: What is known of a block that was compared with its checksum: it is right,
#: it is right and of zeros.
RIGHT, ZERO = 1, 2
_ZEROS_OR_NOT = re.compile(rb'\x02+|[^\x02]+', re.DOTALL)
# Blocks whose space is taken while nobody else can do anything.
_AT_ONCE = 256
# Seconds after which to look again at claims, which nobody tells the end of.
_TICK = 0.01


def kind_of(block: memoryview) -> int:
    """What is known of a block that is right."""
    return ZERO if datafile.is_zero(block) else RIGHT


class Table:
    """The blocks that are there, and who uses them. Thread-safe.

    :param found: the map of what is durable; its owner saves it
    :param header: what it is the map of
    :param now: one byte, the present time of the clock
    """

    def __init__(
        self,
        found: blockmap.BlockMap,
        header: blockmap.Header,
        now: bytearray,
    ) -> None:
        self._map = found
        self._block_bytes = header.block_bytes
        self._lock = threading.Lock()
        self._unused = threading.Condition(self._lock)
        # Put, and not known to be durable yet: number and checksum.
        self._fresh: dict[int, int] = {}
        #: When the first of them was put, by ``time.monotonic()``.
        self.fresh_since = 0.0
        #: How often the disk has lost what was put.
        self.losses = 0
        #: One byte each: what is known of a block that was compared since
        #: the files were opened, else 0.
        self.checked = bytearray(header.blocks)
        #: Knows when blocks were used.
        self.clock = clock.Clock(found.presence(), now)
        self._claimers: weakref.WeakSet[claimer.Claimer] = weakref.WeakSet()
        self._pins: dict[int, int] = {}
        # Blocks that are gone, but not their space: somebody reads them.
        self._owed: set[int] = set()
        self._closed = False
        #: Blocks that were found to be other than they were put.
        self.damaged = 0

    @property
    def present(self) -> int:
        """How many blocks are there."""
        return self._map.present + len(self._fresh)

    @property
    def fresh(self) -> int:
        """How many of them are not known to be durable."""
        return len(self._fresh)

    def checksum(self, index: int) -> int | None:
        """Checksum of a block; None if it is not there."""
        with self._lock:
            return None if self._closed else self._known(index)

    def _known(self, index: int) -> int | None:
        checksum = self._fresh.get(index)
        return self._map.checksum(index) if checksum is None else checksum

    def presence(self) -> bytearray:
        """A byte for each block: 1 where it seems to be there."""
        with self._lock:
            fresh = list(self._fresh)
            found = bytearray(self._map.presence())
        for index in fresh:
            found[index] = 1
        return found

    def _forget(self, index: int) -> None:
        self._fresh.pop(index, None)
        self._map.drop(index)
        self.checked[index] = 0

    # Coming

    def put(
        self, first: int, checksums: list[int], kinds: bytes, losses: int
    ) -> bool:
        """Blocks were written; they are pinned.

        :param kinds: RIGHT or ZERO for each
        :param losses: as they were before writing began
        :returns: whether they count: no loss came between
        """
        with self._lock:
            if losses != self.losses:
                return False
            if not self._fresh:
                self.fresh_since = time.monotonic()
            self._fresh.update(enumerate(checksums, first))
            if not self._closed:
                self.checked[first : first + len(kinds)] = kinds
            self.clock.touch(range(first, first + len(kinds)))
            return True

    def judge(self, index: int, checksum: int, kind: int) -> bool:
        """A block was compared with a checksum.

        :param kind: RIGHT or ZERO; 0 if it was another one
        :returns: whether it is there, and right
        """
        with self._lock:
            if self._closed:
                return False
            # It may have been put again, or evicted, meanwhile.
            if self._known(index) == checksum:
                # Who has put it meanwhile knows better.
                self.checked[index] = kind and (self.checked[index] or kind)
                if not kind:
                    self.damaged += 1
                    self._forget(index)
            return bool(self.checked[index])

    # What is of zeros

    def unchecked(self, checksum: int, blocks: range) -> Iterator[int]:
        """Those of some blocks that have a checksum, and were not compared."""
        index = self._map.find(checksum, blocks.start, blocks.stop)
        while index >= 0:
            if not self.checked[index]:
                yield index
            index = self._map.find(checksum, index + 1, blocks.stop)

    def runs(self, blocks: range) -> Iterator[tuple[int, bool]]:
        """Which blocks are of zeros: the block behind a run, and whether."""
        kinds = bytes(self.checked[blocks.start : blocks.stop])
        for run in _ZEROS_OR_NOT.finditer(kinds):
            yield blocks.start + run.end(), kinds[run.start()] == ZERO

    # Staying

    @contextlib.contextmanager
    def pinned(self, blocks: range) -> Iterator[None]:
        """Keep blocks from being evicted for the time of a context."""
        with self._lock:
            for index in blocks:
                self._pins[index] = self._pins.get(index, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                for index in blocks:
                    self._pins[index] -= 1
                    if not self._pins[index]:
                        del self._pins[index]
                if not self._pins:
                    self._unused.notify_all()

    def close(self, seconds: float) -> bool:
        """Have nothing any more: nobody gets to use anything.

        Waits until those who do have ended.

        :param seconds: how long to wait
        :returns: whether nothing is used now
        """
        end = time.monotonic() + seconds
        with self._lock:
            self._closed = True
            # As in take_back(): who claims after this finds nothing.
            self.checked[:] = bytes(len(self.checked))
            while self._pins or self._claimed():
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._unused.wait(min(left, _TICK))
            return True

    def _claimed(self) -> set[int]:
        """Blocks that were there for those who claim now."""
        return {
            index
            for held in self._held()
            for index in range(held[0], held[-1])
        }

    def _wanted(self) -> set[int]:
        """Also those that were not there, and may come any moment."""
        return {index for held in self._held() for index in range(*held[:2])}

    def _held(self) -> Iterator[tuple[int, ...]]:
        for each in self._claimers:
            held = each.held
            if held is not None:
                yield held

    def claimer(self) -> claimer.Claimer:
        """One who claims blocks without a lock.

        :raises TransferCancelled: this was closed
        """
        made = claimer.Claimer(
            self.checked,
            self.clock.touched,
            self.clock.now,
            self._block_bytes,
        )
        with self._lock:
            if self._closed:
                raise exceptions.TransferCancelled('the cache was closed')
            self._claimers.add(made)
        return made

    # Going

    def old(self, count: int, age: int) -> Iterator[list[int]]:
        """Blocks that take space and were not used for long, some each time.

        :param count: how many to find each time
        :param age: as the clock tells it
        """
        found: list[int] = []
        for group in self.clock.old(age):
            first = group * claimer.GROUP
            some = range(first, min(first + claimer.GROUP, len(self.checked)))
            with self._lock:
                there = [each for each in some if self._takes_space(each)]
                if not there:
                    self.clock.forget(group)
            found += there
            if len(found) >= count:
                yield found
                found = []
        if found:
            yield found

    def _takes_space(self, index: int) -> bool:
        if self.checked[index] == ZERO:
            return False
        return index in self._fresh or self._map.has(index)

    def take_back(self, blocks: Iterable[int]) -> list[int]:
        """Forget those of some blocks that nobody uses; returns which."""
        with self._lock:
            there = [
                (index, self.checked[index])
                for index in blocks
                if index not in self._pins and self._known(index) is not None
            ]
            # Who claims after this finds nothing; who did before is seen.
            for index, _kind in there:
                self.checked[index] = 0
            claimed = self._wanted()
            gone = []
            for index, kind in there:
                if index in claimed:
                    self.checked[index] = kind
                else:
                    self._forget(index)
                    gone.append(index)
            return gone

    def give_back(
        self, blocks: Iterable[int], punch: Callable[[int, int], object]
    ) -> None:
        """Take the space of blocks, unless somebody has them again.

        Where somebody still has what was there before, as after a flush
        that failed, it is taken when this is called the next time.

        :param punch: is told a first block and how many
        """
        with self._lock:
            owed, self._owed = self._owed, set()
        left = iter(sorted(owed.union(blocks)))
        while some := [*itertools.islice(left, _AT_ONCE)]:
            with self._lock:
                if self._closed:
                    return
                gone = [each for each in some if self._known(each) is None]
                used = self._claimed().union(self._pins)
                self._owed.update(used.intersection(gone))
                free = [each for each in gone if each not in used]
                # What follows on has the same distance to its place.
                for _distance, run in itertools.groupby(
                    enumerate(free), lambda each: each[1] - each[0]
                ):
                    indexes = [index for _place, index in run]
                    punch(indexes[0], len(indexes))

    # To the disk

    def batch(self) -> dict[int, int]:
        """What is to be made durable now: numbers and checksums."""
        with self._lock:
            self.fresh_since = time.monotonic()
            return dict(self._fresh)

    def durable(self, batch: dict[int, int]) -> None:
        """A batch is durable; the map says so when it is saved."""
        with self._lock:
            for index, checksum in batch.items():
                if self._fresh.get(index) == checksum:
                    del self._fresh[index]
                    self._map.add(index, checksum)

    def lose(self) -> None:
        """Nothing that is not known to be durable is of any use."""
        with self._lock:
            self.losses += 1
            for index in [*self._fresh]:
                self._forget(index)

    def changes(self) -> list[tuple[int, bytes]]:
        """What the map has to save."""
        with self._lock:
            return self._map.changes()
