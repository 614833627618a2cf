# SPDX-License-Identifier: Apache-2.0
"""Every byte is copied exactly once, however streams share the work."""

from __future__ import annotations

import random
import threading

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer import claims

KIB = 1 << 10
MIB = 1 << 20


class Ledger:
    """Notes who copied what, from several threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self.spans = []

    def add(self, start, count):
        with self._lock:
            self.spans.append((start, start + count))

    def assert_exactly(self, gaps):
        """Each byte of the gaps once, and no other."""
        position = None
        merged = []
        for start, end in sorted(self.spans):
            assert position is None or start >= position, 'copied twice'
            if start == position:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
            position = end
        assert merged == [gap for gap in gaps if gap[0] < gap[1]]


def copy_one(work, ledger, rng, fail=0.0, step=256 * KIB):
    """What a worker does; returns False where it gave up."""
    while (claim := work.take(split=True)) is not None:
        while work.reserve(claim, 1):
            if rng.random() < fail:
                work.give_back(claim)
                return False
            most = work.reserve(claim, rng.randrange(1, step))
            count = rng.randrange(1, most + 1)
            ledger.add(claim.position, count)
            work.advance(claim, count)
        work.finish(claim)
    return True


def finish(work, ledger):
    """What is left is done by one that comes last."""
    for _ in range(100):
        copy_one(work, ledger, random.Random(0))
        if not work.unfinished:
            return
    raise AssertionError('there is no end to it')


def hammer(gaps, threads, fail, seed, retire=False):
    """Copy with many threads; one that fails is replaced.

    :param retire: take streams back all the time
    """
    work = claims.WorkList(gaps)
    ledger = Ledger()
    errors = []

    def run(number):
        rng = random.Random(f'{seed}/{number}')
        try:
            while not copy_one(work, ledger, rng, fail):
                pass
        except BaseException as exc:
            errors.append(exc)

    workers = [
        threading.Thread(target=run, args=(number,))
        for number in range(threads)
    ]
    for worker in workers:
        worker.start()
    while retire and any(worker.is_alive() for worker in workers):
        work.retire()
        threading.Event().wait(0.001)
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert not errors
    # What the last one gave back, if the others were done by then.
    finish(work, ledger)
    ledger.assert_exactly(gaps)


@pytest.mark.parametrize('retire', [False, True])
@pytest.mark.parametrize('fail', [0.0, 0.05])
@pytest.mark.parametrize('threads', [1, 2, 4, 16])
def test_every_byte_exactly_once(threads, fail, retire):
    hammer([(0, 40 * MIB)], threads, fail, seed=1, retire=retire)


def test_every_byte_exactly_once_with_gaps():
    hammer(
        [(n * 5 * MIB + 7, (n * 5 + 3) * MIB - 10) for n in range(8)],
        threads=8,
        fail=0.02,
        seed=2,
    )


class Steps:
    """Workers in one thread, so that every order can be tried."""

    def __init__(self, gaps):
        self.work = claims.WorkList(gaps)
        self.ledger = Ledger()
        self.held = []

    def take(self):
        claim = self.work.take(split=True)
        if claim is not None:
            self.held.append([claim, 0])

    def act(self, which, what, most):
        if not self.held:
            return
        entry = self.held[which % len(self.held)]
        claim, reserved = entry
        if what == 'reserve':
            entry[1] = self.work.reserve(claim, most)
            if not entry[1]:
                self.work.finish(claim)
                self.held.remove(entry)
        elif what == 'advance' and reserved:
            # A read is short now and then.
            count = min(reserved, 1 + most // 2)
            self.ledger.add(claim.position, count)
            self.work.advance(claim, count)
            entry[1] = 0
        elif what == 'give_back':
            self.work.give_back(claim)
            self.held.remove(entry)


@hypothesis.given(
    gaps=st.lists(st.integers(0, 3 * MIB), max_size=3),
    steps=st.lists(
        st.tuples(
            st.sampled_from(
                ['take', 'reserve', 'advance', 'give_back', 'retire']
            ),
            st.integers(0, 7),
            st.integers(1, MIB),
        ),
        max_size=60,
    ),
)
def test_every_order_of_steps(gaps, steps):
    start, spans = 0, []
    for length in gaps:
        spans.append((start, start + length))
        start += length + 10
    tried = Steps(spans)
    for what, which, most in steps:
        if what == 'take':
            tried.take()
        elif what == 'retire':
            tried.work.retire()
        else:
            tried.act(which, what, most)
    for claim, _reserved in tried.held:
        tried.work.give_back(claim)
    finish(tried.work, tried.ledger)
    tried.ledger.assert_exactly(spans)


def test_what_is_being_read_is_not_taken():
    work = claims.WorkList([(0, 4 * MIB)])
    first = work.take(split=True)
    assert work.reserve(first, 3 * MIB) == 3 * MIB
    second = work.take(split=True)
    assert second.position >= 3 * MIB
    assert first.end == second.position
    assert second.end == 4 * MIB


def test_split_stream_ends_earlier():
    work = claims.WorkList([(0, 4 * MIB)])
    first = work.take(split=True)
    work.reserve(first, 64 * KIB)
    work.take(split=True)
    work.advance(first, 64 * KIB)
    assert work.reserve(first, 4 * MIB) == first.end - 64 * KIB < 2 * MIB


def test_little_is_not_shared():
    work = claims.WorkList([(0, 512 * KIB - 1)])
    work.take(split=True)
    assert not work.can_share()
    assert work.take(split=True) is None


def test_unknown_end_is_not_shared():
    work = claims.WorkList([(0, None)])
    claim = work.take(split=True)
    assert claim.end is None
    assert not work.can_share()
    assert work.take(split=True) is None
    assert work.unfinished
    work.finish(claim)
    assert not work.unfinished


def test_nothing_to_do():
    work = claims.WorkList([])
    assert work.take(split=True) is None
    assert not work.can_share()
    assert not work.unfinished


@hypothesis.given(
    st.lists(st.integers(0, 1 << 20), unique=True).map(sorted),
    st.integers(1 << 10, 1 << 20),
)
def test_strips_are_the_gaps(marks, strip):
    """In order, none longer than it may be, and nothing in between."""
    gaps = [*zip(marks[::2], marks[1::2])]
    work = claims.WorkList(gaps, strip)
    taken = []
    while (claim := work.take(split=False)) is not None:
        taken.append((claim.position, claim.end))
    assert len(taken) == work.count
    assert all(0 < end - start <= strip for start, end in taken)
    assert sum(end - start for start, end in taken) == sum(
        end - start for start, end in gaps
    )
    for before, after in zip(taken, taken[1:]):
        assert before[1] <= after[0]
        if before[1] == after[0] and after[0] not in marks:
            assert after[0] % strip == 0
