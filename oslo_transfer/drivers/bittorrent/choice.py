# SPDX-License-Identifier: Apache-2.0
"""Which pieces to read from the origin, so that all hosts need one copy.

Nobody coordinates the hosts of a swarm. Each begins at a random place and
reads on in order; where it meets what somebody has already, it goes to the
middle of the largest gap that is left: the beginning of a gap is where
somebody else is at work. A piece that a peer has is left to the peers, as
long as they bring something.

A host that reads faster than it can hand on holds the swarm up: it alone
has what all others want. So it pauses (:meth:`Choice.ahead`), and the origin
has more for the others.

The feeder asks :meth:`Choice.next_run` for a run, tells :meth:`Choice.took`
of each piece that it has read, and looks at :meth:`Choice.ahead` before the
next one.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import random


class Choice:
    """The policy of one host; not thread-safe.

    :param count: how many pieces there are
    :param longest: pieces in a run at most while there are peers: they may
        bring the end of a long run sooner, and what is under way when a
        stream is broken off is lost
    :param seed: makes it the same each time, for tests
    """

    def __init__(
        self, count: int, longest: int | None = None, seed: int | None = None
    ) -> None:
        self._count = count
        self._longest = max(1, longest or count)
        self._random = random.Random(seed)  # noqa: S311
        # Where to go on; at first, where to begin.
        self._next = self._random.randrange(count) if count else 0
        self._taken = bytearray(count)
        self._lone: set[int] = set()

    def next_run(
        self,
        have: Sequence[bool],
        availability: Sequence[int],
        demand: Sequence[int],
        peers_suffice: bool,
    ) -> range | None:
        """The run of pieces to read next, or None while there is none.

        Without peers the first run goes from a random place to the end.

        :param have: for each piece, whether it is there or on its way
        :param availability: for each piece, how many connected peers have it
        :param demand: pieces that somebody waits for, in order
        :param peers_suffice: whether what peers have can be left to them
        """

        def is_rare(index: int) -> bool:
            return not (have[index] or availability[index])

        def is_open(index: int) -> bool:
            return not have[index] and not (
                peers_suffice and availability[index]
            )

        for index in demand:
            if is_open(index):
                return self._run(index, is_open, True)
        shared = any(availability)
        if self._next < self._count and is_rare(self._next):
            return self._run(self._next, is_rare, shared)
        start = self._start(is_rare)
        if start is not None:
            return self._run(start, is_rare, shared)
        if peers_suffice:
            return None
        start = self._start(is_open)
        return None if start is None else self._run(start, is_open, True)

    def took(self, index: int) -> None:
        """Note that a piece was read from the origin."""
        self._taken[index] = True
        self._lone.add(index)
        self._next = index + 1

    def ahead(self, availability: Sequence[int]) -> int:
        """How many of the pieces that were read no peer has yet.

        :param availability: for each piece, how many connected peers have it
        """
        self._lone = {i for i in self._lone if not availability[i]}
        return len(self._lone)

    def _run(
        self, start: int, is_open: Callable[[int], bool], bounded: bool
    ) -> range:
        most = self._longest if bounded else self._count
        stop = start + 1
        while stop < min(self._count, start + most) and is_open(stop):
            stop += 1
        return range(start, stop)

    def _start(self, is_open: Callable[[int], bool]) -> int | None:
        """Where to begin anew: in one of the largest gaps."""
        gaps = list(self._gaps(is_open))
        if not gaps:
            return None
        largest = max(map(len, gaps))
        # Others see the same gaps, and one of them is enough for each.
        gap = self._random.choice([g for g in gaps if len(g) == largest])
        nobody_before = gap.start == 0 or self._taken[gap.start - 1]
        return gap.start if nobody_before else gap[len(gap) // 2]

    def _gaps(self, is_open: Callable[[int], bool]) -> Iterator[range]:
        start: int | None = None
        for index in range(self._count + 1):
            if index < self._count and is_open(index):
                if start is None:
                    start = index
            elif start is not None:
                yield range(start, index)
                start = None
