# SPDX-License-Identifier: Apache-2.0
"""A cache directory: one owner, a limit, and a disk that may fail."""

from __future__ import annotations

import contextlib
import os
import random
import threading

import pytest

from oslo_transfer.cache import flusher
from oslo_transfer.cache import store as _store
from oslo_transfer import exceptions
from tests.unit import stores
from tests import waiting

BLOCK, COUNT, SIZE = stores.BLOCK, stores.COUNT, stores.SIZE
IDENTITY, MAP = stores.IDENTITY, stores.MAP
content, copied, put = stores.content, stores.copied, stores.put
there, used = stores.there, stores.used
opened = stores.opened
pytestmark = pytest.mark.usefixtures('nothing_left')


def test_blocks_outlive_the_store(opened):
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, [1, 5])
    image.close()
    image = store.open('one', SIZE, IDENTITY)
    assert there(image) == [1, 5]
    store.close()
    store = opened()
    assert store.identity_of('one') == IDENTITY
    assert store.identity_of('two') is None
    assert there(store.open('one', SIZE, IDENTITY)) == [1, 5]


def test_opened_twice_is_one(opened):
    store = opened()
    image, same = (store.open('one', SIZE, IDENTITY) for _ in range(2))
    assert same is image
    put(image, [1])
    image.close()
    assert there(same) == [1]
    with pytest.raises(exceptions.Unavailable, match='another version'):
        store.open('one', SIZE, bytes(32))
    same.close()
    # Nobody uses it: the old version goes.
    assert there(store.open('one', SIZE, bytes(32))) == []


@pytest.mark.parametrize('key', ['', '..', 'a/b', 'lock', '.x', 'x' * 200])
def test_keys_that_are_no_names(opened, key):
    with pytest.raises(ValueError):
        opened().open(key, SIZE, IDENTITY)


def test_limit_is_kept(opened, tmp_path):
    store = opened(40 * BLOCK + MAP)
    image = store.open('one', SIZE, IDENTITY)
    for index in range(COUNT):
        put(image, [index])
        assert used(tmp_path) <= 40 * BLOCK + MAP
        assert store.statistics()['bytes_used'] == used(tmp_path)
    found = there(image)
    assert COUNT - 1 in found
    assert 24 <= len(found) <= 40
    assert store.statistics()['blocks_evicted'] == COUNT - len(found)


def test_all_that_was_put_at_once_can_go(opened):
    """Also where runs begin and end in the midst of groups."""
    store = opened(33 * BLOCK + 3 * MAP)
    images = [store.open(key, SIZE, IDENTITY) for key in ('a', 'b', 'c')]
    for first in (5, 31, 0, 20):
        for image in images:
            blocks = range(first, first + 33)
            data = b''.join(content(index) for index in blocks)
            image.put(first, memoryview(data))
            assert set(there(image)) >= set(blocks)
    assert there(images[0]) == there(images[1]) == []


def test_what_is_used_stays(opened):
    """Groups of sixteen: the first is read all the time."""
    store = opened(40 * BLOCK + MAP)
    image = store.open('one', SIZE, IDENTITY)
    mine = image.claimer()
    put(image, range(16))
    for index in range(16, COUNT):
        put(image, [index])
        assert mine.claim(index % 16 * BLOCK, BLOCK) == BLOCK
        mine.release()


def test_what_nobody_has_open_goes_first(opened):
    store = opened(3 * (16 * BLOCK + MAP))
    for key in ('old', 'older', 'old'):
        image = store.open(key, SIZE, IDENTITY)
        put(image, range(16))
        image.close()
    image = store.open('new', SIZE, IDENTITY)
    put(image, range(20))
    assert store.identity_of('older') is None
    assert len(there(image)) == 20
    # Only as much as is needed goes, of old ones too.
    old = store.open('old', SIZE, IDENTITY)
    assert there(old) == list(range(16))


def test_what_was_just_sent_becomes_no_hole(opened, tmp_path, monkeypatch):
    """A client that was cut off still reads what its socket has."""
    store = opened(32 * BLOCK + 2 * MAP)
    image = store.open('sent', SIZE, IDENTITY)
    put(image, range(16))
    image.stays = True
    with open(image.path, 'rb') as file:
        image.close()
        other = store.open('other', SIZE, IDENTITY)
        put(other, range(18))
        # There was something else to let go of.
        assert len(there(other)) < 18
        assert used(tmp_path) <= 32 * BLOCK + 2 * MAP
        image = store.open('sent', SIZE, IDENTITY)
        assert image.evict(range(16)) == 0
        assert there(image) == list(range(16))
        image.close()
        other.stays = True
        put(other, range(20))
        # It went as a whole.
        assert store.identity_of('sent') is None
        whole = b''.join(content(index) for index in range(16))
        assert file.read(16 * BLOCK) == whole
    monkeypatch.setattr(_store, '_SENT', 0.0)
    image = store.open('sent', SIZE, IDENTITY)
    put(image, range(4))
    image.stays = True
    image.close()
    image = store.open('sent', SIZE, IDENTITY)
    assert image.evict(range(4)) == 4


