# SPDX-License-Identifier: Apache-2.0
"""What clients can do to an export with a gate: bodies, pages, waiting."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.export import gate as _gate
from oslo_transfer.export import http_host
from oslo_transfer.export import http_server
from oslo_transfer.export import listening
from tests.servers import rawhttp
from tests.servers import resource
from tests.servers import scripted_gate
from tests.servers import scripted_image
from tests import waiting

DATA = resource.pattern(4 * scripted_image.BLOCK)
HOST = b' HTTP/1.1\r\nHost: here\r\n'
POST = b'POST /v1/a' + HOST
GET = b'GET /http/far/image' + HOST
SMUGGLED = b'GET /v1/smuggled' + HOST + b'\r\n'
RESET = b'\1\0\0\0' + bytes(4)
pytestmark = pytest.mark.usefixtures('nothing_left')


@contextlib.contextmanager
def serving(**options):
    """A server, and its gate."""
    with scripted_image.ScriptedImage(DATA, there=True) as image:
        gate = scripted_gate.ScriptedGate(image)
        with http_server.HttpServer(
            {}, listening.Address(), gate=gate, **options
        ) as server:
            server.gate = gate
            yield server


@pytest.fixture
def server():
    with serving() as running:
        yield running


def assert_serves(server):
    """Somebody honest gets what he asks for, at once."""
    started = time.monotonic()
    with rawhttp.connect(server) as sock:
        sock.sendall(POST + b'Content-Length: 3\r\n\r\nabc')
        sock.sendall(GET + b'Connection: close\r\n\r\n')
        found = rawhttp.all_of(sock)
        assert rawhttp.statuses(found) == [200, 200]
        assert found.endswith(b'\r\n\r\n' + DATA)
    assert time.monotonic() - started < 2


# Bodies


@pytest.mark.parametrize(
    'lines',
    [
        b'Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n',
        b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        b'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        b'Transfer-Encoding: identity\r\n\r\n',
        b'Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n',
        b'Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n',
        b'X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        b'X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        b'Content-Length: 0\r\nContent-Length: 40\r\n\r\n',
        b'Content-Length: 3, 3\r\n\r\nabc',
        b'Content-Length: 3\r\n\x20Content-Length: 40\r\n\r\nabc',
        b'Content-Length: +3\r\n\r\nabc',
        b'Content-Length: 0x3\r\n\r\nabc',
        b'Content-Length: 3_0\r\n\r\nabc',
        b'Content-Length: -0\r\n\r\n',
        b'Content-Length: \xb2\r\n\r\nab',
        b'Content-Length: 4194305\r\n\r\n',
        b'Content-Length: ' + b'9' * 4000 + b'\r\n\r\n',
        b'Expect: 200-maybe\r\nContent-Length: 3\r\n\r\nabc',
    ],
)
def test_nothing_is_smuggled(lines, server):
    """A body that others may take for a request ends the connection."""
    with rawhttp.connect(server) as sock:
        sock.sendall(POST + lines + SMUGGLED)
        (status,) = rawhttp.statuses(rawhttp.all_of(sock))
    assert 400 <= status < 500
    assert not server.gate.pages
    assert_serves(server)


@pytest.mark.parametrize('method', [b'GET', b'HEAD', b'PUT', b'x'])
@pytest.mark.parametrize('path', [b'/v1/a', b'/http/far/a'])
def test_bodies_of_who_has_none(method, path, server):
    with rawhttp.connect(server) as sock:
        sock.sendall(
            method
            + b' '
            + path
            + HOST
            + b'Content-Length: %d\r\n\r\n' % len(SMUGGLED)
            + SMUGGLED
        )
        assert rawhttp.statuses(rawhttp.all_of(sock)) == [413]
    assert not server.gate.pages
    assert not server.gate.found


def test_a_request_as_a_body(server):
    """It is a body."""
    with rawhttp.connect(server) as sock:
        length = b'Content-Length: %d\r\n' % len(SMUGGLED)
        sock.sendall(
            (POST + length + b'\r\n' + SMUGGLED) * 2
            + POST
            + length
            + b'Connection: close\r\n\r\n'
            + SMUGGLED
        )
        assert rawhttp.statuses(rawhttp.all_of(sock)) == [200] * 3
    assert [body for _, body in server.gate.pages] == [SMUGGLED] * 3


REQUESTS = st.one_of(
    st.tuples(
        st.sampled_from([b'POST', b'DELETE']),
        st.one_of(
            st.binary(max_size=50),
            st.sampled_from([SMUGGLED, b'\r\n', b'\r\n\r\n', bytes(70_000)]),
        ),
    ),
    st.tuples(st.sampled_from([b'GET', b'POST']), st.none()),
)


@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    st.lists(REQUESTS, max_size=6), st.lists(st.integers(0, 1000), max_size=6)
)
def test_it_does_not_matter_how_bodies_come(server, requests, cuts):
    """However the network cuts them up, all are whole and in order."""
    server.gate.pages.clear()
    text = b''
    for method, body in requests:
        text += method + b' /v1/a' + HOST
        if body is not None:
            text += b'Content-Length: %d\r\n' % len(body)
        text += b'\r\n' + (body or b'')
    text += b'GET /v1/last' + HOST + b'Connection: close\r\n\r\n'
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    with rawhttp.connect(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in zip(places, places[1:]):
            sock.sendall(text[start:end])
        assert rawhttp.statuses(rawhttp.all_of(sock)) == [200] * (
            len(requests) + 1
        )
    assert [body for _, body in server.gate.pages] == [
        *(body or b'' for _, body in requests),
        b'',
    ]


PIECES = st.sampled_from(
    [
        *(POST, GET, SMUGGLED, b'\r\n', b'\r\n\r\n', b'abc', b'\0', b'POST '),
        *(b'Content-Length: 3\r\n', b'Content-Length: 3\r\n\r\n', b' ', b':'),
        *(b'Expect: 100-continue\r\n', b'Transfer-Encoding: chunked\r\n'),
        *(b'Connection: close\r\n', b'Content-Length: 99999999\r\n', b'\xff'),
    ]
)


@hypothesis.settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(st.lists(st.one_of(PIECES, st.binary(max_size=9))))
def test_any_bytes(server, pieces):
    """They end with answers, or with the connection; nobody else notices."""
    with rawhttp.connect(server) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(b''.join(pieces))
            sock.shutdown(socket.SHUT_WR)
        found = rawhttp.statuses(rawhttp.all_of(sock))
    assert all(100 <= status < 500 for status in found)
    for asked, body in server.gate.pages:
        assert len(body) == int(asked.fields.get('content-length', 0))
    server.gate.pages.clear()


def test_slow_bodies(server_with_little_time):
    """A byte now and then keeps nothing for long, and nobody waits."""
    server = server_with_little_time
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(rawhttp.connect(server)) for _ in range(40)
        ]
        started = time.monotonic()
        for number, sock in enumerate(socks):
            length = 4 << 20 if number % 2 else 10
            sock.sendall(POST + b'Content-Length: %d\r\n\r\n' % length)
        for byte in (b'a', b'b', b'c'):
            for sock in socks:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(byte)
            assert_serves(server)
        found = [rawhttp.statuses(rawhttp.all_of(sock)) for sock in socks]
        assert found[::2] == [[408]] * 20
        # There was room for seven of the long ones beside the short ones.
        assert found[1::2].count([408]) in (7, 8)
        assert all(each in ([408], [503]) for each in found[1::2])
        assert time.monotonic() - started < 4
    assert all(len(body) == 3 for _, body in server.gate.pages)
    waiting.until(lambda: not server.statistics()['connections'])
    with rawhttp.connect(server) as sock:
        size = 4 << 20
        sock.sendall(POST + b'Content-Length: %d\r\n\r\n' % size + bytes(size))
        assert sock.recv(100).startswith(b'HTTP/1.1 200')


@pytest.fixture
def server_with_little_time():
    with serving(limits=http_host.Limits(head=0.6)) as running:
        yield running


def test_bodies_that_are_cut_off(server):
    """Nobody is told of them, and their memory is free again."""
    for turn in range(40):
        with rawhttp.connect(server) as sock:
            if turn % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            size = 4 << 20
            sock.sendall(
                POST + b'Content-Length: %d\r\n\r\n' % size + bytes(size // 9)
            )
    waiting.until(lambda: not server.statistics()['connections'])
    assert not server.gate.pages
    with rawhttp.connect(server) as sock:
        sock.sendall(POST + b'Content-Length: %d\r\n\r\n' % size + bytes(size))
        assert sock.recv(100).startswith(b'HTTP/1.1 200')


@pytest.mark.parametrize('length', [5 << 20, 1 << 40])
def test_bodies_that_are_too_long(length, server):
    """They are refused before they come."""
    with rawhttp.connect(server) as sock:
        sock.sendall(
            POST
            + b'Content-Length: %d\r\nExpect: 100-continue\r\n\r\n' % length
        )
        assert rawhttp.statuses(rawhttp.all_of(sock)) == [413]


def test_who_asks_and_does_not_read(server):
    """Whoever floods with questions waits for himself."""
    urge = b'Content-Length: 1\r\nExpect: 100-continue\r\n\r\n'
    with rawhttp.connect(server) as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send((POST + urge + b'a') * 1000)
        assert_serves(server)


# Pages


def test_pages_that_nobody_takes(server_with_little_patience):
    """They are given up, and their memory with them."""
    server = server_with_little_patience
    page = _gate.Page(200, 'a/b', bytes(10 << 20))
    server.gate.on_page = lambda asked: page
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(rawhttp.connect(server))
            sock.sendall(b'GET /v1/a' + HOST + b'\r\n')
        waiting.until(lambda: len(server.gate.pages) == 3)
        waiting.until(lambda: not server.statistics()['connections'])
    assert server.statistics()['broken'] == 3


@pytest.fixture
def server_with_little_patience():
    with serving(limits=http_host.Limits(sending=0.5)) as running:
        yield running


# Waiting


def test_clients_that_come_and_go_while_the_gate_is_asked(server):
    """Whatever they do, those who stay are answered."""
    go_on = threading.Event()
    server.gate.on_admit = lambda asked: go_on.wait(20)
    dice = random.Random(7)
    with contextlib.ExitStack() as stack:
        stack.callback(go_on.set)
        stays = []
        for number in range(150):
            sock = stack.enter_context(rawhttp.connect(server))
            sock.sendall(
                b'GET /http/far%d/a' % (number % 5)
                + HOST
                + b'Connection: close\r\n\r\n'
            )
            fate = dice.randrange(4)
            if fate == 0:
                sock.shutdown(socket.SHUT_WR)
            if fate == 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            if fate in (1, 2):
                sock.close()
            else:
                stays.append(sock)
        go_on.set()
        for sock in stays:
            assert rawhttp.all_of(sock).endswith(b'\r\n\r\n' + DATA)
    waiting.until(lambda: not server.statistics()['connections'])


def test_one_who_asks_for_many_origins_that_hang(server):
    """He takes threads, but neither pages nor what is here."""
    go_on = threading.Event()
    server.gate.on_admit = lambda asked: go_on.wait(20)
    server.gate.granted.add('/http/far/image')
    with contextlib.ExitStack() as stack:
        stack.callback(go_on.set)
        for number in range(200):
            sock = stack.enter_context(rawhttp.connect(server))
            sock.sendall(b'GET /http/far%d/a' % number + HOST + b'\r\n')
        waiting.until(lambda: len(server.gate.admitted) == 32)
        assert_serves(server)
        assert threading.active_count() < 32 + 10
