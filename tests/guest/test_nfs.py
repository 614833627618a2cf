# SPDX-License-Identifier: Apache-2.0
"""The kernel's NFS client and server, by os-brick."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

import oslo_transfer
from oslo_transfer.drivers.nfs import driver
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from tests.guest import nfs
from tests.guest import tools
from tests.servers import resource

pytestmark = pytest.mark.functional

MIB = 1 << 20
DATA = resource.pattern(2 * MIB + 777)


@pytest.fixture
def conf(tmp_path):
    """A server that is silent is given up soon."""
    made = fixtures.make_conf(state_path=str(tmp_path / 'state'))
    made.register_opts(driver.NFSDriver.OPTIONS, group='oslo_transfer_nfs')
    for name, value in {
        'mount_options': 'softerr,timeo=20,retrans=1,actimeo=1',
        'mount_timeout': 30,
    }.items():
        made.set_override(name, value, group='oslo_transfer_nfs')
    yield made
    # What a failure has left; before its server ends, which takes long.
    for each in oslo_transfer.attachments(made):
        with contextlib.suppress(exceptions.DetachError):
            each.detach(force=True)


@pytest.fixture
def image(nfs_server):
    """A file of the server; its URL."""
    (nfs_server.directory / 'volume-1').write_bytes(DATA)
    return nfs_server.url('volume-1')


@pytest.fixture
def one_version(conf):
    """Where mounting fails os-brick tries older versions, for 15 s."""
    options = f'{conf.oslo_transfer_nfs.mount_options},vers=4.2'
    conf.set_override('mount_options', options, group='oslo_transfer_nfs')


def mounts():
    with open('/proc/mounts') as file:
        return [line for line in file if ' nfs' in line]


def nothing_left(conf):
    state = conf.oslo_transfer.state_path
    assert oslo_transfer.attachments(conf) == []
    assert os.listdir(os.path.join(state, 'mounts')) == []
    return not mounts()


def test_copy_from_and_to(image, nfs_server, conf, tmp_path):
    """All bytes arrive, and nothing stays mounted."""
    target = tmp_path / 'copy'
    oslo_transfer.copy(image, target, 'full_copy', conf=conf)
    assert target.read_bytes() == DATA
    assert nothing_left(conf)
    url = nfs_server.url('back')
    oslo_transfer.copy(target, url, 'full_copy', conf=conf)
    assert (nfs_server.directory / 'back').read_bytes() == DATA
    with pytest.raises(exceptions.AlreadyExists):
        oslo_transfer.copy(target, url, 'full_copy', conf=conf)
    assert sorted(os.listdir(nfs_server.directory)) == ['back', 'volume-1']
    assert nothing_left(conf)


def test_attachment(image, conf):
    """It is read in place, and is not taken from a reader."""
    info = {
        'driver_volume_type': 'nfs',
        'data': {
            'export': os.path.dirname(image)
            .removeprefix('nfs://')
            .replace('/', ':/', 1),
            'name': 'volume-1',
            'options': '-o vers=4.1,suid',
        },
    }
    location = oslo_transfer.Location(image, connection_info=info)
    made = oslo_transfer.attach(location, conf=conf)
    (mounted,) = mounts()
    options = mounted.split()[3].split(',')
    assert {'ro', 'nosuid', 'nodev', 'noexec', 'vers=4.1'} <= set(options)
    with open(made.path, 'rb') as reader:
        assert reader.read() == DATA
        with pytest.raises(OSError, match='Read-only'):
            open(made.path, 'r+b')
        for force in (False, True):
            with pytest.raises(exceptions.DetachError) as caught:
                made.detach(force)
            assert f'(pid {os.getpid()})' in caught.value.leftovers[0]
        with oslo_transfer.attach(location, conf=conf) as second:
            assert second.path != made.path
    (listed,) = oslo_transfer.attachments(conf)
    oslo_transfer.detach(listed.id, conf=conf)
    assert nothing_left(conf)
    made.detach()


def test_a_process_that_is_killed(image, conf):
    """What it has left is listed, and is taken away by another."""
    child = os.fork()
    if not child:
        try:
            oslo_transfer.attach(image, conf=conf)
            os.kill(os.getpid(), 9)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    (left,) = oslo_transfer.attachments(conf)
    assert len(mounts()) == 1
    oslo_transfer.detach(left.id, conf=conf)
    assert nothing_left(conf)


@pytest.mark.usefixtures('one_version')
def test_what_is_not_there(nfs_server, conf):
    """Each is an error of its own, in seconds, and leaves nothing."""
    os.symlink('/etc/passwd', nfs_server.directory / 'link')
    for url, kind in {
        nfs_server.url('nothing'): exceptions.NotFound,
        nfs_server.url('no/export'): exceptions.NotFound,
        nfs_server.url('link'): exceptions.InvalidEndpoint,
        f'nfs://127.0.0.1{nfs_server.directory}/x': exceptions.Unavailable,
    }.items():
        started = time.monotonic()
        with pytest.raises(kind):
            oslo_transfer.attach(url, conf=conf)
        assert time.monotonic() - started < 60
        assert nothing_left(conf)


@pytest.mark.usefixtures('one_version')
def test_a_server_that_does_not_let_us_in(paths, tmp_path, conf):
    """Access is denied, and not found."""
    with nfs.Server(paths, tmp_path, clients='192.0.2.1') as server:
        (server.directory / 'volume-1').write_bytes(DATA)
        with pytest.raises(exceptions.TransferError) as caught:
            oslo_transfer.attach(server.url('volume-1'), conf=conf)
        assert isinstance(
            caught.value, (exceptions.AccessDenied, exceptions.NotFound)
        )
    assert nothing_left(conf)


def test_a_server_that_falls_silent(image, paths, conf):
    """Reading ends with an error, and detaching does without an answer."""
    options = conf.oslo_transfer_nfs.mount_options.replace('=20', '=5')
    conf.set_override('mount_options', options, group='oslo_transfer_nfs')
    with oslo_transfer.open_source(image, conf=conf) as source:
        stream = source.stream(0, None)
        assert stream.readinto(bytearray(4096)) == 4096
        paths.cut(0)
        tools.run('sh', '-c', 'echo 3 >/proc/sys/vm/drop_caches')
        started = time.monotonic()
        with pytest.raises(exceptions.TransferError) as caught:
            while stream.readinto(bytearray(MIB)):
                pass
        assert isinstance(
            caught.value, (exceptions.Unavailable, exceptions.StorageError)
        )
        stream.close()
    assert time.monotonic() - started < 60
    paths.join(0)
    assert nothing_left(conf)
