# SPDX-License-Identifier: Apache-2.0
"""Tools of the operating system, and what they make, for one test."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.functional import forkserver
from tests.functional import storage
from tests.functional import tracing

_PATH = '/usr/local/sbin:/usr/sbin:/sbin'


def lacks(reason):
    """Skip a test that cannot run here; in CI that is an error."""
    if os.environ.get('CI'):
        pytest.fail(f'{reason}; with CI set nothing is left out')
    pytest.skip(reason)


@pytest.fixture(scope='session')
def file_group():
    """Leave the test out where its group is left out."""
    groups = os.environ.get('OSLO_TRANSFER_TEST_GROUPS')
    if groups is not None and 'file' not in groups.split():
        pytest.skip('the group "file" is left out')


@pytest.fixture(scope='session')
def need(file_group):
    """A function that leaves the test out where a command is missing."""

    def check(*commands, root=False):
        for command in commands:
            if not (
                shutil.which(command) or shutil.which(command, path=_PATH)
            ):
                lacks(f'{command} is missing')
        if root and os.geteuid() != 0:
            lacks('root is needed')

    return check


@pytest.fixture(scope='session')
def forks(file_group):
    """Starts child processes."""
    with forkserver.ForkServer() as server:
        yield server


@pytest.fixture
def children(forks):
    """Starts child processes that end with the test."""
    started = forkserver.Children(forks)
    yield started
    started.close()


@pytest.fixture
def strace(need, children, tmp_path_factory):
    """Runs a child under strace."""
    need('strace')
    return tracing.Strace(children, tmp_path_factory.mktemp('strace'))


@pytest.fixture
def disks(need, tmp_path_factory):
    """Makes file systems and block devices that go with the test."""
    need('losetup', 'mount', 'umount', root=True)
    with storage.Disks(tmp_path_factory.mktemp('disks'), need) as made:
        yield made
