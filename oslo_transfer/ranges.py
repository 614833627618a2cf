# SPDX-License-Identifier: Apache-2.0
"""Sets of byte ranges."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from collections.abc import Iterator


class RangeSet:
    """Disjoint half-open ranges in order; touching ones become one.

    Not thread-safe.

    :param ranges: (start, end) pairs to begin with
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Add the bytes from ``start`` up to but not including ``end``."""
        if not 0 <= start <= end:
            raise ValueError(f'not a range: {start}..{end}')
        if start == end:
            return
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def gaps(self, end: int) -> Iterator[tuple[int, int]]:
        """The ranges from 0 to ``end`` that are not in the set."""
        position = 0
        for start, stop in self:
            if start >= end:
                break
            if start > position:
                yield position, start
            position = stop
        if position < end:
            yield position, end

    def frontier(self, position: int = 0) -> int:
        """The first byte at or behind ``position`` not in the set."""
        index = bisect.bisect_right(self._starts, position) - 1
        if index >= 0 and position < self._ends[index]:
            return self._ends[index]
        return position

    @property
    def total(self) -> int:
        """How many bytes are in the set."""
        return sum(self._ends) - sum(self._starts)

    def copy(self) -> RangeSet:
        """An independent copy."""
        return RangeSet(self)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f'RangeSet({list(self)})'
