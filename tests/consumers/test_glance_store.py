# SPDX-License-Identifier: Apache-2.0
"""A store of glance_store: get() and add() over any transfer URL."""

from __future__ import annotations

import hashlib
import io
import os

from cryptography import exceptions as crypto
import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.consumers import shapes
from tests.servers import resource

pytestmark = pytest.mark.usefixtures('nothing_left')

CHUNK = 256 * 1024


class NotFound(Exception):
    """That of glance_store.exceptions, like the others here."""


class Duplicate(Exception):
    """The image is there already."""


class StorageFull(Exception):
    """It does not fit."""


class StoreRandomGetNotSupported(Exception):
    """Only the whole can be had."""


class ImageSizeLimitExceeded(Exception):
    """glance.common.exception: raised by the file object that Glance has."""


class Store:
    """glance_store.driver.Store."""

    backend_group = 'edge'

    def __init__(self, conf, prefix):
        self._conf = conf
        self._prefix = prefix

    def get(self, location, offset=0, chunk_size=None, context=None):
        """Return an iterator over bytes, and how many there are."""
        try:
            source = oslo_transfer.open_source(location, conf=self._conf)
        except exceptions.NotFound as exc:
            raise NotFound(location) from exc
        length = chunk_size
        if length is None:
            length = source.size - offset
        return self._chunks(source, offset, length), length

    @staticmethod
    def _chunks(source, offset, length):
        with source:
            try:
                stream = source.stream(offset, length)
            except exceptions.CapabilityMissing as exc:
                raise StoreRandomGetNotSupported from exc
            with stream:
                yield from iter(lambda: stream.read(CHUNK), b'')

    def get_size(self, location, context=None):
        """Return the size in bytes."""
        with oslo_transfer.open_source(location, conf=self._conf) as source:
            return source.size

    def add(
        self,
        image_id,
        image_file,
        image_size,
        hashing_algo,
        context=None,
        verifier=None,
    ):
        """Return URL, size, MD5, the multihash and the location's data."""
        url = f'{self._prefix}/{image_id}'
        md5 = hashlib.md5(usedforsecurity=False)
        observers = [md5]
        if verifier:
            observers.append(verifier)
        try:
            result = oslo_transfer.copy(
                image_file,
                url,
                conf=self._conf,
                # Glance says 0 for a size that it does not know.
                expected_size=image_size or None,
                hash_algo=hashing_algo,
                observers=observers,
            )
        except exceptions.AlreadyExists as exc:
            raise Duplicate(image_id) from exc
        except exceptions.NoSpace as exc:
            raise StorageFull(image_id) from exc
        return (
            url,
            result.size,
            md5.hexdigest(),
            result.digest.partition(':')[2],
            {'store': self.backend_group},
        )


class ImageFile:
    """What glance-api passes on: it has read(n) and nothing else."""

    def __init__(self, data, step=100_000, limit=None):
        self._data = io.BytesIO(data)
        self._step = step
        self._limit = limit
        self.reads = []

    def read(self, length):
        """Return at most so many bytes, and often fewer."""
        self.reads.append(length)
        data = self._data.read(min(length, self._step))
        if self._limit is not None and self._data.tell() > self._limit:
            raise ImageSizeLimitExceeded
        return data


@pytest.fixture
def local(conf, tmp_path):
    return Store(conf, str(tmp_path))


@pytest.fixture(params=['local', 'remote'])
def either(request, conf, tmp_path, server):
    """A store in a directory, and one behind HTTP; with how to look."""
    if request.param == 'local':
        prefix = str(tmp_path)
        return Store(conf, prefix), lambda: (tmp_path / 'id').read_bytes()
    server.allow_put('/store/id')
    return (
        Store(conf, server.url('/store')),
        lambda: server.uploads['/store/id'],
    )


@pytest.mark.parametrize('size', [len(shapes.IMAGE), 0])
def test_add(either, size):
    store, stored = either
    image_file = ImageFile(shapes.IMAGE)
    verifier = shapes.Verifier(shapes.IMAGE)
    url, written, md5, multihash, data = store.add(
        'id', image_file, size, 'sha512', None, verifier
    )
    assert stored() == shapes.IMAGE
    assert url.endswith('/id')
    assert written == len(shapes.IMAGE)
    assert md5 == shapes.image()['checksum']
    assert multihash == shapes.image()['os_hash_value']
    assert data == {'store': 'edge'}
    verifier.verify()
    assert all(reads > 0 for reads in image_file.reads)


def test_add_of_an_empty_image(either):
    store, stored = either
    written, _, multihash = store.add('id', ImageFile(b''), 0, 'sha512')[1:4]
    assert stored() == b''
    assert written == 0
    assert multihash == hashlib.sha512().hexdigest()