@pytest.mark.parametrize('again', [False, True])
def test_scrub_is_no_use(opened, tmp_path, monkeypatch, again):
    """What is compared is let go of no later."""
    monkeypatch.setattr(_store, '_SENT', 0.0)
    limit = 3 * (16 * BLOCK + MAP)
    store = opened(limit)
    for second, key in enumerate(('a', 'b', 'c')):
        image = store.open(key, SIZE, IDENTITY)
        put(image, range(16))
        image.close()
        os.utime(tmp_path / 'cache' / key / 'map', (second, second))
    assert store._scrub('b', threading.Event(), None) == 0
    assert store._scrub('a', threading.Event(), None) == 0
    assert store.statistics()['objects'] == 3
    if again:
        store.close()
        store = opened(limit)
    for gone, key in (('a', 'd'), ('b', 'e')):
        put(store.open(key, SIZE, IDENTITY), range(16))
        assert store.identity_of(gone) is None
    assert store.identity_of('c') == IDENTITY


def test_order_outlives_the_store(opened, tmp_path):
    store = opened()
    for key in ('a', 'b', 'c'):
        image = store.open(key, SIZE, IDENTITY)
        put(image, range(16))
        image.close()
    store.close()
    for second, key in enumerate(('a', 'b', 'c')):
        os.utime(tmp_path / 'cache' / key / 'map', (second, second))
    store = opened()
    # Reading is using, too.
    store.open('a', SIZE, IDENTITY).close()
    store.close()
    store = opened(2 * (16 * BLOCK + MAP))
    # One that died may have left too much.
    assert used(tmp_path) <= 2 * (16 * BLOCK + MAP)
    assert store.identity_of('b') is None
    assert there(store.open('a', SIZE, IDENTITY)) == list(range(16))


def test_what_is_in_use_stays_and_others_are_refused(opened):
    store = opened(16 * BLOCK + MAP)
    image = store.open('one', SIZE, IDENTITY)
    put(image, range(16))
    mine = image.claimer()
    assert mine.claim(0, 16 * BLOCK) == 16 * BLOCK
    with pytest.raises(exceptions.NoSpace, match='in use'):
        put(image, [20])
    assert store.statistics()['bytes_refused'] == BLOCK
    # That is nothing to complain about.
    assert store.statistics()['keeps'] == 1
    assert there(image) == list(range(16))
    mine.release()
    put(image, [20])
    assert 20 in there(image)


def test_what_is_to_stay_stays(opened):
    store = opened(32 * BLOCK + 2 * MAP)
    image, other = (store.open(key, SIZE, IDENTITY) for key in ('a', 'b'))
    image.stays = True
    put(image, range(16))
    for index in range(COUNT):
        put(other, [index])
    assert there(image) == list(range(16))
    assert image.evict(range(16)) == 0


def test_limit_smaller_than_a_block(opened, tmp_path):
    store = opened(1)
    image = store.open('one', SIZE, IDENTITY)
    with pytest.raises(exceptions.NoSpace):
        put(image, [1])
    assert there(image) == []
    assert used(tmp_path) == MAP
    # Zeros take no space.
    image.put(2, memoryview(bytes(BLOCK)))
    assert image.has(2)


def test_what_was_not_flushed_takes_no_space(opened, tmp_path):
    image = opened().open('one', SIZE, IDENTITY)
    put(image, range(8))
    image.flush()
    put(image, range(8, 16))
    directory = copied(tmp_path)
    store = opened(directory=directory)
    assert there(store.open('one', SIZE, IDENTITY)) == list(range(8))
    data = os.stat(directory / 'one' / 'data')
    assert data.st_blocks * 512 == 8 * BLOCK


def test_puts_are_flushed_in_time(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(flusher, '_SECONDS', 0.01)
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, range(8))
    waiting.until(lambda: store.statistics()['blocks_flushed'] == 8)
    store = opened(directory=copied(tmp_path))
    assert there(store.open('one', SIZE, IDENTITY)) == list(range(8))


def test_many_puts_are_flushed_soon(opened, monkeypatch):
    monkeypatch.setattr(flusher, '_SECONDS', 1000.0)
    monkeypatch.setattr(flusher, '_BYTES', 8 * BLOCK)
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, range(8))
    waiting.until(lambda: store.statistics()['blocks_flushed'] == 8)


def flip(path, place):
    with open(path, 'r+b') as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize('is_open', [False, True])
def test_scrub_finds_what_rots(opened, tmp_path, is_open):
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, [1, 2, 3])
    if not is_open:
        image.close()
    assert store.scrub(threading.Event()) == 0
    flip(tmp_path / 'cache' / 'one' / 'data', 2 * BLOCK + 9)
    assert store.scrub(threading.Event(), rate=1 << 30) == 1
    if not is_open:
        image = store.open('one', SIZE, IDENTITY)
    assert image.claimer().claim(BLOCK, 3 * BLOCK) == BLOCK * is_open
    assert there(image) == [1, 3]
    assert store.statistics()['blocks_damaged'] == 1


