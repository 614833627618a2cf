# SPDX-License-Identifier: Apache-2.0
"""A complete file does what a cached image does."""

from __future__ import annotations

import os

import pytest

from oslo_transfer.cache import plainfile
from oslo_transfer import exceptions
from tests.servers import resource

DATA = resource.pattern(300_001)
pytestmark = pytest.mark.usefixtures('nothing_left')


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    return path


@pytest.fixture
def image(path):
    made = plainfile.PlainFile(str(path))
    yield made
    made.close()
    made.close()


def test_all_is_there(image):
    assert image.size == len(DATA)
    reader = image.reader()
    assert reader.claim(5, 1000) == 1000
    assert reader.claim(300_000, 1000) == 1
    assert reader.claim(300_001, 1) == 0
    assert reader.bring(0, 10)
    assert os.pread(reader.fd, 9, 7) == DATA[7:16]
    found = bytearray(100_000)
    reader.read(memoryview(found), 99_999)
    assert found == DATA[99_999:199_999]
    reader.release()
    reader.close()


def test_etag(image, path):
    """It changes whenever the bytes could; or it is what it was before."""
    again = plainfile.PlainFile(str(path))
    assert again.etag == image.etag
    again.close()
    assert int(image.etag, 16)
    os.utime(path, ns=(1, 1))
    changed = plainfile.PlainFile(str(path))
    assert changed.etag != image.etag
    changed.close()
    named = plainfile.PlainFile(str(path), etag='feed')
    assert named.etag == 'feed'
    named.close()


def test_holes(tmp_path):
    path = tmp_path / 'sparse'
    with open(path, 'wb') as file:
        file.truncate(4 << 20)
        file.seek(1 << 20)
        file.write(bytes([1]) * (1 << 20))
    image = plainfile.PlainFile(str(path))
    mib = 1 << 20
    runs = [(mib, True), (mib, False), (2 * mib, True)]
    assert list(image.reader().extents(0, 4 * mib)) == runs
    assert list(image.reader().extents(mib - 512, 1024)) == [
        (512, True),
        (512, False),
    ]
    image.close()


def test_cut_short(image, path):
    os.truncate(path, 10)
    with pytest.raises(exceptions.StorageError, match='cut short'):
        image.reader().read(memoryview(bytearray(20)), 0)


def test_no_file(tmp_path):
    with pytest.raises(exceptions.NotFound):
        plainfile.PlainFile(str(tmp_path / 'nowhere'))
    os.mkfifo(tmp_path / 'fifo')
    for path in (tmp_path, tmp_path / 'fifo'):
        with pytest.raises(exceptions.InvalidEndpoint):
            plainfile.PlainFile(str(path))


def test_device(path, monkeypatch):
    """Its size is where it ends, and nothing is known of holes."""
    monkeypatch.setattr(plainfile.stat, 'S_ISREG', lambda mode: False)
    monkeypatch.setattr(plainfile.stat, 'S_ISBLK', lambda mode: True)
    image = plainfile.PlainFile(str(path))
    assert image.size == len(DATA)
    assert list(image.reader().extents(7, 100)) == [(100, False)]
    image.close()
