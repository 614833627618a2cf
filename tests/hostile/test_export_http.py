# SPDX-License-Identifier: Apache-2.0
"""What clients can do to the HTTP export: nothing but harm themselves."""

from __future__ import annotations

import collections
import contextlib
import random
import resource as limits
import selectors
import socket
import ssl
import struct
import threading
import time

import pytest

from oslo_transfer.export import http_host
from oslo_transfer.export import http_server
from oslo_transfer.export import listening
from tests.servers import http_export
from tests.servers import rawhttp
from tests.servers import resource
from tests.servers import scripted_image
from tests import waiting

BLOCK = scripted_image.BLOCK
DATA = resource.pattern(64 * BLOCK)
GET = b'GET /image HTTP/1.1\r\nHost: here\r\n'
ONE = GET + b'Range: bytes=0-9\r\n\r\n'
pytestmark = pytest.mark.usefixtures('nothing_left')


@pytest.fixture
def image():
    with scripted_image.ScriptedImage(DATA, there=True) as made:
        yield made


def serve(image, **options):
    return http_server.HttpServer(
        {'image': image}, listening.Address(), **options
    )


@pytest.fixture
def server(image):
    with serve(image) as running:
        yield running


def assert_serves(server):
    """Somebody honest gets what he asks for, at once."""
    started = time.monotonic()
    with rawhttp.connect(server) as sock:
        sock.sendall(GET + b'Connection: close\r\n\r\n')
        assert rawhttp.all_of(sock).endswith(b'\r\n\r\n' + DATA)
    assert time.monotonic() - started < 2


SMUGGLED = b'GET /smuggled HTTP/1.1\r\nHost: here\r\n\r\n'


@pytest.mark.parametrize(
    'lines',
    [
        b'Content-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        b'Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n',
        b'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        b'Transfer-Encoding: xchunked\r\n\r\n',
        b'Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n',
        b'Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n',
        b'Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n',
        b'Transfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\n',
        b'X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        b'X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        b'X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        b'X: y\0\r\n\r\n',
        b'Content-Length: 0\r\nContent-Length: 40\r\n\r\n',
        b'Content-Length: 40, 40\r\n\r\n',
        b'Content-Length: 0\r\n\x20Content-Length: 40\r\n\r\n',
        b'Content-Length: 4_0\r\n\r\n',
        b'Content-Length: 40\r\n\r\n',
        b'Host: there\r\n\r\n',
        b'X: y\n\n',
        b'X: y\r\n\n',
        b'X: y\r\r\n\r\n',
    ],
)
def test_nothing_is_smuggled(lines, server):
    """A request that others may read otherwise is the last one."""
    with rawhttp.connect(server) as sock:
        sock.sendall(ONE + GET + lines + SMUGGLED + ONE)
        answers = rawhttp.all_of(sock)
    expected = 413 if lines == b'Content-Length: 40\r\n\r\n' else 400
    assert rawhttp.statuses(answers) == [206, expected]
    assert b'Connection: close' in answers
    assert_serves(server)


def garbage(random_):
    """Bytes that are more or less like requests."""
    pieces = [
        ONE,
        GET,
        b'\r\n',
        b'\n',
        b'\r',
        b'\0',
        b' ',
        b'HEAD ',
        b'/image',
    ]
    pieces += [
        b'Range: bytes=',
        b'0-',
        b'-',
        b',',
        b'9' * 30,
        b':',
        b'%',
        b'/..',
    ]
    pieces += [b'If-Range: ', b'"', b'Expect: 100-continue\r\n', b'\xff\xfe']
    pieces += [b'Content-Length: ', b'Transfer-Encoding: ', b' HTTP/1.1\r\n']
    text = b''.join(random_.choices(pieces, k=random_.randrange(1, 30)))
    if random_.random() < 0.3:
        text = bytearray(text)
        for _ in range(random_.randrange(1, 5)):
            text[random_.randrange(len(text))] = random_.randrange(256)
    return text if random_.random() < 0.9 else random_.randbytes(500)


