# SPDX-License-Identifier: Apache-2.0
"""What happens in the guest is reported outside, whatever happens there."""

from __future__ import annotations

import tarfile

import pytest

from tests.guest_lab import machine
from tests.guest_lab import outer
from tests.guest_lab import payload


class FakeMachine:
    """Says what it is told to, and dies then."""

    def __init__(self, messages):
        self._messages = messages

    def __enter__(self):
        return self

    def send(self, **command):
        self.sent = command

    def messages(self, _silence):
        yield from self._messages
        raise machine.GuestDied('the guest ended; its console: panic')

    def console(self):
        return 'the console'

    def close(self):
        pass


@pytest.fixture
def run(request, monkeypatch):
    """Runs this test's item in a guest that says given things."""

    def call(*messages):
        fake = FakeMachine(messages)
        monkeypatch.setattr(outer.machine, 'Machine', lambda: fake)
        guest = outer.Guest([request.node])
        reports = guest.run(request.node)
        assert fake.sent['tests'] == [request.node.nodeid]
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
    assert not [name for name in names if '__pycache__' in name]
    assert 'iscsi = oslo_transfer.drivers.iscsi.driver:ISCSIDriver' in text
