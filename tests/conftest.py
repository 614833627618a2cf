# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a fresh configuration, and no leftovers."""

from __future__ import annotations

import os
import threading
import time

from oslo_config import cfg
import pytest

import oslo_transfer
from oslo_transfer import shared
from oslo_transfer.testing import fixtures
from tests.servers import certs as servers_certs
from tests.servers import http


def pytest_collection_modifyitems(config, items):
    """Leave out campaigns unless they are asked for."""
    # In the guest the host has selected already.
    wanted = ('OSLO_TRANSFER_CAMPAIGN', 'OSLO_TRANSFER_GUEST')
    if any(os.environ.get(name) == '1' for name in wanted):
        return
    long = [item for item in items if item.get_closest_marker('campaign')]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give one worker all tests of the guest, which boots only once.

    A mark would do (xdist_group), but pytest-xdist 3.8 does not see it with
    pytest 9.2.
    """
    if config.getvalue('dist') != 'loadgroup':
        return None
    from xdist import scheduler

    class Scheduling(scheduler.LoadGroupScheduling):
        def _split_scope(self, nodeid):
            if nodeid.startswith('tests/guest/'):
                return 'guest'
            return super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def fresh_state():
    """What a process remembers is not of the test before."""
    shared.forget()


@pytest.fixture
def conf():
    """A configuration of its own, with limits fit for tests."""
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    oslo_transfer.register_opts(conf)
    for name, value in {
        'stall_timeout': 1.0,
        'connect_timeout': 3.0,
        'retry_delay': 0.01,
        'max_retry_delay': 0.2,
        # A test that needs one says where.
        'state_path': fixtures.NOWHERE,
    }.items():
        conf.set_override(name, value, group='oslo_transfer')
    # The service of this host is nothing to talk to for a test.
    conf.set_override(
        *('control_socket', fixtures.NOWHERE), group='oslo_transfer_service'
    )
    return conf


@pytest.fixture
def server():
    """A well-behaved HTTP server that can be told to misbehave."""
    with http.ScriptedHTTPServer() as running:
        yield running


@pytest.fixture(scope='session')
def certs(tmp_path_factory):
    """A throw-away CA and its certificates."""
    return servers_certs.Certs(tmp_path_factory.mktemp('certs'))


def open_descriptors():
    """What this process has open, by number and target."""
    found = set()
    for name in os.listdir('/proc/self/fd'):
        try:
            found.add((name, os.readlink(f'/proc/self/fd/{name}')))
        except FileNotFoundError:
            pass
    return found


@pytest.fixture
def nothing_left():
    """Assert that the test leaves no thread and no descriptor behind."""
    threads = set(threading.enumerate())
    before = open_descriptors()
    yield
    end = time.monotonic() + 5
    while time.monotonic() < end:
        left = [
            thread
            for thread in threading.enumerate()
            if thread not in threads
            and thread.name.startswith('oslo-transfer')
        ]
        opened = {
            entry
            for entry in open_descriptors() - before
            if not entry[1].startswith(('/dev/pts', 'anon_inode'))
        }
        if not left and not opened:
            return
        threading.Event().wait(0.02)
    assert not left
    assert not opened
