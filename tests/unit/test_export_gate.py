# SPDX-License-Identifier: Apache-2.0
"""What a gate decides is what the HTTP export does, and nobody else waits."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time

import pytest

from oslo_transfer import exceptions
from oslo_transfer.export import gate as _gate
from oslo_transfer.export import http_host
from oslo_transfer.export import http_server
from oslo_transfer.export import listening
from tests.servers import rawclient
from tests.servers import resource
from tests.servers import scripted_gate
from tests.servers import scripted_image
from tests import waiting

BLOCK = scripted_image.BLOCK
DATA = resource.pattern(10 * BLOCK + 77)
FAR = '/http/far.example/image?token=secret'
pytestmark = pytest.mark.usefixtures('nothing_left')


@pytest.fixture
def image():
    with scripted_image.ScriptedImage(DATA, there=True) as made:
        yield made


@pytest.fixture
def gate(image):
    return scripted_gate.ScriptedGate(image)


def serve(gate, **options):
    return http_server.HttpServer(
        {}, listening.Address(), gate=gate, **options
    )


@pytest.fixture
def server(gate):
    with serve(gate) as running:
        yield running


class Client(rawclient.Client):
    """A client of one of our servers."""

    def __init__(self, server, context=None, timeout=5.0):
        self.host, _, port = server.url.split('/')[2].rpartition(':')
        self.port = int(port)
        super().__init__(self, context, timeout)

    def response(self):
        """What a request that was sent already is answered with."""
        status, headers = self.head()
        return status, headers, self.body(headers)


@pytest.fixture
def client(server):
    with Client(server) as made:
        yield made


# Images


def test_who_was_admitted_is_found(gate, client):
    """The origin is asked when the gate says so, not for each request."""
    assert client.get(FAR)[::2] == (200, DATA)
    assert client.get(FAR, range='bytes=5-9')[::2] == (206, DATA[5:10])
    assert client.get(FAR, method='HEAD')[0] == 200
    assert client.get(FAR, if_none_match='"feed"')[0] == 304
    assert len(gate.found) == 4
    assert len(gate.admitted) == 1


@pytest.mark.parametrize(
    ('fields', 'status', 'body'),
    [
        ({'range': 'bytes=5-9'}, 206, DATA[5:10]),
        ({'range': f'bytes={len(DATA)}-'}, 416, None),
        ({'if_none_match': '"feed"'}, 304, b''),
        ({'if_match': '"f00d"'}, 412, None),
    ],
)
def test_the_first_answer_is_like_any_other(fields, status, body, client):
    found, _headers, text = client.get(FAR, **fields)
    assert found == status
    assert body is None or text == body


def test_a_tag_that_is_not_ascii(image, client):
    """An origin may have one; who asks for it has the same bytes."""
    image.etag = 'gr\xf6\xdfe'
    _status, headers, _ = client.get(FAR)
    assert headers['etag'] == '"gr\xf6\xdfe"'
    assert client.get(FAR, if_match=headers['etag'])[::2] == (200, DATA)
    assert client.get(FAR, if_none_match=headers['etag'])[0] == 304


def test_what_is_asked(gate, client):
    """All that tells one request from another, as it came."""
    path = '/http/far/a%2Fb//..%20c?x=%41&y'
    client.get(path, x_auth_token='mine')
    (asked,) = gate.found
    assert asked.method == 'GET'
    assert asked.target == path
    assert asked.path == '/http/far/a/b//.. c'
    assert asked.fields == {'host': 'test', 'x-auth-token': 'mine'}
    host, port = client.sock.getsockname()
    assert asked.peer == f'{host}:{port}'
    # Who blocks may ask others, and does so under the same name.
    (admitted,) = gate.admitted
    name = admitted.fields['x-request-id']
    assert admitted == asked._replace(
        fields={**asked.fields, 'x-request-id': name}
    )
    assert name.startswith('req-')


ERRORS = [
    (exceptions.NotFound, 404),
    (exceptions.InvalidEndpoint, 400),
    (exceptions.PolicyRefused, 403),
    (exceptions.SourceChanged, 502),
    (exceptions.ProtocolError, 502),
    (exceptions.DigestMismatch, 502),
    (exceptions.Unavailable, 503),
    (exceptions.Stalled, 503),
    (exceptions.TransferTimedOut, 502),
]


@pytest.mark.parametrize(('error', 'status'), ERRORS)
@pytest.mark.parametrize('at_once', [True, False])
def test_errors(error, status, at_once, gate, client):
    """The client is told what the gate says, and may go on."""
    why = (
        error('md5', '00', '11')
        if error is exceptions.DigestMismatch
        else error('no, for a r\xe9ason')
    )
    if at_once:
        gate.knows = why
    else:
        gate.learns = why
    for method in ('GET', 'HEAD', 'GET'):
        found, headers, body = client.get(FAR, method=method)
        assert found == status
        assert body.decode() == ('' if method == 'HEAD' else f'{why}\n')
        assert ('retry-after' in headers) is (status == 503)
    assert bool(gate.admitted) is not at_once


def test_who_proves_it_no_more(gate, client):
    """His credentials have ended: newer ones may do."""
    gate.learns = exceptions.AccessDenied('ended')
    gate.learns.unproven = True
    assert client.get(FAR, x_auth_token='old')[0] == 401


@pytest.mark.parametrize(
    ('fields', 'status'),
    [
        ({}, 401),
        ({'authorization': 'Bearer x'}, 403),
        ({'proxy_authorization': 'Bearer x'}, 403),
        ({'x_auth_token': 'x'}, 403),
    ],
)
def test_access_denied(fields, status, gate, client):
    """Whether saying who one is could help."""
    gate.learns = exceptions.AccessDenied('not you')
    found, headers, _ = client.get(FAR, **fields)
    assert found == status
    assert headers.get('www-authenticate') == (
        'Bearer' if status == 401 else None
    )


def test_a_bug_in_the_gate(gate, client, caplog):
    """It is one answer that fails, with what it takes to find the bug."""
    gate.learns = ZeroDivisionError('a bug')
    status, headers, body = client.get(FAR)
    assert (status, body) == (500, b'this is a bug\n')
    assert headers['x-request-id'] in caplog.text
    assert 'ZeroDivisionError' in caplog.text
    gate.learns = None
    assert client.get(FAR)[::2] == (200, DATA)


def test_an_image_that_cannot_be_read_after_all(gate, image, client):
    def reader():
        raise exceptions.Unavailable('http://inside/ is down')

    image.reader = reader
    status, _headers, body = client.get(FAR)
    assert status == 503
    assert b'inside' not in body


# Who waits, and who does not


class Origin:
    """Hangs, for all who ask for a path that begins with its own."""

    def __init__(self, gate, path):
        self._path = path
        self.go_on = threading.Event()
        self.asked = []
        gate.on_admit = self

    def __call__(self, asked):
        if asked.path.startswith(self._path):
            self.asked.append(asked.path)
            assert self.go_on.wait(20)


@pytest.fixture
def origin(gate, server):
    made = Origin(gate, '/http/hangs')
    yield made
    made.go_on.set()


def test_nobody_waits_for_an_origin_that_hangs(gate, origin, server):
    """Neither for what is here, nor for other origins, nor for pages."""
    gate.granted.add('/here')
    with contextlib.ExitStack() as stack:
        stuck = [stack.enter_context(Client(server)) for _ in range(60)]
        for number, each in enumerate(stuck):
            each.send(f'/http/hangs/{number}')
        other = stack.enter_context(Client(server))
        for path in ('/here', '/http/lives/a', '/https/hangs/a'):
            assert other.get(path)[::2] == (200, DATA)
        assert other.get('/v1/a')[::2] == (200, b'GET /v1/a')
        waiting.until(lambda: origin.asked)
        # It has few threads of its own.
        assert len(origin.asked) <= 8
        origin.go_on.set()
        for each in stuck:
            status, _ = each.head()
            assert status == 200


def test_pages_come_whatever_all_others_wait_for(gate, server):
    origin = Origin(gate, '/')
    with contextlib.ExitStack() as stack:
        stack.callback(origin.go_on.set)
        for number in range(70):
            each = stack.enter_context(Client(server))
            each.send(f'/http/far{number}/image')
        waiting.until(lambda: len(origin.asked) >= 20)
        other = stack.enter_context(Client(server))
        assert other.get('/v1/a')[::2] == (200, b'GET /v1/a')


def test_requests_behind_one_that_waits(gate, origin, client):
    """They are answered in their order."""
    gate.granted.add('/here')
    for path in ('/http/hangs', '/here', '/v1/a', '/http/hangs'):
        client.send(path, range='bytes=0-9')
    waiting.until(lambda: origin.asked)
    origin.go_on.set()
    found = [client.response()[::2] for _ in range(4)]
    assert found == [
        (206, DATA[:10]),
        (206, DATA[:10]),
        (200, b'GET /v1/a'),
        (206, DATA[:10]),
    ]


def test_nobody_is_asked_for_who_has_gone(gate, origin, server):
    """Where he had to wait for others first."""
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(Client(server)) for _ in range(8)]
        for each in first:
            each.send('/http/hangs/first')
        waiting.until(lambda: len(origin.asked) == 8)
        with contextlib.ExitStack() as gone:
            for number in range(20):
                each = gone.enter_context(Client(server))
                each.send(f'/http/hangs/{number}')
                each.sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0' + bytes(4)
                )
            waiting.until(lambda: len(gate.found) == 28)
        waiting.until(lambda: server.statistics()['connections'] == 8)
        origin.go_on.set()
        for each in first:
            assert each.response()[::2] == (200, DATA)
    assert set(origin.asked) == {'/http/hangs/first'}


def test_the_end_while_somebody_asks(gate):
    """It does not wait for an origin for longer than a second."""
    origin = Origin(gate, '/')
    with serve(gate) as server, Client(server) as client:
        client.send(FAR)
        waiting.until(lambda: origin.asked)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 2
        assert client.file.read() == b''
        origin.go_on.set()


def test_an_image_that_is_dropped(gate, image, server, client):
    """Who reads it is cut off, and can come again."""
    assert client.get(FAR)[0] == 200
    with Client(server) as other:
        other.get('/v1/a')
        server.drop(image)
        assert client.file.read() == b''
        assert not image.readers
        assert other.get(FAR)[::2] == (200, DATA)


# Pages


@pytest.mark.parametrize('method', ['GET', 'POST', 'DELETE'])
def test_pages(method, gate, client):
    gate.on_page = lambda asked: _gate.Page(
        202, 'application/json', b'{"a": 1}', {'X-More': 'yes'}
    )
    status, headers, body = client.get('/v1/a?b=c', method=method)
    assert (status, body) == (202, b'{"a": 1}')
    assert headers['content-type'] == 'application/json'
    assert headers['x-more'] == 'yes'
    ((asked, sent),) = gate.pages
    assert (asked.method, asked.target, sent) == (method, '/v1/a?b=c', b'')
    assert asked.fields['x-request-id'] == headers['x-request-id']
    assert not gate.found


def test_head_of_a_page(client):
    status, headers, _ = client.get('/v1/a', method='HEAD')
    assert (status, headers['content-length']) == (200, '10')
    assert client.get('/v1/a')[2] == b'GET /v1/a'


def test_a_page_that_is_none(gate, client):
    gate.on_page = lambda asked: None
    assert client.get('/v1/a')[0] == 404


@pytest.mark.parametrize('status', [204, 304])
def test_a_page_that_has_no_body(status, gate, client):
    gate.on_page = lambda asked: _gate.Page(status, 'a/b', b'left out')
    found, headers, _ = client.get('/v1/a')
    assert found == status
    assert not {'content-length', 'content-type'} & headers.keys()
    gate.on_page = lambda asked: _gate.Page(200, 'a/b', b'next')
    assert client.get('/v1/a')[2] == b'next'


def test_a_page_that_cannot_be_had(gate, client):
    def fail(asked):
        raise exceptions.Unavailable('busy')

    gate.on_page = fail
    assert client.get('/v1/a')[::2] == (503, b'busy\n')


def test_a_large_page(gate, server):
    """It goes out as the client takes it, beside what others get."""
    data = resource.pattern(20 << 20)
    gate.on_page = lambda asked: _gate.Page(200, 'a/b', data)
    with Client(server) as client, Client(server) as other:
        client.send('/v1/a')
        waiting.until(lambda: gate.pages)
        assert other.get(FAR)[2] == DATA
        status, headers = client.head()
        assert client.file.read(int(headers['content-length'])) == data


@pytest.mark.parametrize('size', [1, 1000, 300_000, 4 << 20])
@pytest.mark.parametrize('method', ['POST', 'DELETE'])
def test_bodies(method, size, gate, client):
    """They are whole, and the next request is behind them."""
    body = resource.pattern(size)
    for _ in range(2):
        client.send('/v1/a', method, body, content_length=size)
    client.send('/v1/b')
    for _ in range(2):
        assert client.response()[::2] == (200, f'{method} /v1/a'.encode())
    assert client.response()[::2] == (200, b'GET /v1/b')
    assert [sent for _, sent in gate.pages] == [body, body, b'']


def test_bodies_with_tls(gate, certs):
    """Records are no pieces of them."""
    body = resource.pattern(1_000_000)
    with serve(gate, tls=certs.server_context()) as server:
        with Client(server, certs.client_context()) as client:
            client.send(
                '/v1/a',
                'POST',
                content_length=len(body),
                expect='100-continue',
            )
            assert client.head() == (100, {})
            client.sock.sendall(body)
            assert client.response()[2] == b'POST /v1/a'
            assert client.get(FAR)[::2] == (200, DATA)
    assert gate.pages[0][1] == body


def test_a_body_that_comes_in_pieces(gate, client):
    client.send('/v1/a', 'POST', b'a', content_length=4)
    for piece in (b'b', b'c', b'dGET /v1/b HTTP/1.1\r\nHost: x\r\n\r\n'):
        client.sock.sendall(piece)
    assert client.response()[2] == b'POST /v1/a'
    assert client.response()[2] == b'GET /v1/b'
    assert gate.pages[0][1] == b'abcd'


def test_who_asks_whether_to_send_a_body(gate, client):
    client.send('/v1/a', 'POST', content_length=3, expect='100-continue')
    assert client.head() == (100, {})
    assert not gate.pages
    client.sock.sendall(b'abc')
    assert client.response()[2] == b'POST /v1/a'
    # Who did not wait needs no leave.
    client.send(
        '/v1/a', 'POST', b'abc', content_length=3, expect='100-continue'
    )
    assert client.response()[2] == b'POST /v1/a'


def test_bodies_for_what_is_no_page(gate, client):
    """Nobody is asked, and nothing behind it is taken for a request."""
    body = b'GET /v1/a HTTP/1.1\r\nHost: x\r\n\r\n'
    client.send(FAR, 'POST', body, content_length=len(body))
    status, headers, _ = client.response()
    assert (status, headers['allow']) == (405, 'GET, HEAD')
    assert headers['connection'] == 'close'
    assert client.file.read() == b''
    assert not gate.found
    assert not gate.pages


@pytest.mark.parametrize('method', ['PUT', 'OPTIONS', 'PATCH', 'x'])
@pytest.mark.parametrize('path', ['/v1/a', FAR])
def test_other_methods(method, path, gate, client):
    assert client.get(path, method=method)[0] == 405
    assert client.get('/v1/a')[0] == 200
    assert not gate.found


def test_too_much_at_once(server):
    """Long bodies have a bound together; short ones always go."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Client(server)) for _ in range(8)]
        for each in slow:
            each.send('/v1/a', 'POST', b'x' * 10, content_length=4 << 20)
        one = stack.enter_context(Client(server))

        def status_of(size):
            with Client(server) as client:
                body = bytes(size)
                with contextlib.suppress(ConnectionError):
                    client.send('/v1/a', 'POST', body, content_length=size)
                return client.response()[0]

        waiting.until(lambda: status_of(100_000) == 503)
        assert status_of(64 * 1024) == 200
        assert one.get(FAR)[2] == DATA
        slow.pop().sock.shutdown(socket.SHUT_RDWR)
        waiting.until(lambda: status_of(100_000) == 200)
        for each in slow:
            each.sock.sendall(bytes((4 << 20) - 10))
            assert each.response()[0] == 200
        assert status_of(4 << 20) == 200


