# SPDX-License-Identifier: Apache-2.0
"""The NBD export: what is there goes out, what is not is fetched first."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from oslo_transfer import exceptions
from oslo_transfer.export import listening
from oslo_transfer.export import nbd
from oslo_transfer.export import nbd_misses
from oslo_transfer.export import nbd_session
from oslo_transfer import nbd_wire as wire
from oslo_transfer import tls
from tests.servers import nbd_client
from tests.servers import resource
from tests.servers import scripted_image
from tests import waiting

BLOCK = scripted_image.BLOCK
DATA = resource.pattern(40 * BLOCK + 1234)
SIZE = len(DATA)
# Of where it is, and why, nothing.
TOLD = 'the image cannot be read now (StorageError)'
Chunk = wire.Chunk
Command = wire.Command
Error = wire.Error
pytestmark = pytest.mark.usefixtures('nothing_left')

BOTH = pytest.mark.parametrize('structured', [True, False])


@pytest.fixture(autouse=True, params=[1, 16], ids=['parked', 'own'])
def calm(request, monkeypatch):
    """How soon a connection is left to the one that serves the calm."""
    monkeypatch.setattr(nbd_session, '_CALM', request.param)
    monkeypatch.setattr(nbd, '_FEW', 0 if request.param == 1 else 2)


@pytest.fixture
def image():
    with scripted_image.ScriptedImage(DATA) as made:
        yield made


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'nbd.sock')


@pytest.fixture
def server(image, path):
    with nbd.NbdServer({'': image}, listening.Address(path=path)) as running:
        yield running


@pytest.fixture
def connect(server, path):
    """Make clients that are in transmission; they end with the test."""
    made = []

    def connect(structured=True, name='', timeout=5.0):
        client = nbd_client.Client(path, timeout)
        made.append(client)
        assert client.go(name, structured) == SIZE
        return client

    yield connect
    for client in made:
        client.close()


def have_all(image):
    for block in range(len(image.present)):
        image.put(block)


RUNS = [
    (0, 1),
    (0, 4096),
    (BLOCK - 1, 2),
    (3, 16 * 1024),
    (BLOCK, BLOCK),
    (5 * BLOCK + 7, 3 * BLOCK),
    (SIZE - 1, 1),
    (SIZE - 9 * BLOCK, 9 * BLOCK),
    (0, SIZE),
]


@BOTH
@pytest.mark.parametrize('there', [True, False])
@pytest.mark.parametrize(('offset', 'length'), RUNS)
def test_read(offset, length, there, structured, image, connect):
    """It is what the image has, and nothing else is fetched."""
    if there:
        have_all(image)
    client = connect(structured)
    for _ in range(2):
        assert client.read(offset, length) == DATA[offset : offset + length]
    blocks = range(offset // BLOCK, -(-(offset + length) // BLOCK))
    assert image.brought == ([] if there else list(blocks))
    assert image.read == []


@BOTH
def test_many_at_once(structured, image, connect):
    """All are answered, whatever their order."""
    have_all(image)
    client = connect(structured)
    runs = [
        (number * 7919 % (SIZE - 70_000), 1 + number * 613 % 70_000)
        for number in range(300)
    ]
    # The client reads while the server sends.
    cookies = {}

    def ask():
        for run in runs:
            cookies[client.ask(*run)] = run

    thread = threading.Thread(target=ask)
    thread.start()
    found = client.answers(len(runs))
    thread.join()
    for cookie, (offset, length) in cookies.items():
        assert found[cookie].data == DATA[offset : offset + length]


@BOTH
def test_hits_overtake_misses(structured, image, connect, server):
    """Who waits for the origin keeps nobody waiting on his connection."""
    come = threading.Event()
    image.on_bring = lambda block: come.wait(5)
    image.put(3)
    client = connect(structured)
    late = client.ask(0, 4096)
    later = client.ask(BLOCK, 2 * BLOCK)
    for _ in range(5):
        assert client.read(3 * BLOCK, BLOCK) == DATA[3 * BLOCK : 4 * BLOCK]
        assert client.read(3 * BLOCK, 512) == DATA[3 * BLOCK :][:512]
    come.set()
    found = client.answers(2)
    assert found[late].data == DATA[:4096]
    assert found[later].data == DATA[BLOCK : 3 * BLOCK]
    assert server.statistics()['missed'] == 2


def test_misses_are_fetched_at_once(image, connect):
    """Sixteen reads of one connection wait for one round trip."""
    together = threading.Barrier(16)
    image.on_bring = lambda block: together.wait(5)
    client = connect()
    cookies = {client.ask(block * BLOCK, 512): block for block in range(16)}
    for cookie, answer in client.answers(16).items():
        start = cookies[cookie] * BLOCK
        assert answer.data == DATA[start : start + 512]


@pytest.fixture
def runs(monkeypatch):
    """What readers are asked to bring."""
    found = []
    bring = scripted_image.ScriptedReader.bring

    def note(self, offset, length):
        found.append((offset, length))
        return bring(self, offset, length)

    monkeypatch.setattr(scripted_image.ScriptedReader, 'bring', note)
    return found


def test_who_misses_in_order_has_more_brought(image, connect, runs):
    """Far away, many small requests would take as many round trips."""
    client = connect()
    for block in range(40):
        assert client.read(block * BLOCK, 512) == DATA[block * BLOCK :][:512]
    ends = [offset + length for offset, length in runs]
    # Not for one or two, then ever more, and never behind the end.
    assert [length for _offset, length in runs[:2]] == [512] * 2
    assert runs[2][1] > 2 * BLOCK
    assert max(ends) == SIZE
    assert sum(length > 512 for _offset, length in runs) < 16


def test_who_misses_anywhere_gets_what_he_asked_for(image, connect, runs):
    client = connect()
    asked = [(block * BLOCK, 512) for block in (0, 1, 39, 3, 28, 29, 9, 34)]
    for run in asked:
        client.read(*run)
    assert runs == asked


def test_no_more_is_taken_than_can_wait(image, connect, server):
    """Who asks for ever more has to wait; each is answered once."""
    come = threading.Event()
    image.on_bring = lambda block: come.wait(5)
    client = connect(timeout=0.2)
    cookies = {}
    with pytest.raises(TimeoutError):
        for number in range(100_000):
            cookies[client.ask(number % SIZE, 1)] = number % SIZE
    missed = server.statistics()['missed']
    assert 256 <= missed < 512
    client.sock.settimeout(5)
    come.set()
    # The last one may not have been sent as a whole.
    for cookie, answer in client.answers(len(cookies)).items():
        assert answer.data == DATA[cookies[cookie] :][:1]


@BOTH
@pytest.mark.parametrize('length', [512, 3 * BLOCK, 2 << 20])
def test_failed_read(length, structured, image, connect, server):
    """It is an error, with the reason, and the connection goes on."""
    image.put(0)
    client = connect(structured)
    image.on_bring = scripted_image.unavailable
    answer = client.call(2 * BLOCK, length)
    assert answer.error == Error.EIO
    if structured:
        assert answer.text == 'the image cannot be read now (Unavailable)'
        assert answer.offset == 2 * BLOCK
    assert client.read(0, BLOCK) == DATA[:BLOCK]
    image.on_bring = lambda block: None
    assert client.read(2 * BLOCK, 512) == DATA[2 * BLOCK :][:512]
    assert server.statistics()['failed'] == 1


@BOTH
@pytest.mark.parametrize('length', [512, 3 * BLOCK, SIZE])
def test_what_cannot_be_kept(length, structured, image, connect):
    """A full disk costs speed only."""
    image.keeps = False
    client = connect(structured)
    assert client.read(0, length) == DATA[:length]
    assert client.read(0, 1) == DATA[:1]


@BOTH
def test_no_room_for_what_cannot_be_kept(
    structured, image, connect, monkeypatch
):
    monkeypatch.setattr(nbd_misses.Budget, 'take', lambda self, count: False)
    test_what_cannot_be_kept(SIZE, structured, image, connect)
    image.on_bring = scripted_image.unavailable
    client = connect(structured)
    assert client.call(0, 512).error == Error.EIO
    image.on_bring = lambda block: None
    assert client.read(0, 512) == DATA[:512]


@BOTH
@pytest.mark.parametrize('length', [4096, 2 * BLOCK, SIZE])
def test_what_is_evicted_at_once(length, structured, image, connect):
    """A cache that is much too small does not make anybody wait for ever."""
    # Blocks are brought, and never there.
    image.put = lambda block: None
    client = connect(structured)
    assert client.read(0, length) == DATA[:length]


def test_do_not_fragment(image, connect):
    """The reply is one chunk, or none."""
    client = connect()
    flags = wire.RequestFlag.DF
    answer = client.call(0, 3 * BLOCK, flags=flags)
    assert answer.data == DATA[: 3 * BLOCK]
    assert answer.chunks.count(Chunk.OFFSET_DATA) == 1
    answer = client.call(0, SIZE, flags=flags)
    assert answer.error == Error.EOVERFLOW


def test_cache(image, connect):
    """What a client announces is fetched."""
    client = connect()
    answer = client.call(BLOCK, 3 * BLOCK, Command.CACHE)
    assert not answer.error
    assert image.brought == [1, 2, 3]
    image.on_bring = scripted_image.unavailable
    assert client.call(0, SIZE, Command.CACHE).error == Error.EIO
    image.keeps, image.on_bring = False, lambda block: None
    assert not client.call(0, SIZE, Command.CACHE).error


@BOTH
@pytest.mark.parametrize(
    ('request_', 'error'),
    [
        ((0, 100, Command.WRITE, 0, bytes(100)), Error.EPERM),
        ((0, 1 << 20, Command.WRITE, 1, bytes(1 << 20)), Error.EPERM),
        ((0, 100, Command.TRIM), Error.EPERM),
        ((0, 100, Command.WRITE_ZEROES), Error.EPERM),
        ((0, 0), Error.EINVAL),
        ((SIZE, 1), Error.EINVAL),
        ((SIZE - 1, 2), Error.EINVAL),
        (((1 << 64) - 1, (1 << 32) - 1), Error.EINVAL),
        ((0, 1, Command.READ, 1 << 15), Error.EINVAL),
        ((0, 1, Command.CACHE, 1), Error.EINVAL),
        ((0, 1, 99), Error.EINVAL),
        ((0, 1, Command.BLOCK_STATUS, 1), Error.EINVAL),
    ],
)
def test_refused(request_, error, structured, image, connect):
    """What cannot be is an error, and the connection goes on."""
    image.put(0)
    client = connect(structured)
    first = client.ask(0, 10)
    bad = client.ask(*request_)
    last = client.ask(20, 10)
    found = client.answers(3)
    assert found[bad].error == error
    assert (found[first].data, found[last].data) == (DATA[:10], DATA[20:30])


def test_too_much_at_once(path, nothing_left):
    """The most that was agreed upon is kept."""
    zeros = bytes(33 << 20)
    with (
        scripted_image.ScriptedImage(zeros, there=True) as image,
        nbd.NbdServer({'': image}, listening.Address(path=path)),
        nbd_client.Client(path) as client,
    ):
        client.go()
        assert client.call(0, (32 << 20) + 1).error == Error.EINVAL
        assert client.read(0, 32 << 20) == zeros[: 32 << 20]


def test_flush(connect):
    """There is nothing to be made durable."""
    assert not connect().call(0, 0, Command.FLUSH).error


def test_block_status_has_to_be_agreed_upon(connect):
    client = connect(structured=False)
    assert client.call(0, SIZE, Command.BLOCK_STATUS).error == Error.EINVAL


class HolesReader(scripted_image.ScriptedReader):
    """Of an image of which some is known to be zero."""

    def extents(self, offset, length):
        end = offset + length
        for start, stop, is_zero in HOLES:
            start, stop = max(start, offset), min(stop, end)
            if start < stop:
                yield stop - start, is_zero


HOLES = [
    (0, 4 * BLOCK, True),
    (4 * BLOCK, 7 * BLOCK, False),
    (7 * BLOCK, 7 * BLOCK + 512, True),
    (7 * BLOCK + 512, 20 * BLOCK, False),
    (20 * BLOCK, 30 * BLOCK, True),
    (30 * BLOCK, SIZE, False),
]


@pytest.fixture
def sparse(path):
    data = bytearray(DATA)
    for start, end, is_zero in HOLES:
        if is_zero:
            data[start:end] = bytes(end - start)
    with scripted_image.ScriptedImage(bytes(data)) as image:
        image.reader = lambda: HolesReader(image)
        with nbd.NbdServer({'': image}, listening.Address(path=path)):
            yield image


def test_block_status(sparse, path):
    """Clients see holes, though nothing was fetched."""
    with nbd_client.Client(path) as client:
        client.go()
        answer = client.call(0, SIZE, Command.BLOCK_STATUS)
        assert answer.extents == [
            (end - start, 3 * is_zero) for start, end, is_zero in HOLES
        ]
        one = wire.RequestFlag.REQ_ONE
        answer = client.call(BLOCK, 9 * BLOCK, Command.BLOCK_STATUS, one)
        assert answer.extents == [(3 * BLOCK, 3)]
    assert sparse.brought == []


def test_holes_are_not_sent(sparse, path):
    """Nor are they fetched; short ones are no better than data."""
    with nbd_client.Client(path) as client:
        client.go()
        answer = client.call(0, SIZE)
        assert answer.data == sparse.data
        assert answer.chunks.count(Chunk.OFFSET_HOLE) == 2
        blocks = {*range(4, 20), *range(30, 41)}
        assert set(sparse.brought) == blocks
        answer = client.call(21 * BLOCK, 8 * BLOCK)
        assert answer.chunks == [Chunk.OFFSET_HOLE]


def test_extents_that_cannot_be_had(image, connect, monkeypatch):
    def extents(self, offset, length):
        raise exceptions.StorageError('the disk is gone')
        yield

    monkeypatch.setattr(scripted_image.ScriptedReader, 'extents', extents)
    client = connect()
    answer = client.call(0, SIZE, Command.BLOCK_STATUS)
    assert (answer.error, answer.text) == (Error.EIO, TOLD)
    assert client.read(0, SIZE) == DATA


@BOTH
@pytest.mark.parametrize('length', [4096, BLOCK, 2 * BLOCK])
def test_data_file_is_cut_short(length, structured, image, connect):
    """What the disk has lost is read in another way."""
    have_all(image)
    client = connect(structured)
    os.truncate(image.fd, 1000)
    assert client.read(0, length) == DATA[:length]
    assert client.read(0, 1000) == DATA[:1000]


@BOTH
@pytest.mark.parametrize('length', [4096, BLOCK, 2 * BLOCK])
def test_disk_fails_while_sending(length, structured, image, connect):
    """An error follows what was promised, where that can be."""
    have_all(image)
    client = connect(structured)
    os.truncate(image.fd, 1000)
    image.on_bring = scripted_image.unavailable
    if structured or length == 4096:
        assert client.call(0, length).error == Error.EIO
        assert client.read(0, 1000) == DATA[:1000]
    else:
        with pytest.raises((EOFError, ConnectionResetError)):
            client.call(0, length)
        assert connect(structured).read(0, 1000) == DATA[:1000]


def test_garbage_ends_its_connection_only(image, connect, server):
    have_all(image)
    other, client = connect(), connect()
    client.sock.sendall(wire.request(Command.READ, 1, 0, 10) + bytes(56))
    waiting.until(lambda: server.connections == 1)
    assert other.read(0, 10) == DATA[:10]


def test_goodbye(connect, server):
    client = connect()
    client.sock.sendall(wire.request(Command.DISC, 0, 0, 0))
    assert client.at_end()
    waiting.until(lambda: server.connections == 0)


@pytest.mark.parametrize('length', [512, 3 * BLOCK])
@pytest.mark.parametrize('waits', [False, True])
def test_client_that_never_reads(waits, length, image, connect, server):
    """He keeps nobody waiting, and nothing but a buffer; he can be ended."""
    if waits:
        image.on_bring = lambda block: time.sleep(0.001)
    else:
        have_all(image)
    silent, other = connect(timeout=0.2), connect()
    with pytest.raises(TimeoutError):
        for _ in range(100_000):
            silent.ask(0, length)
    for _ in range(20):
        assert other.read(0, length) == DATA[:length]
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 1.0
    assert server.connections == 0


def test_client_vanishes_while_it_waits(image, connect, server):
    """What it had asked for last is not fetched any more."""
    come = threading.Event()
    image.on_bring = lambda block: come.wait(5)
    client = connect()
    for block in range(30):
        client.ask(block * BLOCK, 512)
    waiting.until(lambda: len(image.readers) == 2 + 16)
    client.close()
    waiting.until(lambda: server.connections == 0)
    come.set()
    waiting.until(lambda: not image.readers)
    assert len(image.brought) <= 16


def test_stop_while_clients_wait(image, connect, server):
    come = threading.Event()
    image.on_bring = lambda block: come.wait(5)
    client = connect()
    client.ask(0, 512)
    waiting.until(lambda: len(image.readers) == 2 + 1)
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 1.0
    assert client.at_end()
    come.set()
    waiting.until(lambda: not image.readers)


def test_images_come_and_go(image, connect, server, path):
    have_all(image)
    with pytest.raises(exceptions.AlreadyExists):
        server.add('', image)
    server.add('zweites Bild', image)
    assert server.uri_of('zweites Bild').startswith(
        'nbd+unix:///zweites%20Bild?socket=/'
    )
    one, two = connect(), connect(name='zweites Bild')
    assert server.connections_of('zweites Bild') == 1
    assert two.read(5, 5) == DATA[5:10]
    server.remove('zweites Bild')
    assert two.at_end()
    assert one.read(5, 5) == DATA[5:10]
    with nbd_client.Client(path) as client:
        client.greet()
        ((reply, _text),) = client.option(
            wire.Option.GO, wire.go(b'zweites Bild')
        )
        assert reply == wire.OptionReply.ERR_UNKNOWN


def test_reader_that_cannot_be_made(image, path, server):
    def fail():
        raise exceptions.StorageError('no')

    image.reader = fail
    with nbd_client.Client(path) as client:
        client.greet()
        ((reply, text),) = client.option(wire.Option.GO, wire.go(b''))
        told = (wire.OptionReply.ERR_PLATFORM, TOLD.encode())
        assert (reply, text) == told
        client.option(wire.Option.ABORT)
        assert client.at_end()
    waiting.until(lambda: server.connections == 0)


def test_most_connections(image, path):
    """One more is turned away, and can come when another one has left."""
    image.put(0)
    with nbd.NbdServer(
        {'': image}, listening.Address(path=path), most=2
    ) as server:
        clients = [nbd_client.Client(path) for _ in range(2)]
        for client in clients:
            client.go()
        with nbd_client.Client(path) as third:
            assert third.at_end()
        clients[0].close()
        waiting.until(lambda: server.connections == 1)
        with nbd_client.Client(path) as third:
            third.go()
            assert third.read(0, 10) == DATA[:10]
        clients[1].close()


def test_handshake_has_to_end(image, path):
    with (
        nbd.NbdServer(
            {'': image}, listening.Address(path=path), handshake_seconds=0.2
        ),
        nbd_client.Client(path) as idle,
        nbd_client.Client(path) as slow,
        nbd_client.Client(path) as settled,
    ):
        settled.go()
        slow.greet()
        with pytest.raises(OSError):
            for _ in range(100):
                slow.sock.sendall(b'I')
                threading.Event().wait(0.02)
        idle.take(18)
        assert idle.at_end()
        # Whoever has agreed may take his time.
        assert settled.read(0, 5) == DATA[:5]


def test_descriptors_run_out(image, server, connect, monkeypatch):
    """Who is there goes on, and others come when there are some again."""
    image.put(0)
    client = connect()
    accept, short = socket.socket.accept, threading.Event()

    def maybe(self):
        if short.is_set():
            threading.Event().wait(0.01)
            raise OSError(24, 'Too many open files')
        return accept(self)

    monkeypatch.setattr(socket.socket, 'accept', maybe)
    short.set()
    # One accept is under way.
    others = [connect()]
    assert client.read(0, 5) == DATA[:5]
    late = threading.Thread(target=lambda: others.append(connect()))
    late.start()
    assert client.read(0, 5) == DATA[:5]
    short.clear()
    late.join()
    assert others[1].read(0, 5) == DATA[:5]


def test_threads_run_out(image, server, path, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, 'start', start)
        with nbd_client.Client(path) as client:
            assert client.at_end()
    with nbd_client.Client(path) as client:
        assert client.go() == SIZE


@BOTH
def test_misses_with_tls(structured, image, certs):
    """What TLS has decrypted already is not waited for."""
    context = tls.ServerContext('group', *certs.pair())
    with nbd.NbdServer(
        {'': image}, listening.Address(), tls=context
    ) as server:
        assert server.uri.startswith('nbds://127.0.0.1:')
        port = int(server.uri[len('nbds://127.0.0.1:') : -1])
        with nbd_client.Client(('127.0.0.1', port)) as client:
            client.go('', structured, certs.client_context())
            for _turn in range(2):
                runs = [(turn * BLOCK, 3000) for turn in range(40)]
                runs += [(5, SIZE - 5), (0, BLOCK)]
                cookies = {}
                for run in runs:
                    cookies[client.ask(*run)] = run
                for cookie, answer in client.answers(len(runs)).items():
                    offset, length = cookies[cookie]
                    assert answer.data == DATA[offset : offset + length]


def test_tcp(image):
    have_all(image)
    with nbd.NbdServer({'': image}, listening.Address()) as server:
        assert server.uri.startswith('nbd://127.0.0.1:')
        port = int(server.uri[len('nbd://127.0.0.1:') : -1])
        with nbd_client.Client(('127.0.0.1', port)) as client:
            client.go()
            assert client.read(0, SIZE) == DATA
        with pytest.raises(exceptions.Unavailable, match=str(port)):
            nbd.NbdServer({}, listening.Address(port=port)).start()


def test_idle_clients_cost_no_time(image, connect):
    """Quick ones are awaited awake, but only for a moment."""
    have_all(image)
    client = connect()
    for number in range(300):
        assert client.read(number * 512, 512) == DATA[number * 512 :][:512]
    before = time.process_time()
    threading.Event().wait(0.3)
    assert time.process_time() - before < 0.1
    assert client.read(0, 5) == DATA[:5]
