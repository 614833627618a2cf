# SPDX-License-Identifier: Apache-2.0
"""Cinder's image service: download() into an open file."""

from __future__ import annotations

import errno
import io
import os

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.consumers import shapes
from tests.servers import resource

pytestmark = pytest.mark.usefixtures('nothing_left')


class ImageTooBig(Exception):
    """That of cinder.exception."""


class GlanceImageService:
    """cinder.image.glance.GlanceImageService, with our download()."""

    def __init__(self, conf, images):
        self._conf = conf
        self._images = images
        self.result = None

    def download(self, context, image_id, data=None):
        meta = self._images[image_id]
        self.result = oslo_transfer.copy(
            [entry['url'] for entry in meta['locations']],
            self.destination(data),
            conf=self._conf,
            overwrite=True,
            **shapes.facts(meta),
        )

    def destination(self, data):
        return data


class ByPath(GlanceImageService):
    """The same, by the name of the open file."""

    def destination(self, data):
        return data.name


def fetch(context, image_service, image_id, path):
    """cinder.image.image_utils.fetch()."""
    with shapes.remove_path_on_error(path):
        with open(path, 'wb') as image_file:
            try:
                image_service.download(context, image_id, image_file)
            except exceptions.NoSpace as exc:
                raise ImageTooBig(image_id) from exc


@pytest.fixture
def whole(server):
    return server.put('/image', shapes.IMAGE)


def cut_at(server, path, position, data=shapes.IMAGE, **options):
    """A location that always breaks at the same byte."""
    well = resource.Resource(data, len(data), **options)

    def answer(request, conn):
        if well.answer(request, conn, position):
            conn.reset()

    return server.serve(path, answer)


@pytest.mark.parametrize('kind', [GlanceImageService, ByPath])
def test_open_file_gets_the_image(conf, whole, tmp_path, kind):
    service = kind(conf, {'id': shapes.image(whole)})
    fetch(None, service, 'id', tmp_path / 'image')
    assert (tmp_path / 'image').read_bytes() == shapes.IMAGE
    assert os.listdir(tmp_path) == ['image']
    assert service.result.verified


def test_open_file_is_left_open_behind_the_image(conf, whole, tmp_path):
    service = GlanceImageService(conf, {'id': shapes.image(whole)})
    with open(tmp_path / 'image', 'wb') as file:
        file.write(b'head')
        service.download(None, 'id', file)
        file.write(b'tail')
    assert (tmp_path / 'image').read_bytes() == (
        b'head' + shapes.IMAGE + b'tail'
    )


def test_bytesio_gets_the_image(conf, whole):
    data = io.BytesIO()
    GlanceImageService(conf, {'id': shapes.image(whole)}).download(
        None, 'id', data
    )
    assert data.getvalue() == shapes.IMAGE


def test_unbuffered_file_gets_the_image(conf, whole, tmp_path):
    with open(tmp_path / 'image', 'wb', buffering=0) as file:
        GlanceImageService(conf, {'id': shapes.image(whole)}).download(
            None, 'id', file
        )
    assert (tmp_path / 'image').read_bytes() == shapes.IMAGE


@pytest.mark.parametrize('kind', [GlanceImageService, ByPath])
def test_corrupt_image_is_removed(conf, server, tmp_path, kind):
    url = server.put('/image', shapes.CORRUPT)
    service = kind(conf, {'id': shapes.image(url)})
    with pytest.raises(exceptions.DigestMismatch):
        fetch(None, service, 'id', tmp_path / 'image')
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('chunked', [False, True])
def test_corrupt_image_is_never_complete_in_an_open_file(
    conf, server, chunked
):
    url = server.put('/image', shapes.CORRUPT, chunked=chunked)
    data = io.BytesIO()
    with pytest.raises(exceptions.DigestMismatch):
        GlanceImageService(conf, {'id': shapes.image(url)}).download(
            None, 'id', data
        )
    assert len(data.getvalue()) < len(shapes.IMAGE)


