# SPDX-License-Identifier: Apache-2.0
"""RangeSet does what a set of byte numbers does."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer import ranges

END = 48

pairs = st.tuples(st.integers(0, END), st.integers(0, END)).map(sorted)


def model_of(found):
    return {byte for start, end in found for byte in range(start, end)}


@hypothesis.given(st.lists(pairs), st.integers(0, END))
def test_is_a_set_of_bytes(added, position):
    found = ranges.RangeSet()
    model = set()
    for start, end in added:
        found.add(start, end)
        model |= set(range(start, end))
        assert model_of(found) == model
        assert found.total == len(model)
    frontier = position
    while frontier in model:
        frontier += 1
    assert found.frontier(position) == frontier


@hypothesis.given(st.lists(pairs))
def test_is_as_short_as_can_be(added):
    """Ranges are in order, not empty, and never touch."""
    last = -1
    for start, end in ranges.RangeSet(added):
        assert last < start < end
        last = end


@hypothesis.given(st.lists(pairs), st.integers(0, END + 9))
def test_gaps_are_the_rest(added, end):
    found = ranges.RangeSet(added)
    assert model_of(found.gaps(end)) == set(range(end)) - model_of(found)


@hypothesis.given(st.lists(pairs), pairs)
def test_copies_are_independent(added, more):
    found = ranges.RangeSet(added)
    copied = found.copy()
    assert copied == found
    before = list(found)
    copied.add(*more)
    assert list(found) == before
    assert (copied == found) == (set(range(*more)) <= model_of(found))


@hypothesis.given(st.permutations([(i, i + 1) for i in range(12)]))
def test_order_of_arrival_does_not_matter(added):
    assert list(ranges.RangeSet(added)) == [(0, 12)]


def test_adding_while_iterating_is_safe():
    found = ranges.RangeSet([(0, 1), (4, 5), (8, 9)])
    seen = []
    for start, end in found:
        found.add(0, 100)
        seen.append((start, end))
    assert seen == [(0, 1), (4, 5), (8, 9)]


@pytest.mark.parametrize('pair', [(-1, 4), (5, 4), (-3, -1)])
def test_what_is_no_range_is_refused(pair):
    with pytest.raises(ValueError, match='not a range'):
        ranges.RangeSet([pair])


def test_sizes_of_disks():
    """Nothing depends on how many bytes there are."""
    found = ranges.RangeSet([(1 << 60, 1 << 62), (0, 5)])
    assert found.total == (1 << 62) - (1 << 60) + 5
    assert list(found.gaps(1 << 63)) == [(5, 1 << 60), (1 << 62, 1 << 63)]
