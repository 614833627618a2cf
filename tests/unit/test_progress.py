# SPDX-License-Identifier: Apache-2.0
"""Progress adds up, and comes from the caller's own thread."""

from __future__ import annotations

import hashlib
import threading

import pytest

import oslo_transfer
from oslo_transfer import progress
from tests.servers import resource

MIB = 1 << 20


class Told:
    """Keeps what the callback was told."""

    def __init__(self):
        self.calls = []
        self.threads = set()

    def __call__(self, chunk, total):
        self.calls.append((chunk, total))
        self.threads.add(threading.get_ident())

    def assert_adds_up(self, size):
        total = 0
        for chunk, so_far in self.calls:
            total += chunk
            assert so_far == total
            assert chunk != 0
        assert total == size


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress.time, 'monotonic', lambda: Clock.now)
    return Clock


def test_not_told_too_often(clock):
    told = Told()
    counts = progress.Progress(told)
    for _ in range(1000):
        clock.now += 0.01
        counts.add(7)
        counts.tell()
    counts.tell(at_once=True)
    assert 90 <= len(told.calls) <= 101
    told.assert_adds_up(7000)


def test_nothing_new_is_not_told(clock):
    told = Told()
    counts = progress.Progress(told)
    counts.tell(at_once=True)
    clock.now += 10
    counts.tell()
    assert not told.calls


def test_dropped_bytes_are_taken_back(clock):
    """A new attempt from nothing, and one with something in place."""
    told = Told()
    counts = progress.Progress(told)
    counts.add(100)
    counts.tell(at_once=True)
    counts.restart(0)
    counts.tell(at_once=True)
    counts.restart(30)
    counts.add(1)
    counts.tell(at_once=True)
    assert told.calls == [(100, 100), (-100, 0), (31, 31)]


def test_many_threads_add():
    told = Told()
    counts = progress.Progress(told)
    threads = [
        threading.Thread(target=lambda: [counts.add(1) for _ in range(10_000)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    counts.tell(at_once=True)
    assert told.calls == [(80_000, 80_000)]


def test_without_a_callback():
    counts = progress.Progress(None)
    counts.add(5)
    counts.tell(at_once=True)


@pytest.mark.parametrize('origin', ['file', 'http'])
@pytest.mark.parametrize('size', [0, 1, 3 * MIB + 5])
def test_copy_tells_every_byte(origin, size, conf, server, tmp_path):
    data = resource.pattern(size)
    src = tmp_path / 'src'
    src.write_bytes(data)
    if origin == 'http':
        src = server.put('/image', data)
    told = Told()
    oslo_transfer.copy(
        src, tmp_path / 'dst', 'full_copy', conf=conf, progress=told
    )
    told.assert_adds_up(size)
    assert told.threads <= {threading.get_ident()}


def test_next_location_begins_again(conf, server, tmp_path):
    """The bytes of a location that was given up are taken back."""
    data = resource.pattern(3 * MIB)
    other = resource.pattern(4 * MIB, seed=1)
    told = Told()
    oslo_transfer.copy(
        [server.put('/bad', other), server.put('/good', data)],
        tmp_path / 'dst',
        conf=conf,
        hash_algo='sha256',
        hash_value=hashlib.sha256(data).hexdigest(),
        progress=told,
    )
    told.assert_adds_up(len(data))
