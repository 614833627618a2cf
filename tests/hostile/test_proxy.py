# SPDX-License-Identifier: Apache-2.0
"""What strangers and clients can do to a whole proxy, as operators run it."""

from __future__ import annotations

import collections
import contextlib
import pathlib
import random
import re
import resource as limits
import selectors
import socket
import struct
import threading
import time

import pytest

from oslo_transfer import nbd_wire as wire
from tests.servers import dd_lab
from tests.servers import http
from tests.servers import nbd_client
from tests.servers import proxy_service
from tests.servers import rawhttp
from tests.servers import resource
from tests import waiting

MIB = 1 << 20
BLOCK = 64 * 1024
DATA = resource.pattern(6 * MIB + 512)
RESET = b'\1\0\0\0' + bytes(4)
# What the whole of it may take.
MOST_MEMORY = 256 * MIB
SECRET = 'geheim'


@contextlib.contextmanager
def running(server, groups=None, **options):
    """A proxy for a server."""
    with dd_lab.short_directory() as path:
        proxy = proxy_service.ProxyService(
            path,
            {
                'oslo_transfer': {'max_retries': 0},
                'oslo_transfer_proxy': {'origins': server.origin, **options},
                **(groups or {}),
            },
        )
        with proxy:
            yield proxy


@pytest.fixture(scope='module')
def origin():
    with http.ScriptedHTTPServer() as server:
        server.put('/image', DATA)
        yield server


@pytest.fixture(scope='module')
def proxy(origin):
    with running(origin) as made:
        yield made


def ask(proxy, target, method='GET', body=b'', **fields):
    """Status, and what comes behind the head; the target goes as it is."""
    lines = [f'{method} {target} HTTP/1.1', 'Connection: close']
    fields.setdefault('host', 'proxy')
    if body:
        fields['content_length'] = len(body)
    lines += [f'{k.replace("_", "-")}: {v}' for k, v in fields.items()]
    with rawhttp.connect(proxy) as sock:
        sock.sendall('\r\n'.join([*lines, '', '']).encode('latin-1') + body)
        head, _, rest = rawhttp.all_of(sock).partition(b'\r\n\r\n')
    return int(head.split()[1]), rest


def path_of(server):
    """Where a proxy has what a server has, without a slash at the end."""
    return '/' + server.origin.replace('://', '/')


# Who asks for what he may not


@pytest.fixture
def trap():
    """A server at which nobody may arrive."""
    arrived = []
    with http.ScriptedHTTPServer() as server:
        server.on_accept = lambda connection: arrived.append(connection)
        yield server
    assert not arrived


@pytest.mark.parametrize(
    'target',
    [
        '/http/127.0.0.1:{trap}/image',
        '/http/127.0.0.1:{port}@127.0.0.1:{trap}/image',
        '/http/127.0.0.1:{port}%40127.0.0.1:{trap}/image',
        '/http/127.0.0.1:{trap}%23@127.0.0.1:{port}/image',
        '/http/127.0.0.1:{port}%2f@127.0.0.1:{trap}/image',
        '/http/127.0.0.1:{port}:{trap}/image',
        '/http/127.0.0.1:{port},127.0.0.1:{trap}/image',
        '/http/127.1:{trap}/image',
        '/http/2130706433:{trap}/image',
        '/http/0x7f.1:{trap}/image',
        '/http/localhost:{trap}/image',
        '/http/[::ffff:127.0.0.1]:{trap}/image',
        '/http/127.0.0.1.:{trap}/image',
        '/http//127.0.0.1:{trap}/image',
        '/http/127.0.0.1:{port}/../../127.0.0.1:{trap}/image',
        '/http:/127.0.0.1:{trap}/image',
        '/http%3a//127.0.0.1:{trap}/image',
        '/HTTP/127.0.0.1:{trap}/image',
        '/https/127.0.0.1:{port}/image',
        '/ftp/127.0.0.1:{trap}/image',
        '/nbd/127.0.0.1:{trap}/image',
        '/iscsi/127.0.0.1:{trap}/iqn.2010-10.org:a/1',
        '/nbd+unix//image?socket=/etc/passwd',
        '/file//etc/passwd',
        '/file/localhost/etc/passwd',
        '/file/%2fetc%2fpasswd',
        '/images//etc/passwd',
        '/images/../../etc/passwd',
        '/images/http://127.0.0.1:{trap}/image',
        '//127.0.0.1:{trap}/image',
        'http://127.0.0.1:{trap}/http/127.0.0.1:{trap}/image',
        'http://127.0.0.1:{trap}/image',
    ],
)
@pytest.mark.parametrize('method', ['GET', 'HEAD'])
def test_what_is_no_origin(method, target, proxy, origin, trap):
    """However it is written, nobody is asked, and no file is read."""
    target = target.format(port=origin.port, trap=trap.port)
    before = len(origin.requests)
    status, body = ask(proxy, target, method)
    assert status in (400, 403, 404)
    assert b'root:' not in body
    assert len(origin.requests) == before


