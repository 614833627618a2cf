# SPDX-License-Identifier: Apache-2.0
"""What a session makes of the answers to its commands."""

from __future__ import annotations

import threading
import time

import pytest

from oslo_transfer import call
from oslo_transfer import context
from oslo_transfer.drivers.iscsi import driver
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import identity
from oslo_transfer.drivers.iscsi import libiscsi
from oslo_transfer.drivers.iscsi import lun
from oslo_transfer.drivers.iscsi import pool as _pool
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import session
from oslo_transfer.drivers.iscsi import unit
from oslo_transfer.drivers.iscsi import waiting
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures

PATH = lun.Path('192.0.2.1', 3260, 'iqn.x:y', 1)
GOOD = libiscsi.Outcome(libiscsi.GOOD, 512)
BUSY = libiscsi.Outcome(libiscsi.BUSY)
LOST = libiscsi.Outcome(libiscsi.LOCAL)
NEVER = None


def sense(key, code):
    return libiscsi.Outcome(libiscsi.CHECK_CONDITION, 0, key, code)


RESET = sense(scsi.UNIT_ATTENTION, 0x2900)


class Link:
    """Answers commands in turn as the test wants, instead of a target."""

    def __init__(self, *answers):
        self.handle = self
        self.answers = list(answers)
        self.waiting = []
        self.submitted = 0
        self.closed = False
        self.alive = True

    def submit(self, lun, cdb, done, *, into=None, data=None):
        assert not self.closed
        self.submitted += 1
        self.waiting.append(done)
        return self.submitted

    def service(self, events):
        return True

    def turn(self, seconds):
        waiting_, self.waiting = self.waiting, []
        for done in waiting_:
            answer = self.answers.pop(0) if self.answers else NEVER
            if answer is NEVER:
                self.waiting.append(done)
                time.sleep(min(seconds, 0.01))
            else:
                done(answer)
        return self.alive

    def close(self):
        self.closed = True


@pytest.fixture
def conf():
    made = fixtures.make_conf()
    made.register_opts(driver.ISCSIDriver.OPTIONS, group='oslo_transfer_iscsi')
    return made


@pytest.fixture
def waiter(conf):
    return make_waiter(conf)


def make_waiter(conf, **changes):
    ctx = call.Call(conf, None, None, None).ctx.replace(**changes)
    return waiting.Waiter(ctx, 'iscsi://host/iqn.x:y/1', threading.Event())


def make(link, timeout=5):
    return session.Session(link, PATH, 'iscsi://host/iqn.x:y/1', timeout)


def read(count=1):
    return [
        session.Command(f'reading {i}', scsi.read_16(i, 1), bytearray(512))
        for i in range(count)
    ]


def test_all_answers_in_order(waiter):
    link = Link(GOOD._replace(moved=1), GOOD._replace(moved=2))
    found = make(link).run(read(2), waiter)
    assert [outcome.moved for outcome in found] == [1, 2]


def test_news_are_heard_and_commands_repeated(waiter):
    """Only those that were not done."""
    link = Link(GOOD, RESET, GOOD)
    assert len(make(link).run(read(2), waiter)) == 2
    assert link.submitted == 3


def test_news_without_an_end(waiter):
    link = Link(*[RESET] * 100)
    with pytest.raises(exceptions.ProtocolError):
        make(link).run(read(), waiter)
    assert link.submitted < 30


@pytest.mark.parametrize(
    ('key', 'code'),
    [
        (scsi.MEDIUM_ERROR, 0x1100),
        (scsi.ILLEGAL_REQUEST, scsi.OUT_OF_RANGE),
    ],
)
def test_refusals(waiter, key, code):
    made = make(Link(sense(key, code)))
    with pytest.raises(failures.SenseError) as caught:
        made.run(read(), waiter)
    assert (caught.value.what, caught.value.key, caught.value.code) == (
        'reading 0',
        key,
        code,
    )
    assert made.usable


def test_news_of_a_unit_that_is_known(waiter):
    """It may be another one now: whoever asked has to look first."""
    link = Link(GOOD, RESET)
    made = make(link)
    made.known = True
    with pytest.raises(failures.News):
        made.run(read(2), waiter)
    assert link.submitted == 2
    assert made.usable


def test_recovered_errors_are_no_errors(waiter):
    link = Link(sense(scsi.RECOVERED, 0x1700))
    assert len(make(link).run(read(), waiter)) == 1


