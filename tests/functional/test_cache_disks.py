# SPDX-License-Identifier: Apache-2.0
"""A cache on real file systems: small ones, full ones, read-only ones.

Whatever the disk does, what is read is right.
"""

from __future__ import annotations

import os
import random
import threading

import pytest

from oslo_transfer.cache import store as _store
from oslo_transfer import exceptions
from tests.functional import cache_lab

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group'),
]

MIB = 1 << 20
BLOCK, COUNT = cache_lab.BLOCK, cache_lab.COUNT
DATA = cache_lab.DATA


@pytest.fixture
def opened(disks):
    """Opens stores; closes them before their disks are gone."""
    made = []

    def open_store(directory, quota=0):
        made.append(
            _store.Store(str(directory), quota_bytes=quota, block_bytes=BLOCK)
        )
        return made[-1]

    yield open_store
    for each in made:
        each.close()


def image_of(store, key):
    return store.open(key, len(DATA), cache_lab.IDENTITY)


def fetched(blocks):
    """Read all of an image; asserts that it is right.

    :returns: how many bytes the origin was asked for
    """
    with cache_lab.cached(blocks) as image:
        assert cache_lab.read(image.reader(), 0, len(DATA))
        return image.statistics()['bytes_fetched']


def used(directory):
    return sum(path.stat().st_blocks * 512 for path in directory.glob('*/*'))


@pytest.mark.parametrize('name', ['ext4', 'xfs', 'btrfs', 'tmpfs'])
def test_limit_on_a_file_system(disks, name, opened):
    """Holes are made, and give space back, as each of them has it."""
    make = getattr(disks, name)
    place = make(24 * MIB) if name in ('ext4', 'tmpfs') else make()
    limit = 5 * MIB // 2
    store = opened(place / 'cache', limit)
    blocks = image_of(store, 'one')
    rng = random.Random(name)
    for _ in range(3 * COUNT):
        index = rng.randrange(COUNT)
        if not blocks.has(index):
            part = DATA[index * BLOCK : (index + 1) * BLOCK]
            blocks.put(index, memoryview(part))
            assert used(place / 'cache') <= limit
    assert blocks.present > COUNT // 2
    assert fetched(blocks) <= len(DATA)
    blocks.close()
    store.close()
    store = opened(place / 'cache', limit)
    assert fetched(image_of(store, 'one')) <= len(DATA)
    assert store.statistics()['blocks_damaged'] == 0
    store.close()


@pytest.mark.parametrize('name', ['ext4', 'tmpfs'])
def test_disk_that_is_full(disks, caplog, name, opened):
    """It serves on, says so once, and keeps blocks when there is room."""
    place = getattr(disks, name)(24 * MIB)
    store = opened(place / 'cache')
    blocks = image_of(store, 'one')
    filler = fill(place, leave=MIB)
    assert fetched(blocks) == len(DATA)
    statistics = store.statistics()
    assert statistics['keeps'] == 0
    assert 0 < statistics['bytes_refused'] < len(DATA)
    assert len([r for r in caplog.records if 'keeps nothing' in r.msg]) == 1
    os.unlink(filler)
    store._room._again = store._room._full_until = 0.0
    assert fetched(blocks) == statistics['bytes_refused']
    assert store.statistics()['keeps'] == 1
    assert fetched(blocks) == 0
    store.close()


def fill(place, leave):
    """Take all space but some; returns the file that has it."""
    path = place / 'filler'
    free = os.statvfs(place)
    with open(path, 'wb') as file:
        size = free.f_bavail * free.f_frsize - leave
        os.posix_fallocate(file.fileno(), 0, size)
    return path


@pytest.mark.parametrize('name', ['ext4', 'tmpfs'])
def test_full_of_old_blocks(disks, name, opened):
    """Without a limit what was kept first makes room when none is left."""
    place = getattr(disks, name)(24 * MIB)
    store = opened(place / 'cache')
    for number in range(8):
        blocks = image_of(store, f'image{number}')
        # What does not fit is learned by trying, and again after a pause.
        tries = 1
        while fetched(blocks):
            assert tries < 5
            tries += 1
            store._room._again = 0.0
        blocks.close()
    assert store.identity_of('image0') is None
    store.close()


def test_disk_that_has_no_room_for_the_map(disks, caplog, opened):
    place = disks.ext4(24 * MIB)
    store = opened(place / 'cache')
    filler = fill(place, leave=0)
    blocks = image_of(store, 'one')
    assert fetched(blocks) == len(DATA)
    assert store.statistics()['keeps'] == 0
    blocks.close()
    os.unlink(filler)
    store._room._again = store._room._full_until = 0.0
    blocks = image_of(store, 'one')
    assert fetched(blocks) == len(DATA)
    assert fetched(blocks) == 0
    store.close()


def test_disk_without_inodes(disks, opened):
    """The root, the directory, its lock, one object; and no other."""
    store = opened(disks.tmpfs(24 * MIB, inodes=6) / 'cache')
    blocks, other = (image_of(store, key) for key in ('one', 'two'))
    assert fetched(other) == len(DATA)
    assert store.statistics()['keeps'] == 0
    store._room._again = store._room._full_until = 0.0
    assert fetched(blocks) == len(DATA)
    assert fetched(blocks) == 0


def test_disk_that_is_read_only(disks, tmp_path, opened):
    """It may even hold what would be of use: it is served all the same."""
    store = opened(tmp_path / 'cache')
    fetched(image_of(store, 'one'))
    store.close()
    store = opened(disks.read_only(tmp_path) / 'cache')
    blocks = image_of(store, 'one')
    assert fetched(blocks) == len(DATA)
    with pytest.raises(exceptions.NoSpace):
        blocks.put(0, memoryview(DATA[:BLOCK]))
    assert store.statistics()['keeps'] == 0
    blocks.close()
    store.close()


@pytest.mark.parametrize('seed', range(3))
def test_bits_that_flip(tmp_path, seed, opened):
    """What is damaged is fetched again, and only that."""
    rng = random.Random(seed)
    store = opened(tmp_path)
    fetched(image_of(store, 'one'))
    store.close()
    for name, start, count in (('data', 0, 9), ('map', 4096, 5)):
        with open(tmp_path / 'one' / name, 'r+b') as file:
            size = os.fstat(file.fileno()).st_size
            for _ in range(count):
                place = rng.randrange(start, size)
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    store = opened(tmp_path)
    again = fetched(image_of(store, 'one'))
    assert 0 < again <= 14 * BLOCK
    assert 0 < store.statistics()['blocks_damaged'] <= 9
    assert fetched(image_of(store, 'one')) == 0
    assert store.scrub(threading.Event()) == 0
    store.close()


def test_data_file_is_cut_short_while_it_is_read(tmp_path, opened):
    """What is gone is fetched again once, and is there from then on."""
    store = opened(tmp_path)
    blocks = image_of(store, 'one')
    fetched(blocks)
    os.truncate(tmp_path / 'one' / 'data', len(DATA) // 2)
    assert fetched(blocks) > 0
    while fetched(blocks):
        pass
    assert (tmp_path / 'one' / 'data').read_bytes() == DATA
    store.close()
