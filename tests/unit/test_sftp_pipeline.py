# SPDX-License-Identifier: Apache-2.0
"""Requests in flight: bounded, matched in any order, checked."""

from __future__ import annotations

import random
import struct
import threading

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer import context
from oslo_transfer.drivers.sftp import pipeline
from oslo_transfer.drivers.sftp import protocol
from oslo_transfer.drivers.sftp import remote
from oslo_transfer.drivers.sftp import session
from oslo_transfer import exceptions
from tests.unit import fakes

Type = protocol.Type
Status = protocol.Status
KIB, MIB = 1 << 10, 1 << 20
DATA = random.Random(3).randbytes(3 * MIB)


class FakeServer:
    """A link with a server at its other end that does what it is told."""

    def __init__(self, content=b'', seed=0, longest=1 << 30):
        self.content = bytearray(content)
        self.random = random.Random(seed)
        #: The most bytes that it reads and writes at once.
        self.longest = longest
        self.silent = False
        self.gone = False
        self.closed = False
        self.asked = 0
        self.written = 0
        #: Answers a request instead of the server, if it returns bytes.
        self.instead = lambda kind, number, fields: None
        self._input = bytearray()
        self._replies = []
        # What is left of the one that is on its way.
        self._current = b''
        self._cv = threading.Condition()

    def send(self, data):
        if self.silent:
            raise TimeoutError
        with self._cv:
            count = min(len(data), self.longest)
            self._input += data[:count]
            while len(self._input) >= 4:
                length = int.from_bytes(self._input[:4], 'big') + 4
                if len(self._input) < length:
                    break
                self._answer(bytes(self._input[4:length]))
                del self._input[:length]
            self._cv.notify_all()
        return count

    def recv(self):
        with self._cv:
            if self.silent or not (self._current or self._replies):
                if self.gone or self.closed:
                    return memoryview(b'')
                self._cv.wait(0.005)
                raise TimeoutError
            if not self._current:
                index = self.random.randrange(len(self._replies))
                self._current = self._replies.pop(index)
            part = self._current[: self.longest]
            self._current = self._current[self.longest :]
            return memoryview(part)

    def error(self):
        return exceptions.Unavailable('the server is gone')

    def close(self):
        self.closed = True

    def _answer(self, packet):
        kind = packet[0]
        number = int.from_bytes(packet[1:5], 'big')
        if kind == Type.INIT:
            self._replies.append(protocol.packet(Type.VERSION, 3, b''))
            return
        fields = protocol.Reader(packet[5:])
        fields.string()
        reply = self.instead(kind, number, fields)
        if reply is None and kind == Type.READ:
            reply = self._read(number, fields.uint64(), fields.uint32())
        elif reply is None and kind == Type.WRITE:
            offset, content = fields.uint64(), fields.string()
            self.written += len(content)
            room = offset + len(content) - len(self.content)
            self.content += bytes(max(0, room))
            self.content[offset : offset + len(content)] = content
            reply = status(number, Status.OK)
        if reply:
            self._replies.append(reply)

    def _read(self, number, offset, count):
        self.asked += count
        found = self.content[offset : offset + count]
        if not found:
            return status(number, Status.EOF)
        # Often less than was asked for.
        count = self.random.choice([1, len(found) // 2 + 1, len(found)])
        return given(number, bytes(found[:count]))


def given(number, content):
    return protocol.packet(Type.DATA, number, protocol.string(content))


def status(number, code, text=b''):
    return protocol.packet(
        Type.STATUS,
        number,
        struct.pack('>I', code) + protocol.string(text) + protocol.string(b''),
    )


def start(server, **changes):
    ctx = fakes.make_ctx().replace(**changes)
    waiter = session.Waiter(ctx, 'sftp://fake/x')
    found = session.Session(server, 'sftp://fake/x')
    found.start(waiter)
    return remote.Files(found, waiter)


def read_all(reads, step=100_000):
    found = bytearray()
    buffer = memoryview(bytearray(step))
    while count := reads.read_into(buffer):
        found += buffer[:count]
    return bytes(found)


@hypothesis.given(
    st.integers(0, 1 << 32),
    st.integers(0, len(DATA)),
    st.integers(0, len(DATA)),
    st.integers(500, 200_000),
    st.sampled_from([7 * KIB, 100 * KIB, 1 << 30]),
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_any_run_in_any_order_of_replies(seed, one, other, step, longest):
    """Replies out of order, short, and cut up: the bytes are right."""
    begin, end = sorted((one, other))
    files = start(FakeServer(DATA, seed, longest))
    reads = pipeline.Reads(files, b'h', begin, end - begin)
    reads.fill()
    assert read_all(reads, step) == DATA[begin:end]


def test_what_is_asked_for_is_bounded():
    """However large the file is."""
    server = FakeServer()
    size = 1 << 40
    server.instead = lambda kind, number, fields: given(
        number, bytes((fields.uint64(), fields.uint32())[1])
    )
    files = start(server)
    asked = []
    submit = files.session.submit

    def note(*args, **options):
        asked.append(options['asked'])
        return submit(*args, **options)

    files.session.submit = note
    reads = pipeline.Reads(files, b'h', 0, size)
    reads.fill()
    taken = 0
    buffer = memoryview(bytearray(MIB))
    while taken < 64 * MIB:
        assert sum(asked) - taken <= pipeline.WINDOW
        taken += reads.read_into(buffer)
    reads.drop()


def test_a_few_bytes_do_not_cost_a_whole_window():
    server = FakeServer(DATA)
    files = start(server)
    reads = pipeline.Reads(files, b'h', 0, 1 << 30)
    reads.fill()
    assert server.asked <= MIB


def test_an_early_end_is_a_change():
    files = start(FakeServer(DATA))
    reads = pipeline.Reads(files, b'h', 0, len(DATA) + 1)
    reads.fill()
    with pytest.raises(exceptions.SourceChanged):
        read_all(reads)


@pytest.mark.parametrize(
    'reply',
    [
        lambda number: given(number, bytes(32 * KIB + 1)),
        lambda number: given(number, b''),
        lambda number: given(number + 99, b'x'),
        lambda number: given(number, b'x') + given(number, b'y'),
        lambda number: status(number + 99, Status.OK),
        lambda number: status(number, Status.OK),
        lambda number: protocol.packet(Type.HANDLE, number, b''),
        lambda number: protocol.packet(Type.VERSION, 3, b''),
        lambda number: struct.pack('>IBI', 1 << 31, Type.STATUS, number),
        lambda number: struct.pack('>IBII', 1 << 30, Type.DATA, number, 1),
    ],
)
def test_nonsense_is_a_protocol_error(reply):
    server = FakeServer(DATA)
    server.instead = lambda _kind, number, _fields: reply(number)
    files = start(server)
    with pytest.raises(exceptions.ProtocolError):
        reads = pipeline.Reads(files, b'h', 0, len(DATA))
        reads.fill()
        read_all(reads)


@pytest.mark.parametrize(
    ('code', 'error'),
    [
        (Status.PERMISSION_DENIED, exceptions.AccessDenied),
        (Status.NO_SUCH_FILE, exceptions.NotFound),
        (Status.FAILURE, exceptions.StorageError),
        (Status.CONNECTION_LOST, exceptions.Unavailable),
        (Status.NO_SPACE_ON_FILESYSTEM, exceptions.NoSpace),
        (77, exceptions.StorageError),
    ],
)
def test_statuses_are_typed(code, error):
    server = FakeServer()
    server.instead = lambda _kind, number, _fields: status(
        number, code, b'because\x1b[31m'
    )
    files = start(server)
    with pytest.raises(error, match=r'because\?\[31m'):
        files.remove(b'/x')


@hypothesis.given(
    st.integers(0, 1 << 32),
    st.lists(st.tuples(st.integers(0, MIB), st.integers(0, 300 * KIB))),
    st.sampled_from([7 * KIB, 1 << 30]),
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_writes_land_where_they_should(seed, runs, longest):
    server = FakeServer(seed=seed, longest=longest)
    files = start(server)
    writes = pipeline.Writes(files, b'h')
    expected = bytearray()
    buffer = bytearray(300 * KIB)
    for offset, length in runs:
        buffer[:length] = DATA[:length]
        writes.write(memoryview(buffer)[:length], offset)
        if length:
            expected += bytes(max(0, offset + length - len(expected)))
            expected[offset : offset + length] = DATA[:length]
        # It must not have been kept.
        buffer[:] = bytes(len(buffer))
    writes.flush()
    assert server.content == expected


def test_what_is_sent_ahead_is_bounded():
    server = FakeServer()
    server.instead = lambda _kind, _number, _fields: b''
    files = start(server, stall=context.StallRule(0.1, 1))
    writes = pipeline.Writes(files, b'h')
    with pytest.raises(exceptions.Stalled):
        for offset in range(0, 64 * MIB, MIB):
            writes.write(memoryview(bytes(MIB)), offset)
    assert offset <= pipeline.WINDOW


@pytest.mark.parametrize('by', ['write', 'flush'])
def test_an_error_shows_by_a_later_call(by):
    server = FakeServer()
    server.instead = lambda _kind, number, _fields: status(
        number, Status.FAILURE
    )
    writes = pipeline.Writes(start(server), b'h')
    writes.write(memoryview(b'x'), 0)
    with pytest.raises(exceptions.StorageError):
        if by == 'flush':
            writes.flush()
        for offset in range(0, 2 * pipeline.WINDOW, MIB):
            writes.write(memoryview(bytes(MIB)), offset)
    with pytest.raises(exceptions.StorageError):
        writes.write(memoryview(b'x'), 0)
    with pytest.raises(exceptions.StorageError):
        writes.flush()


def test_threads_share_a_session():
    """Whoever waits reads for all."""
    files = start(FakeServer(DATA, 5))
    found = {}

    def read(index):
        reads = pipeline.Reads(files, b'h', index * MIB, MIB)
        reads.fill()
        found[index] = read_all(reads, 10_000)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert b''.join(found[index] for index in range(3)) == DATA


def test_what_was_dropped_is_not_kept():
    server = FakeServer(DATA)
    files = start(server)
    reads = pipeline.Reads(files, b'h', 0, len(DATA))
    reads.fill()
    dropped = [request for _offset, request in reads._queue]
    reads.drop()
    again = pipeline.Reads(files, b'h', 0, MIB)
    again.fill()
    assert read_all(again) == DATA[:MIB]
    assert not any(request.parts for request in dropped)


@pytest.mark.parametrize(
    ('limits', 'error'),
    [
        ({'stall': context.StallRule(0.05, 1)}, exceptions.Stalled),
        ({'deadline': 0.0}, exceptions.DeadlineExceeded),
    ],
)
@pytest.mark.parametrize('sending', [True, False])
def test_limits_hold(limits, error, sending):
    server = FakeServer(DATA)
    files = start(server)
    ctx = fakes.make_ctx().replace(**limits)
    files.waiter = session.Waiter(ctx, 'sftp://fake/x')
    reads = pipeline.Reads(files, b'h', 0, MIB)
    server.silent = sending
    with pytest.raises(error):
        reads.fill()
        server.silent = True
        read_all(reads)


def test_closing_ends_a_wait():
    server = FakeServer(DATA)
    files = start(server)
    reads = pipeline.Reads(files, b'h', 0, MIB)
    reads.fill()
    server.silent = True
    timer = threading.Timer(0.05, files.waiter.close)
    timer.start()
    with pytest.raises(exceptions.TransferCancelled):
        read_all(reads)
    timer.join()


def test_a_server_that_vanishes():
    server = FakeServer(DATA)
    files = start(server)
    reads = pipeline.Reads(files, b'h', 0, MIB)
    reads.fill()
    server.gone = server.silent = True
    with pytest.raises(exceptions.Unavailable):
        read_all(reads)
    assert not files.session.alive
    with pytest.raises(exceptions.Unavailable):
        files.remove(b'/x')
    files.session.close()
    assert server.closed
