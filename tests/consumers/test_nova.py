# SPDX-License-Identifier: Apache-2.0
"""Nova's image service, with a handler made of copy()."""

from __future__ import annotations

import os

from cryptography import exceptions as crypto
import pytest

import oslo_transfer
from tests.consumers import shapes
from tests.servers import resource

pytestmark = pytest.mark.usefixtures('nothing_left')


class ImageService:
    """nova.image.glance.GlanceImageServiceV2, as far as it matters."""

    def __init__(self, conf, images, glance=None, signed=None):
        self._conf = conf
        self._images = images
        self._glance = glance
        self._signed = signed
        self.verifier = None
        #: What the handler has logged instead of raising it.
        self.logged = []
        self.results = []

    def show(self, context, image_id, include_locations=False):
        meta = self._images[image_id]
        if include_locations and meta.get('direct_url'):
            # Nova really appends it again.
            entry = {'url': meta['direct_url'], 'metadata': {}}
            meta = {**meta, 'locations': [*meta['locations'], entry]}
        return meta

    def download(self, context, image_id, data=None, dst_path=None):
        self.verifier = None
        if self._signed is not None:
            self.verifier = shapes.Verifier(self._signed)
        if self._try_special_handlers(
            context, image_id, dst_path, self.verifier
        ):
            return
        if self._glance is None:
            raise shapes.ImageNotFound(image_id)
        with open(dst_path, 'wb') as file:
            file.write(self._glance)

    def _try_special_handlers(self, context, image_id, dst_path, verifier):
        meta = self.show(context, image_id, include_locations=True)
        observers = []
        if verifier:
            observers.append(shapes.Judge(verifier, meta['size']))
        try:
            result = oslo_transfer.copy(
                [
                    oslo_transfer.Location(
                        entry['url'], metadata=entry['metadata']
                    )
                    for entry in meta['locations']
                ],
                dst_path,
                conf=self._conf,
                observers=observers,
                # What an earlier nova-compute may have left of it.
                overwrite=True,
                **shapes.facts(meta),
            )
        except oslo_transfer.TransferError as exc:
            self.logged.append(exc)
            return False
        self.results.append(result)
        return True


def fetch(service, image_id, path):
    """nova.virt.images.fetch()."""
    with shapes.remove_path_on_error(path):
        service.download(None, image_id, dst_path=path)


def fetch_to_raw(service, image_id, path):
    """nova.virt.images.fetch_to_raw(), for an image that is raw."""
    part = f'{path}.part'
    fetch(service, image_id, part)
    with shapes.remove_path_on_error(part):
        os.rename(part, path)


@pytest.fixture
def base(tmp_path):
    """The directory _base, and the name of an image in it."""
    return tmp_path / '2aae6c35c94fcfb415dbe95f408b9ce91ee846ed'


def test_image_lands_complete_and_verified(conf, server, base):
    url = server.put('/image', shapes.IMAGE)
    service = ImageService(conf, {'id': shapes.image(url)})
    fetch_to_raw(service, 'id', base)
    assert base.read_bytes() == shapes.IMAGE
    assert os.listdir(base.parent) == [base.name]
    assert service.results[0].verified


def test_direct_url_that_is_also_a_location_is_asked_once(conf, server, base):
    url = server.serve('/gone', lambda request, conn: conn.reply(404))
    meta = shapes.image(url, direct_url=url)
    service = ImageService(conf, {'id': meta}, glance=shapes.IMAGE)
    fetch_to_raw(service, 'id', base)
    assert len(server.seen('/gone')) == 1
    assert base.read_bytes() == shapes.IMAGE


def test_corrupt_location_falls_through_to_glance(conf, server, base):
    url = server.put('/image', shapes.CORRUPT)
    service = ImageService(
        conf, {'id': shapes.image(url)}, glance=shapes.IMAGE
    )
    fetch_to_raw(service, 'id', base)
    assert base.read_bytes() == shapes.IMAGE
    assert shapes.attempts(service.logged[0]) == [(url, 'DigestMismatch')]


