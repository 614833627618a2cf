# SPDX-License-Identifier: Apache-2.0
"""Who may read what, and for how long that holds."""

from __future__ import annotations

from concurrent import futures
import threading

import pytest

from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer.service.proxy import grants as _grants
from tests.unit import fakes
from tests import waiting

URL = endpoint.parse('http://far.example/image')
ALICE = _grants.Asking(URL, {'X-Auth-Token': 'alice'})
BOB = _grants.Asking(URL, {'X-Auth-Token': 'bob'})


class Opened:
    """Notes who does not need it any more."""

    where = 'http://far.example/image'

    def __init__(self):
        self.left = []

    def leave(self, user):
        self.left.append(user)


class Lab:
    """An origin that answers as a test wants it to."""

    def __init__(self):
        self.asked = []
        self.opened = Opened()
        self.error = None
        # That somebody asks, and that he gets an answer.
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.seconds, self.stale = 60.0, 0.0
        self.grants = _grants.Grants(
            self.ask, fakes.make_ctx(), lambda: (self.seconds, self.stale)
        )

    def hang(self):
        """Say nothing until :attr:`go_on` is set."""
        self.begun.clear()
        self.go_on.clear()

    def ask(self, asking):
        self.begun.set()
        assert self.go_on.wait(20)
        self.asked.append(asking)
        if self.error is not None:
            raise self.error
        return self.opened, asking.key


@pytest.fixture
def lab():
    made = Lab()
    yield made
    made.grants.close()


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(_grants, 'time', found)
    return found


def test_keys_show_no_secrets_and_differ():
    assert 'alice' not in ALICE.key
    other = endpoint.parse('http://far.example/image?a')
    keys = {
        ALICE.key,
        BOB.key,
        _grants.Asking(URL).key,
        _grants.Asking(other, ALICE.headers).key,
        _grants.Asking(URL, {'Authorization': 'alice'}).key,
    }
    assert len(keys) == 5
    # The way that somebody came by does not matter, nor how he writes it.
    assert _grants.Asking(URL, {'x-auth-token': 'alice'}, 'via').key == (
        ALICE.key
    )


def test_each_is_asked_for(lab):
    first = lab.grants.get(ALICE)
    assert lab.grants.get(ALICE) is first and first.holds
    assert lab.grants.get(BOB) is not first
    assert lab.asked == [ALICE, BOB]


def test_a_grant_ends(lab, clock):
    lab.grants.get(ALICE)
    clock.now += 59
    lab.grants.get(ALICE)
    assert len(lab.asked) == 1
    clock.now += 1
    lab.grants.get(ALICE)
    assert len(lab.asked) == 2


def test_without_seconds_it_is_asked_each_time(lab):
    lab.seconds = 0.0
    assert not lab.grants.get(ALICE).holds
    lab.grants.get(ALICE)
    assert len(lab.asked) == 2


def test_it_is_asked_again_at_will(lab):
    lab.grants.get(ALICE)
    lab.grants.get(ALICE, again=True)
    assert len(lab.asked) == 2


def test_who_is_refused_is_refused_at_once(lab, clock):
    known = lab.grants.get(ALICE)
    clock.now += 60
    lab.error = exceptions.AccessDenied('no more')
    lab.stale = 3600.0
    with pytest.raises(exceptions.AccessDenied):
        lab.grants.get(ALICE)
    assert not known.holds and lab.opened.left == [ALICE.key]
    lab.error = exceptions.Unavailable('gone')
    with pytest.raises(exceptions.Unavailable):
        lab.grants.get(ALICE)


def test_who_is_refused_when_asked_again_has_nothing(lab):
    """Though what he had would still hold."""
    known = lab.grants.get(ALICE)
    lab.error = exceptions.AccessDenied('no more')
    with pytest.raises(exceptions.AccessDenied):
        lab.grants.get(ALICE, again=True)
    assert not known.holds


