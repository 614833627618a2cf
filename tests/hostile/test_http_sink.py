# SPDX-License-Identifier: Apache-2.0
"""Uploads to servers that refuse, stall, trickle, reset or redirect."""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.servers import http
from tests.servers import resource

pytestmark = pytest.mark.usefixtures('nothing_left')

DATA = resource.pattern(6 << 20, seed=9)
#: How far a server reads before it has seen enough.
ENOUGH = 2 << 20
DIGEST = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
WRONG = {'hash_algo': 'sha256', 'hash_value': '0' * 64}


@pytest.fixture(params=['http', 'https'])
def peer(request, conf, certs):
    """A server, with TLS and without."""
    tls = None
    if request.param == 'https':
        tls = certs.server_context()
        conf.set_override('ca_file', certs.ca_file, group='oslo_transfer_http')
    with http.ScriptedHTTPServer(tls) as running:
        yield running


@pytest.fixture
def conf(conf):
    for name, value in {'max_retries': 0, 'stall_timeout': 0.5}.items():
        conf.set_override(name, value, group='oslo_transfer')
    return conf


@pytest.fixture(params=['length', 'chunked'])
def source(request, tmp_path):
    """A source whose size is known, or not."""
    if request.param == 'chunked':
        return io.BytesIO(DATA)
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    return path


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    return path


def take(server, path, handler):
    """Let a function answer uploads."""
    server._puts[path] = handler
    return server.url(path)


def complete(server):
    """The uploads that a server has taken, when it has seen all there is."""
    end = time.monotonic() + 5
    while server.connections.open and time.monotonic() < end:
        threading.Event().wait(0.005)
    assert not server.connections.open
    return server.uploads


def store(server, request, conn, status=201):
    """Take the whole body and keep it."""
    server.uploads[request.path] = request.body.read_all()
    conn.reply(status)


# When all goes well


def test_upload(conf, peer, source):
    url = peer.allow_put('/image')
    result = oslo_transfer.copy(source, url, conf=conf, **DIGEST)
    assert peer.uploads['/image'] == DATA
    assert result.size == len(DATA)
    assert result.verified
    assert result.destination == url
    assert result.form == 'file'


def test_framing(conf, server, source):
    oslo_transfer.copy(source, server.allow_put('/image'), conf=conf)
    (request,) = server.requests
    if isinstance(source, io.BytesIO):
        assert request.headers['transfer-encoding'] == 'chunked'
        # Both at once is what request smuggling is made of.
        assert 'content-length' not in request.headers
    else:
        assert request.headers['content-length'] == str(len(DATA))
        assert 'transfer-encoding' not in request.headers


def test_size_that_the_caller_knows(conf, server):
    """It is compared, though the source itself does not tell it."""
    url = server.allow_put('/image')
    with pytest.raises(exceptions.SizeMismatch):
        oslo_transfer.copy(
            io.BytesIO(DATA), url, conf=conf, expected_size=len(DATA) + 1
        )
    assert complete(server) == {}


@pytest.mark.parametrize('data', [b'', b'x', DATA[: (1 << 20) + 1]])
@pytest.mark.parametrize('digest', [True, False])
def test_small_uploads(conf, peer, tmp_path, data, digest):
    path = tmp_path / 'image'
    path.write_bytes(data)
    facts = {'hash_algo': 'sha256'}
    if digest:
        facts['hash_value'] = hashlib.sha256(data).hexdigest()
    for name, source in (('/a', path), ('/b', io.BytesIO(data))):
        oslo_transfer.copy(source, peer.allow_put(name), conf=conf, **facts)
        assert peer.uploads[name] == data


def test_nothing_is_replaced_unless_asked_for(conf, server, file):
    oslo_transfer.copy(file, server.allow_put('/image'), conf=conf)
    oslo_transfer.copy(
        file, server.allow_put('/image'), conf=conf, overwrite=True
    )
    asked = [r.headers.get('if-none-match') for r in server.requests]
    assert asked == ['*', None]


def test_http_to_http(conf, server):
    source = server.put('/from', DATA, rate=40 << 20)
    oslo_transfer.copy(source, server.allow_put('/to'), conf=conf, **DIGEST)
    assert server.uploads['/to'] == DATA


# 100 Continue, or none


def test_server_that_never_says_continue(conf, peer, source):
    def answer(request, conn):
        request.body._expect = False
        store(peer, request, conn)

    oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)
    assert peer.uploads['/image'] == DATA


