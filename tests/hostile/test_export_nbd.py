# SPDX-License-Identifier: Apache-2.0
"""Clients of the NBD export that lie, vanish, or want more than is due."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.cache import plainfile
from oslo_transfer.export import listening
from oslo_transfer.export import nbd
from oslo_transfer.export import nbd_session
from oslo_transfer import nbd_wire as wire
from oslo_transfer import tls
from tests.servers import nbd_client
from tests.servers import resource as patterns
from tests import waiting

BLOCK = 64 * 1024
DATA = patterns.pattern(24 * BLOCK)
SIZE = len(DATA)
Command = wire.Command


@pytest.fixture(autouse=True, scope='module', params=[1, 16])
def calm(request):
    """How soon a connection is left to the one that serves the calm."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(nbd_session, '_CALM', request.param)
        patched.setattr(nbd, '_FEW', 0 if request.param == 1 else 2)
        yield


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    made = plainfile.PlainFile(str(path))
    yield made
    made.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'sock')


@pytest.fixture
def server(image, path, nothing_left):
    with nbd.NbdServer({'': image}, listening.Address(path=path)) as running:
        yield running


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    """One server for all examples."""
    directory = tmp_path_factory.mktemp('nbd')
    (directory / 'image').write_bytes(DATA)
    image = plainfile.PlainFile(str(directory / 'image'))
    path = str(directory / 'sock')
    with nbd.NbdServer({'': image}, listening.Address(path=path)) as running:
        yield running, path
    image.close()


def requests():
    numbers = st.one_of(
        st.integers(0, SIZE),
        st.sampled_from([SIZE - 1, SIZE, (1 << 63) - 1, (1 << 64) - 1]),
    )
    return st.builds(
        lambda kind, flags, cookie, offset, length: wire.REQUEST.pack(
            wire.REQUEST_MAGIC, flags, kind, cookie, offset, length
        ),
        st.one_of(st.sampled_from(list(Command)), st.integers(0, 65535)),
        st.one_of(st.just(0), st.integers(0, 65535)),
        st.integers(0, 3),
        numbers,
        st.one_of(st.integers(0, 70_000), st.integers(0, (1 << 32) - 1)),
    )


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.booleans(),
    st.booleans(),
    st.lists(st.one_of(requests(), st.binary(max_size=60)), max_size=12),
)
def test_any_bytes(shared, agrees, structured, parts):
    """They end in an orderly way, and others are served."""
    server, path = shared
    with nbd_client.Client(path) as client, nbd_client.Client(path) as other:
        other.go()
        if agrees:
            client.go(structured=structured)
        with contextlib.suppress(OSError):
            client.sock.sendall(b''.join(parts))
            client.sock.shutdown(socket.SHUT_WR)
        # All that was answered is taken; then it is at its end.
        with contextlib.suppress(ConnectionResetError):
            while client.sock.recv(1 << 20):
                pass
        assert other.read(5, 100) == DATA[5:105]
    waiting.until(lambda: server.connections == 0)


def memory():
    """Bytes of this process that are its own."""
    for line in pathlib.Path('/proc/self/status').read_text().splitlines():
        if line.startswith('RssAnon:'):
            return int(line.split()[1]) * 1024
    raise AssertionError


def test_slow_clients(server, path):
    """Fifty at 1 KB/s cost little memory, and fast ones no time."""
    clients = []
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(nbd_client.Client(path))
            client.go()
            clients.append(client)
        before = memory()
        ends = threading.Event()

        def trickle():
            while not ends.wait(0.1):
                for client in clients:
                    client.sock.recv(100)

        for client in clients:
            client.sock.sendall(
                b''.join(
                    wire.request(Command.READ, cookie, 0, length)
                    for cookie in range(16)
                    for length in (4096, SIZE)
                )
            )
        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            with nbd_client.Client(path) as fast:
                fast.go()
                started = time.monotonic()
                for _ in range(50):
                    assert fast.read(0, SIZE) == DATA
                took = time.monotonic() - started
            grown = memory() - before
        finally:
            ends.set()
            thread.join()
        waiting.until(lambda: server.connections == 50)
        assert took < 5
        # A buffer of 128 KiB for each, and the client that asks here.
        assert grown < 50 * 256 * 1024
    waiting.until(lambda: server.connections == 0)


