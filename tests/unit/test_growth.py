# SPDX-License-Identifier: Apache-2.0
"""Streams are added while they pay, and no longer."""

from __future__ import annotations

import pytest

from oslo_transfer import growth


class Simulation:
    """A copy on a clock of its own.

    :param rate: bytes per second, given the number of streams
    :param idle: the share of time a stream waits for its peer
    """

    def __init__(self, monkeypatch, most, rate, idle=1.0):
        self.now = 1000.0
        monkeypatch.setattr(growth.time, 'monotonic', lambda: self.now)
        self.growth = growth.Growth(most)
        self.rate = rate
        self.idle = idle
        self.streams = 1
        self.total = 0.0
        self.waited = [0.0]

    def run(self, seconds):
        """Returns when streams were added, in seconds from the start."""
        started, added = self.now, []
        while self.now < started + seconds:
            self.now += 0.05
            self.total += 0.05 * self.rate(self.streams)
            idle = self.idle
            self.waited = [each + 0.05 * idle for each in self.waited]
            if self.growth.wants_more(
                streams=self.streams,
                waited=self.waited,
                total=int(self.total),
            ):
                self.streams += 1
                self.waited.append(0.0)
                added.append(self.now - started)
            if self.growth.too_many:
                self.growth.too_many = False
                self.streams -= 1
                self.waited.pop()
        return added


def test_each_stream_pays(monkeypatch):
    """A link that serves each connection slowly: all that are allowed."""
    added = Simulation(monkeypatch, 4, lambda n: n * 10e6).run(2)
    assert len(added) == 3
    assert added[-1] < 1, 'a short copy should profit, too'


def test_never_more_than_allowed(monkeypatch):
    simulation = Simulation(monkeypatch, 2, lambda n: n * 10e6)
    simulation.run(20)
    assert simulation.streams == 2


def test_alone_if_it_must_be(monkeypatch):
    assert not Simulation(monkeypatch, 1, lambda n: 10e6).run(20)


def test_full_link_is_left_to_one(monkeypatch):
    """The second brings nothing, is taken back, and stays away."""
    simulation = Simulation(monkeypatch, 16, lambda n: 100e6)
    assert 1 <= len(simulation.run(10)) <= 3
    assert simulation.streams == 1
    assert not simulation.run(60)


def test_stops_where_it_no_longer_pays(monkeypatch):
    simulation = Simulation(monkeypatch, 16, lambda n: min(n, 4) * 10e6)
    simulation.run(60)
    assert simulation.streams == 4


def test_busy_streams_need_no_company(monkeypatch):
    """It is the disk that is slow."""
    assert not Simulation(monkeypatch, 4, lambda n: 10e6, idle=0.2).run(10)


def test_silence_is_no_reason(monkeypatch):
    """No byte came: nothing can be judged."""
    assert not Simulation(monkeypatch, 4, lambda n: 0).run(10)


def test_burst_at_the_start_is_looked_through(monkeypatch):
    """A first look that was wrong is made up for."""
    simulation = Simulation(monkeypatch, 4, lambda n: 0)
    simulation.rate = lambda n: 80e6 if simulation.now < 1000.3 else n * 10e6
    simulation.run(30)
    assert simulation.streams == 4


@pytest.mark.parametrize('rate', [1e3, 1e12])
def test_refused_is_final(monkeypatch, rate):
    simulation = Simulation(monkeypatch, 8, lambda n: n * rate)
    simulation.run(0.3)
    simulation.growth.refused()
    assert not simulation.run(60)


def test_streams_that_end_are_no_trouble(monkeypatch):
    """Their waiting is gone from the sum, which then shrinks."""
    simulation = Simulation(monkeypatch, 4, lambda n: n * 10e6)
    simulation.run(0.3)
    simulation.waited = [0.0]
    simulation.streams = 1
    simulation.run(5)
    assert simulation.streams <= 4