def test_server_that_says_continue_late(conf, peer, source):
    def answer(request, conn):
        request.body._expect = False
        request.body.read(1)  # The body comes, for nobody waits for ever.
        conn.send_raw(b'HTTP/1.1 100 Continue\r\n\r\n')
        peer.uploads[request.path] = request.body.read_all()
        conn.reply(201)

    oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)
    assert len(peer.uploads['/image']) == len(DATA) - 1


def test_server_that_says_more_than_continue(conf, peer, source):
    def answer(request, conn):
        request.body._expect = False
        conn.send_raw(
            b'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'
            b'HTTP/1.1 100 Continue\r\nX-A: b\r\n\r\n'
            b'HTTP/1.1 102 Processing\r\n\r\n'
        )
        peer.uploads[request.path] = request.body.read_all()
        conn.send_raw(b'HTTP/1.1 102 Processing\r\n\r\n' * 3)
        conn.reply(201)

    oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)
    assert peer.uploads['/image'] == DATA


def test_server_that_takes_its_continue_back(conf, peer, source):
    def answer(request, conn):
        request.body._expect = False
        conn.send_raw(
            b'HTTP/1.1 100 Continue\r\n\r\n'
            b'HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n'
        )
        conn.stall()

    with pytest.raises(exceptions.NoSpace):
        oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)


@pytest.mark.parametrize(
    ('status', 'error'),
    [
        (401, exceptions.AccessDenied),
        (403, exceptions.AccessDenied),
        (404, exceptions.NotFound),
        (409, exceptions.AlreadyExists),
        (411, exceptions.ProtocolError),
        (412, exceptions.AlreadyExists),
        (413, exceptions.NoSpace),
        (417, exceptions.ProtocolError),
        (500, exceptions.Unavailable),
        (503, exceptions.Unavailable),
        (507, exceptions.NoSpace),
    ],
)
def test_refusal_before_the_body(conf, peer, source, status, error):
    def answer(request, conn):
        request.body._expect = False
        conn.reply(status, b'no')
        conn.close()

    with pytest.raises(error) as caught:
        oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)
    assert str(status) in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_success_before_the_body_is_none(conf, peer, source):
    def answer(request, conn):
        request.body._expect = False
        conn.reply(201)

    with pytest.raises(exceptions.ProtocolError):
        oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)


# An answer in mid-body


@pytest.mark.parametrize('reset', [False, True])
@pytest.mark.parametrize(
    ('status', 'error'),
    [
        (403, exceptions.AccessDenied),
        (413, exceptions.NoSpace),
        (503, exceptions.Unavailable),
    ],
)
def test_early_error(conf, peer, source, status, error, reset):
    url = peer.allow_put(
        '/image', early_error=(status, ENOUGH), early_reset=reset
    )
    with pytest.raises(error) as caught:
        oslo_transfer.copy(source, url, conf=conf)
    assert str(status) in str(caught.value)
    assert complete(peer) == {}


@pytest.mark.parametrize('status', [413, 507])
def test_early_error_of_a_server_that_reads_no_more(
    conf, peer, source, status
):
    """It does not hang up either: the answer is all there is."""

    def answer(request, conn):
        request.body.read(1000)
        conn.send_raw(
            f'HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n'.encode()
        )
        conn.stall()

    with pytest.raises(exceptions.NoSpace):
        oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)


def test_early_success_is_none(conf, peer, source):
    def answer(request, conn):
        request.body.read(1000)
        conn.reply(201)
        conn.close()

    with pytest.raises(oslo_transfer.TransferError):
        oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)


@pytest.mark.parametrize('status', [400, 409, 413, 500, 507])
def test_error_behind_the_body(conf, peer, source, status):
    url = peer.allow_put('/image', status=status)
    with pytest.raises(oslo_transfer.TransferError) as caught:
        oslo_transfer.copy(source, url, conf=conf)
    assert str(status) in str(caught.value)


@pytest.mark.parametrize(
    'answer',
    [
        b'',
        b'HTTP/1.1 2',
        b'HTTP/1.1 201 Created\r\nContent-Le',
        b'nonsense\r\n\r\n',
        b'HTTP/1.1 302 Go\r\nLocation: /b\r\n\r\n',
        b'HTTP/1.1 100 Continue\r\n\r\n',
    ],
)
def test_answer_that_is_none_is_no_success(conf, peer, source, answer):
    def take_all(request, conn):
        request.body.read_all()
        conn.send_raw(answer)
        conn.close()

    with pytest.raises(oslo_transfer.TransferError):
        oslo_transfer.copy(source, take(peer, '/image', take_all), conf=conf)


# A token that is renewed


