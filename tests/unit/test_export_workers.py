# SPDX-License-Identifier: Apache-2.0
"""What may hang is done by threads, and what hangs does not take them all."""

from __future__ import annotations

import threading

import pytest

from oslo_transfer.export import workers as _workers

pytestmark = pytest.mark.usefixtures('nothing_left')


@pytest.fixture
def workers():
    made = _workers.Workers(8)
    yield made
    made.close(5)


def test_all_is_done(workers):
    """However much there is, by no more threads than are allowed."""
    lock, done, threads = threading.Lock(), [], set()
    end = threading.Semaphore(0)

    def job(number):
        with lock:
            done.append(number)
            threads.add(threading.current_thread())
        end.release()

    for number in range(1000):
        workers.do(lambda number=number: job(number), number % 3 or None)
    for _ in range(1000):
        assert end.acquire(timeout=5)
    assert sorted(done) == list(range(1000))
    assert len(threads) <= 8


def test_one_that_hangs_does_not_hold_up_others(workers):
    go, hanging = threading.Event(), threading.Semaphore(0)
    ended, other = threading.Semaphore(0), threading.Event()

    def hang():
        hanging.release()
        go.wait(5)
        ended.release()

    for _ in range(20):
        workers.do(hang, 'one')
    for _ in range(2):
        assert hanging.acquire(timeout=5)
    workers.do(other.set, 'other')
    assert other.wait(5)
    # Its own part is all that it has.
    assert not hanging.acquire(timeout=0.05)
    go.set()
    for _ in range(20):
        assert ended.acquire(timeout=5)


def test_close_waits_no_longer_than_it_was_told(workers):
    go, begun = threading.Event(), threading.Event()

    def hang():
        begun.set()
        go.wait(5)

    workers.do(hang)
    assert begun.wait(5)
    workers.close(0.05)
    go.set()
