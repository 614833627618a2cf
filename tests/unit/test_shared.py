# SPDX-License-Identifier: Apache-2.0
"""What a process remembers: bounded, its own, and forgotten in time."""

from __future__ import annotations

import os
import threading

import pytest

from oslo_transfer import call as _call
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import health
from oslo_transfer import limiter
from oslo_transfer import shared
from oslo_transfer import slots
from tests.unit import plugins


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(health.time, 'monotonic', lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def end_of(conf):
    """Locations by their URL."""
    call = _call.Call(conf, None, None, None)
    return lambda url: ends.end_of(url, call.driver)


@pytest.fixture
def locations():
    return shared.current().locations


def unavailable(text='it was down', retry_after=None):
    error = exceptions.Unavailable(text)
    error.retry_after = retry_after
    return error


# The state


def test_all_threads_have_the_same():
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(shared.current()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(each) for each in found} == {id(shared.current())}


def test_child_begins_with_its_own():
    mine = shared.current()
    # A lock that another thread holds while we fork is held for ever there.
    with mine.connections._changed, mine.locations._lock:
        child = os.fork()
        if not child:
            status = 1
            try:
                state = shared.current()
                state.locations.reached(('a', 1))
                state.connections.count('a')
                status = int(state is mine or len(shared._states) != 1)
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert shared.current() is mine


def test_importing_makes_nothing():
    assert (
        plugins.run(
            """
            import oslo_transfer
            from oslo_transfer import shared
            print(shared._states)
            """
        ).strip()
        == '{}'
    )


def test_size_is_bounded(end_of, locations, monkeypatch):
    monkeypatch.setattr(health, '_MOST_ENTRIES', 10)
    monkeypatch.setattr(limiter, '_MOST_HOSTS', 10)
    state = shared.current()
    used = state.limiters.host('h0', 1)
    share = used.share(object())
    for number in range(50):
        locations.failed(end_of(f'http://h/{number}'), unavailable())
        state.connect_times.add((f'h{number}', 80), 0.1)
        state.limiters.host(f'h{number}', 1)
    assert len(locations._entries) == 10
    assert len(state.connect_times._entries) == 10
    assert len(state.limiters._hosts) == 10
    assert state.limiters.host('h0', 1) is used, 'it is in use'
    share.close()
    assert locations.last(end_of('http://h/49'), 60) is not None
    assert locations.last(end_of('http://h/1'), 60) is None


# Failures


def test_rest_doubles_with_each_failure_in_a_row(clock, locations, end_of):
    end = end_of('http://host/image')
    for seconds in (60, 120, 240, 480, 600, 600):
        locations.failed(end, unavailable())
        assert locations.rest(end, 60) == seconds
        clock.now += 10
    clock.now += 589
    assert locations.rest(end, 60) == pytest.approx(1)
    clock.now += 1
    assert locations.last(end, 60) is None
    # It was well for no while that anybody knows of.
    locations.failed(end, unavailable())
    assert locations.rest(end, 60) == 600
    locations.succeeded(end)
    assert locations.last(end, 60) is None
    locations.failed(end, unavailable())
    assert locations.rest(end, 60) == 60


@pytest.mark.parametrize(
    'error',
    [
        exceptions.Unavailable('x'),
        exceptions.Stalled('x'),
        exceptions.SourceChanged('x'),
        exceptions.IntegrityError('x'),
        exceptions.DigestMismatch('md5', 'x', 'y'),
        exceptions.SizeMismatch(1, 2),
    ],
)
def test_what_may_pass_and_wrong_bytes_count(locations, end_of, error):
    end = end_of('http://host/image')
    locations.failed(end, error)
    found = locations.last(end, 60)
    assert found is not None
    assert found.reason == str(error)
    assert locations.last(end_of('http://host/other'), 60) is None


@pytest.mark.parametrize(
    'error',
    [
        exceptions.NotFound('x'),
        exceptions.AccessDenied('x'),
        exceptions.CapabilityMissing('x'),
        exceptions.TransferCancelled('x'),
        exceptions.DeadlineExceeded('x'),
        exceptions.NoSpace('x'),
        slots.Busy('x'),
    ],
)
def test_what_is_no_fault_of_the_location_does_not(locations, end_of, error):
    end = end_of('http://host/image')
    locations.failed(end, error)
    assert locations.last(end, 60) is None


def test_retries_of_one_copy_are_one_failure(clock, locations, end_of):
    end = end_of('http://host/image')
    for _ in range(9):
        locations.failed(end, unavailable())
        locations.unreachable(end.address, unavailable())
        clock.now += 1
    assert locations.rest(end, 60) == 60 - 9


def test_retry_after_is_for_the_host_and_kept(clock, locations, end_of):
    end, other = end_of('http://host/a'), end_of('https://host:80/b')
    locations.failed(end, unavailable(retry_after=1000))
    locations.failed(end, unavailable(retry_after=5))
    locations.reached(('host', 80))
    for each in (end, other):
        for backoff in (0, 60):
            assert locations.rest(each, backoff) == 1000
    assert locations.last(end_of('http://host:81/a'), 60) is None
    clock.now += 1000
    assert locations.last(other, 0) is None


def test_host_that_answers_again_is_well(locations, end_of):
    end = end_of('http://host/a')
    locations.unreachable(('host', 80), unavailable('refused'))
    assert locations.last(end, 60).reason == 'refused'
    locations.reached(('host', 80))
    assert locations.last(end, 60) is None


def test_paths_are_locations_too(locations, end_of):
    end = end_of('/some/file')
    assert end.address is None
    locations.failed(end, unavailable())
    assert locations.rest(end, 60) > 59
    locations.succeeded(end)
    assert not locations.rest(end, 60)


def test_file_objects_are_not_remembered(locations, tmp_path):
    with open(tmp_path / 'file', 'wb') as file:
        locations.failed(ends.FileObjectEnd(file), unavailable(retry_after=9))
        assert locations.last(ends.FileObjectEnd(file), 60) is None
        locations.succeeded(ends.FileObjectEnd(file))


def test_reason_is_short(locations, end_of):
    end = end_of('http://host/a')
    locations.failed(end, unavailable('x' * 100_000))
    assert len(locations.last(end, 60).reason) <= 200


# Connect times


def test_newer_times_count_more_and_old_ones_not_at_all(clock):
    times = health.ConnectTimes()
    address = ('host', 80)
    assert times.get(address) is None
    times.add(address, 1.0)
    assert times.get(address) == 1.0
    for _ in range(30):
        times.add(address, 0.1)
    assert times.get(address) == pytest.approx(0.1, rel=0.01)
    clock.now += 601
    assert times.get(address) is None
    times.add(address, 2.0)
    assert times.get(address) == 2.0


def test_connecting_is_measured(conf, server):
    call = _call.Call(conf, None, None, None)
    end = ends.end_of(server.url('/'), call.driver)
    call.ctx.connect(end.endpoint, end.endpoint.port).close()
    assert 0 < shared.current().connect_times.get(end.address) < 1
