# SPDX-License-Identifier: Apache-2.0
"""The Image API as a peer: tokens that expire, progress that aborts."""

from __future__ import annotations

import os
import threading

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.consumers import shapes
from tests.servers import resource

pytestmark = pytest.mark.usefixtures('nothing_left')

ID = '71c675ab-d94f-49cd-a114-e12490b328d9'
FILE = f'/v2/images/{ID}/file'


class TaskAbortedError(Exception):
    """glance.common.exception.TaskAbortedError."""


class Keystone:
    """Gives tokens to one service, and takes them away from all."""

    def __init__(self, server, name='token'):
        self._server = server
        self._name = name
        self._lock = threading.Lock()
        #: How many tokens were given.
        self.given = 0
        self.valid = set()

    def guard(self, path):
        """Let only holders of a valid token have a path."""
        self._server.require_token(path, self.valid)

    def __call__(self):
        """Return a new token, the only one that is valid."""
        with self._lock:
            self.given += 1
            token = f'{self._name}-{self.given}'
            self.valid.clear()
            self.valid.add(token)
            return token

    def expire(self):
        """Let the token of this moment be refused from now on."""
        self.valid.clear()
        self.valid.add('nobody has it')


@pytest.fixture
def keystone(server):
    found = Keystone(server)
    found.guard(FILE)
    return found


def location(url, keystone, renew=True):
    """An image with the token of a request in hand."""
    return oslo_transfer.Location(
        url,
        credentials=oslo_transfer.TokenCredentials(
            keystone(), keystone if renew else None
        ),
    )


def expiring(server, keystone, position):
    """The image; its first answer breaks off, and the token with it."""
    whole = resource.Resource(shapes.IMAGE, len(shapes.IMAGE))

    def answer(request, conn):
        if request.nth == 0:
            whole.answer(request, conn, position)
            keystone.expire()
            conn.reset()
        whole(request, conn)

    return server.serve(FILE, answer)


def test_download_with_a_token(conf, server, keystone, tmp_path):
    url = server.put(FILE, shapes.IMAGE)
    oslo_transfer.copy(
        location(url, keystone),
        tmp_path / 'image',
        conf=conf,
        **shapes.facts(shapes.image()),
    )
    assert (tmp_path / 'image').read_bytes() == shapes.IMAGE
    assert keystone.given == 1


def test_token_that_expires_in_mid_download(conf, server, keystone, tmp_path):
    url = expiring(server, keystone, 4 << 20)
    result = oslo_transfer.copy(
        location(url, keystone), tmp_path / 'image', conf=conf
    )
    assert (tmp_path / 'image').read_bytes() == shapes.IMAGE
    assert keystone.given == 2
    tokens = [r.headers['x-auth-token'] for r in server.seen(FILE)]
    assert tokens == ['token-1', 'token-1', 'token-2']
    assert server.seen(FILE)[-1].start > 3 << 20
    assert result.bytes_by_origin == {'origin': len(shapes.IMAGE)}


def test_token_that_expires_and_cannot_be_renewed(
    conf, server, keystone, tmp_path
):
    url = expiring(server, keystone, 4 << 20)
    with pytest.raises(exceptions.AccessDenied) as caught:
        oslo_transfer.copy(
            location(url, keystone, renew=False),
            tmp_path / 'image',
            conf=conf,
        )
    assert not (tmp_path / 'image').exists()
    assert 'token-1' not in str(caught.value)


def test_parallel_streams_renew_a_token_once(conf, server, keystone, tmp_path):
    data = resource.pattern(16 << 20, seed=2)
    whole = resource.Resource(data, len(data), rate=8 << 20)
    once = threading.Event()

    def answer(request, conn):
        if request.start and not once.is_set():
            # The second stream is there: now everybody is turned away.
            once.set()
            keystone.expire()
            conn.reset()
        whole.answer(
            request, conn, None if once.is_set() else request.start + (6 << 20)
        )

    url = server.serve(FILE, answer)
    oslo_transfer.copy(location(url, keystone), tmp_path / 'image', conf=conf)
    assert (tmp_path / 'image').read_bytes() == data
    assert once.is_set()
    assert keystone.given == 2


def test_error_of_keystone_reaches_the_caller(
    conf, server, keystone, tmp_path
):
    class Unauthorized(Exception):
        """keystoneauth1.exceptions.http.Unauthorized."""

    def renew():
        raise Unauthorized

    url = server.put(FILE, shapes.IMAGE)
    credentials = oslo_transfer.TokenCredentials('stale', renew)
    with pytest.raises(Unauthorized):
        oslo_transfer.copy(
            oslo_transfer.Location(url, credentials=credentials),
            tmp_path / 'image',
            conf=conf,
        )
    assert not (tmp_path / 'image').exists()


# PUT /v2/images/ID/file


