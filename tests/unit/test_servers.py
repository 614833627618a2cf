# SPDX-License-Identifier: Apache-2.0
"""The test servers do what they claim, and leave nothing behind."""

from __future__ import annotations

import contextlib
import email.utils
import socket
import ssl
import threading
import time

import pytest

from tests.servers import certs
from tests.servers import child
from tests.servers import http
from tests.servers import nginx
from tests.servers import rawclient
from tests.servers import resource
from tests.servers import squid

DATA = resource.pattern(256 * 1024)


@pytest.fixture(autouse=True)
def nothing_left():
    with rawclient.nothing_left():
        yield


@pytest.fixture(scope='session')
def authority(tmp_path_factory):
    return certs.Certs(tmp_path_factory.mktemp('certs'))


@pytest.fixture
def server():
    with http.ScriptedHTTPServer() as scripted:
        yield scripted


def test_get_keeps_the_connection(server):
    server.put('/data', DATA, headers={'X-More': 'yes'})
    with rawclient.Client(server) as client:
        for _ in range(3):
            status, headers, body = client.get('/data')
            assert (status, body) == (200, DATA)
            assert headers['x-more'] == 'yes'
        status, headers, body = client.get('/data', method='HEAD')
        assert (status, body) == (200, b'')
        assert headers['content-length'] == str(len(DATA))
        assert client.get('/none')[0] == 404
    assert server.bytes_sent('/data') == 3 * len(DATA)
    assert server.connections.total == 1
    assert [r.serial for r in server.seen('/data')] == [0, 1, 2, 3]
    assert [r.nth for r in server.seen('/data', 'HEAD')] == [0]


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize(
    ('asked', 'start', 'stop'),
    [
        ('bytes=0-0', 0, 1),
        ('bytes=5-9', 5, 10),
        ('bytes=1000-', 1000, None),
        ('bytes=-10', -10, None),
        ('bytes=262143-999999', -1, None),
    ],
)
def test_range(server, asked, start, stop, chunked):
    server.put('/data', DATA, chunked=chunked)
    with rawclient.Client(server) as client:
        status, headers, body = client.get('/data', Range=asked)
        assert (status, body) == (206, DATA[start:stop])
        assert headers['content-range'].endswith(f'/{len(DATA)}')
        assert client.get('/data', Range=asked)[2] == DATA[start:stop]


def test_range_not_satisfied(server):
    server.put('/data', DATA)
    with rawclient.Client(server) as client:
        status, headers, _ = client.get('/data', Range='bytes=262144-')
    assert (status, headers['content-range']) == (416, 'bytes */262144')


def test_ranges_off(server):
    server.put('/data', DATA, ranges=False)
    with rawclient.Client(server) as client:
        status, headers, body = client.get('/data', Range='bytes=5-9')
    assert (status, body) == (200, DATA)
    assert 'accept-ranges' not in headers


def test_if_range(server):
    date = email.utils.formatdate(0, usegmt=True)
    server.put('/data', DATA, last_modified=date)
    with rawclient.Client(server) as client:
        for value, status in (
            ('"v1"', 206),
            ('"v2"', 200),
            ('W/"v1"', 200),
            (date, 206),
        ):
            got = client.get('/data', Range='bytes=5-9', If_Range=value)
            assert got[0] == status, value
        assert client.get('/data', If_Match='"v2"')[0] == 412


def test_chunked_and_close_delimited(server):
    server.put('/chunked', DATA, chunked=True)
    server.put('/plain', DATA, content_length=False)
    with rawclient.Client(server) as client:
        assert client.get('/chunked')[2] == DATA
        assert client.get('/chunked')[2] == DATA
        status, headers, body = client.get('/plain')
        assert (body, headers['connection']) == (DATA, 'close')


def test_virtual_data(server):
    data = resource.Virtual(1 << 40, seed=7)
    server.put('/huge', data)
    offset = (1 << 39) + 12345
    with rawclient.Client(server) as client:
        _, headers, body = client.get(
            '/huge', Range=f'bytes={offset}-{offset + 99_999}'
        )
    assert body == data(offset, 100_000)
    assert headers['content-range'].endswith(f'/{1 << 40}')


def test_rate(server):
    server.put('/slow', DATA[:20_000], rate=100_000)
    begin = time.monotonic()
    with rawclient.Client(server) as client:
        assert client.get('/slow')[2] == DATA[:20_000]
    assert 0.15 < time.monotonic() - begin < 2


