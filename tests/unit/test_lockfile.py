# SPDX-License-Identifier: Apache-2.0
"""One holder at a time, and nothing is left of a lock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from oslo_transfer import call
from oslo_transfer import exceptions
from oslo_transfer import lockfile

HOLD = """
import sys
from oslo_transfer import call, lockfile
from oslo_config import cfg
conf = cfg.ConfigOpts()
conf([], default_config_files=[], default_config_dirs=[])
with lockfile.held(sys.argv[1], call.Call(conf, None, None, None).ctx):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'a.lock')


@pytest.fixture
def ctx(conf):
    return call.Call(conf, None, None, None).ctx


def test_one_at_a_time(path, ctx):
    inside = []
    most = []

    def work():
        for _ in range(50):
            with lockfile.held(path, ctx):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(most) == 200
    assert set(most) == {1}
    assert not os.path.exists(path)


def test_it_goes_with_a_process_that_is_killed(path, ctx):
    with subprocess.Popen(
        [sys.executable, '-c', HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout.readline() == b'held\n'
        with pytest.raises(exceptions.DeadlineExceeded):
            with lockfile.held(
                path, ctx.replace(deadline=time.monotonic() + 0.2)
            ):
                raise AssertionError('it is held by the child')
        child.kill()
        with lockfile.held(path, ctx):
            pass
    assert not os.path.exists(path)


def test_the_wait_is_bounded(path, ctx, monkeypatch):
    monkeypatch.setattr(lockfile, '_PATIENCE', 0.1)
    with lockfile.held(path, ctx):
        with pytest.raises(exceptions.Unavailable, match='a.lock'):
            with lockfile.held(path, ctx):
                raise AssertionError('it is not reentrant')


def test_it_is_not_made_through_a_link(path, ctx, tmp_path):
    (tmp_path / 'other').write_text('mine')
    os.symlink(tmp_path / 'other', path)
    with pytest.raises(exceptions.TransferError):
        with lockfile.held(path, ctx):
            raise AssertionError('it followed the link')
    assert (tmp_path / 'other').read_text() == 'mine'