def test_busy_targets_are_asked_again(waiter):
    full = libiscsi.Outcome(libiscsi.TASK_SET_FULL)
    link = Link(BUSY, full, GOOD)
    assert make(link).run(read(), waiter)[0].moved == 512


def test_busy_for_too_long(waiter):
    link = Link(*[BUSY] * 1000)
    with pytest.raises(exceptions.Unavailable, match='busy'):
        make(link, timeout=0.3).run(read(), waiter)


def test_reserved_by_another_host(waiter):
    link = Link(libiscsi.Outcome(libiscsi.RESERVATION_CONFLICT))
    with pytest.raises(exceptions.AccessDenied, match='reserved'):
        make(link).run(read(), waiter)


@pytest.mark.parametrize('answers', [(LOST,), (GOOD, LOST), (LOST, GOOD)])
def test_a_connection_that_breaks(waiter, answers):
    link = Link(*answers)
    made = make(link)
    with pytest.raises(failures.Broken, match='connection broke'):
        made.run(read(2), waiter)
    assert link.closed
    assert not made.usable


def test_a_connection_that_breaks_without_a_word(waiter):
    link = Link()
    link.alive = False
    with pytest.raises(failures.Broken):
        make(link).run(read(), waiter)
    assert link.closed


def test_a_status_that_nobody_knows(waiter):
    link = Link(libiscsi.Outcome(0x40))
    made = make(link)
    with pytest.raises(failures.Broken):
        made.run(read(), waiter)
    assert not made.usable


def test_no_answer_in_time(waiter):
    link = Link(GOOD)
    started = time.monotonic()
    with pytest.raises(failures.Broken, match='no answer'):
        make(link, timeout=0.2).run(read(2), waiter)
    assert 0.2 <= time.monotonic() - started < 1
    assert link.closed


def test_too_slow_by_the_stall_rule(conf):
    waiter = make_waiter(conf, stall=context.StallRule(0.2, 1 << 20))
    link = Link()
    with pytest.raises(exceptions.Stalled):
        make(link).run(read(), waiter)
    assert link.closed


def test_flushing_moves_nothing_and_is_no_stall(conf):
    waiter = make_waiter(conf, stall=context.StallRule(0.1, 1 << 20))
    link = Link(*[NEVER] * 20, GOOD)
    command = session.Command('flushing', scsi.synchronize_cache_10())
    assert make(link).run([command], waiter)


@pytest.mark.parametrize('name', ['cancel', 'stop'])
def test_cancelled(conf, name):
    """Nothing is written to the buffer afterwards."""
    event = threading.Event()
    waiter = make_waiter(conf, **{name: event})
    link = Link()
    timer = threading.Timer(0.1, event.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(exceptions.TransferCancelled):
        make(link).run(read(), waiter)
    timer.join()
    assert time.monotonic() - started < 1
    assert link.closed


@pytest.fixture
def heed(conf, waiter, monkeypatch):
    """Works with a session that has news; ``found`` is what is seen then."""

    def run(found, answers):
        made = make(Link(*answers))
        made.known = True
        ctx = waiter.ctx
        pool = _pool.Pool(lun.Lun(where='where', paths=(PATH,)), ctx)
        disk = identity.Disk('S1', frozenset(), 512_000)
        capacity = scsi.Capacity(1000, 512)
        pool._unit = unit.Unit(
            disk, capacity, scsi.Limits(), scsi.Provisioning(), False
        )
        capacity = scsi.Capacity(found.get('blocks', 1000), 512)
        disk = identity.Disk(
            found.get('serial', 'S1'), frozenset(), capacity.size
        )
        monkeypatch.setattr(unit, 'look', lambda *_: (capacity, disk))
        return pool._heed(made, lambda each: each.run(read(), waiter), waiter)

    return run


def test_after_news_the_same_unit_goes_on(heed):
    assert heed({}, [RESET, RESET, GOOD])[0].moved == 512


@pytest.mark.parametrize(
    ('found', 'kind'),
    [
        ({'serial': 'S2'}, exceptions.IntegrityError),
        ({'blocks': 999}, exceptions.SourceChanged),
    ],
)
def test_after_news_another_unit_is_left(heed, found, kind):
    """Before a byte of it is read or written."""
    with pytest.raises(kind):
        heed(found, [RESET])


def test_no_end_of_news(heed):
    with pytest.raises(exceptions.ProtocolError):
        heed({}, [RESET] * 100)
