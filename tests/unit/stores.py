# SPDX-License-Identifier: Apache-2.0
"""Cache directories for tests, with objects of few blocks."""

from __future__ import annotations

import random
import shutil

import pytest

from oslo_transfer.cache import store as _store

BLOCK = 4096
COUNT = 64
SIZE = COUNT * BLOCK
IDENTITY = bytes(range(32))
# Of the map of such an object.
MAP = 8192


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
        if image.read(memoryview(buffer), index * BLOCK) == BLOCK:
            assert buffer == content(index, seed)
            found.append(index)
    return found


def used(tmp_path):
    """What all objects take on the disk."""
    return sum(
        path.stat().st_blocks * 512
        for path in (tmp_path / 'cache').glob('*/*')
    )


def copied(tmp_path, name='cache'):
    """A store as its process leaves it when it is killed now."""
    shutil.copytree(tmp_path / name, tmp_path / 'copy')
    return tmp_path / 'copy'