@pytest.mark.parametrize(
    'target', ['127.0.0.1:{trap}', 'http://127.0.0.1:{trap}/', '*']
)
@pytest.mark.parametrize('method', ['CONNECT', 'OPTIONS', 'TRACE', 'PUT'])
def test_it_is_no_forward_proxy(method, target, proxy, trap):
    target = target.format(trap=trap.port)
    assert ask(proxy, target, method)[0] in (400, 405)


def test_the_origin_may_not_send_it_elsewhere(proxy, origin, trap):
    """A redirect is as good as what it leads to."""
    for status in (301, 302, 307, 308):
        origin.serve(
            '/moved',
            lambda request, connection, status=status: connection.reply(
                status, b'', {'Location': trap.url('/image')}
            ),
        )
        found, _ = ask(proxy, f'{path_of(origin)}/moved')
        assert 400 <= found < 600


def test_what_the_host_says_is_nothing(proxy, origin):
    """Neither Host nor its like change what is kept under which name."""
    for fields in (
        {'host': 'evil.example'},
        {'x_forwarded_host': 'evil.example', 'x_forwarded_proto': 'https'},
        {'x_original_url': '/other', 'x_rewrite_url': '/other'},
        {'accept_encoding': 'gzip', 'accept': 'text/html', 'cookie': 'a=b'},
    ):
        target = f'{path_of(origin)}/image'
        assert ask(proxy, target, **fields) == (200, DATA)
        target = f'http://evil.example{target}'
        assert ask(proxy, target, **fields) == (200, DATA)
    for request in origin.requests:
        assert 'evil' not in repr(request.headers)
        assert 'cookie' not in request.headers


def test_each_query_is_another_image(proxy, origin):
    other = resource.pattern(5000, seed=3)
    origin.serve(
        '/versions',
        lambda request, connection: resource.Resource(
            other if 'new' in request.target else DATA[:5000], 5000
        )(request, connection),
    )
    base = f'{path_of(origin)}/versions'
    for _ in range(2):
        assert ask(proxy, f'{base}?v=old')[1] == DATA[:5000]
        assert ask(proxy, f'{base}?v=new')[1] == other


PAGES = [
    '/v1/proxy/images/{id}',
    '/%76%31/proxy/images/{id}',
    '/v1%2fproxy/images/{id}',
    '/v1/proxy%2fimages%2f{id}',
    '//v1/proxy/images/{id}',
    '/v1//proxy/images/{id}',
    '/./v1/proxy/images/{id}',
    '/v1/./proxy/images/{id}',
    '/healthz/../v1/proxy/images/{id}',
    '/metrics/..%2fv1/proxy/images/{id}',
    '/images/../v1/proxy/images/{id}',
    '/v1/proxy/images/{id}/',
    '/v1/proxy/images/{id}?',
    '/V1/proxy/images/{id}',
    'http://proxy/v1/proxy/images/{id}',
]


@pytest.mark.parametrize('page', PAGES)
@pytest.mark.parametrize(
    'fields',
    [
        {},
        {'authorization': 'Bearer nobody'},
        {'authorization': 'Bearer '},
        {'authorization': f'Basic {proxy_service.ADMIN}'},
        {'authorization': f'Bearer {proxy_service.ADMIN}x'},
        {'x_auth_token': proxy_service.ADMIN},
        {'cookie': f'Authorization={proxy_service.ADMIN}'},
        {'x_http_method_override': 'GET', 'x_forwarded_for': '127.0.0.1'},
    ],
    ids=str,
)
def test_strangers_change_nothing(fields, page, proxy, origin):
    """By whatever way they go to the control API."""
    url = origin.url('/image')
    assert ask(proxy, f'{path_of(origin)}/image')[0] == 200
    image = proxy.image(url)
    status, _ = ask(proxy, page.format(id=image['id']), 'DELETE', **fields)
    assert status in (400, 401, 403, 404, 405)
    pin = page.replace('images', 'pins').format(id=image['id'])
    assert ask(proxy, pin, 'POST', b'{}', **fields)[0] >= 400
    found = proxy.image(url)
    assert found['bytes_here'] == len(DATA)
    assert not found['pinned']


