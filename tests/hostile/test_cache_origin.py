# SPDX-License-Identifier: Apache-2.0
"""What bad origins can do to the cache: nothing but fail a read."""

from __future__ import annotations

import hashlib
import random
import statistics
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import hydrate as _hydrate
from oslo_transfer.cache import image as _image
from oslo_transfer import call as _call
from oslo_transfer import digest
from oslo_transfer import exceptions
from tests.servers import evil_http
from tests.servers import http
from tests.servers import relay
from tests.servers import resource
from tests import waiting

BLOCK = 16 * 1024
SIZE = 4 << 20
DATA = resource.pattern(SIZE)
OTHER = resource.pattern(SIZE, 1)
pytestmark = pytest.mark.usefixtures('nothing_left')


def expected(data):
    return digest.expected('sha256', hashlib.sha256(data).hexdigest())


class Cached:
    """The cache of an image behind a URL; a context manager."""

    def __init__(self, conf, directory, url, size=SIZE, headers=()):
        call = _call.Call(conf, None, None, None)
        location = oslo_transfer.Location(url)
        self.size = size
        self.blocks = _blocks.Blocks(
            str(directory / 'image'), size, BLOCK, bytes(32)
        )
        self.image = _image.CachedImage(
            self.blocks,
            lambda ctx: ctx.open_source(location),
            call.ctx,
            streams=4,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        started = time.monotonic()
        self.image.close()
        assert time.monotonic() - started < 2
        self.blocks.close()

    def read(self, offset, length):
        buffer = bytearray(length)
        with self.image.reader() as reader:
            reader.read(memoryview(buffer), offset)
        return bytes(buffer)

    def right(self, offset, length):
        assert self.read(offset, length) == DATA[offset : offset + length]


@pytest.fixture
def server():
    with http.ScriptedHTTPServer() as made:
        yield made


@pytest.fixture
def impatient(conf, monkeypatch):
    """What takes long to fail does not in tests."""
    monkeypatch.setattr(_hydrate, '_SHORTEST', 0.1)
    monkeypatch.setattr('oslo_transfer.cache.origin._HOLD', 0.1)
    conf.set_override('max_retries', 2, group='oslo_transfer')
    conf.set_override('stall_timeout', 0.5, group='oslo_transfer')
    return conf


class Shifty:
    """A resource that can become another one."""

    def __init__(self, data=DATA, **options):
        self.become(data, **options)

    def become(self, data, **options):
        self.now = resource.Resource(data, len(data), **options)

    def __call__(self, request, conn):
        self.now(request, conn)


# An origin that changes


@pytest.mark.parametrize(
    'change',
    [
        {'data': OTHER, 'etag': '"v2"'},
        {'data': DATA[:-BLOCK]},
        {'data': DATA + b'more'},
        {'data': OTHER, 'etag': '"v2"', 'ranges': False},
        # It does not look at If-Range, and sends what it has.
        {'data': OTHER, 'etag': '"v2"', 'if_range': False},
        {'data': OTHER, 'etag': None},
    ],
)
def test_changed_origin_is_never_mixed(server, impatient, tmp_path, change):
    """What is here is served on, what is not fails, until it is back."""
    shifty = Shifty()
    url = server.serve('/image', shifty)
    with Cached(impatient, tmp_path, url) as cached:
        cached.right(0, SIZE // 2)
        shifty.become(**change)
        hydration = cached.image.hydrate(expected=expected(DATA))
        for _turn in range(2):
            with pytest.raises(exceptions.SourceChanged):
                cached.read(SIZE - BLOCK, 1)
            cached.right(0, SIZE // 2)
        assert isinstance(cached.image.error, exceptions.SourceChanged)
        assert hydration.state == _hydrate.HYDRATING
        shifty.become(DATA)
        assert hydration.wait(10)
        assert hydration.state == _hydrate.VERIFIED
        cached.right(0, SIZE)


def test_change_under_a_stream_is_noticed(server, impatient, tmp_path):
    """A stream that breaks is not gone on with in another version."""
    shifty = Shifty()
    first = shifty.now
    begun = threading.Event()

    def answer(request, conn):
        if shifty.now is first and request.start:
            begun.set()
            first.answer(request, conn, request.start + 70_000)
            shifty.become(OTHER, etag='"v2"')
            conn.reset()
        else:
            shifty(request, conn)

    with Cached(impatient, tmp_path, server.serve('/image', answer)) as cached:
        cached.right(0, 1)
        with pytest.raises(exceptions.SourceChanged):
            cached.read(SIZE // 2, 512 * 1024)
        assert begun.is_set()
        # Blocks that came before are the old ones, or none.
        for offset in range(0, SIZE, BLOCK):
            buffer = bytearray(BLOCK)
            count = cached.blocks.read(memoryview(buffer), offset)
            assert buffer[:count] == DATA[offset : offset + count]


# An origin that truncates, stalls, dies


def test_streams_that_break_are_gone_on_with(server, impatient, tmp_path):
    """However often, as long as some bytes come."""
    rng = random.Random(1)
    good = resource.Resource(DATA, SIZE)

    def answer(request, conn):
        if good.answer(request, conn, request.start + rng.randrange(500_000)):
            rng.choice([conn.reset, lambda: None])()

    with Cached(impatient, tmp_path, server.serve('/image', answer)) as cached:
        hydration = cached.image.hydrate(expected=expected(DATA))
        assert hydration.wait(20)
        assert hydration.state == _hydrate.VERIFIED
        cached.right(0, SIZE)


def test_nothing_comes(server, impatient, tmp_path):
    """Every read fails in bounded time; blocks that are here do not."""
    shifty = Shifty()
    url = server.serve('/image', lambda request, conn: shifty(request, conn))
    with Cached(impatient, tmp_path, url) as cached:
        cached.right(0, BLOCK)
        server.serve('/image', lambda _request, conn: conn.stall())
        started = time.monotonic()
        failed = []

        def work(index):
            try:
                cached.read(SIZE // 2 + index * BLOCK, 1)
            except exceptions.TransferError as exc:
                failed.append(exc)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        # Those who find what they want wait for nobody.
        before = time.monotonic()
        for _turn in range(100):
            cached.right(0, BLOCK)
        assert time.monotonic() - before < 1
        for thread in threads:
            thread.join(15)
        assert [type(exc) for exc in failed] == [exceptions.Stalled] * 6
        assert time.monotonic() - started < 12


def test_origin_dies_and_comes_back(server, impatient, tmp_path):
    url = server.serve('/image', resource.Resource(DATA, SIZE))
    with relay.Relay(server.port) as line:
        port = line.port
        url = url.replace(f':{server.port}/', f':{port}/')
        with Cached(impatient, tmp_path, url) as cached:
            cached.right(0, SIZE // 2)
            line.cut()
            with pytest.raises(exceptions.Unavailable):
                cached.read(SIZE - BLOCK, BLOCK)
            cached.right(0, SIZE // 2)
            hydration = cached.image.hydrate(expected=expected(DATA))
            with relay.Relay(server.port, listen=port):
                # It was refused for a moment, so that many do not try.
                assert hydration.wait(20)
                assert hydration.state == _hydrate.VERIFIED
                cached.right(0, SIZE)


# An origin that lies


def test_lie_is_found_by_the_digest(server, conf, tmp_path):
    """A block is not what it was said to be: it is never called verified."""
    lie = bytearray(DATA)
    lie[SIZE // 3] ^= 1
    url = server.serve('/image', resource.Resource(bytes(lie), SIZE))
    with Cached(conf, tmp_path, url) as cached:
        hydration = cached.image.hydrate(expected=expected(DATA))
        assert hydration.wait(10)
        assert hydration.state == _hydrate.DAMAGED
        assert isinstance(hydration.error, exceptions.IntegrityError)


def _misbehave(key, conf, certs, directory, monkeypatch):
    """Right bytes or a typed error; what is wrong is never verified."""
    data = resource.pattern(evil_http.SIZE)
    row = evil_http.BEHAVIOURS[key]
    with evil_http.Lab(certs) as lab:
        url = row.install(lab, '/image', data)
        for name, value in (row.environ(lab) if row.environ else {}).items():
            monkeypatch.setenv(name, value)
        conf.set_override(
            'ca_file', str(lab.certs.ca_file), group='oslo_transfer_http'
        )
        url = url if isinstance(url, str) else url[0]
        with Cached(conf, directory, url, len(data)) as cached:
            try:
                found = cached.read(0, len(data))
            except exceptions.TransferError:
                return
            if found not in row.right(data):
                hydration = cached.image.hydrate(expected=expected(data))
                assert hydration.wait(10)
                assert hydration.state == _hydrate.DAMAGED


_ROWS = sorted(evil_http.BEHAVIOURS)
_SOME = random.Random(6).sample(_ROWS, 12)


@pytest.mark.parametrize('key', _SOME)
def test_some_evil_servers(key, impatient, certs, tmp_path, monkeypatch):
    _misbehave(key, impatient, certs, tmp_path, monkeypatch)


@pytest.mark.campaign
@pytest.mark.parametrize('key', [key for key in _ROWS if key not in _SOME])
def test_all_evil_servers(key, impatient, certs, tmp_path, monkeypatch):
    _misbehave(key, impatient, certs, tmp_path, monkeypatch)


# Many readers


def test_each_block_is_fetched_once_for_64_readers(server, conf, tmp_path):
    """At random, all at once."""
    url = server.serve('/image', resource.Resource(DATA, SIZE))
    wrong = []
    with Cached(conf, tmp_path, url) as cached:

        def work(seed):
            rng = random.Random(seed)
            with cached.image.reader() as reader:
                for _turn in range(12):
                    length = rng.randrange(1, 3 * BLOCK)
                    offset = rng.randrange(SIZE - length)
                    buffer = bytearray(length)
                    reader.read(memoryview(buffer), offset)
                    if buffer != DATA[offset : offset + length]:
                        wrong.append(offset)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert not wrong
        here = sum(map(cached.blocks.has, range(SIZE // BLOCK)))
        found = cached.image.statistics()
        assert found['bytes_fetched'] == here * BLOCK
        # Of a stream that was broken off some more may have been sent.
        assert server.bytes_sent('/image') < 1.5 * here * BLOCK


def test_readers_are_cancelled_while_they_wait(server, conf, tmp_path):
    """All within a second; those who stay get their bytes."""
    go = threading.Event()
    good = resource.Resource(DATA, SIZE)

    def answer(request, conn):
        if request.start:
            go.wait(10)
        good(request, conn)

    with Cached(conf, tmp_path, server.serve('/image', answer)) as cached:
        cached.right(0, 1)
        cancel = threading.Event()
        ctx = cached.image._ctx.replace(cancel=cancel)
        ended = []

        def work(index):
            with cached.image.reader(ctx if index % 2 else None) as reader:
                buffer = bytearray(100)
                try:
                    reader.read(memoryview(buffer), SIZE // 2 + index * 1000)
                    ended.append(bytes(buffer))
                except exceptions.TransferCancelled:
                    ended.append(time.monotonic())

        threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        waiting.until(lambda: cached.image.statistics()['waits'] >= 20)
        cancel.set()
        started = time.monotonic()
        for thread in threads[1::2]:
            thread.join(10)
        assert len(ended) == 10
        assert max(ended) - started < 1
        go.set()
        for thread in threads:
            thread.join(10)
        assert {
            DATA[SIZE // 2 + n * 1000 :][:100] for n in range(0, 20, 2)
        } == set(ended[10:])


def test_hydration_never_starves_a_demand_read(server, conf, tmp_path):
    """K-25: its latency stays that of an origin that does nothing else."""
    # All of it takes two seconds.
    good = resource.Resource(DATA, SIZE, rate=2e6)
    url = server.serve('/image', good)

    def latencies(directory, hydrate):
        places = random.Random(2).sample(range(1, SIZE // BLOCK), 15)
        found = []
        with Cached(conf, directory, url) as cached:
            cached.right(0, 1)
            if hydrate:
                cached.image.hydrate()
                waiting.until(
                    lambda: (
                        cached.image.statistics()['bytes_fetched'] >= 2 * BLOCK
                    )
                )
            for place in places:
                if not cached.blocks.has(place):
                    started = time.monotonic()
                    cached.right(place * BLOCK, 4096)
                    found.append(time.monotonic() - started)
        return found

    alone = latencies(tmp_path / 'alone', False)
    beside = latencies(tmp_path / 'beside', True)
    assert len(beside) >= 8
    assert statistics.median(beside) < 3 * statistics.median(alone) + 0.02
    assert max(beside) < 0.5


def test_slow_origin_is_read_by_more_streams(server, conf, tmp_path):
    """Where it takes long for each request, several are on their way."""
    good = resource.Resource(DATA, SIZE)
    peak = []

    def answer(request, conn):
        conn.wait(0.05)
        peak.append(server.connections.open)
        good(request, conn)

    with Cached(conf, tmp_path, server.serve('/image', answer)) as cached:
        cached.right(0, 1)
        ranges = [(n * 8 * BLOCK, BLOCK) for n in range(1, 30)]
        assert cached.image.prefetch(ranges).wait(10)
        assert max(peak) == 3


# Connections


def test_connection_is_used_again(server, conf, tmp_path):
    """A miss costs one round trip; closing ends what is left."""
    url = server.serve('/image', resource.Resource(DATA, SIZE))
    with Cached(conf, tmp_path, url) as cached:
        for offset in range(0, SIZE, 16 * BLOCK):
            cached.right(offset, 1)
        assert len(server.requests) > 15
        # The next one may be asked for before the last is closed.
        assert server.connections.total <= 3


@pytest.mark.parametrize('how', ['end', 'reset', 'say more'])
def test_connection_that_waits_may_end(server, impatient, tmp_path, how):
    """Another one is made then, and nothing is taken for an answer."""
    good = resource.Resource(DATA, SIZE)
    done = threading.Event()

    def answer(request, conn):
        good(request, conn)
        conn.drain()
        if how == 'say more':
            conn.send_raw(b'HTTP/1.1 206 Partial Content\r\n\r\nx')
        elif how == 'reset':
            conn.reset()
        else:
            conn.release()
        done.set()

    with Cached(impatient, tmp_path, server.serve('/image', answer)) as cached:
        for offset in range(0, SIZE, 64 * BLOCK):
            try:
                cached.right(offset, 1)
            except exceptions.ProtocolError:
                # What came too much was taken for the next answer.
                assert how == 'say more'
                cached.right(offset, 1)
            assert done.wait(10)
            done.clear()
        assert server.connections.total > 1
