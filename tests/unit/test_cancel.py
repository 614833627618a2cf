# SPDX-License-Identifier: Apache-2.0
"""A copy ends within a second of being told to, and leaves no mess.

Wherever it is told: nothing shows at the destination, and beside it is
nothing but what a later copy goes on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer import flight
from tests.servers import resource
from tests.unit import fakes

MIB = 1 << 20
SIZE = 3 * MIB
DATA = resource.pattern(SIZE)
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
PROMPT = 1.0
POINTS = 12  # Of each sweep; all of them in a campaign.

pytestmark = pytest.mark.usefixtures('nothing_left')


class Counted:
    """A cancel event that is set when it is looked at so many times."""

    def __init__(self, limit=None):
        self.limit = limit
        self.looks = 0
        self.since = None
        self._lock = threading.Lock()

    def is_set(self):
        with self._lock:
            self.looks += 1
            found = self.limit is not None and self.looks >= self.limit
            if found and self.since is None:
                self.since = time.monotonic()
            return found


class Observer:
    """Fails when it has seen so many bytes."""

    def __init__(self, limit=None):
        self.limit = limit
        self.seen = 0
        self.error = RuntimeError('the observer does not want more')

    def update(self, data):
        self.seen += len(data)
        if self.limit is not None and self.seen >= self.limit:
            raise self.error


class Place:
    def __init__(self, origin, directory, server):
        self.directory = directory / 'there'
        self.directory.mkdir()
        self.dst = self.directory / 'image'
        if origin == 'http':
            self.src = server.put('/image', DATA, rate=100 * MIB)
        else:
            self.src = directory / 'src'
            self.src.write_bytes(DATA)

    def assert_clean(self):
        """Nothing shows, and what is left can be gone on with."""
        part = os.path.basename(flight.part_path(str(self.dst)))
        left = set(os.listdir(self.directory))
        assert left in (set(), {part, flight.journal_path(part)})

    def renew(self):
        for name in os.listdir(self.directory):
            os.unlink(self.directory / name)

    def copy(self, conf, **options):
        return oslo_transfer.copy(
            self.src, self.dst, conf=conf, **SHA256, **options
        )

    def assert_goes_on(self, conf):
        self.copy(conf)
        assert self.dst.read_bytes() == DATA
        assert os.listdir(self.directory) == ['image']


@pytest.fixture(params=['file', 'http'])
def place(request, tmp_path, server, conf):
    conf.set_override('buffer_bytes', 64 << 10, group='oslo_transfer')
    return Place(request.param, tmp_path, server)


def sweep(place, conf, limits):
    for limit in limits:
        place.renew()
        cancel = Counted(limit)
        try:
            place.copy(conf, cancel=cancel, observers=[Observer()])
        except exceptions.TransferCancelled:
            assert time.monotonic() < cancel.since + PROMPT
            place.assert_clean()
        else:
            # It was looked at less often than the time before.
            assert cancel.looks <= limit + 1
            assert place.dst.read_bytes() == DATA
        if limit % 5 == 0 and not place.dst.exists():
            place.assert_goes_on(conf)


def test_cancelled_at_any_point(place, conf):
    """Each time that somebody looks whether to go on."""
    counted = Counted()
    place.copy(conf, cancel=counted, observers=[Observer()])
    assert counted.looks > 40
    limits = random.Random(1).sample(range(1, counted.looks), POINTS)
    sweep(place, conf, limits)


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_cancelled_at_every_point(place, conf):
    counted = Counted()
    place.copy(conf, cancel=counted, observers=[Observer()])
    sweep(place, conf, range(1, counted.looks))


def test_deadline_at_any_point(place, conf):
    place.copy(conf)
    for number in range(POINTS):
        place.renew()
        deadline = number * 0.008
        started = time.monotonic()
        try:
            place.copy(conf, deadline=deadline)
        except exceptions.DeadlineExceeded:
            assert time.monotonic() < started + deadline + PROMPT
            place.assert_clean()
        else:
            assert place.dst.read_bytes() == DATA
    place.renew()
    place.assert_goes_on(conf)


@pytest.mark.parametrize('number', [1, 2])
def test_what_progress_raises_reaches_the_caller(number, place, conf):
    """Unchanged, and what has arrived is kept."""
    error = KeyError('enough')
    calls = []

    def stop(chunk, total):
        calls.append(total)
        if len(calls) == number:
            raise error

    with pytest.raises(KeyError) as caught:
        place.copy(conf, progress=stop, rate_limit=10 * MIB)
    assert caught.value is error
    place.assert_clean()
    result = place.copy(conf)
    assert result.bytes_by_origin['resumed'] >= calls[-1] - MIB
    assert os.listdir(place.directory) == ['image']


@pytest.mark.parametrize('limit', [1, SIZE // 2, SIZE])
def test_what_an_observer_raises_reaches_the_caller(limit, place, conf):
    """And the bytes that it refused are not offered to it again."""
    observer = Observer(limit)
    with pytest.raises(RuntimeError) as caught:
        place.copy(conf, observers=[observer])
    assert caught.value is observer.error
    assert not os.listdir(place.directory)
    result = place.copy(conf, observers=[Observer()])
    assert 'resumed' not in result.bytes_by_origin


def test_interrupt_from_a_callback_reaches_the_caller(place, conf):
    """As when the user presses a key meanwhile."""

    def stop(chunk, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.copy(conf, progress=stop, rate_limit=10 * MIB)
    place.assert_clean()
    place.renew()


def test_cancelled_before_it_began(place, conf):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(exceptions.TransferCancelled):
        place.copy(conf, cancel=cancel)
    assert not os.listdir(place.directory)


# Each place where it waits. A function gives source and destination, and
# options of copy().


def connecting(stack, server, directory, patch):
    """Nobody takes the connection."""
    listener = stack.enter_context(socket.create_server(('127.0.0.1', 0)))
    listener.listen(0)
    for _ in range(3):
        other = stack.enter_context(socket.socket())
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            other.connect(listener.getsockname())
    port = listener.getsockname()[1]
    return f'http://127.0.0.1:{port}/', directory / 'dst', {}


def shaking_hands(stack, server, directory, patch):
    """Nobody speaks TLS."""
    listener = stack.enter_context(socket.create_server(('127.0.0.1', 0)))
    port = listener.getsockname()[1]
    return f'https://127.0.0.1:{port}/', directory / 'dst', {}


def waiting_for_the_answer(stack, server, directory, patch):
    def silent(request, conn):
        conn.wait(30)

    return server.serve('/silent', silent), directory / 'dst', {}


def waiting_for_bytes(stack, server, directory, patch):
    def half(request, conn):
        head = {'Content-Length': str(SIZE), 'ETag': '"v1"'}
        conn.send_head(200, head)
        conn.send(DATA[: SIZE // 2])
        conn.wait(30)

    return server.serve('/half', half), directory / 'dst', {}


def waiting_for_another_try(stack, server, directory, patch):
    def busy(request, conn):
        conn.reply(503, b'', {'Retry-After': '25'})

    return server.serve('/busy', busy), directory / 'dst', {}


def waiting_for_the_limit(stack, server, directory, patch):
    url = server.put('/image', DATA)
    return url, directory / 'dst', {'rate_limit': 1000}


def waiting_for_the_lock(stack, server, directory, patch):
    dst = directory / 'dst'
    held = flight.Flight(str(dst), fakes.make_ctx())
    stack.callback(held.release, remove=True)
    return server.put('/image', DATA), dst, {}


def hashing_what_is_there(stack, server, directory, patch):
    dst = directory / 'dst'
    dst.touch()
    os.truncate(dst, 1 << 40)
    return server.put('/image', DATA), dst, {**SHA256, 'overwrite': True}


def flushing(stack, server, directory, patch):
    over = threading.Event()
    stack.callback(over.set)
    patch.setattr(os, 'fsync', lambda fd: over.wait(20))
    return server.put('/image', DATA), directory / 'dst', {}


def writing_to_a_slow_disk(stack, server, directory, patch):
    pwrite = os.pwrite

    def slow(fd, data, offset):
        threading.Event().wait(0.2)
        return pwrite(fd, data, offset)

    patch.setattr(os, 'pwrite', slow)
    return server.put('/image', DATA), directory / 'dst', {}


def reading_from_a_slow_disk(stack, server, directory, patch):
    src = directory / 'src'
    src.write_bytes(DATA)
    preadv = os.preadv

    def slow(fd, buffers, offset):
        threading.Event().wait(0.2)
        return preadv(fd, buffers, offset)

    patch.setattr(os, 'preadv', slow)
    return src, directory / 'dst', {}


def showing_it(stack, server, directory, patch):
    class Slow:
        def update(self, data):
            threading.Event().wait(0.3)

    url = server.put('/image', DATA)
    return url, directory / 'dst', {'observers': [Slow()]}


def sending_to_a_slow_server(stack, server, directory, patch):
    src = directory / 'src'
    src.touch()
    os.truncate(src, 1 << 30)
    return src, server.allow_put('/upload', rate=1000), {}


PLACES = (
    connecting,
    shaking_hands,
    waiting_for_the_answer,
    waiting_for_bytes,
    waiting_for_another_try,
    waiting_for_the_limit,
    waiting_for_the_lock,
    hashing_what_is_there,
    flushing,
    writing_to_a_slow_disk,
    reading_from_a_slow_disk,
    showing_it,
    sending_to_a_slow_server,
)


@pytest.mark.parametrize('how', ['cancel', 'deadline'])
@pytest.mark.parametrize(
    'where', PLACES, ids=[each.__name__ for each in PLACES]
)
def test_told_to_end_while_it_is(
    where, how, conf, server, tmp_path, monkeypatch
):
    for name, value in {
        'buffer_bytes': 64 << 10,
        'stall_timeout': 60.0,
        'connect_timeout': 60.0,
        'max_retry_delay': 60.0,
        'strategy_order': ['full_copy'],
    }.items():
        conf.set_override(name, value, group='oslo_transfer')
    after = 0.25
    with contextlib.ExitStack() as stack:
        src, dst, options = where(stack, server, tmp_path, monkeypatch)
        cancel = threading.Event()
        limits = {'deadline': after}
        error = exceptions.DeadlineExceeded
        started = time.monotonic()
        if how == 'cancel':
            limits = {'cancel': cancel}
            error = exceptions.TransferCancelled
            timer = threading.Timer(after, cancel.set)
            timer.start()
            stack.callback(timer.join)
        with pytest.raises(error) as caught:
            oslo_transfer.copy(src, dst, conf=conf, **limits, **options)
        elapsed = time.monotonic() - started
        assert type(caught.value) is error
        assert not caught.value.retryable
        assert after <= elapsed < after + PROMPT
    if where is hashing_what_is_there:
        assert dst.stat().st_size == 1 << 40
    elif where is not sending_to_a_slow_server:
        assert not dst.exists()
