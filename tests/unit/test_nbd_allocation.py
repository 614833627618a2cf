# SPDX-License-Identifier: Apache-2.0
"""Extents of NBD servers: covered without a gap, and never too optimistic."""

from __future__ import annotations

import struct

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.drivers import base
from oslo_transfer.drivers.nbd import allocation

KIB = 1024
ZERO, HOLE = 2, 1
SIZE = 8 << 20

RUNS = st.lists(
    st.tuples(
        st.sampled_from([1, 512, 4 * KIB, 64 * KIB - 1, 64 * KIB, 1 << 20]),
        st.sampled_from([0, HOLE, ZERO, ZERO | HOLE, 0xFF00]),
    ),
    min_size=1,
    max_size=30,
)


def payload(runs):
    return b''.join(struct.pack('>II', *run) for run in runs)


@hypothesis.given(RUNS, st.integers(0, 1 << 40))
def test_covered_and_never_too_optimistic(runs, offset):
    total = sum(length for length, _flags in runs)
    found = allocation.extents(payload(runs), offset, total)
    assert found[0].offset == offset
    for each, following in zip(found, found[1:]):
        assert each.offset + each.length == following.offset
    assert sum(each.length for each in found) == total
    # Every byte that is no data has to be told to be zero.
    position = offset
    zeros = []
    for length, flags in runs:
        if flags & ZERO:
            zeros.append((position, position + length))
        position += length
    for each in found:
        if not each.data:
            inside = sum(
                min(end, each.offset + each.length) - max(start, each.offset)
                for start, end in zeros
                if start < each.offset + each.length and each.offset < end
            )
            assert inside == each.length


@hypothesis.given(RUNS)
def test_large_holes_are_kept(runs):
    """What is worth skipping is skipped."""
    total = sum(length for length, _flags in runs)
    found = allocation.extents(payload(runs), 0, total)
    large = sum(n for n, flags in runs if flags & ZERO and n >= 64 * KIB)
    assert sum(each.length for each in found if not each.data) >= large


def test_short_holes_between_data_are_data():
    runs = [(4096, 0), (4096, 3), (4096, 0), (4096, 3), (1 << 20, 0)]
    found = allocation.extents(payload(runs), 0, 4 * 4096 + (1 << 20))
    assert found == [base.Extent(0, 4 * 4096 + (1 << 20), True)]


@pytest.mark.parametrize(
    'runs', [[(0, 0)], [(8, 0), (0, 0)], [(100, 0), (1, 0)], [(101, 0)] * 2]
)
def test_nonsense(runs):
    with pytest.raises(ValueError):
        allocation.extents(payload(runs), 0, 100)


class Server:
    """Answers from a map, as few extents at a time as it is told."""

    def __init__(self, data, most):
        self.data = data
        self.most = most
        self.asked = []

    def __call__(self, offset, length):
        self.asked.append((offset, length))
        runs = []
        position = offset
        while position < offset + length and len(runs) < self.most:
            kind = self.data[position // KIB]
            end = position
            while end < offset + length and self.data[end // KIB] == kind:
                end = end // KIB * KIB + KIB
            runs.append((end - position, 0 if kind else ZERO))
            position = end
        return allocation.extents(payload(runs), offset, length)


@hypothesis.given(
    st.lists(st.booleans(), min_size=4, max_size=60),
    st.integers(1, 5),
    st.data(),
)
def test_any_part_of_a_map(data, most, draw):
    size = len(data) * KIB
    found = allocation.Allocation(Server(data, most))
    for _ in range(3):
        offset = draw.draw(st.integers(0, size - 1))
        length = draw.draw(st.integers(1, size - offset))
        position = offset
        for each in found.runs(offset, length):
            assert each.offset == position
            assert each.length > 0
            position += each.length
            if not each.data:
                blocks = data[each.offset // KIB : -(-position // KIB)]
                assert not any(blocks)
        assert position == offset + length


def test_asked_once():
    """Who looks extent by extent does not ask for each."""
    data = [index // 256 % 2 == 0 for index in range(SIZE // KIB)]
    server = Server(data, 1000)
    found = allocation.Allocation(server)
    position = 0
    while position < SIZE:
        position += next(found.runs(position, SIZE - position)).length
    assert server.asked == [(0, SIZE)]
