# SPDX-License-Identifier: Apache-2.0
"""Files of the cache that were torn, flipped, cut or exchanged.

Blocks may be missing then; what is there is right.
"""

from __future__ import annotations

import os
import shutil
import zlib

import pytest

from oslo_transfer.cache import blockmap
from tests.unit import small

BLOCK, SIZE, IDENTITY = small.BLOCK, small.SIZE, small.IDENTITY
content, open_image, read = small.content, small.open_image, small.read


@pytest.mark.parametrize('cut', [0, 1, 44, 4095, 4096, 4097, 4096 + 79])
def test_map_that_was_cut_short(tmp_path, cut):
    """Blocks may be missing; what is there is right."""
    image = open_image(tmp_path / 'object')
    for index in range(image.count):
        image.put(index, memoryview(content(1, index)))
    image.flush()
    image.close()
    os.truncate(tmp_path / 'object' / 'map', cut)
    image = open_image(tmp_path / 'object')
    for index in range(image.count):
        assert read(image, index) in (None, content(1, index))
    image.close()


@pytest.fixture(scope='module')
def full(tmp_path_factory):
    """An object with all of its blocks."""
    path = tmp_path_factory.mktemp('full') / 'object'
    image = open_image(path)
    for index in range(image.count):
        image.put(index, memoryview(content(index % 3, index)))
    image.flush()
    image.close()
    return path


def all_right(path):
    """Which blocks are there; asserts that none is another one."""
    image = open_image(path)
    found = {index: read(image, index) for index in range(image.count)}
    there = {index for index in found if found[index] is not None}
    for index in there:
        assert found[index] == content(index % 3, index)
    image.close()
    return there


def used_bytes(path):
    """Of a map: its header and its entries; the rest is empty."""
    header = len(blockmap.Header(BLOCK, SIZE, IDENTITY).pack())
    return [*range(header), *range(4096, path.stat().st_size)]


@pytest.mark.parametrize('part', range(8))
def test_each_bit_of_a_map_flips(full, tmp_path, part):
    """One block is missing, or all of them; none is wrong."""
    path = tmp_path / 'object'
    shutil.copytree(full, path)
    whole = (path / 'map').read_bytes()
    for place in used_bytes(path / 'map')[part::8]:
        bit = place % 8
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        (path / 'map').write_bytes(damaged)
        shutil.copyfile(full / 'data', path / 'data')
        there = len(all_right(path))
        assert there == (0 if place < 4096 else 9)


def test_map_torn_at_each_byte(full, tmp_path):
    """Of what was written last only the beginning is on the disk."""
    path = tmp_path / 'object'
    shutil.copytree(full, path)
    whole = (path / 'map').read_bytes()
    for place in used_bytes(path / 'map')[::5]:
        (path / 'map').write_bytes(whole[:place] + bytes(len(whole) - place))
        shutil.copyfile(full / 'data', path / 'data')
        there = len(all_right(path))
        assert there == (0 if place < 4096 else (place - 4096) // 8)


@pytest.mark.parametrize(
    'change',
    [
        lambda data: data + b'trailing garbage',
        lambda data: data + bytes(1 << 16),
    ],
)
def test_map_that_is_too_long(full, tmp_path, change):
    path = tmp_path / 'object'
    shutil.copytree(full, path)
    (path / 'map').write_bytes(change((path / 'map').read_bytes()))
    assert len(all_right(path)) == 10


@pytest.mark.parametrize(
    'header',
    [
        blockmap.Header(BLOCK, SIZE, bytes(32)),
        blockmap.Header(BLOCK, SIZE + 1, IDENTITY),
        blockmap.Header(2 * BLOCK, SIZE, IDENTITY),
        blockmap.Header(BLOCK // 2, SIZE, IDENTITY),
    ],
)
def test_map_of_something_else(full, tmp_path, header):
    """Of another version, size or block size; it begins with nothing."""
    path = tmp_path / 'object'
    shutil.copytree(full, path)
    whole = (path / 'map').read_bytes()
    packed = header.pack()
    (path / 'map').write_bytes(packed + whole[len(packed) :])
    assert all_right(path) == set()
    assert os.stat(path / 'data').st_blocks == 0


def test_map_of_another_version_of_this_library(full, tmp_path):
    path = tmp_path / 'object'
    shutil.copytree(full, path)
    with open(path / 'map', 'r+b') as file:
        file.write(b'OSLOXFM2')
    assert all_right(path) == set()


@pytest.mark.parametrize('which', ['cut', 'zeros', 'gone'])
def test_data_that_is_not_there(full, tmp_path, which):
    """The map says so, but the file system has lost it."""
    path = tmp_path / 'object'
    shutil.copytree(full, path)
    if which == 'gone':
        os.unlink(path / 'data')
    else:
        os.truncate(path / 'data', BLOCK // 2)
        if which == 'zeros':
            os.truncate(path / 'data', SIZE)
    # Some blocks are of zeros: those are right in any case.
    assert all_right(path) == {0, 3, 6, 9}


def test_entry_of_another_block_is_none(tmp_path):
    path = str(tmp_path / 'map')
    found = small.open_map(path)
    found.add(1, zlib.crc32(b'1'))
    found.save(found.changes())
    found.close()
    with open(path, 'r+b') as file:
        file.seek(4096 + 8)
        entry = file.read(8)
        file.seek(4096 + 16)
        file.write(entry)
    found = small.open_map(path)
    assert found.checksum(1) == zlib.crc32(b'1')
    assert found.checksum(2) is None
    found.close()