def test_too_many_long_pages(gate, server):
    """Those that nobody takes have a bound together; short ones always go."""
    long = _gate.Page(200, 'a/b', bytes(11 << 20))
    short = _gate.Page(200, 'a/b', b'short')
    gate.on_page = lambda asked: short if 'short' in asked.path else long
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Client(server)) for _ in range(2)]
        for each in slow:
            each.send('/v1/long')
            assert each.head()[0] == 200
        one = stack.enter_context(Client(server))
        status, headers, _ = one.get('/v1/long')
        assert (status, 'retry-after' in headers) == (503, True)
        assert one.get('/v1/short')[2] == b'short'
        assert len(slow[0].file.read(11 << 20)) == 11 << 20
        waiting.until(lambda: one.get('/v1/long')[0] == 200)


def test_bodies_that_never_come(gate):
    """They have as long as a head has; then that is said."""
    limits = http_host.Limits(head=0.4, idle=60)
    with serve(gate, limits=limits) as server, Client(server) as client:
        client.send('/v1/a', 'POST', b'abc', content_length=4)
        status, headers, _ = client.response()
        assert (status, headers['connection']) == (408, 'close')
        assert client.file.read() == b''
    assert not gate.pages


# Names of requests


def test_names_of_requests(client):
    """The client's, or one that no other has; on all answers."""
    assert client.get(FAR, x_request_id='mine-1')[1]['x-request-id'] == (
        'mine-1'
    )
    names = [
        client.get(path, method=method)[1]['x-request-id']
        for path in (FAR, '/v1/a')
        for method in ('GET', 'HEAD', 'POST', 'PUT')
        if (path, method) != (FAR, 'POST')
    ]
    names.append(client.get(FAR, x_request_id='a b')[1]['x-request-id'])
    client.sock.sendall(b'nonsense\r\n\r\n')
    names.append(client.response()[1]['x-request-id'])
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r'req-[0-9a-f]+-[0-9]+', name) for name in names)