def test_add_streams_chunks_where_the_size_is_unknown(conf, server):
    server.allow_put('/store/id')
    Store(conf, server.url('/store')).add(
        'id', ImageFile(shapes.IMAGE), 0, 'sha512'
    )
    (request,) = server.seen('/store/id', 'PUT')
    assert request.headers['transfer-encoding'] == 'chunked'
    assert 'content-length' not in request.headers


@pytest.mark.parametrize('wrong', [-1, 1])
def test_add_of_another_size_leaves_nothing(local, tmp_path, wrong):
    with pytest.raises(exceptions.SizeMismatch):
        local.add(
            'id', ImageFile(shapes.IMAGE), len(shapes.IMAGE) + wrong, 'sha512'
        )
    assert os.listdir(tmp_path) == []


def test_add_of_what_is_there_is_a_duplicate(local, tmp_path):
    (tmp_path / 'id').write_bytes(b'another')
    with pytest.raises(Duplicate):
        local.add('id', ImageFile(shapes.IMAGE), 0, 'sha512')
    assert (tmp_path / 'id').read_bytes() == b'another'


def test_add_to_a_full_store(conf, server):
    server.allow_put('/store/id', early_error=(507, 1 << 20))
    store = Store(conf, server.url('/store'))
    with pytest.raises(StorageFull):
        store.add('id', ImageFile(shapes.IMAGE), len(shapes.IMAGE), 'sha512')


def test_error_of_the_image_file_reaches_glance(either, server, tmp_path):
    store, _stored = either
    with pytest.raises(ImageSizeLimitExceeded):
        store.add('id', ImageFile(shapes.IMAGE, limit=3 << 20), 0, 'sha512')
    assert os.listdir(tmp_path) == []
    assert shapes.uploads(server) == {}


def test_error_of_the_verifier_reaches_glance(either, server, tmp_path):
    class Refusing(shapes.Verifier):
        def update(self, data):
            super().update(data)
            if self.seen > 3 << 20:
                raise crypto.InvalidSignature

    store, _stored = either
    with pytest.raises(crypto.InvalidSignature):
        store.add(
            'id', ImageFile(shapes.IMAGE), 0, 'sha512', None, Refusing(b'')
        )
    assert os.listdir(tmp_path) == []
    assert shapes.uploads(server) == {}


@pytest.fixture(params=['file', 'http'])
def stored(request, tmp_path, server):
    """The URL of an image in a store."""
    if request.param == 'http':
        return server.put('/image', shapes.IMAGE)
    (tmp_path / 'image').write_bytes(shapes.IMAGE)
    return f'file://{tmp_path}/image'


def test_get(local, stored):
    chunks, length = local.get(stored)
    assert length == len(shapes.IMAGE)
    assert b''.join(chunks) == shapes.IMAGE
    assert local.get_size(stored) == len(shapes.IMAGE)


@pytest.mark.parametrize(
    ('offset', 'count'),
    [(0, 1), (1, 100), ((6 << 20) - 5, 5), (1 << 20, None)],
)
def test_get_of_a_range(local, stored, offset, count):
    chunks, length = local.get(stored, offset=offset, chunk_size=count)
    end = None if count is None else offset + count
    wanted = shapes.IMAGE[offset:end]
    assert length == len(wanted)
    assert b''.join(chunks) == wanted


def test_get_that_is_given_up_leaves_nothing_open(local, stored):
    chunks, _length = local.get(stored)
    assert shapes.IMAGE.startswith(next(chunks))
    chunks.close()


def test_get_goes_on_where_the_connection_broke(local, server):
    whole = resource.Resource(shapes.IMAGE, len(shapes.IMAGE))

    def answer(request, conn):
        if not request.nth:
            whole.answer(request, conn, 4 << 20)
            conn.reset()
        whole(request, conn)

    chunks, _length = local.get(server.serve('/image', answer))
    assert b''.join(chunks) == shapes.IMAGE
    assert server.seen('/image')[-1].start > 3 << 20


def test_get_never_joins_two_versions(local, server):
    def answer(request, conn):
        data = shapes.CORRUPT if request.nth else shapes.IMAGE
        whole = resource.Resource(data, len(data), etag=f'"{request.nth}"')
        if whole.answer(request, conn, None if request.nth else 4 << 20):
            conn.reset()

    chunks, _length = local.get(server.serve('/image', answer))
    with pytest.raises(exceptions.SourceChanged):
        b''.join(chunks)


def test_get_of_a_range_where_there_are_none(local, server):
    url = server.put('/image', shapes.IMAGE, ranges=False)
    chunks, _length = local.get(url, offset=5, chunk_size=10)
    with pytest.raises(StoreRandomGetNotSupported):
        next(chunks)


def test_get_of_nothing(local, server, tmp_path):
    for missing in (server.url('/none'), tmp_path / 'none'):
        with pytest.raises(NotFound):
            local.get(missing)
