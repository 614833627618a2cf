# SPDX-License-Identifier: Apache-2.0
"""What happens in the guest is reported outside, whatever happens there."""

from __future__ import annotations

import sys
import tarfile

import pytest

from tests.guest_lab import machine
from tests.guest_lab import outer
from tests.guest_lab import payload
from tests.guest_lab import recipe


class FakeMachine:
    """Says what it is told to of the test that it is given, and dies then."""

    def __init__(self, messages):
        self._messages = messages
        self.sent = []

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def send(self, **command):
        self.sent.append(command)

    def messages(self, _silence):
        yield {'event': 'next'}
        yield from self._messages
        raise machine.GuestDied('the guest ended; its console: panic')

    def console(self):
        return 'the console'

    def kill(self):
        pass


@pytest.fixture
def run(request, monkeypatch):
    """Runs this test's item in a guest that says given things."""

    def call(*messages):
        fake = FakeMachine(messages)
        monkeypatch.setattr(outer.machine, 'Machine', lambda: fake)
        guests = outer.Guests([request.node])
        reports = guests.run(request.node)
        guests.close()
        name = request.node.nodeid
        assert fake.sent[0]['tests'] == [name]
        assert fake.sent[1] == {'test': name}
        return reports

    return call


def told(request, outcome, longrepr=None):
    report = pytest.TestReport(
        nodeid=request.node.nodeid,
        location=request.node.location,
        keywords={},
        outcome=outcome,
        longrepr=longrepr,
        when='call',
    )
    hook = request.config.hook
    return {
        'event': 'report',
        'report': hook.pytest_report_to_serializable(
            config=request.config, report=report
        ),
    }


def finish(request):
    return {
        'event': 'finish',
        'test': request.node.nodeid,
    }


def test_a_test_that_passes(request, run):
    (report,) = run(told(request, 'passed'), finish(request))
    assert report.passed
    assert report.nodeid == request.node.nodeid


def test_a_test_that_fails(request, run):
    (report,) = run(told(request, 'failed', 'E  no'), finish(request))
    assert report.failed
    assert 'E  no' in report.longreprtext


@pytest.mark.parametrize('ci', [None, 'true'])
def test_a_test_that_is_skipped(request, run, monkeypatch, ci):
    """In CI that is a failure: nothing may be left out there."""
    if ci:
        monkeypatch.setenv('CI', ci)
    else:
        monkeypatch.delenv('CI', raising=False)
    skipped = told(request, 'skipped', ('file', 1, 'no such thing'))
    (report,) = run(skipped, finish(request))
    assert report.failed if ci else report.skipped
    assert 'no such thing' in str(report.longrepr)


def test_a_guest_that_dies(run):
    """The test fails, and one sees the console."""
    (report,) = run()
    assert report.failed
    assert 'panic' in report.longreprtext


def test_a_guest_that_dies_in_the_middle(request, run):
    """What was reported of a test does not make it pass."""
    reports = run(told(request, 'passed'))
    assert reports[-1].failed


def test_a_guest_that_cannot_collect(run):
    """It ended without the test; one sees why."""
    (report,) = run(
        {'event': 'collect', 'text': 'ImportError: x'},
        {'event': 'done', 'status': 2},
    )
    assert report.failed
    assert 'ImportError: x' in report.longreprtext
    assert 'the console' in report.longreprtext


class Item:
    """As much of one as is needed."""

    def __init__(self, number, request):
        self.nodeid = f'tests/guest/test_x.py::test_{number}'
        self.location = ('tests/guest/test_x.py', number, 'test')
        self.config = request.config


class Passing(FakeMachine):
    """Has each test pass; the one with a bad number kills it."""

    def __init__(self, bad):
        super().__init__(())
        self._bad = bad

    def messages(self, _silence):
        while True:
            yield {'event': 'next'}
            name = self.sent[-1]['test']
            if not name:
                yield {'event': 'done', 'status': 0}
            if name.endswith(self._bad):
                raise machine.GuestDied('panic')
            yield {'event': 'finish', 'test': name}


def test_several_guests(request, monkeypatch):
    """Each test runs once; where one dies another goes on."""
    monkeypatch.setattr(outer.os, 'cpu_count', lambda: 2)
    made = []

    def make():
        made.append(Passing('_3'))
        return made[-1]

    monkeypatch.setattr(outer.machine, 'Machine', make)
    items = [Item(number, request) for number in range(8)]
    guests = outer.Guests(items)
    reports = {item.nodeid: guests.run(item) for item in items}
    guests.close()
    assert len(made) == 2
    given = [each['test'] for fake in made for each in fake.sent[1:]]
    assert sorted(filter(None, given)) == [item.nodeid for item in items]
    (failed,) = reports.pop(items[3].nodeid)
    assert failed.failed
    assert 'panic' in failed.longreprtext
    assert not any(reports.values())


def test_the_checkout_goes_in(tmp_path):
    """With its drivers registered, and without what others have built."""
    disk = tmp_path / 'disk'
    payload.write(disk)
    assert disk.stat().st_size == payload.BYTES
    with tarfile.open(disk) as tar:
        names = tar.getnames()
        points = tar.extractfile('oslo_transfer-0.dist-info/entry_points.txt')
        text = points.read().decode()
    assert 'oslo_transfer/drivers/nfs/driver.py' in names
    assert 'tests/guest_lab/init.sh' in names
    cached = [name for name in names if '__pycache__' in name]
    here = sys.implementation.cache_tag.removeprefix('cpython-')
    if here == recipe.PYTHON.replace('.', ''):
        (part,) = [
            name for name in cached if 'drivers/__pycache__/dd.' in name
        ]
        assert part.startswith('oslo_transfer/drivers/__pycache__/')
    assert all(f'.cpython-{here}.pyc' in name for name in cached)
    assert 'iscsi = oslo_transfer.drivers.iscsi.driver:ISCSIDriver' in text
