# SPDX-License-Identifier: Apache-2.0
"""What a host of a cloud has around it: targets, networks, bad disks."""

from __future__ import annotations

import pytest

from tests.guest import flakey
from tests.guest import leftovers
from tests.guest import network
from tests.guest import nfs
from tests.guest import targets


@pytest.fixture(autouse=True)
def clean_host():
    """Every test, also one that fails, leaves this host as it was."""
    before = leftovers.seen()
    yield
    left = leftovers.settle(before)
    if left:
        leftovers.scrub(before)
    assert not left, 'left behind: ' + '; '.join(left)


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