def test_an_origin_out_of_reach(lab, clock):
    """Those who had it have it on, and nobody else."""
    lab.stale = 600.0
    known = lab.grants.get(ALICE)
    clock.now += 60
    lab.error = exceptions.Unavailable('gone')
    assert lab.grants.get(ALICE) is known and known.holds
    with pytest.raises(exceptions.Unavailable):
        lab.grants.get(BOB)
    # It is not tried with each request, but soon again.
    asked = len(lab.asked)
    lab.grants.get(ALICE)
    assert len(lab.asked) == asked
    # Meanwhile nobody waits for that.
    clock.now += 11
    assert lab.grants.get(ALICE) is known and known.holds
    waiting.until(lambda: len(lab.asked) == asked + 1)
    waiting.until(lambda: not lab.grants._flights)
    clock.now += 600
    with pytest.raises(exceptions.Unavailable):
        lab.grants.get(ALICE)


@pytest.mark.parametrize('error', [None, exceptions.AccessDenied('no more')])
def test_an_origin_can_be_reached_again(lab, clock, error):
    """What it says then counts."""
    lab.stale = 600.0
    known = lab.grants.get(ALICE)
    clock.now += 60
    lab.error = exceptions.Unavailable('gone')
    lab.grants.get(ALICE)
    lab.error = error
    clock.now += 11
    assert lab.grants.get(ALICE) is known
    waiting.until(lambda: not lab.grants._flights)
    if error is None:
        assert lab.grants.get(ALICE) is not known
    else:
        assert not known.holds
        with pytest.raises(exceptions.AccessDenied):
            lab.grants.get(ALICE)


@pytest.mark.parametrize('error', [None, exceptions.AccessDenied('no more')])
def test_an_origin_that_says_nothing(lab, clock, monkeypatch, error):
    """Those who had it do not wait for it; what it says in the end counts."""
    monkeypatch.setattr(_grants, '_PATIENCE', 0.0)
    lab.stale = 600.0
    known = lab.grants.get(ALICE)
    clock.now += 60
    lab.hang()
    assert lab.grants.get(ALICE) is known and known.holds and known.stale
    assert lab.begun.wait(20)
    clock.now += 11
    assert lab.grants.get(ALICE) is known
    lab.error = error
    lab.go_on.set()
    waiting.until(lambda: not lab.grants._flights)
    assert len(lab.asked) == 2
    if error is None:
        found = lab.grants.get(ALICE)
        assert found.holds and not found.stale
    else:
        assert not known.holds
        with pytest.raises(exceptions.AccessDenied):
            lab.grants.get(ALICE)


def test_it_does_not_say_nothing_for_ever(lab, clock, monkeypatch):
    monkeypatch.setattr(_grants, '_PATIENCE', 0.0)
    lab.stale = 600.0
    lab.grants.get(ALICE)
    clock.now += 660
    lab.error = exceptions.Stalled('nothing')
    lab.hang()
    with futures.ThreadPoolExecutor(1) as pool:
        found = pool.submit(lab.grants.get, ALICE)
        assert lab.begun.wait(20)
        lab.go_on.set()
        assert isinstance(found.exception(20), exceptions.Stalled)


def test_the_proxy_ends_meanwhile(lab, clock):
    lab.stale = 600.0
    lab.grants.get(ALICE)
    clock.now += 60
    lab.error = exceptions.TransferCancelled('the end')
    lab.hang()
    with futures.ThreadPoolExecutor(1) as pool:
        found = pool.submit(lab.grants.get, ALICE)
        assert lab.begun.wait(20)
        lab.grants._ctx.stop.set()
        error = found.exception(20)
        lab.go_on.set()
    assert isinstance(error, exceptions.TransferCancelled)