def test_upload_with_a_token(conf, server, keystone, tmp_path):
    source = tmp_path / 'image'
    source.write_bytes(shapes.IMAGE)
    url = server.allow_put(FILE)
    result = oslo_transfer.copy(
        source,
        location(url, keystone),
        conf=conf,
        **shapes.facts(shapes.image()),
    )
    assert server.uploads[FILE] == shapes.IMAGE
    assert result.verified
    (request,) = server.seen(FILE, 'PUT')
    assert request.headers['x-auth-token'] == 'token-1'
    assert request.headers['content-type'] == 'application/octet-stream'
    assert request.headers['content-length'] == str(len(shapes.IMAGE))


def test_expired_token_is_renewed_before_the_upload(
    conf, server, keystone, tmp_path
):
    source = tmp_path / 'image'
    source.write_bytes(shapes.IMAGE)
    url = server.allow_put(FILE)
    target = location(url, keystone)
    keystone.expire()
    oslo_transfer.copy(source, target, conf=conf)
    assert server.uploads[FILE] == shapes.IMAGE
    # The refused request had no body.
    assert server.partial_uploads == {}
    tokens = [r.headers['x-auth-token'] for r in server.seen(FILE, 'PUT')]
    assert tokens == ['token-1', 'token-2']


def test_corrupt_image_is_never_uploaded_completely(
    conf, server, keystone, tmp_path
):
    source = tmp_path / 'image'
    source.write_bytes(shapes.CORRUPT)
    url = server.allow_put(FILE)
    with pytest.raises(exceptions.DigestMismatch):
        oslo_transfer.copy(
            source,
            location(url, keystone),
            conf=conf,
            **shapes.facts(shapes.image()),
        )
    assert shapes.uploads(server) == {}


def test_region_to_region_keeps_tokens_apart(conf, server, keystone):
    there = server.allow_put(f'/there{FILE}')
    theirs = Keystone(server, 'their-token')
    theirs.guard(f'/there{FILE}')
    oslo_transfer.copy(
        location(server.put(FILE, shapes.IMAGE), keystone),
        location(there, theirs),
        conf=conf,
        **shapes.facts(shapes.image()),
    )
    assert server.uploads[f'/there{FILE}'] == shapes.IMAGE
    for request in server.requests:
        token = request.headers['x-auth-token']
        assert token.startswith('their') == (request.path != FILE)


# glance.common.scripts.utils.CallbackIterator


def test_progress_adds_up(conf, server, keystone, tmp_path):
    url = server.put(FILE, shapes.IMAGE, rate=20 << 20)
    told = []
    oslo_transfer.copy(
        location(url, keystone),
        tmp_path / 'image',
        conf=conf,
        progress=lambda chunk, total: told.append((chunk, total)),
    )
    assert len(told) > 1
    assert told[-1][1] == len(shapes.IMAGE)
    done = 0
    for chunk, total in told:
        done += chunk
        assert total == done


def test_progress_that_aborts_the_task(conf, server, keystone, tmp_path):
    url = server.put(FILE, shapes.IMAGE, rate=4 << 20)
    aborted = TaskAbortedError(ID)

    def progress(chunk_bytes, total_bytes):
        if total_bytes > 1 << 19:
            raise aborted

    with pytest.raises(TaskAbortedError) as caught:
        oslo_transfer.copy(
            location(url, keystone),
            tmp_path / 'image',
            conf=conf,
            progress=progress,
        )
    assert caught.value is aborted
    assert not (tmp_path / 'image').exists()
    assert all('.oslo-part' in name for name in os.listdir(tmp_path))
    assert server.bytes_sent(FILE) < len(shapes.IMAGE)


def test_aborted_task_is_taken_up_again(conf, server, keystone, tmp_path):
    url = server.put(FILE, shapes.IMAGE, rate=8 << 20)

    def progress(chunk_bytes, total_bytes):
        if total_bytes > 1 << 20:
            raise TaskAbortedError

    with pytest.raises(TaskAbortedError):
        oslo_transfer.copy(
            location(url, keystone),
            tmp_path / 'image',
            conf=conf,
            progress=progress,
        )
    server.put(FILE, shapes.IMAGE)
    result = oslo_transfer.copy(
        location(url, keystone), tmp_path / 'image', conf=conf
    )
    assert (tmp_path / 'image').read_bytes() == shapes.IMAGE
    assert result.bytes_by_origin['resumed'] >= 1 << 20
    assert sum(result.bytes_by_origin.values()) == len(shapes.IMAGE)


def test_progress_that_aborts_an_upload(conf, server, keystone, tmp_path):
    source = tmp_path / 'image'
    source.write_bytes(shapes.IMAGE)
    url = server.allow_put(FILE, rate=8 << 20)

    def progress(chunk_bytes, total_bytes):
        raise TaskAbortedError

    with pytest.raises(TaskAbortedError):
        oslo_transfer.copy(
            source, location(url, keystone), conf=conf, progress=progress
        )
    assert shapes.uploads(server) == {}
