# SPDX-License-Identifier: Apache-2.0
"""Limits that all copies of a process keep together."""

from __future__ import annotations

import contextlib
import gc
import heapq
import os
import pathlib
import socket
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import call as _call
from oslo_transfer import context
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer import limiter
from oslo_transfer import shared
from oslo_transfer import slots
from oslo_transfer import sockets
from oslo_transfer import tls
from oslo_transfer.wrappers import throttle
from tests.servers import http
from tests.servers import resource
from tests.unit import fakes

pytestmark = pytest.mark.usefixtures('nothing_left')

MIB = 1 << 20
DATA = resource.pattern(MIB)


@pytest.fixture
def conf(conf):
    def change(**options):
        for name, value in options.items():
            conf.set_override(name, value, group='oslo_transfer')

    conf.change = change
    conf.change(max_retries=0, queue_timeout=5.0)
    return conf


# Rates, on a clock of their own


class Line:
    """Transfers that move bytes as fast as limiters allow.

    :param speed: bytes per second that one stream can have
    :param step: the most bytes of one read
    """

    def __init__(self, monkeypatch, speed=10**9, step=1 << 20):
        self.now = 1000.0
        monkeypatch.setattr(limiter.time, 'monotonic', lambda: self.now)
        self.speed = speed
        self.step = step

    def run(self, seconds, transfers):
        """Bytes that each moved; transfers are (streams, limiters)."""
        moved = [0] * len(transfers)
        turns = []
        for index, (streams, limiters) in enumerate(transfers):
            for _ in range(streams):
                shares = [each.share(index) for each in limiters]
                heapq.heappush(turns, (self.now, len(turns), index, shares))
        end = self.now + seconds
        while turns[0][0] < end:
            now, number, index, shares = heapq.heappop(turns)
            self.now = now
            count = min(share.chunk(self.step) for share in shares)
            moved[index] += count
            wait = max(share.moved(count) for share in shares)
            after = now + max(wait, 0.0) + count / self.speed
            heapq.heappush(turns, (after, number, index, shares))
        for _now, _number, _index, shares in turns:
            for share in shares:
                share.close()
        return moved


def jain(values):
    """Jain's fairness index: 1 if all are equal."""
    return sum(values) ** 2 / (len(values) * sum(v * v for v in values))