PATH = '/http/admin:pass%40word@far.example/im%0aage?token=SECRET'


@pytest.fixture
def logged(caplog):
    """Lines of the log; ``DEBUG`` is wanted before the server starts."""
    caplog.set_level(logging.DEBUG)

    def lines(level=logging.INFO):
        return [
            each.getMessage()
            for each in caplog.records
            if each.name.startswith('oslo_transfer.export.http')
            and each.levelno >= level
        ]

    return lines


def test_the_log_has_each_request(logged, gate, server):
    """Where somebody was asked or refused, in any case."""
    with Client(server) as client:
        for number in range(3):
            client.get(PATH, x_request_id=f'name-{number}')
        client.get('/v1/a', x_request_id='name-3')
        client.get('/v1/a', method='POST', x_request_id='name-4')
        gate.knows = exceptions.PolicyRefused('no')
        client.get(PATH, x_request_id='name-5')
        client.sock.sendall(b'nonsense\r\n\r\n')
        name = client.response()[1]['x-request-id']
        peer = '{}:{}'.format(*client.sock.getsockname())
    waiting.until(lambda: any(name in line for line in logged()))
    told = {line.split()[0]: line for line in logged()}
    assert list(told) == ['name-0', 'name-4', 'name-5', name]
    assert told['name-0'].startswith(
        f'name-0 {peer} "GET /http/***@far.example/im%0aage" 200, '
        f'{len(DATA)} bytes in 0.'
    )
    assert '"POST /v1/a" 200, 0 bytes' in told['name-4']
    assert ' 403, ' in told['name-5']
    assert '"what is no request" 400' in told[name]
    assert len([x for x in logged(logging.DEBUG) if '"GET' in x]) == 5