def send_garbage(server, seed):
    random_ = random.Random(seed)
    known = {200, 206, 400, 404, 405, 413, 414, 416, 417, 431, 505}
    for _ in range(80):
        with rawhttp.connect(server) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(garbage(random_))
                sock.shutdown(socket.SHUT_WR)
            if answers := rawhttp.all_of(sock):
                assert rawhttp.statuses(answers[:20])[0] in known
    assert_serves(server)


@pytest.mark.parametrize('seed', [1, 2])
def test_garbage(seed, server, image):
    """Whatever comes, it is answered by the rules or not at all."""
    send_garbage(server, seed)
    waiting.until(lambda: not image.readers)


@pytest.mark.campaign
def test_much_garbage(server):
    for seed in range(3, 300):
        send_garbage(server, seed)


def test_headers_without_end(server):
    """100 MB of them are not kept, and not even read."""
    line = b'X: ' + b'a' * 1000 + b'\r\n'
    with rawhttp.connect(server) as sock:
        sent = 0
        with contextlib.suppress(ConnectionError):
            sock.sendall(GET)
            while sent < 100_000_000:
                sent += sock.send(line * 100)
        assert sent < 50_000_000
    assert_serves(server)


def test_an_answer_to_too_much_is_seen(server):
    """What was sent in vain does not take the answer away with it."""
    with rawhttp.connect(server) as sock:
        sock.sendall(GET + b'X: ' + b'a' * 100_000)
        assert rawhttp.statuses(rawhttp.all_of(sock)) == [431]


@pytest.mark.parametrize(
    'value',
    [
        b','.join(b'%d-%d' % (i, i) for i in range(0, 5000, 2)),
        b','.join([b'0-'] * 2500),
        b','.join([b'-1000000'] * 1000),
        b',' * 10_000,
    ],
)
def test_ranges_without_end(value, server):
    """Never more than the image itself, once."""
    with rawhttp.connect(server) as sock:
        sock.sendall(
            GET + b'Connection: close\r\nRange: bytes=' + value + b'\r\n\r\n'
        )
        answers = rawhttp.all_of(sock)
    assert rawhttp.statuses(answers) == [200] or rawhttp.statuses(answers) == [
        431
    ]
    assert len(answers) < len(DATA) + 1000


def test_slow_heads(image):
    """A byte now and then keeps nothing open for long, and nobody waits."""
    times = http_host.Limits(head=0.5)
    with serve(image, limits=times) as server, contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(rawhttp.connect(server)) for _ in range(30)
        ]
        started = time.monotonic()
        for byte in (b'G', b'E', b'T', b' '):
            for sock in socks:
                sock.sendall(byte)
            assert_serves(server)
        for sock in socks:
            assert rawhttp.statuses(rawhttp.all_of(sock)) == [408]
        assert time.monotonic() - started < 3


def test_many_idle(server):
    """They cost a descriptor each, and nobody's time."""
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(rawhttp.connect(server)) for _ in range(500)
        ]
        for sock in socks[::2]:
            sock.sendall(ONE)
            assert sock.recv(100).startswith(b'HTTP/1.1 206')
        assert server.statistics()['connections'] == 500
        assert_serves(server)


def test_more_than_may_be(image):
    """All busy: a further one is turned away, and the others go on."""
    with serve(image, most=10) as server, contextlib.ExitStack() as stack:
        busy = [
            stack.enter_context(rawhttp.connect(server)) for _ in range(10)
        ]
        for sock in busy:
            sock.sendall((GET + b'\r\n') * 20)
        waiting.until(lambda: len(image.readers) == 10)
        with rawhttp.connect(server) as late:
            assert rawhttp.all_of(late) == b''
        assert server.statistics()['connections'] == 10
        busy.pop().close()
        waiting.until(lambda: server.statistics()['connections'] < 10)
        assert_serves(server)


def test_one_who_never_reads(image):
    """He is given up, and what he claims can be evicted again."""
    times = http_host.Limits(sending=0.5)
    with serve(image, limits=times) as server, rawhttp.connect(server) as sock:
        sock.sendall((GET + b'\r\n') * 100)
        waiting.until(lambda: image.readers)
        claimed = [reader.held for reader in image.readers]
        assert all(len(blocks) <= 17 for blocks in claimed)
        assert_serves(server)
        waiting.until(lambda: not image.readers)
        for block in range(len(image.present)):
            image.evict(block)


