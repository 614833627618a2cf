# SPDX-License-Identifier: Apache-2.0
"""Which pieces to read from the origin, so that all hosts need one copy.

Nobody coordinates the hosts of a swarm. Each begins at a place of its own
and reads on in order; where it meets what somebody has already, it goes to
the middle of the largest gap that is left: the beginning of a gap is where
somebody else is at work. A piece that a peer has is left to the peers, as
long as they bring something.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import random


class Choice:
    """The policy of one host; not thread-safe.

    :param count: how many pieces there are
    :param seed: makes it the same each time, for tests
    """

    def __init__(self, count: int, seed: int | None = None) -> None:
        self._count = count
        self._random = random.Random(seed)  # noqa: S311
        self._begun = False

    def next_run(
        self,
        have: Sequence[bool],
        availability: Sequence[int],
        demand: Sequence[int],
        peers_suffice: bool,
    ) -> range | None:
        """The run of pieces to read next, or None while there is none.

        :param have: for each piece, whether it is there or on its way
        :param availability: for each piece, how many connected peers have it
        :param demand: pieces that somebody waits for, in order
        :param peers_suffice: whether what peers have can be left to them
        """

        def is_open(index: int) -> bool:
            return not have[index] and not (
                peers_suffice and availability[index]
            )

        for index in demand:
            if is_open(index):
                return range(index, self._end(index, is_open))
        gaps = list(self._gaps(have, availability, True))
        if not gaps and not peers_suffice:
            gaps = list(self._gaps(have, availability, False))
        if not gaps:
            return None
        if not self._begun:
            self._begun = True
            alone = not any(availability)
            start = 0 if alone else self._random.randrange(self._count)
            for gap in gaps:
                if gap.stop > start:
                    return range(max(start, gap.start), gap.stop)
            return gaps[0]
        gap = max(gaps, key=len)
        if gap.start and len(gap) > 2:
            middle = gap.start + len(gap) // 2
            return range(middle, gap.stop)
        return gap

    def _end(self, index: int, is_open: Callable[[int], bool]) -> int:
        while index < self._count and is_open(index):
            index += 1
        return index

    def _gaps(
        self,
        have: Sequence[bool],
        availability: Sequence[int],
        nobody_has: bool,
    ) -> Iterator[range]:
        """The runs that are missing, here or everywhere."""
        start: int | None = None
        for index in range(self._count + 1):
            missing = (
                index < self._count
                and not have[index]
                and not (nobody_has and availability[index])
            )
            if missing and start is None:
                start = index
            elif not missing and start is not None:
                yield range(start, index)
                start = None