def test_an_origin_that_says_nothing_is_in_nobodys_way(lab, clock):
    """Who was refused by another one is refused at once."""
    lab.stale = 600.0
    other = endpoint.parse('http://other.example/image')
    many = [
        _grants.Asking(URL, {'X-Auth-Token': str(number)})
        for number in range(2 * _grants._LOOKERS)
    ]
    refused = _grants.Asking(other, ALICE.headers)
    for asking in (*many, refused):
        lab.grants.get(asking)
    clock.now += 60
    go_on = threading.Event()

    def ask(asking):
        if asking.endpoint == URL:
            assert go_on.wait(20)
            raise exceptions.Stalled('nothing')
        raise exceptions.AccessDenied('no more')

    lab.grants._ask = ask
    with futures.ThreadPoolExecutor(len(many)) as pool:
        found = [pool.submit(lab.grants.get, asking) for asking in many]
        waiting.until(lambda: len(lab.grants._flights) == len(many))
        with pytest.raises(exceptions.AccessDenied):
            lab.grants.get(refused)
        go_on.set()
        # They had it.
        assert all(each.result(20).stale for each in found)


def test_who_is_refused_at_last_has_nothing(lab, clock):
    """Though he had stopped to wait for that just then."""
    lab.stale = 600.0
    known = lab.grants.get(ALICE)
    clock.now += 60
    lab.error = exceptions.AccessDenied('no more')
    with pytest.raises(exceptions.AccessDenied):
        lab.grants.get(ALICE)
    assert not lab.grants._goes_on(ALICE.key, known)
    assert not known.holds


def test_another_version_is_no_reason_to_go_on(lab, clock):
    lab.stale = 600.0
    lab.grants.get(ALICE)
    clock.now += 60
    lab.error = exceptions.SourceChanged('another version')
    with pytest.raises(exceptions.SourceChanged):
        lab.grants.get(ALICE)


@pytest.mark.parametrize('works', [True, False])
def test_many_at_once_ask_once(lab, works, monkeypatch):
    wait, waits = lab.grants._wait, []

    def note(flight):
        waits.append(flight)
        return wait(flight)

    monkeypatch.setattr(lab.grants, '_wait', note)

    lab.hang()
    if not works:
        lab.error = exceptions.NotFound('nothing')
    with futures.ThreadPoolExecutor(8) as pool:
        first = pool.submit(lab.grants.get, ALICE)
        assert lab.begun.wait(10)
        others = [pool.submit(lab.grants.get, ALICE) for _ in range(7)]
        waiting.until(lambda: len(waits) == 7)
        lab.go_on.set()
        found = [each.exception() or each.result() for each in others]
        found.append(first.exception() or first.result())
    assert len(lab.asked) == 1
    if works:
        assert len({*found}) == 1
    else:
        assert {*map(type, found)} == {exceptions.NotFound}


def test_who_waits_can_be_interrupted(lab):
    lab.error = exceptions.NotFound('nothing')
    lab.hang()
    with futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(lab.grants.get, ALICE)
        assert lab.begun.wait(10)
        second = pool.submit(lab.grants.get, ALICE)
        lab.grants._ctx.stop.set()
        assert isinstance(second.exception(10), exceptions.TransferCancelled)
        lab.go_on.set()
        assert isinstance(first.exception(10), exceptions.NotFound)


def test_what_is_of_no_use_is_dropped(lab, clock, monkeypatch):
    lab.stale = 40.0
    first = lab.grants.get(ALICE)
    clock.now += 50
    lab.grants.get(BOB)
    lab.grants.sweep()
    assert lab.grants.get(BOB) and lab.opened.left == []
    clock.now += 51
    lab.grants.sweep()
    assert lab.opened.left == [first.user]
    monkeypatch.setattr(_grants, '_MOST', 1)
    lab.grants.get(ALICE)
    lab.grants.sweep()
    assert lab.opened.left == [ALICE.key, BOB.key]


def test_what_is_forgotten_is_asked_for(lab):
    lab.grants.get(ALICE)
    lab.grants.forget(Opened())
    lab.grants.get(ALICE)
    assert len(lab.asked) == 1
    lab.grants.forget(lab.opened)
    lab.grants.get(ALICE)
    assert len(lab.asked) == 2