def test_token_is_renewed_before_the_body(conf, peer, file):
    url = peer.allow_put('/image', require_token={'new'})
    credentials = oslo_transfer.TokenCredentials('old', lambda: 'new')
    oslo_transfer.copy(
        file, oslo_transfer.Location(url, credentials=credentials), conf=conf
    )
    assert peer.uploads['/image'] == DATA
    assert peer.partial_uploads == {}
    tokens = [request.headers['x-auth-token'] for request in peer.requests]
    assert tokens == ['old', 'new']


def test_token_that_is_refused_again(conf, peer, file):
    url = peer.allow_put('/image', require_token={'none has it'})
    credentials = oslo_transfer.TokenCredentials('old', lambda: 'new')
    with pytest.raises(exceptions.AccessDenied):
        oslo_transfer.copy(
            file,
            oslo_transfer.Location(url, credentials=credentials),
            conf=conf,
        )
    assert len(peer.requests) == 2


# Servers that are slow, or go away


def test_server_that_does_not_answer_at_all(conf, peer, file):
    url = take(peer, '/image', lambda request, conn: conn.stall())
    started = time.monotonic()
    with pytest.raises(exceptions.Stalled):
        oslo_transfer.copy(file, url, conf=conf)
    assert time.monotonic() - started < 4


def test_server_that_stops_reading(conf, peer, source):
    def answer(request, conn):
        request.body.read(1000)
        conn.stall()

    started = time.monotonic()
    with pytest.raises(exceptions.Stalled):
        oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)
    assert time.monotonic() - started < 4


def test_server_that_takes_all_and_does_not_answer(conf, peer, source):
    def answer(request, conn):
        request.body.read_all()
        conn.stall()

    started = time.monotonic()
    with pytest.raises(exceptions.Stalled):
        oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)
    assert time.monotonic() - started < 4


def test_server_that_reads_slowly_is_waited_for(conf, peer, tmp_path):
    """It takes longer than the stall time, and is never silent for it."""
    path = tmp_path / 'image'
    # More than sockets hold, so that the last of it is soon read.
    path.write_bytes(bytes(40 << 20))
    conf.set_override('stall_timeout', 0.8, group='oslo_transfer')
    url = peer.allow_put('/image', rate=36 << 20)
    started = time.monotonic()
    oslo_transfer.copy(path, url, conf=conf)
    assert time.monotonic() - started > 0.8
    assert len(peer.uploads['/image']) == 40 << 20


def test_server_that_trickles(conf, peer, source):
    def answer(request, conn):
        while request.body.read(100):
            conn.wait(0.1)

    conf.set_override('stall_bytes_per_second', 1 << 20, group='oslo_transfer')
    started = time.monotonic()
    with pytest.raises(exceptions.Stalled):
        oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)
    assert time.monotonic() - started < 6


@pytest.mark.parametrize('position', [0, 1 << 16, ENOUGH])
@pytest.mark.parametrize('how', ['reset', 'close', 'release'])
def test_server_that_goes_away(conf, peer, source, position, how):
    def answer(request, conn):
        done = 0
        while done < position:
            done += len(request.body.read(position - done))
        getattr(conn, how)()

    with pytest.raises(exceptions.Unavailable):
        oslo_transfer.copy(source, take(peer, '/image', answer), conf=conf)


@pytest.mark.parametrize('behaviour', ['silent', 'stuck', 'unanswered'])
def test_cancel_ends_it_within_a_second(conf, peer, source, behaviour):
    conf.set_override('stall_timeout', 30.0, group='oslo_transfer')
    cancel = threading.Event()

    def answer(request, conn):
        if behaviour == 'stuck':
            request.body.read(1000)
        elif behaviour == 'unanswered':
            request.body.read_all()
        set_at.append(time.monotonic())
        cancel.set()
        conn.stall()

    set_at = []
    with pytest.raises(exceptions.TransferCancelled):
        oslo_transfer.copy(
            source, take(peer, '/image', answer), conf=conf, cancel=cancel
        )
    assert time.monotonic() - set_at[0] < 1.1


def test_deadline_ends_it(conf, peer, source):
    conf.set_override('stall_timeout', 30.0, group='oslo_transfer')

    def answer(request, conn):
        request.body.read(1000)
        conn.stall()

    started = time.monotonic()
    with pytest.raises(exceptions.DeadlineExceeded):
        oslo_transfer.copy(
            source, take(peer, '/image', answer), conf=conf, deadline=0.3
        )
    assert time.monotonic() - started < 1.5


# What is not verified is never complete


