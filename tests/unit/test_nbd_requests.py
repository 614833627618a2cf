# SPDX-License-Identifier: Apache-2.0
"""What the NBD driver asks for: no more than it may, and not twice."""

from __future__ import annotations

import select
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import call
from oslo_transfer.drivers.nbd import driver
from oslo_transfer.drivers.nbd import reading
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import harness
from tests.servers import nbd_session
from tests.servers import resource

MIB = 1 << 20
DATA = resource.pattern(3 * MIB)
READ, WRITE = nbd_session.READ, nbd_session.WRITE


@pytest.fixture
def serve(request):
    """Start a server with some methods and attributes replaced."""

    def start(data=DATA, **replaced):
        session = type('Replaced', (nbd_session.Session,), replaced)
        server = nbd_session.NBDServer(session, data)
        server.__enter__()
        request.addfinalizer(lambda: server.__exit__(None, None, None))
        return server

    return start


@pytest.fixture
def open_source(conf, request):
    def open_it(server, **changes):
        ctx = call.Call(conf, None, None, None).ctx.replace(**changes)
        parsed = endpoint.parse(server.url())
        source = driver.NBDDriver(conf).open_source(parsed, ctx)
        request.addfinalizer(source.close)
        return source

    return open_it


@pytest.fixture
def open_sink(conf, request):
    def open_it(server, size=None):
        ctx = call.Call(conf, None, None, None).ctx
        parsed = endpoint.parse(server.url())
        sink = driver.NBDDriver(conf).open_sink(parsed, ctx, size=size)
        request.addfinalizer(lambda: sink.abort(False))
        return sink

    return open_it


def read(stream):
    found, buffer = bytearray(), memoryview(bytearray(100_000))
    while count := stream.readinto(buffer):
        found += buffer[:count]
    return bytes(found)


def asked(server, kind):
    return [each for each in server.requests if each.kind == kind]


def test_holes_are_not_asked_for(serve, conf, tmp_path):
    """A sparse export moves its data and nothing else."""
    size = 64 * MIB
    image = bytearray(size)
    image[5 * MIB : 6 * MIB] = DATA[:MIB]
    image[-4096:] = DATA[:4096]

    def on_status(session, request):
        marks = [0, 5 * MIB, 6 * MIB, size - 4096, size]
        end = request.offset + request.length
        runs = []
        for index, (first, last) in enumerate(zip(marks, marks[1:])):
            first, last = max(first, request.offset), min(last, end)
            if first < last:
                runs.append((last - first, 0 if index % 2 else 3))
        session.extents(request, *runs)

    server = serve(bytes(image), on_status=on_status)
    result = oslo_transfer.copy(server.url(), tmp_path / 'image', conf=conf)
    assert (tmp_path / 'image').read_bytes() == image
    assert sum(each.length for each in asked(server, READ)) == MIB + 4096
    assert result.bytes_written == MIB + 4096
    assert len(asked(server, nbd_session.BLOCK_STATUS)) == 1


