# SPDX-License-Identifier: Apache-2.0
"""What an earlier copy has left is hashed, and never believed."""

from __future__ import annotations

import pytest

import oslo_transfer
from oslo_transfer.drivers.bittorrent import create
from oslo_transfer.drivers.bittorrent import held
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer import ranges
from tests.servers import resource
from tests.unit import fakes

PIECE = 16 << 10
# Nine and a half pieces; the sixth and the seventh are zeros.
DATA = (
    resource.pattern(5 * PIECE, seed=1)
    + bytes(2 * PIECE)
    + resource.pattern(2 * PIECE + PIECE // 2, seed=2)
)
ALL = set(range(10))
ZEROS = {5, 6}


@pytest.fixture
def path(tmp_path):
    found = tmp_path / 'part'
    found.write_bytes(DATA)
    return found


@pytest.fixture
def meta(conf, tmp_path):
    image = tmp_path / 'image'
    image.write_bytes(DATA)
    with oslo_transfer.open_source(image, conf=conf) as source:
        return metainfo.parse(
            create.create(source, name='image', piece_length=PIECE)
        )


@pytest.fixture
def check(conf, meta, path):
    def check(*spans):
        found = ranges.RangeSet(spans)
        return held.check(meta, str(path), found, fakes.make_ctx(conf))

    return check


def test_all_of_it(check):
    assert check((0, len(DATA))) == ALL


def test_an_empty_part_file_has_the_zeros(check):
    """It was made just now; it is not even read."""
    assert check() == ZEROS


def test_only_what_was_noted_counts(check):
    assert check((0, 2 * PIECE)) == {0, 1} | ZEROS


def test_parts_of_pieces_do_not_count(check):
    assert check((1, 3 * PIECE + 1)) == {1, 2} | ZEROS
    assert check((8 * PIECE, len(DATA) - 1)) == {8} | ZEROS
    assert check((8 * PIECE, len(DATA))) == {8, 9} | ZEROS


def test_wrong_bytes_do_not_count(check, path):
    wrong = bytearray(DATA)
    wrong[PIECE] ^= 1
    path.write_bytes(wrong)
    assert check((0, len(DATA))) == ALL - {1}


def test_zeros_are_looked_at_where_anything_is_held(check, path):
    wrong = bytearray(DATA)
    wrong[6 * PIECE] = 1
    path.write_bytes(wrong)
    assert check((0, PIECE)) == {0, 5}


def test_a_part_file_that_is_too_short(check, path):
    path.write_bytes(DATA[: 2 * PIECE])
    assert check((0, len(DATA))) == {0, 1}