def test_strangers_get_nothing(origin):
    """With tokens, neither an image nor what is known of any."""
    with dd_lab.short_directory() as path:
        (path / 'tokens').write_text('reader\n')
        with running(origin, tokens_file=path / 'tokens') as proxy:
            before = len(origin.requests)
            for target in (
                f'{path_of(origin)}/image',
                '/images/golden',
                '/v1/proxy',
                '/v1/proxy/images',
                '/metrics',
            ):
                for fields in ({}, {'proxy_authorization': 'Bearer readers'}):
                    status, body = ask(proxy, target, **fields)
                    assert status in (401, 403)
                    assert b'127.0.0.1' not in body
            assert len(origin.requests) == before
            assert ask(proxy, '/healthz')[0] == 200
            shown = {'proxy_authorization': 'Bearer reader'}
            target = f'{path_of(origin)}/image'
            assert ask(proxy, target, **shown) == (200, DATA)


def test_no_secret_is_logged(origin):
    """Whatever is done wrong with them."""
    with running(origin, groups={'DEFAULT': {'debug': True}}) as proxy:
        base = path_of(origin)
        fields = {
            'authorization': f'Bearer {SECRET}',
            'proxy_authorization': f'Basic {SECRET}',
            'x_auth_token': SECRET,
            'cookie': SECRET,
        }
        for target in (
            f'{base}/image?signature={SECRET}',
            f'{base}/missing?signature={SECRET}',
            f'/http/user:{SECRET}@127.0.0.1:{origin.port}/image',
            f'/http/user:{SECRET}%40127.0.0.1:{origin.port}/image',
            f'/ftp/user:{SECRET}@127.0.0.1/image?{SECRET}',
            f'/images/golden?{SECRET}',
            f'/v1/proxy?token={SECRET}',
        ):
            for method in ('GET', 'HEAD', 'POST', 'DELETE', 'CONNECT'):
                ask(proxy, target, method, **fields)
        body = f'{{"url": "ftp://a:{SECRET}@b/c?{SECRET}", "kind": 1}}'
        admin = proxy_service.ADMIN
        ask(
            proxy,
            '/v1/proxy/prefetches',
            'POST',
            body.encode(),
            authorization=f'Bearer {admin}',
        )
        with rawhttp.connect(proxy) as sock:
            sock.sendall(f'GET {SECRET}\r\n\r\n'.encode())
            rawhttp.all_of(sock)
        with nbd(proxy) as client:
            client.greet()
            name = f'http://user:{SECRET}@127.0.0.1/?{SECRET}'
            client.option(wire.Option.GO, wire.go(name.encode()))
        log = proxy.log.read_text()
        assert 'req-' in log
        assert SECRET not in log
        assert admin not in log
        for name in ('images', 'prefetches'):
            told = ask(
                proxy, f'/v1/proxy/{name}', authorization=f'Bearer {admin}'
            )
            assert SECRET.encode() not in told[1]


# Who sends garbage


def nbd(proxy):
    host, _, port = proxy.nbd_uri('').split('/')[2].rpartition(':')
    return nbd_client.Client((host, int(port)))


def test_garbage(proxy, origin):
    """On either port; whoever is honest gets what he asks for."""
    dice = random.Random(5)
    target = f'{path_of(origin)}/image'
    pieces = [
        *(
            b'GET ',
            b'POST ',
            b'DELETE ',
            b' HTTP/1.1\r\n',
            b'\r\n',
            b'\r\n\r\n',
        ),
        *(target.encode(), b'/v1/proxy/prefetches', b'Host: proxy\r\n', b'{"'),
        *(b'Content-Length: 9\r\n', b'Range: bytes=1-', b'\0', b'\xff', b'9'),
        *(wire.MAGIC, wire.OPTION_MAGIC, b'\0\0\0\7', b'\0\0\0\3'),
    ]
    for _ in range(150):
        text = b''.join(dice.choices(pieces, k=dice.randrange(1, 12)))
        for sock in (rawhttp.connect(proxy), nbd(proxy).sock):
            with sock:
                with contextlib.suppress(OSError):
                    sock.sendall(text)
                    sock.shutdown(socket.SHUT_WR)
                rawhttp.all_of(sock)
    assert ask(proxy, target, range='bytes=5-9') == (206, DATA[5:10])
    with nbd(proxy) as client:
        assert client.go(origin.url('/image')) == len(DATA)
        assert client.read(77, 7777) == DATA[77 : 77 + 7777]
    assert 'Traceback' not in proxy.log.read_text()