def test_clients_that_vanish(server, path):
    """At random moments, in the middle of everything."""
    for number in range(60):
        with nbd_client.Client(path) as client:
            if number % 3:
                client.go(structured=bool(number % 2))
                client.sock.sendall(
                    wire.request(Command.READ, 1, 0, SIZE) * (number % 5)
                    + wire.request(Command.WRITE, 2, 0, 1 << 20)[: number % 28]
                )
            if number % 4 == 0:
                # Reset, where there is something unread.
                client.sock.setsockopt(
                    socket.SOL_SOCKET,
                    socket.SO_LINGER,
                    struct.pack('ii', 1, 0),
                )
    waiting.until(lambda: server.connections == 0)


@pytest.mark.parametrize(
    'seconds', [1.0, pytest.param(10.0, marks=pytest.mark.campaign)]
)
def test_many_readers(seconds, server, path):
    """Two hundred at once, and no error."""
    failures, counts = [], []
    end = time.monotonic() + seconds

    def read(number):
        try:
            with nbd_client.Client(path, 30.0) as client:
                client.go(structured=bool(number % 2))
                done = 0
                while time.monotonic() < end or not done:
                    offset = (number * 7919 + done * 104_729) % (SIZE - BLOCK)
                    length = BLOCK if done % 8 == 0 else 4096
                    found = client.read(offset, length)
                    assert found == DATA[offset : offset + length]
                    done += 1
                counts.append(done)
        except Exception as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=read, args=(number,)) for number in range(200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(counts) == 200
    waiting.until(lambda: server.connections == 0)


SERVE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from oslo_transfer.cache import plainfile
from oslo_transfer.export import listening
from oslo_transfer.export import nbd
image = plainfile.PlainFile(sys.argv[1])
with nbd.NbdServer({'': image}, listening.Address(path=sys.argv[2])) as server:
    print('ready', flush=True)
    sys.stdin.read()
"""


def test_few_descriptors(image, path):
    """Who is there is served on; others wait until there are some again."""
    child = subprocess.Popen(
        [sys.executable, '-c', SERVE, image.path, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout.readline() == b'ready\n'
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(nbd_client.Client(path))
                for _ in range(100)
            ]
            for client in clients[:50]:
                client.go()
            for client in clients[:50]:
                assert client.read(0, SIZE) == DATA
            late = clients[99]
            late.sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.take(1)
            for client in clients[:80]:
                client.close()
            late.sock.settimeout(5)
            late.go()
            assert late.read(0, SIZE) == DATA
    finally:
        child.communicate(timeout=5)
    assert child.returncode == 0


def test_more_than_the_backlog(server, path):
    """Whoever connects at once with many others gets in."""
    clients, failures = [], []

    def connect():
        try:
            client = nbd_client.Client(path, 10.0)
            clients.append(client)
            client.go()
            assert client.read(7, 7) == DATA[7:14]
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=connect) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    assert failures == []


def test_disk_has_to_be_asked(server, image, path):
    """What is not in memory keeps only those waiting who want it."""
    with (
        nbd_client.Client(path) as client,
        nbd_client.Client(path) as other,
    ):
        client.go()
        other.go()
        os.fsync(image.fd)
        for turn in range(40):
            if turn % 5 == 0:
                os.posix_fadvise(image.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            start = turn * 7 * 4096
            assert client.read(start, 4096) == DATA[start : start + 4096]
            assert other.read(turn, 10) == DATA[turn : turn + 10]


# TLS


@pytest.fixture
def secured(image, certs, nothing_left):
    """Make servers with TLS; they end with the test."""
    with contextlib.ExitStack() as stack:

        def make(clients=False):
            context = tls.ServerContext(
                'group', *certs.pair(), certs.ca_file if clients else None
            )
            server = nbd.NbdServer(
                {'': image},
                listening.Address(),
                tls=context,
                handshake_seconds=2,
            )
            stack.enter_context(server)
            assert server.uri.startswith('nbds://127.0.0.1:')
            return '127.0.0.1', int(server.uri.split(':')[2].rstrip('/'))

        yield make


@pytest.mark.parametrize('structured', [True, False])
def test_tls(structured, secured, certs):
    with nbd_client.Client(secured()) as client:
        client.go('', structured, certs.client_context())
        assert isinstance(client.sock, ssl.SSLSocket)
        for offset, length in ((0, 1), (77, 4096), (0, SIZE), (BLOCK, BLOCK)):
            assert client.read(offset, length) == DATA[offset:][:length]
        cookies = {client.ask(at * 4096, 4096): at for at in range(64)}
        for cookie, answer in client.answers(64).items():
            start = cookies[cookie] * 4096
            assert answer.data == DATA[start : start + 4096]
        answer = client.call(0, 5, Command.WRITE, payload=b'12345')
        assert answer.error == wire.Error.EPERM
        client.sock.sendall(wire.request(Command.DISC, 0, 0, 0))
        assert client.at_end()


def test_nothing_without_tls(secured):
    with nbd_client.Client(secured()) as client:
        client.greet()
        for kind, data in (
            (wire.Option.LIST, b''),
            (wire.Option.GO, wire.go(b'')),
        ):
            ((reply, _text),) = client.option(kind, data)
            assert reply == wire.OptionReply.ERR_TLS_REQD
        client.sock.sendall(wire.option(wire.Option.EXPORT_NAME))
        assert client.at_end()


def test_what_is_sent_ahead_of_tls_does_not_count(secured):
    """An attacker in between cannot put options before it."""
    with nbd_client.Client(secured()) as client:
        client.greet()
        client.sock.sendall(
            wire.option(wire.Option.STARTTLS) + wire.option(wire.Option.LIST)
        )
        assert client.replies(wire.Option.STARTTLS)[0][0] == 1
        said = b''
        with contextlib.suppress(OSError):
            while more := client.sock.recv(4096):
                said += more
        assert b'\x00\x03\xe8\x89\x04\x55\x65\xa9' not in said


def test_client_certificates(secured, certs):
    address = secured(clients=True)
    context = certs.client_context(with_certificate=True)
    with nbd_client.Client(address) as client:
        client.go(tls=context)
        assert client.read(0, 9) == DATA[:9]
    with (
        nbd_client.Client(address) as client,
        pytest.raises((OSError, EOFError)),
    ):
        client.go(tls=certs.client_context())
    # The server goes on.
    with nbd_client.Client(address) as client:
        client.go(tls=context)
        assert client.read(0, 9) == DATA[:9]


def test_tls_handshake_has_to_end(image, certs, nothing_left):
    context = tls.ServerContext('group', *certs.pair())
    with (
        nbd.NbdServer(
            {'': image},
            listening.Address(),
            tls=context,
            handshake_seconds=0.3,
        ) as server,
        nbd_client.Client(
            ('127.0.0.1', int(server.uri.split(':')[2].rstrip('/')))
        ) as client,
    ):
        client.greet()
        client.option(wire.Option.STARTTLS)
        assert client.at_end()


def test_stop_within_tls(image, certs, nothing_left):
    """However far each client is."""
    context = tls.ServerContext('group', *certs.pair())
    server = nbd.NbdServer({'': image}, listening.Address(), tls=context)
    server.start()
    address = '127.0.0.1', int(server.uri.split(':')[2].rstrip('/'))
    with (
        nbd_client.Client(address) as begun,
        nbd_client.Client(address) as idle,
        nbd_client.Client(address, 0.3) as silent,
    ):
        begun.greet()
        begun.option(wire.Option.STARTTLS)
        idle.go(tls=certs.client_context())
        silent.go(tls=certs.client_context())
        with pytest.raises(OSError):
            while True:
                silent.sock.sendall(wire.request(0, 0, 0, SIZE) * 1000)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 1.0
        assert server.connections == 0
