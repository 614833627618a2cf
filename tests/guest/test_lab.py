# SPDX-License-Identifier: Apache-2.0
"""The guest does what the other tests build on."""

from __future__ import annotations

import os
import pathlib

import pytest

from tests.guest import tools
from tests.servers import resource

pytestmark = pytest.mark.functional

MIB = 1 << 20
DATA = resource.pattern(3 * MIB)


@pytest.fixture(params=['tgt', 'lio'])
def targets(request):
    """Both targets, one after the other."""
    return request.getfixturevalue(request.param)


def connector(multipath=False):
    """The connector of os-brick, in this process."""
    import os_brick
    from os_brick.initiator import connector
    from os_brick import privileged
    from oslo_concurrency import lockutils
    from oslo_config import cfg

    lockutils.set_defaults('/run/lock')
    cfg.CONF([], default_config_files=[], default_config_dirs=[])
    os_brick.setup(cfg.CONF)
    privileged.default.set_client_mode(False)
    return connector.InitiatorConnector.factory(
        'ISCSI', None, use_multipath=multipath
    )


@pytest.mark.parametrize('chap', [None, ('reader', 'secret-secret')])
def test_os_brick_attaches_a_lun(targets, chap):
    """Real os-brick, a real target: the bytes are there, then all is gone."""
    lun = targets.lun(content=DATA, chap=chap)
    brick = connector()
    device = brick.connect_volume(lun.data())
    try:
        with open(device['path'], 'rb') as file:
            assert file.seek(0, os.SEEK_END) == lun.size
            file.seek(0)
            assert file.read(len(DATA)) == DATA
    finally:
        brick.disconnect_volume(lun.data(), device)


def test_two_paths_are_one_device(targets, paths):
    """By multipath; one path may die, and reading goes on."""
    lun = targets.lun(content=DATA)
    brick = connector(multipath=True)
    device = brick.connect_volume(lun.data(paths=2))
    try:
        name = os.path.basename(os.path.realpath(device['path']))
        assert name.startswith('dm-')
        assert len(os.listdir(f'/sys/block/{name}/slaves')) == 2
        paths.cut(0)
        with open(device['path'], 'rb') as file:
            assert file.read(len(DATA)) == DATA
        paths.join(0)
    finally:
        brick.disconnect_volume(lun.data(paths=2), device)


def test_a_disk_fails_when_told(flaky_disks):
    """dm-flakey: reads, writes, and a bad sector."""
    disk = flaky_disks.disk(content=DATA)
    assert disk.path.read_bytes()[: len(DATA)] == DATA
    disk.bad_at(MIB)
    with open(disk.path, 'rb', buffering=0) as file:
        assert file.read(4096) == DATA[:4096]
        file.seek(MIB)
        with pytest.raises(OSError):
            file.read(4096)
    disk.fail_writes()
    write = ('dd', 'if=/dev/zero', f'of={disk.path}', 'count=8', 'bs=4k')
    with pytest.raises(RuntimeError, match='Input/output error'):
        tools.run(*write, 'oflag=direct')
    disk.heal()
    tools.run(*write, 'oflag=direct')


def test_the_checkout_is_the_one_outside():
    """Drivers are registered as in an installed package."""
    import oslo_transfer

    assert pathlib.Path(oslo_transfer.__file__).is_relative_to('/checkout')