@pytest.mark.parametrize('k', [0, 1, 4096, 100_000])
def test_reset_at(server, k):
    whole = resource.Resource(DATA, len(DATA))

    def handler(request, conn):
        assert whole.answer(request, conn, k)
        conn.reset()

    server.serve('/data', handler)
    with rawclient.Client(server) as client:
        client.send('/data')
        client.head()
        got = b''
        with pytest.raises(ConnectionResetError):
            while piece := client.file.read1(1000):
                got += piece
    assert got == DATA[:k]
    assert server.bytes_sent('/data') == k


def test_fin(server):
    def handler(request, conn):
        conn.send_head(200, {'Content-Length': '10'})
        conn.send(b'half.')
        conn.close()

    server.serve('/data', handler)
    with rawclient.Client(server) as client:
        assert client.get('/data')[2] == b'half.'
        assert client.file.read() == b''


@pytest.mark.parametrize('what', ['stall', 'trickle', 'flood'])
@pytest.mark.parametrize('who', ['server', 'peer'])
def test_close_ends_what_waits(what, who):
    started, ended = threading.Event(), threading.Event()

    def handler(request, conn):
        try:
            conn.send_head(200)
            conn.send(b'x')
            started.set()
            if what == 'stall':
                conn.stall()
            elif what == 'trickle':
                conn.trickle(DATA, 0.1)
            while True:
                conn.send(DATA)
        finally:
            ended.set()

    with http.ScriptedHTTPServer() as server:
        server.serve('/data', handler)
        with rawclient.Client(server) as client:
            client.send('/data')
            client.head()
            assert started.wait(5)
            begin = time.monotonic()
            if who == 'server':
                server.close()
        assert ended.wait(5)
        server.close()
        server.close()
    assert time.monotonic() - begin < 1
    assert server.connections.open == 0


def test_idle_connections_end_on_close(server):
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(rawclient.Client(server))
            client.get('/')
        assert server.connections.peak == 50
        begin = time.monotonic()
        server.close()
        assert time.monotonic() - begin < 2
        assert client.file.read() == b''


def test_put(server):
    path = '/v2/images/ID/file'
    server.allow_put(path, require_token='good', readable=True)
    size = {'Content_Length': len(DATA)}
    with rawclient.Client(server) as client:
        refused = client.get(path, method='PUT', X_Auth_Token='bad', **size)
        assert refused[0] == 401
    assert not server.uploads
    with rawclient.Client(server) as client:
        put = {'method': 'PUT', 'body': DATA, 'X_Auth_Token': 'good'}
        assert client.get(path, **put, **size)[0] == 204
        assert server.uploads[path] == DATA
        assert client.get(path, X_Auth_Token='good')[2] == DATA
        put['body'] = b'5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\n\r\n'
        put['Transfer_Encoding'] = 'chunked'
        assert client.get(path, **put)[0] == 204
        assert server.uploads[path] == b'helloyou'


def test_put_expects_continue(server):
    server.allow_put('/up')
    with rawclient.Client(server) as client:
        client.send(
            '/up', method='PUT', Content_Length=5, Expect='100-continue'
        )
        assert client.head()[0] == 100
        client.sock.sendall(b'hello')
        assert client.head()[0] == 204
    assert server.uploads['/up'] == b'hello'


def test_put_early_error(server):
    server.allow_put('/up', early_error=(413, 1000))
    with rawclient.Client(server) as client:
        status, headers, _ = client.get(
            '/up', method='PUT', body=DATA, Content_Length=len(DATA)
        )
    assert (status, headers['connection']) == (413, 'close')
    assert server.partial_uploads['/up'] == DATA[:1000]


def test_put_broken_off(server):
    server.allow_put('/up')
    with rawclient.Client(server) as client:
        client.send('/up', method='PUT', body=b'half', Content_Length=8)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.file.read() == b''
    server.close()
    assert server.partial_uploads == {'/up': b'half'}
    assert not server.uploads


def test_token_changes(server):
    tokens = {'one'}
    server.put('/data', b'x')
    server.require_token('/data', tokens)
    with rawclient.Client(server) as client:
        assert client.get('/data', X_Auth_Token='one')[0] == 200
        tokens.clear()
        tokens.add('two')
        assert client.get('/data', X_Auth_Token='one')[0] == 401
        assert client.get('/data', X_Auth_Token='two')[0] == 200
        server.require_token('/data', None)
        assert client.get('/data')[0] == 200