def test_the_log_tells_no_secret(logged, gate, image, server):
    """Whatever goes wrong."""
    secrets = {
        'authorization': 'Bearer SECRET',
        'proxy_authorization': 'Bearer SECRET',
        'x_auth_token': 'SECRET',
    }

    def fails(block):
        raise exceptions.Unavailable('far away')

    with Client(server) as client:
        client.get(PATH, **secrets)
        gate.learns = ZeroDivisionError('a bug')
        client.get(PATH + '2', **secrets)
        client.get(f'/http/{"x" * 300}:SECRET@far/', **secrets)
        gate.granted.clear()
        gate.learns = None
        image.evict(1)
        image.on_bring = fails
        client.send(PATH, **secrets)
        # It ends early.
        client.file.read()
    for word in ('SECRET', 'pass', 'admin'):
        assert word not in '\n'.join(logged(logging.DEBUG))
    assert any('ended early' in line for line in logged())


def test_a_broken_answer_is_told(logged, image, server):
    brings, go_on = threading.Event(), threading.Event()

    def bring(block):
        brings.set()
        assert go_on.wait(20)

    image.evict(5)
    image.on_bring = bring
    with Client(server) as client:
        client.send(FAR, x_request_id='name-1')
        assert brings.wait(20)
        client.sock.shutdown(socket.SHUT_RDWR)
    waiting.until(
        lambda: any(
            re.match('name-1 .* and it ended early', line) for line in logged()
        )
    )
    go_on.set()
    waiting.until(lambda: not image.readers)