def holes(session, request):
    """Every second 64 KiB are data."""
    runs = []
    position, end = request.offset, request.offset + request.length
    while position < end:
        stop = min(end, position // 65536 * 65536 + 65536)
        runs.append((stop - position, 3 if position // 65536 % 2 else 0))
        position = stop
    session.extents(request, *runs)


@pytest.mark.parametrize('align', [1, 4096, 65536])
def test_what_is_asked_for_ahead(align, serve, open_source):
    """It is used by who reads on, and hurts nobody else."""
    image = bytearray(DATA)
    for start in range(65536, len(image), 131072):
        image[start : start + 65536] = bytes(65536)
    server = serve(
        bytes(image), on_status=holes, blocks=(align, 65536, 1 << 20)
    )
    source = open_source(server)
    position = 0
    while position < len(image):
        extent = next(source.extents(position, len(image) - position))
        end = position + extent.length
        if extent.data:
            with source.stream(position, extent.length) as stream:
                assert read(stream) == image[position:end]
        position = end
    assert sum(each.length for each in asked(server, READ)) == len(image) // 2
    assert server.connections == 1
    # In any other order, too, and not to the end.
    for start in (0, 131072 * 5, 131072, 131072 * 2 + 100, 0):
        stream = source.stream(start, 3000)
        found = bytearray(2000)
        assert stream.readinto(found)
        assert found[:1000] == image[start : start + 1000]
        stream.close()
    with source.stream(100, None) as stream:
        assert read(stream) == image[100:]


def test_window(serve, open_source):
    """What is asked for and did not come is bounded, in bytes."""
    full = threading.Event()

    def on_read(session, request):
        if len(asked(session.server, READ)) <= 16:
            nbd_session.Session.on_read(session, request)
        elif sum(map(len_of, asked(session.server, READ)[16:])) >= (
            reading.WINDOW
        ):
            full.set()

    def len_of(request):
        return request.length

    server = serve(bytes(64 * MIB), on_read=on_read)
    source = open_source(server)
    done = []
    with source.stream(0, None) as stream:

        def drain():
            with pytest.raises(exceptions.TransferCancelled):
                read(stream)
            done.append(True)

        thread = threading.Thread(target=drain)
        thread.start()
        assert full.wait(10)
        stream.close()
        thread.join(1)
    assert done
    late = asked(server, READ)[16:]
    assert sum(map(len_of, late)) <= reading.WINDOW + reading.REQUEST


@pytest.mark.parametrize('align', [1, 512, 4096, 65536])
@pytest.mark.parametrize('structured', [True, False])
def test_blocks_are_kept(align, structured, serve, open_source):
    """No request is smaller, larger or elsewhere than it may be."""
    most = 3 * 65536
    size = 2 * MIB
    server = serve(
        DATA[:size], blocks=(align, 65536, most), structured=structured
    )
    source = open_source(server)
    assert source.geometry.align == align
    for start, length in [(0, None), (1, 5), (65535, 2), (MIB - 3, 70_000)]:
        end = size if length is None else start + length
        with source.stream(start, length) as stream:
            assert read(stream) == DATA[start:end]
    for each in asked(server, READ):
        assert each.offset % align == each.length % align == 0
        assert 0 < each.length <= most
        assert each.offset + each.length <= size


@pytest.mark.parametrize('align', [1, 512, 4096, 65536])
def test_blocks_are_kept_by_writes(align, serve, open_sink):
    """What is around a part of a block stays."""
    most = 3 * 65536
    size = 2 * MIB
    server = serve(DATA[:size], blocks=(align, 65536, most))
    sink = open_sink(server)
    expected = bytearray(DATA[:size])
    new = resource.pattern(300_000, 5)
    for start, length in [
        (0, 300_000),
        (70_001, 5),
        (65_535, 2),
        (65_536, 65_536),
        (MIB - 3, 70_000),
        (size - 1, 1),
    ]:
        sink.pwrite(memoryview(new)[:length], start)
        expected[start : start + length] = new[:length]
    for start, length in [(MIB, 300_000), (5, 3), (size - 100_000, 100_000)]:
        if not sink.zero(start, length):
            sink.pwrite(memoryview(bytes(length)), start)
        expected[start : start + length] = bytes(length)
    found = bytearray(100_001)
    assert sink.pread(memoryview(found), 65_537) == len(found)
    assert found == expected[65_537:][:100_001]
    sink.commit(size)
    assert server.data == expected
    for each in server.requests:
        if each.kind != nbd_session.DISC:
            assert each.offset % align == each.length % align == 0
        if each.kind == WRITE:
            assert 0 < each.length <= most


def test_writes_of_the_same_bytes_keep_their_order(serve, open_sink):
    """A server may do in any order what it was sent and did not answer."""
    kept = []

    def next_request(session):
        # Two at a time, if a second one comes before the first is done.
        if not kept or select.select([session.sock], [], [], 0.2)[0]:
            nbd_session.Session.next_request(session)
            if len(kept) == 1:
                return
        for each, said in reversed(kept):
            end = each.offset + each.length
            session.data[each.offset : end] = said
            session.simple(each)
        kept.clear()

    def on_write(session, request):
        kept.append((request, session.recv(request.length)))

    server = serve(bytes(MIB), next_request=next_request, on_write=on_write)
    sink = open_sink(server)
    sink.pwrite(memoryview(b'old'), 0)
    sink.pwrite(memoryview(b'new'), 2)
    sink.pwrite(memoryview(b'far'), 5000)
    sink.sync()
    assert server.data[:5] == b'olnew'
    assert server.data[5000:5003] == b'far'


def test_a_connection_for_each_stream(serve, open_source):
    """As long as the server allows it, and no more than four."""
    server = serve()
    source = open_source(server)
    assert source.geometry.max_streams == 4
    streams = [source.stream(0, None) for _ in range(6)]
    assert server.connections == 4
    for stream in streams:
        assert read(stream) == DATA
        stream.close()
    with source.stream(5, 5) as stream:
        assert read(stream) == DATA[5:10]
    assert server.connections == 4


def test_streams_share_a_connection(serve, open_source):
    """Where the server does not say that several see the same."""
    flags = nbd_session.HAS_FLAGS
    server = serve(flags=flags)
    source = open_source(server)
    assert source.geometry.max_streams == 1
    first, second = source.stream(0, None), source.stream(MIB, None)
    head = bytearray(10)
    assert first.readinto(head) == 10
    assert read(second) == DATA[MIB:]
    assert bytes(head) + read(first) == DATA
    assert server.connections == 1


def test_a_stream_that_is_closed_does_not_hurt_others(serve, open_source):
    """It is dropped in the middle of a chunk; another one reads on."""
    server = serve(flags=nbd_session.HAS_FLAGS)
    source = open_source(server)
    for _ in range(5):
        first, second = source.stream(0, None), source.stream(MIB, None)
        assert first.readinto(bytearray(10)) == 10
        first.close()
        assert read(second) == DATA[MIB:]
        second.close()
    assert server.connections == 1


def test_trickle_holds_nobody(serve, open_source):
    """A stream that gets a byte now and then is closed within a second."""

    def on_read(session, request):
        if request.offset == 0:
            nbd_session.Session.on_read(session, request)
            return
        head = nbd_session.STRUCTURED.to_bytes(4) + b'\0\0\0\1'
        head += request.cookie.to_bytes(8)
        head += (request.length + 8).to_bytes(4)
        session.send(head + request.offset.to_bytes(8))
        while not session.server.closing.wait(0.02):
            session.send(b'x')

    source = open_source(serve(on_read=on_read))
    stream = source.stream(0, None)
    ended = []

    def drain():
        with pytest.raises(exceptions.TransferCancelled):
            read(stream)
        ended.append(time.monotonic())

    thread = threading.Thread(target=drain)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    started = time.monotonic()
    stream.close()
    thread.join(2)
    assert ended[0] < started + 1
    assert not [
        each
        for each in threading.enumerate()
        if each.name == 'oslo-transfer-nbd'
    ]


def test_goodbye(serve, open_source):
    """The server is told, and nothing is in flight then."""
    server = serve(DATA[:300_000], blocks=(1, 512, 65536))
    source = open_source(server)
    with source.stream(0, None) as stream:
        stream.readinto(bytearray(10))
    source.close()
    assert harness.wait_for(
        lambda: server.requests[-1].kind == nbd_session.DISC, 5
    )


def test_writing_is_not_asked_of_a_read_only_export(serve, conf):
    server = serve(flags=nbd_session.HAS_FLAGS | nbd_session.READ_ONLY)
    ctx = call.Call(conf, None, None, None).ctx
    nbd = driver.NBDDriver(conf)
    parsed = endpoint.parse(server.url())
    made = nbd.attach(parsed, ctx, lambda details: None)
    assert made.read_only
    assert made.size == len(DATA)
    assert made.path == server.url()
    with pytest.raises(exceptions.AccessDenied):
        nbd.attach(parsed, ctx.replace(writing=True), lambda details: None)
