# SPDX-License-Identifier: Apache-2.0
"""Programs end with who has started them, and leave nothing."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from oslo_transfer import children
from oslo_transfer import exceptions
from oslo_transfer import privatedir
from oslo_transfer.testing import harness
from tests.servers import dd_lab

pytestmark = pytest.mark.usefixtures('nothing_left')

SH = '/bin/sh'


def script(text):
    return [SH, '-c', text]


def test_what_is_not_installed():
    with pytest.raises(exceptions.CapabilityMissing, match='some-package'):
        children.find('no-such-program', 'some-package')


def test_administrators_programs_are_found(monkeypatch):
    monkeypatch.setenv('PATH', '/nonexistent')
    assert children.find('losetup', 'mount').endswith('/losetup')


def test_run():
    status, told = children.run(script('echo "$LC_ALL" >&2; exit 3'), 5)
    assert (status, told) == (3, 'C\n')


def test_what_takes_too_long_is_killed(tmp_path):
    """With all that it has started."""
    began = time.monotonic()
    with pytest.raises(exceptions.Unavailable, match='0.3 seconds'):
        children.run(script(f': {tmp_path}; sleep 60 & sleep 60; :'), 0.3)
    assert time.monotonic() - began < 2
    assert not dd_lab.processes(tmp_path)


def test_nothing_starts_for_who_is_dead(tmp_path, monkeypatch):
    """Between the fork and the prctl() nobody would be told of it."""
    monkeypatch.setattr(children.os, 'getpid', lambda: 1)
    status, _told = children.run(script(f'touch {tmp_path}/it'), 5)
    assert status
    assert not (tmp_path / 'it').exists()


def test_a_helper_stays_when_its_thread_ends():
    """PR_SET_PDEATHSIG counts threads, and we mean the process."""
    made = []
    thread = threading.Thread(
        target=lambda: made.append(children.Helper(script('exec sleep 60')))
    )
    thread.start()
    thread.join()
    (helper,) = made
    assert not harness.wait_for(lambda: not helper.running, 0.3)
    assert helper.close()
    assert helper.close()
    assert not helper.running
    with pytest.raises(ProcessLookupError):
        os.kill(helper.pid, 0)


def test_the_end_of_what_a_helper_says():
    helper = children.Helper(
        script('yes nonsense | head -c 1000000 >&2; echo the end >&2')
    )
    assert harness.wait_for(lambda: not helper.running, 10)
    assert helper.errors.endswith('the end')
    assert len(helper.errors) <= children.MOST_OUTPUT
    assert helper.close()


def test_a_helper_that_does_not_want_to_end(monkeypatch):
    monkeypatch.setattr(children, 'PATIENCE', 0.2)
    helper = children.Helper(
        script('trap "" TERM; echo ready >&2; while :; do sleep 1; done')
    )
    assert harness.wait_for(lambda: helper.errors, 5)
    began = time.monotonic()
    assert helper.close()
    assert time.monotonic() - began < 3


def test_a_helper_that_ends_by_itself():
    helper = children.Helper(script('exit 1'))
    assert harness.wait_for(lambda: not helper.running, 5)
    assert helper.close()


def test_without_setpriv(monkeypatch, tmp_path):
    monkeypatch.setattr(children, '_PATH', str(tmp_path))
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(exceptions.CapabilityMissing, match='util-linux'):
        children.Helper(script('exit 0'), death=signal.SIGTERM)


# Directories


@pytest.fixture
def parent(conf, tmp_path):
    conf.set_override('state_path', str(tmp_path), group='oslo_transfer')
    return tmp_path / 'kind'


def nothing(_path):
    pass


def test_a_private_directory(conf, parent):
    with privatedir.made(conf, 'kind', nothing) as path:
        assert os.stat(path).st_mode & 0o777 == 0o700
        assert os.path.dirname(path) == str(parent)
        (parent / 'stale').mkdir()
        (parent / 'stale' / 'file').touch()
        # One that is in use is not stale.
        with privatedir.made(conf, 'kind', nothing) as other:
            assert sorted(os.listdir(parent)) == sorted(
                [os.path.basename(path), os.path.basename(other)]
            )
    assert os.listdir(parent) == []


def test_what_cannot_be_tidied_stays(conf, parent):
    def fail(_path):
        raise exceptions.DetachError('no')

    (parent / 'stale').mkdir(parents=True)
    with (
        pytest.raises(exceptions.DetachError),
        privatedir.made(conf, 'kind', fail) as path,
    ):
        assert (parent / 'stale').exists()
    assert os.path.exists(path)
    with privatedir.made(conf, 'kind', nothing):
        assert len(os.listdir(parent)) == 1


def test_many_directories_at_once(conf, parent):
    """Nobody takes a new one for a stale one."""
    start, problems = threading.Barrier(8), []

    def work():
        start.wait()
        for _ in range(20):
            with privatedir.made(conf, 'kind', nothing) as path:
                if not os.path.isdir(path):
                    problems.append(path)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not problems
    assert os.listdir(parent) == []