@pytest.mark.parametrize('ranges', [True, False])
def test_open_file_has_no_wrong_bytes_of_a_location_given_up(
    conf, server, whole, tmp_path, ranges
):
    bad = cut_at(server, '/bad', 4 << 20, data=shapes.CORRUPT, ranges=ranges)
    conf.set_override('max_retries', 1, group='oslo_transfer')
    service = GlanceImageService(conf, {'id': shapes.image(bad, whole)})
    with open(tmp_path / 'image', 'wb') as file:
        file.write(b'head')
        service.download(None, 'id', file)
    assert (tmp_path / 'image').read_bytes() == b'head' + shapes.IMAGE
    assert service.result.source == whole


class Pipe:
    """Can be written to and nothing else."""

    def __init__(self):
        self.written = bytearray()

    def write(self, data):
        self.written += data
        return len(data)


def test_writer_that_cannot_go_back_gets_the_rest_from_the_next_location(
    conf, server, whole
):
    bad = cut_at(server, '/bad', 4 << 20, ranges=False)
    service = GlanceImageService(conf, {'id': shapes.image(bad, whole)})
    data = Pipe()
    service.download(None, 'id', data)
    assert data.written == shapes.IMAGE
    assert service.result.verified


def test_writer_that_cannot_go_back_is_told_of_wrong_bytes(
    conf, server, whole
):
    bad = cut_at(server, '/bad', 4 << 20, data=shapes.CORRUPT, ranges=False)
    conf.set_override('max_retries', 0, group='oslo_transfer')
    service = GlanceImageService(conf, {'id': shapes.image(bad, whole)})
    data = Pipe()
    with pytest.raises(oslo_transfer.TransferError) as caught:
        service.download(None, 'id', data)
    # What it holds cannot be taken for the image: the end is missing.
    assert shapes.CORRUPT[: 4 << 20] == data.written[: 4 << 20]
    assert len(data.written) < len(shapes.IMAGE)
    assert shapes.attempts(caught.value)[-1] == (whole, 'CapabilityMissing')


def test_writer_that_got_nothing_yet_takes_the_next_location(
    conf, server, whole
):
    service = GlanceImageService(
        conf, {'id': shapes.image(server.url('/none'), whole)}
    )
    data = Pipe()
    service.download(None, 'id', data)
    assert data.written == shapes.IMAGE


def test_what_stands_behind_in_the_file_is_never_cut_off(
    conf, server, whole, tmp_path
):
    bad = cut_at(server, '/bad', 4 << 20, data=shapes.CORRUPT, ranges=False)
    conf.set_override('max_retries', 0, group='oslo_transfer')
    path = tmp_path / 'volume'
    path.write_bytes(bytes(8 << 20) + b'tail')
    service = GlanceImageService(conf, {'id': shapes.image(bad, whole)})
    with open(path, 'r+b') as file:
        with pytest.raises(oslo_transfer.TransferError):
            service.download(None, 'id', file)
    assert path.read_bytes()[8 << 20 :] == b'tail'


def test_full_disk_is_told_as_such(conf, whole):
    service = GlanceImageService(conf, {'id': shapes.image(whole)})
    with pytest.raises(exceptions.NoSpace) as caught:
        with open('/dev/full', 'wb', buffering=0) as file:
            service.download(None, 'id', file)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_full_disk_becomes_image_too_big(conf, whole, tmp_path):
    class Full(GlanceImageService):
        def download(self, context, image_id, data=None):
            with open('/dev/full', 'wb', buffering=0) as full:
                super().download(context, image_id, full)

    service = Full(conf, {'id': shapes.image(whole)})
    with pytest.raises(ImageTooBig):
        fetch(None, service, 'id', tmp_path / 'image')
    assert os.listdir(tmp_path) == []


class Broken(Pipe):
    """A file of the caller's that raises what only the caller knows."""

    def write(self, data):
        raise LookupError('quota of the caller')


def test_error_of_the_writer_reaches_the_caller(conf, whole):
    service = GlanceImageService(conf, {'id': shapes.image(whole)})
    with pytest.raises(LookupError, match='quota of the caller'):
        service.download(None, 'id', Broken())
