# SPDX-License-Identifier: Apache-2.0
"""A cache directory: one owner, a limit, and a disk that may fail."""

from __future__ import annotations

import errno
import os
import random
import threading

import pytest

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import datafile
from oslo_transfer.cache import room
from oslo_transfer.cache import store as _store
from oslo_transfer import exceptions
from tests.functional import forkserver

BLOCK = 4096
COUNT = 64
SIZE = COUNT * BLOCK
IDENTITY = bytes(range(32))
# Of the map of such an object.
MAP = 8192
pytestmark = pytest.mark.usefixtures('nothing_left')


def content(index, seed=1):
    return random.Random(f'{seed}.{index}').randbytes(BLOCK)


@pytest.fixture
def opened(tmp_path):
    """Opens stores on one directory; closes them at the end."""
    made = []

    def open_store(quota=0, owner='/run/cache.sock', directory=None):
        made.append(
            _store.Store(
                str(directory or tmp_path / 'cache'),
                quota_bytes=quota,
                block_bytes=BLOCK,
                owner=owner,
            )
        )
        return made[-1]

    yield open_store
    for each in made:
        each.close()


def put(image, indexes, seed=1):
    for index in indexes:
        image.put(index, memoryview(content(index, seed)))


def there(image, seed=1):
    """Which blocks are there; asserts that they are right."""
    found = []
    buffer = bytearray(BLOCK)
    for index in range(COUNT):
        if image.read(memoryview(buffer), index * BLOCK):
            assert buffer == content(index, seed)
            found.append(index)
    return found


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