BODIES = [
    b'',
    b'{',
    b'[]',
    b'"url"',
    b'null',
    b'\xff\xfe',
    b'{"url": 5}',
    b'{"url": ["http://a/"], "kind": "full"}',
    b'{"url": "%s", "kind": "other"}',
    b'{"url": "%s", "kind": "ranges"}',
    b'{"url": "%s", "kind": "ranges", "ranges": [[0]]}',
    b'{"url": "%s", "kind": "ranges", "ranges": [[-1, 5]]}',
    b'{"url": "%s", "kind": "ranges", "ranges": [["0", "5"]]}',
    b'{"url": "%s", "kind": "ranges", "ranges": [[1e400, 5]]}',
    b'{"url": "%s", "kind": "ranges", "ranges": {"0": 5}}',
    b'{"url": "%s", "kind": "trace", "iolog": "garbage"}',
    b'{"url": "%s", "kind": "trace", "iolog": 7}',
    b'{"url": "%s", "kind": "full", "rate_limit": -1}',
    b'{"url": "%s", "kind": "full", "rate_limit": "fast"}',
    b'{"url": "%s", "kind": "full", "headers": ["a"]}',
    b'{"url": "%s", "kind": "full", "headers": {"a": "b\\r\\nX: y"}}',
    b'{"url": "%s", "kind": "full", "headers": {"a": 5}}',
    b'[' * 100_000,
    b'{"url": ' * 50_000,
    b'9' * 100_000,
    b'{"url": "' + b'x' * 1_000_000 + b'", "kind": "full"}',
]


@pytest.mark.parametrize('body', BODIES, ids=lambda body: repr(body[:50]))
def test_bodies_that_make_no_sense(body, proxy, origin):
    """An administrator's mistake is an answer that tells it."""
    if b'%s' in body:
        body = body.replace(b'%s', origin.url('/image').encode())
    started = time.monotonic()
    status, told = ask(
        proxy,
        '/v1/proxy/prefetches',
        'POST',
        body,
        authorization=f'Bearer {proxy_service.ADMIN}',
    )
    assert 400 <= status < 500
    assert told.startswith(b'{')
    assert time.monotonic() - started < 3
    assert 'Traceback' not in proxy.log.read_text()


@pytest.mark.parametrize(
    'url', ['x', 'file:///etc/passwd', 'http://127.0.0.1:{trap}/image']
)
def test_nothing_is_sent_ahead_that_may_not_be_asked_for(url, proxy, trap):
    """Not even for an administrator."""
    body = {'url': url.format(trap=trap.port), 'kind': 'full'}
    job = proxy.ask('POST', '/v1/proxy/prefetches', body)
    waiting.until(
        lambda: (
            proxy.ask('GET', f'/v1/proxy/prefetches/{job["id"]}')['state']
            == 'failed'
        )
    )


def test_many_small_ranges(proxy, origin):
    """They cost the origin no more than the blocks that they are in."""
    url = origin.put('/ranges', DATA)
    before = origin.bytes_sent('/ranges')
    ranges = ','.join(f'{place}-{place}' for place in range(0, 3000, 200))
    target = f'{path_of(origin)}/ranges'
    for _ in range(5):
        assert ask(proxy, target, range=f'bytes={ranges}')[0] == 206
    assert ask(proxy, target, range='bytes=-0')[0] == 416
    sent = origin.bytes_sent('/ranges') - before
    image = proxy.image(url)
    assert sent <= image['bytes_here'] + 1
    assert image['bytes_here'] <= 17 * BLOCK


def test_who_goes_away(proxy, origin):
    """Nothing more is fetched for him than was on its way."""
    data = resource.pattern(64 * MIB)
    # All of it would take 16 s.
    serve, active = resource.Resource(data, len(data), rate=4 * MIB), []

    def handle(request, connection):
        active.append(request)
        try:
            serve(request, connection)
        finally:
            active.remove(request)

    url = origin.serve('/large', handle)
    with rawhttp.connect(proxy) as sock:
        target = f'{path_of(origin)}/large'
        sock.sendall(f'GET {target} HTTP/1.1\r\nHost: x\r\n\r\n'.encode())
        assert sock.recv(1000).startswith(b'HTTP/1.1 200')
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    waiting.until(lambda: not proxy.image(url)['readers'] and not active, 5)
    assert origin.bytes_sent('/large') < 16 * MIB


