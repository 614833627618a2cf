# SPDX-License-Identifier: Apache-2.0
"""Ranges are what RFC 9110 says, and never a way to have much sent."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.export import http_ranges

SIZE = 1000


@pytest.mark.parametrize(
    ('value', 'found'),
    [
        ('bytes=0-9', [(0, 10)]),
        ('bytes=0-0', [(0, 1)]),
        ('bytes=990-', [(990, 1000)]),
        ('bytes=990-5000', [(990, 1000)]),
        ('bytes=0-', [(0, 1000)]),
        ('bytes=-1', [(999, 1000)]),
        ('bytes=-5000', [(0, 1000)]),
        ('BYTES=0-9', [(0, 10)]),
        ('bytes= 0-9 ,', [(0, 10)]),
        (f'bytes=0-{"9" * 30}', [(0, 1000)]),
        ('bytes=0-9,20-29,-10', [(0, 10), (20, 30), (990, 1000)]),
        ('bytes=0-9,,10-19', [(0, 10), (10, 20)]),
        ('bytes=0-9,5000-', [(0, 10)]),
        # Nothing of it is in the image.
        ('bytes=1000-', []),
        ('bytes=1000-1001', []),
        ('bytes=-0', []),
        ('bytes=-0,1000-', []),
        # Malformed, or another unit.
        ('bytes=', None),
        ('bytes=,', None),
        ('bytes', None),
        ('', None),
        ('bytes=9-0', None),
        ('bytes=a-b', None),
        ('bytes=-', None),
        ('bytes=--1', None),
        ('bytes=+1-2', None),
        ('bytes=1_0-20', None),
        ('bytes=\u0661-2', None),
        ('bytes=0-9-', None),
        ('bytes=0 - 9', None),
        ('bytes =0-9', None),
        ('bytes:0-9', None),
        ('lines=0-9', None),
        ('bytes=0-9,x', None),
        (f'bytes={"9" * 5000}-', None),
        # Too much of it.
        ('bytes=0-9,5-20', None),
        ('bytes=20-29,0-9', None),
        ('bytes=0-,0-,0-', None),
        ('bytes=-10,-10', None),
        (f'bytes={",".join(f"{i}-{i}" for i in range(17))}', None),
        (f'bytes={"," * 10_000}', None),
    ],
)
def test_spans(value, found):
    assert http_ranges.spans(value, SIZE) == found


@pytest.mark.parametrize('value', ['bytes=0-', 'bytes=-1', 'bytes=0-0'])
def test_an_empty_image_has_no_ranges(value):
    assert http_ranges.spans(value, 0) is None


NUMBERS = st.integers(0, 60)
ONE = st.one_of(
    st.builds('{}-{}'.format, NUMBERS, NUMBERS),
    st.builds('{}-'.format, NUMBERS),
    st.builds('-{}'.format, NUMBERS),
)


def bytes_of(one, size):
    """The model: which bytes one range has; None if it is malformed."""
    first, _, last = one.partition('-')
    if not first:
        return set(range(size)[size - min(int(last), size) :])
    if last and int(last) < int(first):
        return None
    return set(range(size)[int(first) : int(last) + 1 if last else size])


@hypothesis.given(st.lists(ONE, min_size=1, max_size=20), st.integers(1, 50))
def test_all_that_is_asked_for_and_each_byte_once(asked, size):
    found = http_ranges.spans(f'bytes={",".join(asked)}', size)
    wanted = [bytes_of(one, size) for one in asked]
    if found is None:
        assert (
            None in wanted
            or len(asked) > http_ranges.MAX_RANGES
            or sum(map(len, wanted)) > len(set().union(*wanted))
            or sorted(filter(None, wanted), key=min)
            != list(filter(None, wanted))
        )
        return
    told = [byte for start, end in found for byte in range(start, end)]
    assert told == sorted(set().union(*wanted))
    assert all(start < end for start, end in found)


@hypothesis.given(st.text(max_size=60), st.integers(0, 1 << 40))
def test_nothing_is_made_of_nonsense(text, size):
    for value in (text, f'bytes={text}'):
        for start, end in http_ranges.spans(value, size) or ():
            assert 0 <= start < end <= size