def test_wrong_digest_is_never_a_complete_upload(conf, peer, source):
    url = peer.allow_put('/image')
    with pytest.raises(exceptions.DigestMismatch):
        oslo_transfer.copy(source, url, conf=conf, **WRONG)
    assert complete(peer) == {}


@pytest.mark.parametrize('data', [b'', b'x', DATA[: 1 << 20]])
def test_wrong_digest_of_little_data(conf, peer, tmp_path, data):
    path = tmp_path / 'image'
    path.write_bytes(data)
    for name, source in (('/a', path), ('/b', io.BytesIO(data))):
        with pytest.raises(exceptions.DigestMismatch):
            oslo_transfer.copy(
                source, peer.allow_put(name), conf=conf, **WRONG
            )
    assert complete(peer) == {}


def test_source_that_ends_early_is_never_a_complete_upload(conf, peer, server):
    whole = resource.Resource(DATA, len(DATA), ranges=False)

    def cut(request, conn):
        whole.answer(request, conn, ENOUGH)
        conn.reset()

    with pytest.raises(exceptions.Unavailable):
        oslo_transfer.copy(
            server.serve('/from', cut), peer.allow_put('/to'), conf=conf
        )
    assert complete(peer) == {}


@pytest.mark.parametrize(('digest', 'uploads'), [({}, 2), (DIGEST, 1)])
def test_next_location_is_a_new_upload(conf, peer, server, digest, uploads):
    """Unless a digest lets it go on where the other one broke off."""
    whole = resource.Resource(DATA, len(DATA), ranges=False)

    def cut(request, conn):
        whole.answer(request, conn, ENOUGH)
        conn.reset()

    result = oslo_transfer.copy(
        [server.serve('/bad', cut), server.put('/good', DATA)],
        peer.allow_put('/to'),
        conf=conf,
        **digest,
    )
    assert peer.uploads['/to'] == DATA
    assert server.url('/good') in result.bytes_by_location
    assert len(peer.seen('/to', 'PUT')) == uploads


# Redirects


@pytest.mark.parametrize('status', [301, 302, 307, 308])
def test_redirect_before_the_body(conf, peer, source, status):
    peer.allow_put('/there')
    url = take(
        peer,
        '/here',
        lambda request, conn: conn.reply(status, b'', {'Location': '/there'}),
    )
    oslo_transfer.copy(source, url, conf=conf, **DIGEST)
    assert peer.uploads['/there'] == DATA
    assert peer.partial_uploads == {}


def test_see_other_is_no_place_for_an_upload(conf, peer, source):
    peer.allow_put('/there')
    url = take(
        peer,
        '/here',
        lambda request, conn: conn.reply(303, b'', {'Location': '/there'}),
    )
    with pytest.raises(exceptions.ProtocolError, match='303'):
        oslo_transfer.copy(source, url, conf=conf)
    assert peer.seen('/there') == []


def test_redirect_to_another_origin_gets_no_token(conf, server, file):
    with http.ScriptedHTTPServer() as other:
        for name, value in {
            'untrusted_networks': ['127.0.0.0/8'],
            'untrusted_ports': [other.port],
        }.items():
            conf.set_override(name, value, group='oslo_transfer')
        target = other.allow_put('/there')
        url = take(
            server,
            '/here',
            lambda request, conn: conn.reply(307, b'', {'Location': target}),
        )
        credentials = oslo_transfer.TokenCredentials('s3cr3t')
        oslo_transfer.copy(
            file,
            oslo_transfer.Location(url, credentials=credentials),
            conf=conf,
        )
        assert other.uploads['/there'] == DATA
        assert 's3cr3t' not in repr(other.requests)


def test_redirect_in_mid_body_is_an_error(conf, peer, source):
    def answer(request, conn):
        request.body.read(1000)
        conn.reply(307, b'', {'Location': '/there'})
        conn.close()

    with pytest.raises(oslo_transfer.TransferError):
        oslo_transfer.copy(source, take(peer, '/here', answer), conf=conf)


def test_endless_redirects(conf, peer, source):
    url = take(
        peer,
        '/here',
        lambda request, conn: conn.reply(307, b'', {'Location': '/here'}),
    )
    with pytest.raises(exceptions.ProtocolError, match='redirects'):
        oslo_transfer.copy(source, url, conf=conf)
    assert len(peer.requests) <= 10


# It does not take its time


def test_upload_is_not_slow(conf, peer, source):
    """No wait of a fixed length for each buffer."""
    url = peer.allow_put('/image')
    started = time.monotonic()
    oslo_transfer.copy(source, url, conf=conf)
    assert time.monotonic() - started < 1.0