# Origins that break, or lie


HALF = len(DATA) // 2
OTHER = resource.pattern(len(DATA), seed=9)


class Broken:
    """Serves the first half well; what it does then is given."""

    def __init__(self, then):
        self._then = then
        self._good = resource.Resource(DATA, len(DATA))

    def __call__(self, request, connection):
        start, last = request.range or (0, None)
        last = len(DATA) - 1 if last is None else min(last, len(DATA) - 1)
        if start >= HALF:
            self._then(request, connection, start, last)
        elif last < HALF:
            self._good(request, connection)
        else:
            connection.send_head(
                206 if request.range else 200, about(start, last)
            )
            connection.send(DATA[start:HALF])
            connection.reset()


def about(start, last, etag='"v1"'):
    return {
        'ETag': etag,
        'Content-Length': str(last - start + 1),
        'Content-Range': f'bytes {start}-{last}/{len(DATA)}',
    }


def gone(request, connection, start, last):
    connection.reply(404)


def busy(request, connection, start, last):
    connection.reply(503)


def cut(request, connection, start, last):
    connection.send_head(206, about(start, last))
    connection.send(DATA[start : start + 10])
    connection.reset()


def another(request, connection, start, last):
    connection.send_head(206, about(start, last, '"v2"'))
    connection.send(OTHER[start : last + 1])


def all_of_another(request, connection, start, last):
    connection.reply(200, OTHER, {'ETag': '"v2"'})


def from_elsewhere(request, connection, start, last):
    connection.send_head(206, about(start - 7, last - 7))
    connection.send(DATA[start - 7 : last - 6])


def text(request, connection, start, last):
    connection.reply(200, b'<html>please log in', {'ETag': '"v1"'})


@pytest.mark.parametrize(
    'then',
    [gone, busy, cut, another, all_of_another, from_elsewhere, text],
    ids=lambda then: then.__name__,
)
def test_an_origin_that_breaks(then, proxy, origin):
    """A client sees that its copy is not whole, and no wrong byte of it."""
    path = f'/{then.__name__}'
    url = origin.serve(path, Broken(then))
    for _ in range(2):
        status, body = ask(proxy, path_of(origin) + path)
        assert status in (200, 502, 503)
        if status == 200:
            assert len(body) < len(DATA)
            assert DATA.startswith(body)
    # It does not stay broken when the origin does not.
    origin.put(path, DATA)
    waiting.until(
        lambda: ask(proxy, path_of(origin) + path) == (200, DATA), 15
    )
    assert proxy.image(url)['bytes_here'] == len(DATA)


# Who takes all there is


class Crowd:
    """Clients of several kinds, served by one thread."""

    def __init__(self, proxy, target):
        host, _, port = proxy.url.split('/')[2].rpartition(':')
        self._address = host, int(port)
        self._target = target.encode()
        self._selector = selectors.DefaultSelector()
        self._dice = random.Random(3)
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._selector)
        self.answers = collections.Counter()
        self.slow = []

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self._stack.close()

    def add(self, text=b'', buffer=None):
        """One that sends something, and then is slow."""
        sock = self._stack.enter_context(socket.socket())
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(10)
        sock.connect(self._address)
        sock.sendall(text)
        return sock

    def add_fast(self):
        sock = self.add()
        self._selector.register(sock, selectors.EVENT_READ)
        self._ask(sock)

    def _ask(self, sock):
        start = self._dice.randrange(len(DATA) - BLOCK)
        sock.sendall(
            b'GET %s HTTP/1.1\r\nHost: proxy\r\nRange: bytes=%d-%d\r\n\r\n'
            % (self._target, start, start + BLOCK - 1)
        )
        self._selector.modify(sock, selectors.EVENT_READ, (bytearray(), start))

    def run(self, seconds, now_and_then):
        end = time.monotonic() + seconds
        due = time.monotonic()
        while (now := time.monotonic()) < end:
            for key, _ in self._selector.select(0.05):
                self._take(key.fileobj, *key.data)
            if now >= due:
                due = now + 0.2
                now_and_then()

    def _take(self, sock, received, start):
        piece = sock.recv(1 << 20)
        assert piece, bytes(received[:200])
        received += piece
        head = received.find(b'\r\n\r\n') + 4
        if head > 3 and len(received) - head >= BLOCK:
            assert received.startswith(b'HTTP/1.1 206 '), received[:200]
            assert received[head:] == DATA[start : start + BLOCK]
            self.answers[sock.fileno()] += 1
            self._ask(sock)


