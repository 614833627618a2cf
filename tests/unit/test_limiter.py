# SPDX-License-Identifier: Apache-2.0
"""A bandwidth limit is kept, and used."""

from __future__ import annotations

import threading
import time

import hypothesis
from hypothesis import strategies as st
import pytest

import oslo_transfer
from oslo_transfer import limiter
from tests.servers import resource

MIB = 1 << 20


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(limiter.time, 'monotonic', lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def move(clock, limit, total, step):
    """Move bytes as fast as allowed; returns the seconds it took."""
    started = clock.now
    while total:
        count = limit.chunk(min(step, total))
        clock.now += limit.moved(count)
        total -= count
    return clock.now - started


@pytest.mark.parametrize('rate', [1, 1000, 10**6, 10**9])
@pytest.mark.parametrize('step', [1, 7, 1000, 10**6])
def test_takes_as_long_as_it_should(clock, rate, step):
    limit = limiter.Limiter(rate)
    total = 1000 * max(1, limit.chunk(step))
    assert move(clock, limit, total, step) == pytest.approx(
        total / rate, rel=0.01, abs=1.01 * limiter.Limiter.BURST
    )


def test_silence_is_made_up_for_by_one_burst_at_most(clock):
    limit = limiter.Limiter(1000)
    move(clock, limit, 1000, 10)
    clock.now += 3600
    assert move(clock, limit, 10_000, 10) >= 10 - 2 * limiter.Limiter.BURST


@hypothesis.given(
    st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 500)), min_size=5)
)
def test_no_window_gets_more_than_its_share(steps):
    """Over any stretch: rate x time, and a burst."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        limit = limiter.Limiter(1000)
        moved = [(clock.now, 0)]
        for pause, count in steps:
            clock.now += pause
            allowed = limit.chunk(count)
            moved.append((clock.now, moved[-1][1] + allowed))
            clock.now += limit.moved(allowed)
    for first, (began, before) in enumerate(moved):
        for ended, after in moved[first + 1 :]:
            assert after - before <= 1000 * (ended - began) + 200 + 1e-6


def test_streams_share_it():
    """Four threads together keep the rate of one."""
    limit = limiter.Limiter(10 * MIB)
    end = time.monotonic() + 0.5
    moved = [0] * 4

    def work(index):
        while (now := time.monotonic()) < end:
            count = limit.chunk(64 << 10)
            moved[index] += count
            pause = min(limit.moved(count), end - now)
            threading.Event().wait(pause)

    threads = [
        threading.Thread(target=work, args=(index,)) for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sum(moved) == pytest.approx(5 * MIB, rel=0.35)


def test_no_limit():
    limit = limiter.Limiter()
    assert limit.chunk(MIB) == MIB
    assert limit.moved(1 << 60) == 0.0


def test_slower_than_a_byte_per_burst():
    assert limiter.Limiter(1).chunk(MIB) == 1


@pytest.mark.parametrize('origin', ['file', 'http'])
def test_copy_takes_as_long_as_the_limit_says(
    origin, conf, server, tmp_path, nothing_left
):
    """Within 10 % over a second: neither more nor less."""
    data = resource.pattern(4 * MIB)
    src = tmp_path / 'src'
    src.write_bytes(data)
    if origin == 'http':
        src = server.put('/image', data)
    rate = 3 * MIB
    shares = []
    for number in range(4):
        free, limited = (
            oslo_transfer.copy(
                src,
                tmp_path / f'{number}-{limit}',
                'full_copy',
                conf=conf,
                rate_limit=limit,
            ).seconds
            for limit in (None, rate)
        )
        assert len(data) / limited < 1.1 * rate
        # What is not moving bytes is not limited, and takes its time.
        shares.append(len(data) / (limited - free) / rate)
        if shares[-1] > 0.9:
            return  # On a machine that is busy the first one may not.
    pytest.fail(f'the limit is not used: {shares}')


def test_limit_of_the_deployer(conf, tmp_path):
    conf.set_override(
        'rate_limit_bytes_per_second', MIB, group='oslo_transfer'
    )
    src = tmp_path / 'src'
    src.write_bytes(resource.pattern(MIB // 2))
    result = oslo_transfer.copy(src, tmp_path / 'dst', 'full_copy', conf=conf)
    assert result.seconds >= 0.35
    faster = oslo_transfer.copy(
        src, tmp_path / 'dst2', 'full_copy', conf=conf, rate_limit=100 * MIB
    )
    assert faster.seconds < result.seconds, 'the call knows better'
