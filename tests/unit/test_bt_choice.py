# SPDX-License-Identifier: Apache-2.0
"""Hosts of a swarm take one copy from the origin, and nothing is left out."""

from __future__ import annotations

import random

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.drivers.bittorrent import choice as _choice

COUNTS = st.integers(1, 200)


def read_all(choice, have, availability, demand=(), suffice=True):
    """Read until there is nothing to read; returns the pieces in order."""
    order = []
    while run := choice.next_run(have, availability, demand, suffice):
        for index in run:
            assert not have[index]
            choice.took(index)
            have[index] = True
            order.append(index)
    return order


@hypothesis.given(COUNTS, st.integers(1, 64), st.integers())
def test_a_host_that_is_alone_reads_each_piece_once(count, longest, seed):
    choice = _choice.Choice(count, longest, seed)
    order = read_all(choice, [False] * count, [0] * count)
    assert sorted(order) == list(range(count))


@hypothesis.given(COUNTS, st.integers())
def test_a_host_that_is_alone_asks_twice_at_most(count, seed):
    choice = _choice.Choice(count, 4, seed)
    have, runs = [False] * count, 0
    while run := choice.next_run(have, [0] * count, (), True):
        runs += 1
        for index in run:
            choice.took(index)
            have[index] = True
    assert runs <= 2


@hypothesis.given(COUNTS, st.data())
def test_what_peers_have_is_left_to_them_while_they_bring_it(count, data):
    shape = st.lists(st.booleans(), min_size=count, max_size=count)
    have = data.draw(shape)
    availability = [int(each) for each in data.draw(shape)]
    demand = data.draw(st.lists(st.integers(0, count - 1)))
    rare = {i for i in range(count) if not have[i] and availability[i] == 0}
    choice = _choice.Choice(count, seed=data.draw(st.integers()))
    assert set(read_all(choice, have, availability, demand)) == rare


@hypothesis.given(COUNTS, st.data())
def test_nothing_is_left_out_if_peers_bring_nothing(count, data):
    shape = st.lists(st.booleans(), min_size=count, max_size=count)
    have = data.draw(shape)
    missing = {i for i in range(count) if not have[i]}
    availability = [int(each) for each in data.draw(shape)]
    choice = _choice.Choice(count, seed=data.draw(st.integers()))
    found = read_all(choice, have, availability, suffice=False)
    assert set(found) == missing


@hypothesis.given(COUNTS, st.data())
def test_what_somebody_waits_for_comes_first(count, data):
    choice = _choice.Choice(count, seed=data.draw(st.integers()))
    have = [False] * count
    for index in data.draw(st.lists(st.integers(0, count - 1))):
        have[index] = True
    demand = data.draw(st.lists(st.integers(0, count - 1), min_size=1))
    waited_for = [index for index in demand if not have[index]]
    run = choice.next_run(have, [0] * count, demand, True)
    if waited_for:
        assert run is not None and run.start == waited_for[0]


@pytest.mark.parametrize('seed', range(20))
def test_runs_are_short_where_peers_may_be_sooner(seed):
    choice = _choice.Choice(100, 8, seed)
    availability = [0] * 100
    availability[seed * 5] = 1
    run = choice.next_run([False] * 100, availability, (), True)
    assert run is not None and 1 <= len(run) <= 8


def test_it_goes_on_where_it_stopped():
    choice = _choice.Choice(100, 8, seed=1)
    have, availability = [False] * 100, [0] * 100
    availability[0] = 1
    first = choice.next_run(have, availability, (), True)
    assert first is not None
    for index in first:
        choice.took(index)
        have[index] = True
    second = choice.next_run(have, availability, (), True)
    assert second is not None and second.start == first.stop


def test_it_leaves_the_beginning_of_a_gap_to_whoever_reads_there():
    choice = _choice.Choice(100, 8, seed=1)
    availability = [1] * 20 + [0] * 40 + [1] * 40
    have = [False] * 100
    choice.took(99)
    run = choice.next_run(have, availability, (), True)
    assert run is not None and run.start == 40


def test_it_is_ahead_by_what_nobody_took_over_yet():
    choice = _choice.Choice(10)
    choice.took(3)
    choice.took(4)
    assert choice.ahead([0] * 10) == 2
    assert choice.ahead([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]) == 1
    # A peer that leaves takes nothing back.
    assert choice.ahead([0] * 10) == 1


@hypothesis.given(st.integers(1, 12), st.integers(0, 1 << 32))
@hypothesis.settings(max_examples=25)
def test_hosts_take_little_more_than_one_copy(hosts, seed):
    """All see what the others have a moment later, and read in turn."""
    count, delay = 400, 2 * hosts
    rng = random.Random(seed)
    choices = [_choice.Choice(count, 16, rng.random()) for _ in range(hosts)]
    taken: list[tuple[int, int]] = []
    runs: list[list[int]] = [[] for _ in range(hosts)]
    own: list[set[int]] = [set() for _ in range(hosts)]
    idle = 0
    while idle < 2 * delay:
        me = rng.randrange(hosts)
        seen = taken[: max(0, len(taken) - delay + idle)]
        availability = [0] * count
        for host, index in seen:
            if host != me:
                availability[index] += 1
        have = [i in own[me] for i in range(count)]
        if not runs[me] or availability[runs[me][0]]:
            found = choices[me].next_run(have, availability, (), True)
            runs[me] = list(found or ())
        if not runs[me]:
            idle += 1
            continue
        idle = 0
        index = runs[me].pop(0)
        choices[me].took(index)
        own[me].add(index)
        taken.append((me, index))
    assert {index for _host, index in taken} == set(range(count))
    assert len(taken) <= 1.3 * count