def test_bugs_in_handlers_show():
    def handler(request, conn):
        raise LookupError('bug')

    with pytest.raises(RuntimeError, match='handler'):
        with http.ScriptedHTTPServer() as server:
            server.serve('/', handler)
            with rawclient.Client(server) as client:
                client.send('/')
                assert client.file.read() == b''


def test_tls(authority):
    context = authority.client_context()
    with http.ScriptedHTTPServer(authority.server_context()) as server:
        server.put('/data', DATA, content_length=False)
        for _ in range(2):
            with rawclient.Client(server, context) as client:
                # Strict: an end without close_notify would raise.
                client.sock.suppress_ragged_eofs = False
                assert client.get('/data')[2] == DATA
        server.serve('/cut', lambda r, c: c.close(notify=False))
        with rawclient.Client(server, context) as client:
            client.sock.suppress_ragged_eofs = False
            client.send('/cut')
            # Its own subclass in newer releases of Python 3.11 only.
            with pytest.raises(ssl.SSLError, match='(?i)eof'):
                client.file.read()


@pytest.mark.parametrize('leaf', certs.LEAVES)
def test_certificates(authority, leaf):
    with http.ScriptedHTTPServer(authority.server_context(leaf)) as server:
        with contextlib.ExitStack() as stack:
            if leaf != 'good':
                stack.enter_context(pytest.raises(ssl.SSLError))
            rawclient.Client(server, authority.client_context()).__exit__()
    assert not server.requests


def test_client_certificate(authority):
    context = authority.server_context(ask_client=True)
    with http.ScriptedHTTPServer(context) as server:
        server.put('/data', b'x')
        known = authority.client_context(with_certificate=True)
        with rawclient.Client(server, known) as client:
            assert client.get('/data')[2] == b'x'
        with rawclient.Client(server, authority.client_context()) as client:
            with pytest.raises((OSError, EOFError)):
                client.get('/data')


# Programs


needs_nginx = pytest.mark.skipif(
    nginx.Nginx.found() is None, reason='nginx is not installed'
)
needs_squid = pytest.mark.skipif(
    squid.Squid.found() is None, reason='squid is not installed'
)


@needs_nginx
def test_nginx(tmp_path, monkeypatch):
    (tmp_path / 'data').write_bytes(DATA)
    with socket.create_server(('127.0.0.1', 0)) as taken:
        ports = [taken.getsockname()[1], child.free_port()]
        monkeypatch.setattr(child, 'free_port', lambda host: ports.pop(0))
        with nginx.Nginx(tmp_path, put=True) as server:
            assert not ports
            with rawclient.Client(server) as client:
                assert client.get('/data')[2] == DATA
                got = client.get('/data', Range='bytes=5-9')
                assert (got[0], got[2]) == (206, DATA[5:10])
                put = {'method': 'PUT', 'body': b'hi', 'Content_Length': 2}
                assert client.get('/new/file', **put)[0] == 201
    assert (tmp_path / 'new' / 'file').read_bytes() == b'hi'
    assert not server.directory.exists()


@needs_nginx
def test_nginx_variants(tmp_path, authority):
    (tmp_path / 'data').write_bytes(DATA)
    options = {'ranges': False, 'certificate': authority.pair()}
    with nginx.Nginx(tmp_path, limit_rate=1 << 20, **options) as server:
        begin = time.monotonic()
        with rawclient.Client(server, authority.client_context()) as client:
            got = client.get('/data', Range='bytes=5-9')
        assert (got[0], got[2]) == (200, DATA)
        assert time.monotonic() - begin < 5


@needs_squid
def test_squid(server):
    url = server.put('/data', DATA)
    with squid.Squid('user', 'pass word') as proxy:
        with rawclient.Client(proxy) as client:
            assert client.get(url)[0] == 407
            basic = 'Basic dXNlcjpwYXNzIHdvcmQ='
            got = client.get(url, Proxy_Authorization=basic)
            assert (got[0], got[2]) == (200, DATA)
        assert any('TCP_DENIED' in line for line in proxy.requests())
    assert 'via' in server.requests[0].headers
    assert 'proxy-authorization' not in server.requests[0].headers