def test_scrub_can_be_stopped(opened):
    store = opened()
    put(store.open('one', SIZE, IDENTITY), [1, 2, 3])
    stop = threading.Event()
    stop.set()
    assert store.scrub(stop) == 0


def test_second_owner_is_told_who_has_it(opened):
    store = opened(owner='/run/first.sock')
    with pytest.raises(exceptions.Unavailable) as caught:
        opened(owner='/run/second.sock')
    assert str(os.getpid()) in str(caught.value)
    assert '/run/first.sock' in str(caught.value)
    store.close()
    opened(owner='/run/second.sock')


def test_directory_of_somebody_else_is_refused(opened, tmp_path):
    (tmp_path / 'cache').mkdir()
    (tmp_path / 'cache' / 'instances').mkdir()
    with pytest.raises(exceptions.ConfigurationError, match='not empty'):
        opened()
    assert os.listdir(tmp_path / 'cache') == ['instances']


def test_what_is_of_no_use_is_removed_and_the_rest_left(opened, tmp_path):
    store = opened()
    for key in ('good', 'newer', 'torn', 'empty', 'mapless', 'dataless'):
        image = store.open(key, SIZE, IDENTITY)
        put(image, [1])
        image.close()
    store.close()
    cache = tmp_path / 'cache'
    flip(cache / 'newer' / 'map', 7)
    flip(cache / 'torn' / 'map', 30)
    os.truncate(cache / 'empty' / 'map', 0)
    os.unlink(cache / 'mapless' / 'map')
    os.unlink(cache / 'dataless' / 'data')
    (cache / 'theirs').mkdir()
    (cache / 'theirs' / 'notes').write_text('of somebody')
    (cache / 'README').write_text('of somebody')
    (cache / 'link').symlink_to(cache / 'good')
    store = opened()
    found = ['README', 'good', 'link', 'lock', 'theirs']
    assert sorted(os.listdir(cache)) == found
    assert there(store.open('good', SIZE, IDENTITY)) == [1]


def test_file_that_is_taken(opened, tmp_path):
    """It becomes somebody's file, and is read on."""
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, range(COUNT))
    store.take('one', str(tmp_path / 'mine'))
    assert store.statistics()['bytes_used'] == 0
    assert there(image) == list(range(COUNT))
    # The next one has nothing to do with it.
    other = store.open('one', SIZE, IDENTITY)
    assert there(other) == []
    put(other, [0])
    assert image.evict(range(COUNT)) == 0
    with pytest.raises(exceptions.NoSpace):
        put(image, [1])
    whole = b''.join(content(index) for index in range(COUNT))
    assert (tmp_path / 'mine').read_bytes() == whole
    image.close()
    assert there(other) == [0]


def test_file_that_is_taken_is_its_owners(opened, tmp_path):
    """What he has changed is not served, nor given back to the disk."""
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, range(COUNT))
    store.take('one', str(tmp_path / 'mine'))
    (tmp_path / 'mine').write_bytes(bytes([1]) * SIZE)
    for index in range(COUNT):
        image.scrub(index)
        with pytest.raises(exceptions.NoSpace):
            put(image, [index])
    assert there(image) == []
    assert (tmp_path / 'mine').read_bytes() == bytes([1]) * SIZE
    image.close()


def test_file_that_cannot_be_taken(opened, tmp_path):
    """It stays, and more is put."""
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, [0])
    (tmp_path / 'file').touch()
    with pytest.raises(exceptions.TransferError):
        store.take('one', str(tmp_path / 'file' / 'mine'))
    put(image, [1])
    assert there(image) == [0, 1]
    assert store.open('one', SIZE, IDENTITY) is image


def test_what_is_discarded(opened, tmp_path):
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, [0])
    store.discard('one')
    assert there(image) == [0]
    image.close()
    store.discard('one')
    assert not (tmp_path / 'cache' / 'one').exists()
    assert store.statistics()['bytes_used'] == 0
    assert there(store.open('one', SIZE, IDENTITY)) == []


def test_many_at_once_keep_the_limit(opened, tmp_path):
    """Whoever is there reads what was put, and the limit is kept."""
    limit = 3 * MAP + 48 * BLOCK
    store = opened(limit)
    images = [
        store.open(key, SIZE, IDENTITY[:31] + key.encode())
        for key in ('a', 'b', 'c')
    ]
    wrong = []

    def work(seed):
        rng = random.Random(seed)
        buffer = memoryview(bytearray(BLOCK))
        for _ in range(300):
            number, index = rng.randrange(3), rng.randrange(COUNT)
            image = images[number]
            if image.read(buffer, index * BLOCK):
                if buffer != content(index, number):
                    wrong.append((number, index))
                continue
            # All of so small a limit may be on its way to the disk.
            with contextlib.suppress(exceptions.NoSpace):
                put(image, [index], number)

    threads = [
        threading.Thread(target=work, args=(seed,)) for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert used(tmp_path) <= limit
    assert store.statistics()['blocks_evicted'] > 100