def memory_of(proxy):
    """The most that it ever had, in bytes."""
    text = pathlib.Path(f'/proc/{proxy.pid}/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+) kB', text).group(1)) << 10


def test_300_clients(origin):
    """Most of them hostile; the others get their share, and it stays small."""
    hangs = threading.Event()
    origin.serve('/hangs', lambda request, connection: hangs.wait(20) and None)
    base = path_of(origin)
    get = f'GET {base}/image HTTP/1.1\r\nHost: proxy\r\n\r\n'.encode()
    post = b'POST /v1/proxy/prefetches HTTP/1.1\r\nHost: proxy\r\n'
    with (
        running(origin) as proxy,
        Crowd(proxy, f'{base}/image') as crowd,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(hangs.set)
        assert ask(proxy, f'{base}/image') == (200, DATA)
        for _ in range(50):
            crowd.add(get * 20, buffer=4096)
        trickles = [crowd.add(b'GET /im') for _ in range(40)]
        trickles += [
            crowd.add(post + b'Content-Length: 4000000\r\n\r\n')
            for _ in range(30)
        ]
        trickles += [
            crowd.add(post + b'Content-Length: 60000\r\n\r\n' + bytes(59_000))
            for _ in range(30)
        ]
        for number in range(50):
            crowd.add(
                f'GET {base}/hangs?{number} HTTP/1.1\r\n'
                f'Host: proxy\r\n\r\n'.encode()
            )
        for _ in range(100):
            crowd.add_fast()

        def trickle():
            for sock in trickles:
                with contextlib.suppress(OSError):
                    sock.sendall(b'x')

        crowd.run(3.0, trickle)
        assert len(crowd.answers) == 100
        fewest, most = min(crowd.answers.values()), max(crowd.answers.values())
        assert fewest > most / 2
        started = time.monotonic()
        assert ask(proxy, '/metrics')[0] == 200
        assert ask(proxy, f'{base}/image', range='bytes=0-4')[1] == DATA[:5]
        assert time.monotonic() - started < 3
        assert memory_of(proxy) < MOST_MEMORY
        hangs.set()
        assert 'Traceback' not in proxy.log.read_text()


def test_too_few_descriptors(origin):
    """Those that images and origins need are not for clients."""
    with running(origin) as proxy, contextlib.ExitStack() as stack:
        limits.prlimit(proxy.pid, limits.RLIMIT_NOFILE, (160, 160))
        for _ in range(200):
            stack.enter_context(rawhttp.connect(proxy))
        url = origin.put('/cold', DATA)
        assert ask(proxy, f'{path_of(origin)}/cold') == (200, DATA)
        with nbd(proxy) as client:
            assert client.go(url) == len(DATA)
            assert client.read(5, 9) == DATA[5:14]


def test_one_who_asks_for_all_there_is_not(proxy, origin):
    """It remembers nothing of what does not exist."""
    target = f'{path_of(origin)}/none'
    before = len(proxy.ask('GET', '/v1/proxy/images')['images'])
    with rawhttp.connect(proxy) as sock:
        for number in range(300):
            sock.sendall(
                f'GET {target}{number} HTTP/1.1\r\nHost: x\r\n\r\n'.encode()
            )
        found = b''
        while found.count(b'HTTP/1.1 404') < 300:
            piece = sock.recv(1 << 16)
            assert piece
            found += piece
    assert len(proxy.ask('GET', '/v1/proxy/images')['images']) == before
    kept = list((proxy.state / 'proxied').glob('*'))
    assert len(kept) <= before + 2


def test_names_of_nbd(proxy, origin, trap):
    """What is no origin is refused there, too."""
    for name in (
        trap.url('/image'),
        f'http://127.0.0.1:{origin.port}@127.0.0.1:{trap.port}/image',
        f'{origin.origin}/../image',
        'file:///etc/passwd',
        '/etc/passwd',
        '',
        'x' * 4096,
        'http://' + 'x' * 4000,
        'a\0b',
    ):
        with nbd(proxy) as client:
            client.greet()
            ((reply, _),) = client.option(
                wire.Option.GO, wire.go(name.encode())
            )
            assert reply in (
                wire.OptionReply.ERR_UNKNOWN,
                wire.OptionReply.ERR_POLICY,
            )
    with nbd(proxy) as client:
        client.greet()
        client.sock.sendall(
            wire.OPTION_MAGIC + struct.pack('>II', wire.Option.GO, 1 << 30)
        )
        assert client.at_end()