@pytest.mark.parametrize('rate', [100_000, 10**7, 10**9])
@pytest.mark.parametrize('step', [1000, 1 << 20])
@pytest.mark.parametrize(
    'streams', [[1], [1, 1], [1, 4, 2], [16] + [1] * 15, [1] * 100]
)
def test_rate_is_kept_and_shared_fairly(monkeypatch, rate, step, streams):
    step = max(step, rate // 3000)
    line = Line(monkeypatch, speed=4 * rate, step=step)
    limit = limiter.Limiter(rate)
    moved = line.run(5, [(count, [limit]) for count in streams])
    assert sum(moved) == pytest.approx(5 * rate, rel=0.05)
    assert jain(moved) >= 0.9
    assert limit.idle


def test_what_a_slow_one_leaves_is_for_the_others(monkeypatch):
    limit, slow = limiter.Limiter(10**6), limiter.Limiter(10**5)
    moved = Line(monkeypatch).run(10, [(1, [limit, slow]), (2, [limit])])
    assert moved[0] == pytest.approx(10**6, rel=0.05)
    assert sum(moved) == pytest.approx(10**7, rel=0.05)


def test_all_of_several_limits_are_kept(monkeypatch):
    process = limiter.Limiter(10**6)
    near, far = limiter.Limiter(4 * 10**5), limiter.Limiter(8 * 10**5)
    own = limiter.Limiter(10**5)
    moved = Line(monkeypatch).run(
        10,
        [
            (1, [process, near, own]),
            (2, [process, near]),
            (1, [process, far]),
        ],
    )
    assert moved[0] <= 1.05 * 10**6
    assert moved[0] + moved[1] <= 1.05 * 4 * 10**6
    assert sum(moved) == pytest.approx(10**7, rel=0.05)


def test_one_that_ends_leaves_its_part(monkeypatch):
    line, limit = Line(monkeypatch), limiter.Limiter(10**6)
    both = line.run(5, [(1, [limit]), (3, [limit])])
    alone = line.run(5, [(1, [limit])])
    assert both[0] == pytest.approx(2.5 * 10**6, rel=0.1)
    assert alone[0] == pytest.approx(5 * 10**6, rel=0.05)


def test_many_short_ones_keep_the_rate(monkeypatch):
    """What a stream owes in the end is not forgotten."""
    line, limit = Line(monkeypatch), limiter.Limiter(10**6)
    moved = 0
    while line.now < 1005:
        share = limit.share('x')
        count = share.chunk(10_000)
        moved += count
        line.now += share.moved(count)
        share.close()
        line.now += 0.001
        # The next one waits with its first bytes for what this one owed.
        line.now += limit.moved(0)
    assert moved == pytest.approx(5 * 10**6, rel=0.05)


# Rates, in copies


def copy_all(conf, sources, targets):
    """Copy at the same time; returns the results.

    :param targets: one for each source, or a directory
    """
    results = []
    if isinstance(targets, pathlib.Path):
        targets = [targets / f'to-{n}' for n, _ in enumerate(sources)]

    def copy(source, target):
        results.append(
            oslo_transfer.copy(source, target, 'full_copy', conf=conf)
        )

    threads = [
        threading.Thread(target=copy, args=each)
        for each in zip(sources, targets, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(sources)
    return results


def test_limit_of_the_process(conf, server, tmp_path):
    conf.change(process_rate_limit_bytes_per_second=4 * MIB)
    file = tmp_path / 'source'
    file.write_bytes(DATA)
    started = time.monotonic()
    copy_all(
        conf, [server.put('/a', DATA), server.put('/b', DATA), file], tmp_path
    )
    assert time.monotonic() - started >= 0.5


def test_limit_of_a_host_is_not_that_of_another(conf, server, tmp_path):
    conf.change(host_rate_limit_bytes_per_second=2 * MIB)
    here = server.put('/a', DATA)
    there = here.replace('127.0.0.1', 'localhost')
    file = tmp_path / 'source'
    file.write_bytes(DATA)
    results = copy_all(conf, [here, here, there, file], tmp_path)
    seconds = {result.source: result.seconds for result in results}
    assert max(r.seconds for r in results if r.source == here) >= 0.85
    assert seconds[there] < 0.85
    assert seconds[str(file)] < 0.35, 'a file is on no host'


def test_host_of_the_destination_counts(conf, tmp_path):
    conf.change(host_rate_limit_bytes_per_second=1000)
    source = fakes.MemorySource(DATA)
    ctx = fakes.make_ctx(conf)
    assert throttle.limited(source, ctx, ['', '']) is source
    limited = throttle.limited(source, ctx, ['', 'b', 'b'])
    assert isinstance(limited, throttle.ThrottledSource)
    assert limited._limiters == [shared.current().limiters.host('b', 1000)]


def test_rate_is_the_one_of_the_last_configuration(conf):
    limiters = shared.current().limiters
    first = limiters.host('a', 1000)
    assert limiters.host('a', 7) is first
    assert first.rate == 7


def test_no_limit_costs_nothing(conf):
    source = fakes.MemorySource(DATA)
    assert throttle.limited(source, fakes.make_ctx(conf), ['a']) is source


@pytest.mark.parametrize('how', ['close', 'cancel', 'deadline'])
def test_long_wait_for_a_turn_ends(conf, how):
    cancel = threading.Event()
    ctx = fakes.make_ctx(
        conf, limiter=limiter.Limiter(1), cancel=cancel
    ).replace(deadline=time.monotonic() + 0.3 if how == 'deadline' else None)
    source = throttle.limited(fakes.MemorySource(DATA), ctx, [])
    stream = source.stream(0, None)
    end = {'close': stream.close, 'cancel': cancel.set}.get(how, bool)
    timer = threading.Timer(0.2, end)
    timer.start()
    started = time.monotonic()
    error = None
    try:
        while not stream.closed:
            stream.readinto(bytearray(10))
    except (exceptions.TransferError, ValueError) as exc:
        error = exc
    assert time.monotonic() - started < 1.2
    assert (error is None) == (how == 'close')
    timer.join()
    stream.close()


# Connections of a host


@pytest.fixture
def peer():
    """Takes connections on a port."""
    with socket.create_server(('127.0.0.1', 0), backlog=64) as listener:
        yield listener.getsockname()[1]


class Call:
    """A call that connects to a port."""

    def __init__(self, conf, port, **options):
        self.ctx = _call.Call(
            conf, options.get('cancel'), options.get('deadline'), None
        ).ctx
        self.port = port
        self._there = endpoint.parse('http://127.0.0.1')

    def connect(self, writing=False, port=None):
        ctx = self.ctx.replace(writing=writing)
        return ctx.connect(self._there, port or self.port)


def taken(port):
    return shared.current().connections.count(('127.0.0.1', port))


def test_connection_too_many_waits_and_is_told(conf, peer):
    conf.change(max_connections_per_host=2, queue_timeout=0.3)
    first, second = Call(conf, peer), Call(conf, peer)
    with first.connect(), second.connect():
        assert taken(peer) == 2
        started = time.monotonic()
        with pytest.raises(slots.Busy, match='max_connections_per_host'):
            Call(conf, peer).connect()
        assert 0.25 < time.monotonic() - started < 1.2
    assert taken(peer) == 0
    Call(conf, peer).connect().close()


def test_no_limit_of_connections(conf, peer):
    conf.change(max_connections_per_host=0)
    found = [Call(conf, peer).connect() for _ in range(40)]
    assert taken(peer) == 40
    for each in found:
        each.close()


def test_other_ports_are_other_queues(conf, peer):
    conf.change(max_connections_per_host=1)
    with socket.create_server(('127.0.0.1', 0)) as other:
        with Call(conf, peer).connect():
            Call(conf, other.getsockname()[1]).connect().close()


@pytest.mark.parametrize(
    'end', ['close', 'forget', 'detach', 'elsewhere', 'watched']
)
def test_however_a_connection_ends_its_slot_is_free(conf, peer, end):
    call = Call(conf, peer)
    sock = call.connect()
    assert taken(peer) == 1
    if end == 'close':
        sock.close()
    elif end == 'detach':
        os.close(sock.detach())
    elif end == 'elsewhere':
        # A library that has the socket, and closes it when it likes.
        holder = sock.makefile('rb')
        sock.close()
        assert taken(peer) == 1
        holder.close()
    elif end == 'watched':
        sockets.WatchedSocket(sock, call.ctx, 'peer').close()
    else:
        with pytest.warns(ResourceWarning):
            del sock
            gc.collect()
    assert taken(peer) == 0


def test_connection_that_fails_takes_no_slot(conf, peer):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        port = unused.getsockname()[1]
        with pytest.raises(exceptions.Unavailable):
            Call(conf, peer).connect(port=port)
        assert taken(port) == 0


@pytest.mark.parametrize('works', [True, False])
def test_tls_keeps_the_slot(conf, certs, works):
    with http.ScriptedHTTPServer(tls=certs.server_context()) as server:
        port = int(server.url('/').split(':')[2].strip('/'))
        call = Call(conf, port)
        sock = sockets.WatchedSocket(call.connect(), call.ctx, 'peer')
        secured = tls.client_context(
            'oslo_transfer_http',
            str(certs.ca_file) if works else None,
            None,
            None,
        )
        if works:
            sock.handshake(secured, 'localhost')
        else:
            with pytest.raises(exceptions.TransferError):
                sock.handshake(secured, 'localhost')
        assert taken(port) == 1
        sock.close()
        assert taken(port) == 0


def test_what_waits_to_be_used_again_gives_way(conf, server):
    """Sources that were read from once keep no other from connecting."""
    conf.set_override('max_connections_per_host', 1, 'oslo_transfer')
    conf.set_override('queue_timeout', 5.0, 'oslo_transfer')
    url = server.put('/image', b'0123456789')
    ctx = _call.Call(conf, None, None, None).ctx.replace(piecemeal=True)
    location = oslo_transfer.Location(url)
    with (
        contextlib.closing(ctx.open_source(location)) as one,
        contextlib.closing(ctx.open_source(location)) as two,
    ):
        for source in (one, two, two, one):
            with source.stream(3, 2) as stream:
                assert stream.readinto(bytearray(2)) == 2
                # One in use does not.
                other = ctx.replace(deadline=time.monotonic() + 0.2)
                with pytest.raises(exceptions.DeadlineExceeded):
                    other.open_source(location)
    assert server.connections.total >= 3


def test_first_come_first_served(conf, peer):
    conf.change(max_connections_per_host=1)
    order = []
    held = Call(conf, peer).connect()

    def connect(number):
        with Call(conf, peer).connect():
            order.append(number)

    threads = []
    queues = shared.current().connections._queues
    for number in range(4):
        threads.append(threading.Thread(target=connect, args=(number,)))
        threads[-1].start()
        while len(queues.get(('127.0.0.1', peer), ())) <= number:
            threading.Event().wait(0.01)
    held.close()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3]
    assert not queues


@pytest.mark.parametrize('how', ['cancel', 'deadline'])
def test_waiting_for_a_connection_ends_in_time(conf, peer, how):
    conf.change(max_connections_per_host=1)
    cancel = threading.Event()
    deadline = 0.2 if how == 'deadline' else None
    timer = threading.Timer(0.2, cancel.set)
    with Call(conf, peer).connect():
        waiting = Call(conf, peer, cancel=cancel, deadline=deadline)
        if how == 'cancel':
            timer.start()
        started = time.monotonic()
        with pytest.raises(
            exceptions.TransferCancelled
            if how == 'cancel'
            else exceptions.DeadlineExceeded
        ):
            waiting.connect()
        assert time.monotonic() - started < 1.2
    assert not shared.current().connections._queues
    timer.cancel()


def test_one_side_of_a_copy_does_not_wait_for_the_other(conf, peer):
    """Two copies could else wait for each other without end."""
    conf.change(max_connections_per_host=1, queue_timeout=0.2)
    call = Call(conf, peer)
    with call.connect(), call.connect(writing=True):
        assert taken(peer) == 2
        # Another connection for the same side can wait.
        for writing in (False, True):
            with pytest.raises(slots.Busy):
                call.connect(writing=writing)
        with pytest.raises(slots.Busy):
            Call(conf, peer).connect(writing=True)
    with call.connect(writing=True), call.connect():
        pass


def test_copies_within_one_host(conf, server):
    """More of them at once than may connect, each with two ends there."""
    conf.change(max_connections_per_host=1)
    targets = [server.allow_put(f'/to/{number}') for number in range(4)]
    results = copy_all(conf, [server.put('/from', DATA)] * 4, targets)
    assert [result.size for result in results] == [MIB] * 4
    # Nobody reads who does not write.
    assert server.connections.peak <= 2


def test_stream_that_cannot_connect_does_not_hold_up_the_copy(
    conf, server, tmp_path
):
    conf.change(max_connections_per_host=1, max_streams=4, queue_timeout=0.5)
    url = server.put('/image', DATA * 2, rate=4 * MIB)
    result = oslo_transfer.copy(url, tmp_path / 'dst', conf=conf)
    assert (tmp_path / 'dst').read_bytes() == DATA * 2
    assert result.seconds < 3


# Copies


def test_copies_wait_their_turn(conf, tmp_path, monkeypatch):
    conf.change(max_concurrent_copies=2)
    most, now, lock = [0], [0], threading.Lock()
    satisfy = _call.Call._satisfy

    def counted(*args):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        try:
            threading.Event().wait(0.02)
            return satisfy(*args)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(_call.Call, '_satisfy', counted)
    source = tmp_path / 'source'
    source.write_bytes(DATA)
    copy_all(conf, [source] * 8, tmp_path)
    assert most[0] == 2


def test_copy_that_waits_too_long_is_told(conf, tmp_path):
    conf.change(max_concurrent_copies=1, queue_timeout=0.2)
    source = tmp_path / 'source'
    source.write_bytes(DATA)
    ctx = fakes.make_ctx(conf)
    with shared.current().copies.turn(1, ctx, 'x'):
        with pytest.raises(exceptions.Unavailable) as caught:
            oslo_transfer.copy(source, tmp_path / 'dst', conf=conf)
    assert 'max_concurrent_copies' in str(caught.value)
    assert 'queue_timeout' in str(caught.value)
    assert os.listdir(tmp_path) == ['source']
    oslo_transfer.copy(source, tmp_path / 'dst', conf=conf)


def test_copy_that_waits_can_be_cancelled(conf, tmp_path):
    conf.change(max_concurrent_copies=1)
    source = tmp_path / 'source'
    source.write_bytes(DATA)
    cancel = threading.Event()
    timer = threading.Timer(0.2, cancel.set)
    timer.start()
    started = time.monotonic()
    with shared.current().copies.turn(1, fakes.make_ctx(conf), 'x'):
        with pytest.raises(exceptions.TransferCancelled):
            oslo_transfer.copy(
                source, tmp_path / 'dst', conf=conf, cancel=cancel
            )
    assert time.monotonic() - started < 1.2
    timer.join()


def test_failed_copy_gives_its_turn_back(conf, server, tmp_path):
    conf.change(max_concurrent_copies=1)
    for _ in range(2):
        with pytest.raises(exceptions.NotFound):
            oslo_transfer.copy(
                server.url('/none'), tmp_path / 'dst', conf=conf
            )


def test_what_is_there_already_needs_no_turn(conf, tmp_path):
    conf.change(max_concurrent_copies=1, queue_timeout=0.2)
    source = tmp_path / 'source'
    source.write_bytes(b'')
    empty = 'd41d8cd98f00b204e9800998ecf8427e'
    with shared.current().copies.turn(1, fakes.make_ctx(conf), 'x'):
        result = oslo_transfer.copy(
            tmp_path / 'gone',
            source,
            conf=conf,
            hash_algo='md5',
            hash_value=empty,
        )
    assert result.reused


def test_busy_is_not_waited_for_again(conf, peer, tmp_path):
    """The wait was long enough already."""
    conf.change(max_connections_per_host=1, queue_timeout=0.2, max_retries=9)
    with Call(conf, peer).connect():
        started = time.monotonic()
        with pytest.raises(slots.Busy):
            oslo_transfer.copy(
                f'http://127.0.0.1:{peer}/x', tmp_path / 'x', conf=conf
            )
        assert time.monotonic() - started < 1.0


def test_contexts_of_a_call_are_of_one_transfer(conf):
    ctx = _call.Call(conf, None, None, None).ctx
    assert ctx.replace(stop=threading.Event()).transfer is ctx.transfer
    assert _call.Call(conf, None, None, None).ctx.transfer != ctx.transfer
    assert isinstance(ctx, context.Context)


def test_many_short_streams_wait_as_one_long_one_does(monkeypatch, conf):
    """What one owes when it ends is waited for before the next begins."""
    slept = []
    monkeypatch.setattr(
        context.Context, 'sleep', lambda self, seconds: slept.append(seconds)
    )
    source = throttle.ThrottledSource(
        fakes.MemorySource(DATA), fakes.make_ctx(conf), [limiter.Limiter(MIB)]
    )
    for offset in range(0, MIB, 4096):
        with source.stream(offset, 4096) as stream:
            assert stream.readinto(bytearray(4096)) == 4096
    assert slept[-1] == pytest.approx(1.0, abs=0.3)