def vanish(server, image, seed):
    random_ = random.Random(seed)
    for _ in range(60):
        sock = rawhttp.connect(server)
        sock.sendall((GET + b'\r\n') * random_.randrange(1, 4))
        for _ in range(random_.randrange(4)):
            sock.recv(random_.randrange(1, 1 << 20))
        if random_.random() < 0.5:
            # A reset in the place of an end.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
    # Who comes after them is served when all of them were taken.
    assert_serves(server)
    waiting.until(lambda: not image.readers)
    waiting.until(lambda: not server.statistics()['connections'])


RESET = struct.pack('ii', 1, 0)


@pytest.fixture
def sparse(image):
    """Some of it has to be fetched, which takes its time."""
    for block in range(0, len(image.present), 3):
        image.evict(block)
    image.on_bring = lambda _block: time.sleep(0.001)
    return image


@pytest.mark.parametrize('seed', [1, 2])
def test_those_who_vanish(seed, sparse):
    """At any moment, politely or not: nothing of them is left."""
    with serve(sparse) as server:
        vanish(server, sparse, seed)
        assert_serves(server)


@pytest.mark.campaign
def test_many_who_vanish(sparse):
    with serve(sparse) as server:
        for seed in range(3, 100):
            vanish(server, sparse, seed)
            for block in range(0, len(sparse.present), 2):
                sparse.evict(block)


def test_nothing_is_fetched_for_those_who_have_gone(image):
    """What one is waiting for comes; nothing behind it does."""
    for block in range(len(image.present)):
        image.evict(block)
    go = threading.Event()
    image.on_bring = lambda _block: go.wait(5)
    with serve(image) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                sock = stack.enter_context(rawhttp.connect(server))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                sock.sendall(GET + b'\r\n')
            waiting.until(lambda: server.statistics()['missed'] == 20)
        waiting.until(lambda: not server.statistics()['connections'])
        go.set()
        waiting.until(lambda: not image.readers)
    assert set(image.brought) <= {0}


def test_an_origin_that_hangs_holds_up_nobody_else(image):
    """However many wait for it."""
    go = threading.Event()
    with scripted_image.ScriptedImage(DATA) as hanging:
        hanging.on_bring = lambda _block: go.wait(5)
        with serve(image) as server, contextlib.ExitStack() as stack:
            server.add('hanging', hanging)
            for _ in range(100):
                sock = stack.enter_context(rawhttp.connect(server))
                sock.sendall(b'GET /hanging HTTP/1.0\r\n\r\n')
            waiting.until(lambda: server.statistics()['missed'] == 100)
            image.evict(3)
            assert_serves(server)
            assert image.brought == [3]
            go.set()


class Load:
    """Clients that read ranges, each as fast as it is told to.

    :param url: of :data:`DATA`
    """

    def __init__(self, url):
        host, _, port = url.split('/')[2].rpartition(':')
        self.address = host, int(port)
        self.selector = selectors.DefaultSelector()
        self.random = random.Random(1)
        #: Answers to each of the fast ones; what the slow ones have read.
        self.answers = collections.Counter()
        self.trickled = 0
        self.slow = []

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        for key in [*self.selector.get_map().values()]:
            key.fileobj.close()
        for sock in self.slow:
            sock.close()
        self.selector.close()

    def add_fast(self):
        sock = socket.create_connection(self.address)
        self.selector.register(sock, selectors.EVENT_READ)
        self.ask(sock)

    def add_slow(self):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(self.address)
        sock.sendall((GET + b'\r\n') * 10)
        self.slow.append(sock)

    def ask(self, sock):
        start = self.random.randrange(len(DATA) - BLOCK)
        sock.sendall(
            GET + b'Range: bytes=%d-%d\r\n\r\n' % (start, start + BLOCK - 1)
        )
        self.selector.modify(sock, selectors.EVENT_READ, (bytearray(), start))

    def run(self, seconds):
        end = time.monotonic() + seconds
        due = time.monotonic()
        while (now := time.monotonic()) < end:
            for key, _ in self.selector.select(0.05):
                self.take(key.fileobj, *key.data)
            if now >= due:
                due = now + 0.1
                for sock in self.slow:
                    self.trickled += len(sock.recv(100))

    def take(self, sock, received, start):
        received += sock.recv(1 << 20)
        head = received.find(b'\r\n\r\n') + 4
        if head > 3 and len(received) - head >= BLOCK:
            assert received.startswith(b'HTTP/1.1 206 ')
            assert received[head:] == DATA[start : start + BLOCK]
            self.answers[sock.fileno()] += 1
            self.ask(sock)


