# SPDX-License-Identifier: Apache-2.0
"""What a host of a cloud has around it: targets, networks, bad disks."""

from __future__ import annotations

import importlib
import sys

import pytest

from oslo_transfer.drivers import brick
from tests.guest import flakey
from tests.guest import leftovers
from tests.guest import network
from tests.guest import nfs
from tests.guest import targets

# That takes seconds: once, and in no test.
with brick._without_eventlet():
    _utils = importlib.import_module('os_brick.utils')
    importlib.import_module('os_brick.initiator.connectors.iscsi')


@pytest.fixture(autouse=True)
def clean_host():
    """Every test, also one that fails, leaves this host as it was."""
    before = leftovers.seen()
    yield
    left = leftovers.settle(before)
    if left:
        leftovers.scrub(before)
    assert not left, 'left behind: ' + '; '.join(left)


@pytest.fixture(autouse=True)
def impatient_os_brick(monkeypatch):
    """It looks five times as often for what it looks for each second."""
    real = _utils._time_sleep

    def sleep(seconds):
        # It has replaced time.sleep(), for all.
        caller = sys._getframe(2).f_globals['__name__']
        if caller.startswith(('os_brick.', 'tenacity.')) and seconds >= 1:
            seconds /= 5
        real(seconds)

    monkeypatch.setattr(_utils, '_time_sleep', sleep)


@pytest.fixture
def paths(clean_host):
    """Two networks to a host of targets, which can be cut and joined."""
    with network.Paths() as made:
        yield made


@pytest.fixture
def tgt(paths, tmp_path):
    """Makes LUNs of tgt, behind both networks."""
    with targets.Tgt(paths, tmp_path) as made:
        yield made


@pytest.fixture
def lio(paths, tmp_path):
    """Makes LUNs of LIO, behind both networks."""
    with targets.Lio(paths, tmp_path) as made:
        yield made


@pytest.fixture
def nfs_server(paths, tmp_path):
    """An NFS server that exports a directory."""
    with nfs.Server(paths, tmp_path) as running:
        yield running


@pytest.fixture
def flaky_disks(clean_host, tmp_path):
    """Makes block devices that fail when told to."""
    with flakey.Disks(tmp_path) as made:
        yield made
