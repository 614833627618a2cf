# SPDX-License-Identifier: Apache-2.0
"""The HTTP export: what is there goes out, what is not is fetched first."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import pytest

from oslo_transfer import exceptions
from oslo_transfer.export import http_channel
from oslo_transfer.export import http_host
from oslo_transfer.export import http_pages
from oslo_transfer.export import http_server
from oslo_transfer.export import listening
from tests.servers import rawclient
from tests.servers import resource
from tests.servers import scripted_image
from tests import waiting

BLOCK = scripted_image.BLOCK
DATA = resource.pattern(40 * BLOCK + 1234)
pytestmark = pytest.mark.usefixtures('nothing_left')


@pytest.fixture
def image(request):
    """By default one whose blocks may be evicted, and so are copied."""
    with scripted_image.ScriptedImage(DATA) as made:
        made.stays = getattr(request, 'param', False)
        yield made


BOTH = pytest.mark.parametrize(
    'image', [False, True], indirect=True, ids=['copied', 'lent']
)


@pytest.fixture
def server(image):
    with http_server.HttpServer(
        {'image': image}, listening.Address()
    ) as running:
        yield running


def address(server):
    host, _, port = server.url.split('/')[2].rpartition(':')
    return host.strip('[]'), int(port)


class Client(rawclient.Client):
    """A client of one of our servers."""

    def __init__(self, server, context=None, timeout=5.0):
        self.host, self.port = address(server)
        super().__init__(self, context, timeout)


@BOTH
def test_whole(server, image):
    with Client(server) as client:
        for _ in range(2):
            status, headers, body = client.get('/image')
            assert (status, body) == (200, DATA)
        assert headers['etag'] == '"feed"'
    # Each block was fetched once, in order.
    assert image.brought == list(range(41))
    counts = server.statistics()
    assert counts['requests'] == 2
    assert counts['bytes_sent'] == 2 * len(DATA)
    assert counts['missed'] == 41
    assert counts['broken'] == 0


@BOTH
@pytest.mark.parametrize(
    ('start', 'end'),
    [
        (0, 1),
        (BLOCK - 1, BLOCK + 1),
        (5 * BLOCK + 7, 9 * BLOCK),
        (0, len(DATA)),
    ],
)
def test_ranges(start, end, server, image):
    with Client(server) as client:
        for _ in range(2):
            status, headers, body = client.get(
                '/image', range=f'bytes={start}-{end - 1}'
            )
            assert (status, body) == (206, DATA[start:end])
            assert headers['content-range'] == (
                f'bytes {start}-{end - 1}/{len(DATA)}'
            )
    # And nothing that nobody asked for.
    assert image.brought == list(range(start // BLOCK, -(-end // BLOCK)))


@BOTH
def test_several_ranges(server):
    with Client(server) as client:
        status, headers, body = client.get(
            '/image', range=f'bytes=0-99,{3 * BLOCK}-{3 * BLOCK + 9},-7'
        )
        assert status == 206
        boundary = headers['content-type'].partition('boundary=')[2].encode()
        parts = body.split(b'\r\n--' + boundary)
        found = [part.partition(b'\r\n\r\n')[2] for part in parts[1:-1]]
        assert found == [
            DATA[:100],
            DATA[3 * BLOCK : 3 * BLOCK + 10],
            DATA[-7:],
        ]
        assert (parts[0], parts[-1]) == (b'', b'--\r\n')
        assert client.get('/image', range='bytes=5-5')[2] == DATA[5:6]


def test_head(server, image):
    with Client(server) as client:
        status, headers, _ = client.get('/image', method='HEAD')
        assert (status, headers['content-length']) == (200, str(len(DATA)))
        # Nothing more came, and nothing was fetched for it.
        assert client.get('/image', range='bytes=0-0')[2] == DATA[:1]
    assert image.brought == [0]


@BOTH
def test_pipelining(server):
    """Many requests in one piece are answered in their order."""
    places = [number * 7919 % len(DATA) for number in range(300)]
    text = b''.join(
        b'GET /image HTTP/1.1\r\nHost: here\r\nRange: bytes=%d-%d\r\n\r\n'
        % (place, place)
        for place in places
    )
    with Client(server) as client:
        client.sock.sendall(text)
        for place in places:
            status, headers = client.head()
            assert client.body(headers) == DATA[place : place + 1]


def test_a_request_byte_by_byte(server):
    with Client(server) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for (
            byte
        ) in b'GET /image HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2\r\n\r\n':
            client.sock.sendall(bytes([byte]))
        status, headers = client.head()
        assert client.body(headers) == DATA[1:3]


def test_http_1_0(server):
    """An old client is told the end by closing, too."""
    with Client(server) as client:
        client.sock.sendall(b'GET /image HTTP/1.0\r\n\r\n')
        status, headers = client.head()
        assert (status, headers['connection']) == (200, 'close')
        assert client.file.read() == DATA


def test_one_who_ends_his_side_gets_the_answer(server):
    with Client(server) as client:
        client.send('/image')
        client.sock.shutdown(socket.SHUT_WR)
        status, headers = client.head()
        assert client.file.read() == DATA


def test_what_is_evicted_is_fetched_again(server, image):
    with Client(server) as client:
        assert client.get('/image', range='bytes=0-9')[2] == DATA[:10]
        waiting.until(lambda: server.statistics()['requests'])
        image.evict(0)
        assert client.get('/image', range='bytes=5-14')[2] == DATA[5:15]
    assert image.brought == [0, 0]


def test_what_goes_as_soon_as_it_came_is_read_past_the_cache(server, image):
    """Nobody is fed by fetching in vain for ever."""
    image.put = lambda block: None
    with Client(server) as client:
        assert client.get('/image', range='bytes=3-70000')[2] == DATA[3:70001]
    assert len(image.brought) < 10
    assert image.read


@BOTH
def test_what_cannot_be_kept(server, image):
    image.keeps = False
    with Client(server) as client:
        assert client.get('/image')[2] == DATA
        assert client.get('/image', range='bytes=-5')[2] == DATA[-5:]
    assert max(length for _, length in image.read) <= BLOCK
    assert sum(length for _, length in image.read) == len(DATA) + 5


@BOTH
def test_a_data_file_that_was_cut(server, image):
    """What the disk lost comes from the origin."""
    for block in range(41):
        image.put(block)
    os.truncate(image.fd, 5 * BLOCK)
    with Client(server) as client:
        assert client.get('/image')[2] == DATA


@BOTH
def test_an_origin_that_is_gone(server, image):
    """Before the first byte that is an answer, and the connection lives."""
    image.put(0)
    image.on_bring = scripted_image.unavailable
    with Client(server) as client:
        status, headers, body = client.get('/image', range='bytes=65536-')
        assert (status, headers['retry-after']) == (503, '5')
        assert b'secret' not in body
        assert client.get('/image', range='bytes=0-9')[2] == DATA[:10]
    assert server.statistics()['broken'] == 0


@pytest.mark.parametrize(
    'error', [exceptions.Unavailable('gone'), ZeroDivisionError('a bug')]
)
def test_an_origin_that_goes_away(error, server, image):
    """Later the client sees fewer bytes than it was promised."""

    def bring(block):
        if block == 7:
            raise error

    image.on_bring = bring
    with Client(server) as client:
        client.send('/image')
        status, headers = client.head()
        assert int(headers['content-length']) == len(DATA)
        assert client.file.read() == DATA[: 7 * BLOCK]
    assert server.statistics()['broken'] == 1
    waiting.until(lambda: not image.readers)


def test_others_are_served_while_one_waits(server, image):
    go = threading.Event()
    image.put(0)
    image.on_bring = lambda _block: go.wait(5)
    with Client(server) as patient, Client(server) as other:
        patient.send('/image', range='bytes=65536-65599')
        waiting.until(lambda: server.statistics()['missed'])
        for _ in range(3):
            assert other.get('/image', range='bytes=0-9')[2] == DATA[:10]
        go.set()
        status, headers = patient.head()
        assert patient.body(headers) == DATA[BLOCK : BLOCK + 64]


def test_others_are_served_while_the_disk_is_slow(server, image, monkeypatch):
    """What is there, but not in memory, is waited for by another thread."""
    go = threading.Event()
    for block in range(41):
        image.put(block)
    monkeypatch.setattr(
        http_pages, 'is_cached', lambda fd, offset: offset < BLOCK
    )
    monkeypatch.setattr(http_pages, 'load', lambda *_all: go.wait(5))
    with Client(server) as patient, Client(server) as other:
        patient.send('/image', range=f'bytes={BLOCK}-{3 * BLOCK}')
        waiting.until(lambda: server.statistics()['loaded'])
        for _ in range(3):
            assert other.get('/image', range='bytes=0-9')[2] == DATA[:10]
        go.set()
        status, headers = patient.head()
        assert patient.body(headers) == DATA[BLOCK : 3 * BLOCK + 1]


def test_what_is_in_memory(tmp_path):
    """Nothing is said of what nobody can tell, and all can be loaded."""
    path = tmp_path / 'file'
    path.write_bytes(DATA)
    with open(path, 'rb') as file:
        fd = file.fileno()
        http_pages.load(fd, 0, len(DATA), BLOCK)
        assert http_pages.is_cached(fd, len(DATA) - 1) in (True, None)
    # What cannot be read is left to whoever does.
    assert http_pages.is_cached(fd, 0) is True
    http_pages.load(fd, 0, 1, 0)


def test_one_who_leaves_while_it_is_fetched(server, image):
    """Nothing more is fetched for him, and nothing of him is left."""
    go = threading.Event()
    image.on_bring = lambda _block: go.wait(5)
    with Client(server) as client:
        client.send('/image')
        waiting.until(lambda: server.statistics()['missed'])
    go.set()
    waiting.until(lambda: not image.readers)
    waiting.until(lambda: not server.statistics()['connections'])
    assert len(image.brought) < 5


def test_exports_come_and_go(server, image):
    with scripted_image.ScriptedImage(b'other', there=True) as other:
        with Client(server) as client:
            assert client.get('/other')[0] == 404
            server.add('other', other)
            assert client.get('/other')[2] == b'other'
            assert client.get('/image', range='bytes=0-9')[0] == 206
            server.remove('other')
            server.remove('unknown')
            assert client.get('/other')[0] == 404


def test_an_export_that_is_removed_while_it_is_read(server, image):
    """Who reads it is cut off, and it can be closed at once."""
    reading, removed = threading.Event(), threading.Event()

    def bring(block):
        if block == 5:
            reading.set()
            assert removed.wait(5)

    image.on_bring = bring
    with Client(server) as client, Client(server) as other:
        client.send('/image')
        assert reading.wait(5)
        remover = threading.Thread(target=server.remove, args=('image',))
        remover.start()
        waiting.until(lambda: other.get('/image', range='bytes=0-0')[0] == 404)
        removed.set()
        remover.join(5)
        assert not remover.is_alive() and not image.readers
        status, headers = client.head()
        assert len(client.file.read()) < len(DATA)


def test_stop_in_the_midst_of_everything(image):
    go = threading.Event()
    image.put(0)
    image.on_bring = lambda _block: go.wait(5)
    server = http_server.HttpServer({'image': image}, listening.Address())
    server.start()
    with Client(server) as patient, Client(server) as idle:
        patient.send('/image')
        idle.get('/image', range='bytes=0-9')
        waiting.until(lambda: server.statistics()['missed'])
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 1
        status, headers = patient.head()
        assert patient.file.read() == DATA[:BLOCK]
        assert idle.sock.recv(1) == b''
    server.stop()
    # What was still being fetched lets go of the image then.
    go.set()
    waiting.until(lambda: not image.readers)


def test_stop_without_start(image):
    server = http_server.HttpServer({'image': image}, listening.Address())
    server.stop()
    server.remove('image')
    assert server.statistics() == {}


def test_ipv6(image):
    address = listening.Address(host='::1')
    with http_server.HttpServer({'image': image}, address) as server:
        assert server.url_of('a b').startswith('http://[::1]:')
        assert server.url_of('a b').endswith('/a%20b')
        with Client(server) as client:
            assert client.get('/image')[2] == DATA


def test_unix_socket(image, tmp_path):
    path = tmp_path / 'socket'
    address = listening.Address(path=str(path), mode=0o640)
    with http_server.HttpServer({'image': image}, address) as server:
        assert path.stat().st_mode & 0o777 == 0o640
        assert server.url_of('image').startswith('http+unix://%2F')
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(os.fspath(path))
            sock.sendall(b'GET /image HTTP/1.0\r\n\r\n')
            with sock.makefile('rb') as file:
                assert file.read().endswith(b'\r\n\r\n' + DATA)
    assert not path.exists()


def test_an_address_that_is_taken(server, image):
    host, port = address(server)
    second = http_server.HttpServer(
        {'image': image}, listening.Address(host=host, port=port)
    )
    with pytest.raises(exceptions.Unavailable):
        second.start()
    second.stop()


def test_a_name_that_is_taken(server, image):
    with pytest.raises(exceptions.AlreadyExists):
        server.add('image', image)


@pytest.fixture
def secured(image, certs):
    with http_server.HttpServer(
        {'image': image},
        listening.Address(),
        tls=certs.server_context(),
    ) as running:
        assert running.url.startswith('https://')
        yield running


@pytest.mark.parametrize('version', ['TLSv1_2', 'TLSv1_3'])
def test_tls(version, secured, image, certs):
    import ssl

    tls = certs.client_context()
    tls.minimum_version = tls.maximum_version = ssl.TLSVersion[version]
    with Client(secured, tls) as client:
        for _ in range(2):
            assert client.get('/image')[2] == DATA
            assert (
                client.get('/image', range='bytes=5-90000')[2]
                == (DATA[5:90001])
            )
        # A strict client is told of the end.
        client.send('/image', connection='close')
        client.head()
        assert client.file.read() == DATA
    assert image.brought == list(range(41))


def test_tls_for_a_slow_client(secured, certs, monkeypatch):
    """What TLS began to send is what it goes on with."""
    full = threading.Event()
    send_file = http_channel.SecureChannel.send_file

    def tell(self, fd, offset, count):
        sent = send_file(self, fd, offset, count)
        if sent is None:
            full.set()
        return sent

    monkeypatch.setattr(http_channel.SecureChannel, 'send_file', tell)
    with Client(secured, certs.client_context()) as client:
        for _ in range(8):
            client.send('/image')
        # No buffer takes any more.
        assert full.wait(10)
        assert secured.statistics()['bytes_sent'] < 8 * len(DATA)
        for _ in range(8):
            status, headers = client.head()
            assert client.body(headers) == DATA


def test_tls_is_needed(secured, certs):
    """Plain requests to it, and garbage, end the connection."""
    for text in (b'GET /image HTTP/1.1\r\nHost: a\r\n\r\n', bytes(500)):
        with Client(secured) as client:
            client.sock.sendall(text)
            with contextlib.suppress(ConnectionError):
                assert b'HTTP' not in client.file.read()
    with Client(secured, certs.client_context()) as client:
        assert client.get('/image', range='bytes=0-4')[2] == DATA[:5]


# Those who take too long


@pytest.fixture
def strict(image):
    limits = http_host.Limits(head=0.3, idle=0.8, sending=0.5, ending=0.3)
    with http_server.HttpServer(
        {'image': image},
        listening.Address(),
        limits=limits,
        most=20,
    ) as running:
        yield running


def test_a_head_that_does_not_come(strict):
    with Client(strict) as client:
        started = time.monotonic()
        client.sock.sendall(b'GET /image HTT')
        status, headers = client.head()
        assert (status, headers['connection']) == (408, 'close')
        assert client.file.read() == b'the request takes too long\n'
        assert time.monotonic() - started < 2


def test_one_who_is_idle(strict):
    with Client(strict) as client:
        assert client.get('/image', range='bytes=0-9')[0] == 206
        assert client.sock.recv(1) == b''


def test_one_who_never_reads(strict, image):
    with Client(strict) as client:
        for _ in range(50):
            client.send('/image')
        waiting.until(lambda: strict.statistics()['broken'])
        waiting.until(lambda: not image.readers)


def test_one_who_never_closes(strict):
    with Client(strict) as client:
        client.send('/image', connection='close', range='bytes=0-9')
        client.head()
        assert client.file.read() == DATA[:10]
        waiting.until(lambda: not strict.statistics()['connections'])


def test_more_than_there_is_room_for(strict):
    """The one that was idle for the longest time goes."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(strict)) for _ in range(20)]
        for client in clients:
            assert client.get('/image', range='bytes=0-9')[0] == 206
        late = stack.enter_context(Client(strict))
        assert late.get('/image', range='bytes=0-9')[0] == 206
        assert clients[0].sock.recv(1) == b''
        assert clients[1].get('/image', range='bytes=0-9')[0] == 206
