# SPDX-License-Identifier: Apache-2.0
"""A cache on a disk that is full, fails, or loses what was written.

It serves on, keeps nothing for a while, and says so.
"""

from __future__ import annotations

import errno
import functools
import os
import threading

import pytest

from oslo_transfer.cache import datafile
from oslo_transfer import exceptions
from tests.unit import stores
from tests import waiting

BLOCK, COUNT, SIZE = stores.BLOCK, stores.COUNT, stores.SIZE
IDENTITY, MAP = stores.IDENTITY, stores.MAP
content, copied, put = stores.content, stores.copied, stores.put
there, used = stores.there, stores.used
opened = stores.opened
pytestmark = pytest.mark.usefixtures('nothing_left')


class Broken:
    """Stands for a function of a disk that may fail.

    :ivar error: what it fails with; None while it works
    :ivar calls: how often it was called
    """

    def __init__(self, monkeypatch, place, name):
        self.error = None
        self.calls = 0
        self._real = getattr(place, name)
        monkeypatch.setattr(place, name, self)

    def __get__(self, instance, _owner):
        return functools.partial(self, instance)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        return self._real(*args, **kwargs)


def patience(store):
    """Some time goes by after a disk has failed."""
    store._room._again = store._room._full_until = 0.0


@pytest.mark.parametrize(
    'number, error',
    [
        (errno.ENOSPC, exceptions.NoSpace),
        (errno.EDQUOT, exceptions.NoSpace),
        (errno.EROFS, exceptions.StorageError),
        (errno.EIO, exceptions.StorageError),
    ],
)
def test_disk_that_cannot_be_written(
    opened, monkeypatch, caplog, number, error
):
    """It serves on, says so once, and keeps blocks again when it can."""
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, [1])
    pwrite = Broken(monkeypatch, os, 'pwrite')
    pwrite.error = number
    with pytest.raises(error):
        put(image, [2])
    assert store.statistics()['keeps'] == 0
    calls = pwrite.calls
    with pytest.raises(exceptions.NoSpace):
        put(image, [2])
    assert pwrite.calls == calls
    assert store.statistics()['bytes_refused'] == 2 * BLOCK
    assert there(image) == [1]
    patience(store)
    with pytest.raises(error):
        put(image, [2])
    assert len([r for r in caplog.records if r.levelname == 'ERROR']) == 1
    pwrite.error = None
    patience(store)
    put(image, [2])
    assert store.statistics()['keeps'] == 1
    assert there(image) == [1, 2]


def test_block_written_in_part_takes_no_space(opened, tmp_path, monkeypatch):
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    real = os.pwrite

    def pwrite(fd, data, offset):
        if offset % BLOCK:
            raise OSError(errno.ENOSPC, 'full')
        return real(fd, data[:100], offset)

    monkeypatch.setattr(os, 'pwrite', pwrite)
    with pytest.raises(exceptions.NoSpace):
        put(image, [2])
    assert used(tmp_path) == MAP


def test_short_writes(opened, monkeypatch):
    image = opened().open('one', SIZE, IDENTITY)
    real = os.pwrite
    monkeypatch.setattr(
        os,
        'pwrite',
        lambda fd, data, offset: real(fd, data[:1001], offset),
    )
    put(image, [2])
    assert there(image) == [2]


def test_failed_flush_loses_what_was_put(opened, tmp_path, monkeypatch):
    """The kernel tells once, and then takes the lost pages for written."""
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, [1])
    image.flush()
    put(image, [2])
    fdatasync = Broken(monkeypatch, os, 'fdatasync')
    fdatasync.error = errno.EIO
    with pytest.raises(exceptions.StorageError):
        image.flush()
    fdatasync.error = None
    assert there(image) == [1]
    assert image.flush() == 0
    store = opened(directory=copied(tmp_path))
    assert there(store.open('one', SIZE, IDENTITY)) == [1]