def test_good_copy_behind_a_corrupt_one_is_found(conf, server, base):
    bad = server.put('/bad', shapes.CORRUPT, etag=None)
    good = server.put('/good', shapes.IMAGE)
    service = ImageService(conf, {'id': shapes.image(bad, good)})
    fetch_to_raw(service, 'id', base)
    assert base.read_bytes() == shapes.IMAGE
    result = service.results[0]
    assert result.source == good
    assert [each.location for each in result.attempts][-1] == bad


def test_without_any_location_nothing_is_left(conf, server, base):
    url = server.url('/none')
    service = ImageService(conf, {'id': shapes.image(url)})
    with pytest.raises(shapes.ImageNotFound):
        fetch_to_raw(service, 'id', base)
    assert os.listdir(base.parent) == []


def test_verifier_sees_each_byte_once_and_in_order(conf, server, base):
    # Slow streams make more streams, whose bytes come out of order.
    url = server.put('/image', shapes.IMAGE, rate=8 << 20)
    service = ImageService(
        conf, {'id': shapes.image(url)}, signed=shapes.IMAGE
    )
    fetch_to_raw(service, 'id', base)
    assert service.verifier.verified
    assert service.verifier.seen == len(shapes.IMAGE)
    assert server.connections.peak > 1


def test_verifier_sees_nothing_of_a_corrupt_location(conf, server, base):
    bad = server.put('/bad', shapes.CORRUPT)
    good = server.put('/good', shapes.IMAGE)
    service = ImageService(
        conf, {'id': shapes.image(bad, good)}, signed=shapes.IMAGE
    )
    fetch_to_raw(service, 'id', base)
    assert service.verifier.verified
    assert service.verifier.seen == len(shapes.IMAGE)


def test_invalid_signature_reaches_nova_and_nothing_shows(conf, server, base):
    url = server.put('/image', shapes.IMAGE)
    service = ImageService(
        conf,
        {'id': shapes.image(url)},
        glance=shapes.IMAGE,
        signed=shapes.CORRUPT,
    )
    with pytest.raises(crypto.InvalidSignature):
        fetch_to_raw(service, 'id', base)
    part = base.with_name(f'{base.name}.part')
    assert not base.exists()
    assert not part.exists()
    # No more than what the next try may resume.
    assert {name[:1] for name in os.listdir(base.parent)} <= {'.'}


def test_part_file_of_a_dead_nova_is_replaced(conf, server, base):
    part = base.with_name(f'{base.name}.part')
    part.write_bytes(b'old and incomplete')
    url = server.put('/image', shapes.IMAGE)
    fetch_to_raw(ImageService(conf, {'id': shapes.image(url)}), 'id', base)
    assert base.read_bytes() == shapes.IMAGE
    assert not part.exists()


def test_broken_download_is_taken_up_where_it_broke(conf, server, base):
    whole = resource.Resource(shapes.IMAGE, len(shapes.IMAGE))

    def answer(request, conn):
        if not request.nth:
            whole.answer(request, conn, 4 << 20)
            conn.reset()
        whole(request, conn)

    url = server.serve('/image', answer)
    service = ImageService(conf, {'id': shapes.image(url)})
    fetch_to_raw(service, 'id', base)
    assert base.read_bytes() == shapes.IMAGE
    assert server.seen('/image')[-1].start >= 3 << 20
    assert server.bytes_sent('/image') < len(shapes.IMAGE) + (1 << 20)


def test_local_store_is_read_by_path(conf, tmp_path, base):
    store = tmp_path / 'store'
    store.mkdir()
    (store / 'image').write_bytes(shapes.IMAGE)
    meta = shapes.image(f'file://{store}/image')
    fetch_to_raw(ImageService(conf, {'id': meta}), 'id', base)
    assert base.read_bytes() == shapes.IMAGE


def test_empty_image(conf, server, base):
    url = server.put('/image', b'')
    service = ImageService(conf, {'id': shapes.image(url, data=b'')})
    fetch_to_raw(service, 'id', base)
    assert base.read_bytes() == b''