@pytest.fixture
def exported(tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    with http_export.HttpExport(path) as running:
        yield running


def read_fast_and_slow(exported, fast, slow, seconds):
    with Load(exported.url) as load:
        for _ in range(fast):
            load.add_fast()
        load.run(seconds / 4)
        alone = load.answers.total()
        load.answers.clear()
        before = exported.memory()
        for _ in range(slow):
            load.add_slow()
        load.run(seconds)
        # Buffers of the slow would be megabytes each.
        assert exported.memory() - before < (2 << 20) + slow * 16384
        assert load.answers.total() > alone
        # Each had its turn.
        assert min(load.answers.values()) > max(load.answers.values()) / 2
        assert len(load.answers) == fast
        assert load.trickled >= slow * 100 * seconds


def test_fast_and_slow(exported):
    """The slow cost no memory, and the fast do not wait for them."""
    read_fast_and_slow(exported, 40, 10, 1.0)


@pytest.mark.campaign
def test_many_fast_and_slow(exported):
    read_fast_and_slow(exported, 200, 50, 10.0)


def test_too_few_descriptors(exported):
    """Who comes too late waits, or takes the place of an idle one."""
    limits.prlimit(exported.pid, limits.RLIMIT_NOFILE, (40, 40))
    with Load(exported.url) as load:
        socks = [socket.create_connection(load.address) for _ in range(60)]
        try:
            for sock in socks[40:]:
                sock.settimeout(5)
                sock.sendall(ONE)
                assert sock.recv(100).startswith(b'HTTP/1.1 206')
        finally:
            for sock in socks:
                sock.close()
        load.add_fast()
        load.run(0.2)
        assert load.answers


# TLS


def test_hostile_tls(image, certs):
    """Handshakes that are garbage, never end or are cut off."""
    times = http_host.Limits(idle=0.5)
    with serve(image, tls=certs.server_context(), limits=times) as server:
        hello = tls_hello(certs)
        with (
            rawhttp.connect(server) as stuck,
            rawhttp.connect(server) as silent,
        ):
            stuck.sendall(hello[:50])
            for text in (bytes(1000), hello[:-1] + b'\0', hello + hello, ONE):
                with rawhttp.connect(server) as sock:
                    sock.sendall(text)
                    assert b'HTTP' not in rawhttp.all_of(sock)
            tls = certs.client_context()
            with tls.wrap_socket(
                rawhttp.connect(server), server_hostname='127.0.0.1'
            ) as sock:
                sock.sendall(ONE)
                assert sock.recv(100).startswith(b'HTTP/1.1 206')
            assert not rawhttp.all_of(stuck)
            assert not rawhttp.all_of(silent)
        waiting.until(lambda: not server.statistics()['connections'])


def tls_hello(certs):
    """What a client begins with."""
    outgoing = ssl.MemoryBIO()
    tls = certs.client_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname='127.0.0.1'
    )
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_tls_that_is_cut_off(image, certs):
    """In the midst of an answer, without a word."""
    with serve(image, tls=certs.server_context()) as server:
        for _ in range(5):
            tls = certs.client_context()
            with tls.wrap_socket(
                rawhttp.connect(server), server_hostname='127.0.0.1'
            ) as sock:
                sock.sendall((GET + b'\r\n') * 5)
                sock.recv(100_000)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        waiting.until(lambda: not image.readers)
        assert not server.statistics()['connections']