def test_claims_outlast_a_failed_flush(opened, monkeypatch):
    """What was lost, and cannot be put again, is still being sent."""
    image = opened().open('one', SIZE, IDENTITY)
    put(image, [1, 2])
    mine = image.claimer()
    assert mine.claim(BLOCK, BLOCK) == BLOCK
    for name, number in (('fdatasync', errno.EIO), ('pwrite', errno.ENOSPC)):
        Broken(monkeypatch, os, name).error = number
    with pytest.raises(exceptions.StorageError):
        image.flush()
    for _ in range(2):
        with pytest.raises(exceptions.NoSpace):
            put(image, [1])
    assert os.pread(image.fd, BLOCK, BLOCK) == content(1)
    mine.release()
    # Its space is not forgotten.
    with pytest.raises(exceptions.NoSpace):
        put(image, [2])
    assert os.pread(image.fd, 2 * BLOCK, BLOCK) == bytes(2 * BLOCK)
    monkeypatch.undo()


def test_put_while_a_flush_fails(opened, monkeypatch):
    """The failure may be of what was just written."""
    image = opened().open('one', SIZE, IDENTITY)
    fdatasync = Broken(monkeypatch, os, 'fdatasync')
    real = datafile.DataFile.write

    def write(self, view, offset):
        real(self, view, offset)
        fdatasync.error = errno.EIO
        with pytest.raises(exceptions.StorageError):
            image.flush()

    put(image, [1])
    monkeypatch.setattr(datafile.DataFile, 'write', write)
    with pytest.raises(exceptions.StorageError):
        put(image, [2])
    assert there(image) == []
    fdatasync.error = None


def test_failed_save_of_the_map_is_repeated(opened, tmp_path, monkeypatch):
    image = opened().open('one', SIZE, IDENTITY)
    put(image, [1])
    pwrite = Broken(monkeypatch, os, 'pwrite')
    pwrite.error = errno.EIO
    with pytest.raises(exceptions.StorageError):
        image.flush()
    pwrite.error = None
    image.flush()
    store = opened(directory=copied(tmp_path))
    assert there(store.open('one', SIZE, IDENTITY)) == [1]


@pytest.mark.parametrize('name', ['makedirs', 'open'])
def test_directory_that_cannot_be_written(opened, monkeypatch, name):
    broken = Broken(monkeypatch, os, name)
    broken.error = errno.EROFS
    store = opened()
    broken.error = None
    assert store.statistics()['keeps'] == 0
    image = store.open('one', SIZE, IDENTITY)
    with pytest.raises(exceptions.NoSpace):
        put(image, [1])
    assert there(image) == []
    image.close()


def test_object_that_cannot_be_made(opened, monkeypatch):
    store = opened()
    broken = Broken(monkeypatch, os, 'posix_fallocate')
    broken.error = errno.ENOSPC
    image = store.open('one', SIZE, IDENTITY)
    with pytest.raises(exceptions.NoSpace):
        put(image, [1])
    assert store.statistics()['keeps'] == 0
    broken.error = None
    image.close()
    image = store.open('one', SIZE, IDENTITY)
    patience(store)
    put(image, [1])
    assert there(image) == [1]


@pytest.mark.parametrize('open_then', [False, True])
def test_data_file_cut_short(opened, tmp_path, open_then):
    store = opened()
    image = store.open('one', SIZE, IDENTITY)
    put(image, [1, 2, 3])
    if not open_then:
        image.close()
    os.truncate(tmp_path / 'cache' / 'one' / 'data', 3 * BLOCK - 7)
    if not open_then:
        image = store.open('one', SIZE, IDENTITY)
    assert there(image) == [1]
    assert there(image) == [1]
    put(image, [2, 3])
    assert there(image) == [1, 2, 3]
    assert store.statistics()['blocks_damaged'] == 2


def test_closing_waits_for_those_who_put(opened, monkeypatch):
    """The number of a file must not be another's in mid-write."""
    image = opened().open('one', SIZE, IDENTITY)
    real = datafile.DataFile.write
    writing, go_on = threading.Event(), threading.Event()

    def write(self, view, offset):
        writing.set()
        assert go_on.wait(10)
        real(self, view, offset)

    monkeypatch.setattr(datafile.DataFile, 'write', write)
    putting = threading.Thread(target=put, args=(image, [1]))
    putting.start()
    assert writing.wait(10)
    closing = threading.Thread(target=image.close)
    closing.start()
    waiting.until(lambda: image.closing)
    assert image.fd >= 0
    go_on.set()
    for thread in (putting, closing):
        thread.join()
    assert image.fd == -1
