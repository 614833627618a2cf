# SPDX-License-Identifier: Apache-2.0
"""Strategies that attach, in a process that may not open the device."""

from __future__ import annotations

import importlib
import os
import re

import pytest

from oslo_transfer.drivers import base
from oslo_transfer.drivers import brick
from oslo_transfer.drivers import dd_slices
from oslo_transfer.testing import fixtures
from oslo_transfer.testing import harness
from tests.functional import forkserver
from tests.servers import dd_lab

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group', 'nothing_left'),
]

MIB = 1 << 20
SIZE = 24 * MIB
DATA = harness.pattern(SIZE, 'root')
NOBODY = 65534


class Shelf(base.Driver):
    """Has disks that are devices already."""

    name = 'shelf'
    schemes = ('shelf',)
    capabilities = base.Capability.ATTACH

    def attach(self, endpoint, ctx, record):
        record({})
        return base.Attachment(
            id='',
            driver=self.name,
            source=str(endpoint),
            form='device',
            path=endpoint.path,
            size=SIZE,
        )

    def detach(self, attachment, ctx, force):
        pass


def copy_as_nobody(url, dst, strategy, accept, **options):
    """The job of a child: a copy, with a daemon for what needs root."""
    conf = forkserver.make_conf(options)
    devices = brick.module('oslo_transfer.privileged.devices', conf)
    devices._NAME = re.compile('/dev/loop[0-9]+')
    context = importlib.import_module('oslo_transfer.privileged').default
    context.set_client_mode(True)
    module = importlib.import_module('oslo_privsep.priv_context')
    context.start(module.Method.FORK)
    with fixtures.registered(Shelf):
        result = forkserver.copy_as(
            NOBODY, url, dst, options, strategy=strategy, accept=accept
        )
    return result.strategy, result.form


@pytest.fixture
def disk(disks):
    """A device that is root's alone."""
    device = disks.loop(SIZE)
    device.write_bytes(DATA)
    os.chmod(device, 0o600)
    return device


@pytest.fixture
def home():
    """A directory of nobody's."""
    with dd_lab.short_directory() as path:
        os.chown(path, NOBODY, NOBODY)
        yield path


@pytest.fixture
def copy(children, disk, home):
    def copy(strategy, accept=('file',)):
        child = children.start(
            copy_as_nobody,
            *(f'shelf://host{disk}', str(home / 'copy'), strategy, accept),
            state_path=str(home),
        )
        return child.result()

    return copy


def test_dd(copy, home):
    """What reads is nobody's; the daemon only opens."""
    assert SIZE > dd_slices._FIRST  # One descriptor is used more than once.
    assert copy('dd') == ('dd', 'file')
    assert (home / 'copy').read_bytes() == DATA
    assert (home / 'copy').stat().st_uid == NOBODY


def test_zero_copy(copy, home, need):
    need('qemu-img')
    assert copy('zero_copy', ['overlay']) == ('zero_copy', 'overlay')
    assert (home / 'copy').stat().st_uid == NOBODY
