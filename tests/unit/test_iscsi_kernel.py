# SPDX-License-Identifier: Apache-2.0
"""What the engine of the kernel's initiator stands on."""

from __future__ import annotations

import configparser
import os
import pathlib
import re
import subprocess
import sys
import threading

from oslo_concurrency import processutils
import pytest

from oslo_transfer.drivers import blockdev
from oslo_transfer.drivers import brick
from oslo_transfer.drivers import inuse
from oslo_transfer.drivers.iscsi import attached
from oslo_transfer.drivers.iscsi import commands
from oslo_transfer.drivers.iscsi import opts
from oslo_transfer.drivers.iscsi import osbrick
from oslo_transfer.drivers.iscsi import sysfs
from oslo_transfer.drivers import openers
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from tests.unit import fakes
from tests.unit import iscsi_host

IQN = 'iqn.2010-10.org.openstack:volume-1'
PORTAL = '192.0.2.1:3260'
NODE = ('iscsiadm', '-m', 'node', '-T', IQN, '-p', PORTAL)


class Ran:
    """Notes what is run, and with what."""

    def __init__(self, error=None):
        self.commands = []
        self.error = error

    def __call__(self, *command, **how):
        self.commands.append((command, how))
        if self.error is not None:
            raise self.error
        return '', ''


def test_time_is_up():
    """However long os-brick would go on, commands end with the time."""
    run = commands.Commands(Ran(), fakes.make_ctx(), 0)
    with pytest.raises(exceptions.Unavailable, match='more than 0 seconds'):
        run('multipath', '-f', 'map')
    assert run.expired


def test_each_command_is_bounded():
    """None gets ten minutes, or is tried again by whoever runs it."""
    ran = Ran()
    run = commands.Commands(ran, fakes.make_ctx(), 60)
    run('multipath', '-f', 'map', attempts=3, interval=10, timeout=300)
    run('multipathd', 'show', 'paths', timeout=5)
    assert ran.commands[0][1].keys() == {'timeout'}
    assert 50 < ran.commands[0][1]['timeout'] <= 60
    assert ran.commands[1][1]['timeout'] == 5


def test_cancelled():
    """A cancelled transfer runs nothing more."""
    cancel = threading.Event()
    cancel.set()
    ran = Ran()
    run = commands.Commands(ran, fakes.make_ctx(cancel=cancel), 60)
    with pytest.raises(exceptions.TransferCancelled):
        run('iscsiadm', '-m', 'session')
    assert ran.commands == []


def test_one_login():
    """os-brick tries three times what iscsid has tried by itself."""
    ran = Ran(processutils.ProcessExecutionError(exit_code=24))
    run = commands.Commands(ran, fakes.make_ctx(), 60)
    for _ in range(3):
        with pytest.raises(processutils.ProcessExecutionError):
            run(*NODE, '--login', check_exit_code=(0, 15, 255))
    assert len(ran.commands) == 1
    assert ran.commands[0][1]['check_exit_code'] == (0, 15)
    assert isinstance(run.failed[PORTAL, IQN], exceptions.AccessDenied)


@pytest.mark.parametrize(
    'action',
    [
        ('--logout',),
        ('--op', 'delete'),
        ('--op', 'update', '-n', 'node.session.scan', '-v', 'manual'),
    ],
)
def test_sessions_of_others(action):
    """What ends or changes a session of others is not run."""
    ran = Ran()
    kept = frozenset({(PORTAL, IQN)})
    run = commands.Commands(ran, fakes.make_ctx(), 60, kept=kept)
    assert run(*NODE, *action) == ('', '')
    assert ran.commands == []
    run(*NODE)
    assert len(ran.commands) == 1


def session(root, sid, address='192.0.2.1', port=3260, iqn=IQN):
    """A session in a made ``/sys``."""
    host = iscsi_host.Host(root)
    host._sids = sid - 1
    portal = f'[{address}]:{port}' if ':' in address else f'{address}:{port}'
    host.log_in(portal, iqn)
    return host


def test_sessions(tmp_path):
    """Each is known by its target and by its portal."""
    session(tmp_path, 3)
    session(tmp_path, 12, '2001:db8::1')
    found = sysfs.Sysfs(str(tmp_path / 'sys')).sessions()
    assert [each.sid for each in found] == [3, 12]
    assert found[0].leads_to(PORTAL, IQN)
    assert found[1].leads_to('[2001:DB8::1]:3260', IQN)
    assert not found[0].leads_to('192.0.2.11:3260', IQN)
    assert not found[0].leads_to(PORTAL, f'{IQN}0')


def test_disks(tmp_path):
    """Those of a LUN, and of no LUN whose number begins the same."""
    host = session(tmp_path, 1)
    for lun, name in ((1, 'sda'), (11, 'sdb'), (16385, 'sdc')):
        host.luns[PORTAL, IQN, lun] = iscsi_host.Disk(name)
        host.scan(1, lun)
    view = sysfs.Sysfs(str(host.sys))
    assert view.devices(1) == ['sda', 'sdb', 'sdc']
    assert view.devices(1, 1) == ['sda']
    assert view.devices(1, 16385) == ['sdc']
    assert view.devices(2) == []
    assert view.size('sda') == 8 << 20
    assert view.size('sdz') is None


def test_maps(tmp_path):
    """A multipath device is told from others over the same disk."""
    host = iscsi_host.Host(tmp_path)
    host.add_disk('sda')
    host.add_map('dm-3', 'LVM-abc', 'sda')
    view = sysfs.Sysfs(str(host.sys))
    assert view.multipath(['sda']) is None
    host.add_map('dm-20', 'mpath-36001405', 'sda')
    assert view.multipath(['sda']) == 'dm-20'
    assert view.maps('mpath-36001405') == ['dm-20']
    assert view.slaves('dm-20') == ['sda']
    assert view.holders('sda') == ['dm-20', 'dm-3']


def test_partitions(tmp_path):
    """What is made of a partition holds the disk."""
    host = iscsi_host.Host(tmp_path)
    host.add_disk('sda')
    (host.sys / 'class/block/sda/sda1').mkdir()
    (host.sys / 'class/block/sda/sda1/partition').write_text('1\n')
    host.add_disk('sda1')
    host.add_map('dm-0', 'LVM-abc', 'sda1')
    assert sysfs.Sysfs(str(host.sys)).holders('sda') == ['dm-0']


def test_nothing_there(tmp_path):
    """A host without any of that has none of it."""
    view = sysfs.Sysfs(str(tmp_path))
    assert view.sessions() == []
    assert view.holders('sda') == view.partitions('sda') == []
    assert view.number('sda') is None
    assert inuse.users_of_device('sda', None, view) == []


def test_users_of_device(tmp_path, monkeypatch):
    """Mounts, swap, loop devices, holders and processes are named."""
    host = iscsi_host.Host(tmp_path)
    host.add_disk('sda')
    host.add_map('dm-0', 'LVM-abc', 'sda')
    loop = host.sys / 'class/block/loop0/loop'
    loop.mkdir(parents=True)
    (loop / 'backing_file').write_text('/dev/sda\n')
    number = (host.sys / 'class/block/sda/dev').read_text().strip()
    (tmp_path / 'mountinfo').write_text(
        f'36 1 {number} / /srv/a\\040b rw - ext4 /dev/sda rw\n'
    )
    (tmp_path / 'swaps').write_text('Filename Type\n/dev/sda partition 1\n')
    monkeypatch.setattr(inuse, '_MOUNTINFO', str(tmp_path / 'mountinfo'))
    monkeypatch.setattr(inuse, '_SWAPS', str(tmp_path / 'swaps'))
    monkeypatch.setattr(
        openers,
        'of_device',
        lambda number: ['dd (pid 5)', 'multipathd (pid 6)'],
    )
    monkeypatch.setattr(inuse.os, 'geteuid', lambda: 0)
    view = sysfs.Sysfs(str(host.sys))
    assert inuse.users_of_device('sda', None, view) == [
        '/dev/dm-0 is made of /dev/sda',
        '/dev/sda is mounted at /srv/a b',
        '/dev/sda is used as swap',
        '/dev/loop0 is made of /dev/sda',
        'dd (pid 5) has /dev/sda open',
    ]


def test_users_of_mount(tmp_path):
    """Who has files open under a mount is named."""
    path, number = next(
        (each.path, each.number)
        for each in inuse.mounts()
        if each.path == '/proc'
    )
    with open('/proc/version'):
        assert any(
            f'(pid {os.getpid()})' in who for who in openers.of_mount(number)
        )
        who = inuse.users_of_mount(path, None)
        assert any(f'(pid {os.getpid()}) has files' in each for each in who)


def test_descriptor_from_root(tmp_path, monkeypatch):
    """What this process may not open is handed over by one that may."""
    path = tmp_path / 'sda'
    path.write_bytes(b'the disk')
    devices = privileged('devices', tmp_path, monkeypatch)
    monkeypatch.setattr(blockdev.os, 'geteuid', lambda: 1000)
    monkeypatch.setattr(blockdev.brick, 'module', lambda name, conf: devices)
    monkeypatch.setattr(blockdev.stat, 'S_ISBLK', lambda mode: True)
    real = os.open

    def denied(path, flags):
        raise PermissionError(13, 'Permission denied', path)

    monkeypatch.setattr(devices, '_open', real)
    monkeypatch.setattr(blockdev.os, 'open', denied)
    fd = blockdev.open_device(str(path), os.O_RDONLY, None)
    assert os.pread(fd, 8, 0) == b'the disk'
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_descriptor_of_something_else(tmp_path, monkeypatch):
    """Anybody may send one: it is looked at."""
    path = tmp_path / 'sda'
    path.touch()
    with open(path) as file:
        fd = os.dup(file.fileno())
        with pytest.raises(PermissionError):
            blockdev._checked([fd], '/dev/null')
        with pytest.raises(OSError):
            os.fstat(fd)


def privileged(name, tmp_path, monkeypatch):
    """What only root can do, in this process."""
    conf = fixtures.make_conf(state_path=str(tmp_path))
    found = brick.module(f'oslo_transfer.privileged.{name}', conf)
    monkeypatch.setattr(found.privileged.default, 'client_mode', False)
    return found


@pytest.mark.parametrize(
    'path',
    [
        '/etc/shadow',
        '/dev/../etc/shadow',
        '/dev/sda1',
        '/dev/null',
        '/dev/mapper/x',
        'sda',
    ],
)
def test_root_opens_disks_only(path, tmp_path, monkeypatch):
    """No function of the daemon opens anything else."""
    devices = privileged('devices', tmp_path, monkeypatch)
    for call in (
        lambda: devices.send(path, os.O_RDONLY, b'nobody'),
        lambda: devices.set_read_only(path, True),
    ):
        with pytest.raises(ValueError, match='is not opened'):
            call()
    with pytest.raises(ValueError, match='is not opened'):
        devices.send('/dev/sda', os.O_CREAT, b'nobody')


def test_root_unmounts_nfs_only(tmp_path, monkeypatch):
    """No function of the daemon unmounts anything else."""
    mounts = privileged('mounts', tmp_path, monkeypatch)
    for path in ('/proc', '/', str(tmp_path)):
        with pytest.raises(ValueError, match='no mount of NFS'):
            mounts.unmount(path)


BRICK = """
import os, sys, warnings
warnings.simplefilter('error')
{before}
from oslo_config import cfg
import oslo_transfer
from oslo_transfer.drivers import brick
from oslo_transfer.drivers.iscsi import driver
loaded = {{name.partition('.')[0] for name in sys.modules}}
assert not loaded & {{'os_brick', 'oslo_privsep'}}, loaded
conf = cfg.ConfigOpts()
conf([], default_config_files=[], default_config_dirs=[])
oslo_transfer.register_opts(conf)
conf.set_override('state_path', sys.argv[1], group='oslo_transfer')
found = brick.module('os_brick.initiator.connectors.iscsi', conf)
assert found.ISCSIConnector
devices = brick.module('oslo_transfer.privileged.devices', conf)
assert devices.privileged.default.client_mode == (os.geteuid() != 0)
print(brick.lock_path(conf))
{after}
"""
POISON = """
class Poison:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'eventlet':
            raise AssertionError('eventlet was imported')
sys.meta_path.insert(0, Poison())
"""
ABSENT = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'os_brick':
            raise ModuleNotFoundError('no os_brick')
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize('before', ['', POISON])
def test_os_brick_without_eventlet(tmp_path, before):
    """It is loaded at its first use, and does not bring eventlet along."""
    done = run(BRICK, tmp_path, before, "assert 'eventlet' not in sys.modules")
    assert done.stdout.strip() == str(tmp_path / 'locks')


def test_os_brick_absent(tmp_path):
    """Where it is not installed the error says what to do."""
    done = run(BRICK, tmp_path, ABSENT, '', check=False)
    assert "pip install 'oslo.transfer[iscsi]'" in done.stderr


def run(program, tmp_path, before, after, check=True):
    program = program.format(before=before, after=after)
    return subprocess.run(
        [sys.executable, '-c', program, str(tmp_path)],
        cwd=pathlib.Path(__file__).parents[2],
        check=check,
        capture_output=True,
        text=True,
    )


def test_usable(tmp_path, monkeypatch):
    """Each thing that is missing is named."""
    conf = fixtures.make_conf(state_path=str(tmp_path))
    conf.register_opts(opts.OPTIONS, group=opts.GROUP)
    monkeypatch.setattr(brick, '_PACKAGE', 'os_brick_of_nobody')
    assert 'os-brick is not installed' in osbrick.usable(conf)
    monkeypatch.undo()
    monkeypatch.setattr(osbrick.shutil, 'which', lambda *args, **kw: None)
    assert 'open-iscsi' in osbrick.usable(conf)
    monkeypatch.setattr(osbrick.shutil, 'which', lambda *args, **kw: 'there')
    monkeypatch.setattr(osbrick, '_INITIATOR_NAME', str(tmp_path / 'name'))
    assert str(tmp_path / 'name') in osbrick.usable(conf)
    (tmp_path / 'name').touch()
    monkeypatch.setattr(osbrick, '_iscsid_listens', lambda: False)
    assert 'iscsid' in osbrick.usable(conf)
    monkeypatch.setattr(osbrick, '_iscsid_listens', lambda: True)
    assert osbrick.usable(conf) is None
    monkeypatch.setattr(osbrick.os, 'geteuid', lambda: 1000)
    monkeypatch.setattr(brick, 'can_become_root', lambda: False)
    assert 'not root' in osbrick.usable(conf)
    conf.set_override('mutual_chap_username', 'storage', group=opts.GROUP)
    assert 'libiscsi' in osbrick.usable(conf)


@pytest.mark.parametrize('files', [0, 1, 2])
@pytest.mark.parametrize('package', ['oslo_transfer', 'os_brick'])
def test_rootwrap(tmp_path, package, files):
    """The filters let the helpers start, and nothing that is like them."""
    conf = fixtures.make_conf(state_path=str(tmp_path))
    context = brick.module(f'{package}.privileged', conf).default
    program, *words = context.helper_command('/tmp/tmpab12/privsep.sock')
    assert program == 'sudo'
    options = ['--config-file', '/etc/nova/nova.conf'] * files
    command = [words[0], *options, *words[1:]]
    assert allowed(command)
    assert not allowed([*command, '--config-file', '/tmp/evil.conf'])
    assert not allowed([word.replace('.default', '.x') for word in command])
    assert not allowed(['/tmp/privsep-helper', *command[1:]])
    if files:
        assert not allowed(
            [word.replace('/etc/', '/etc/../tmp/') for word in command]
        )


def allowed(command):
    """What oslo.rootwrap's RegExpFilter makes of a command."""
    parser = configparser.RawConfigParser()
    top = pathlib.Path(__file__).parents[2]
    parser.read(top / 'etc/oslo-transfer/rootwrap.d/oslo-transfer.filters')
    for _name, line in parser.items('Filters'):
        kind, program, user, *patterns = line.split(', ')
        assert (kind, program, user) == (
            'RegExpFilter',
            'privsep-helper',
            'root',
        )
        if len(patterns) == len(command) and all(
            re.match(f'{pattern}$', word)
            for pattern, word in zip(patterns, command)
        ):
            return True
    return False


class Attached:
    """An attachment of a file, which notes that it goes."""

    def __init__(self, path, error=None):
        self.path = str(path)
        self.gone = 0
        self.error = error

    def detach(self):
        self.gone += 1
        if self.error is not None:
            raise self.error


def nothing(_attachment, _ctx):
    """There is nothing to be said against it."""


def test_attached_for_reading(tmp_path):
    """It goes when it is closed, and what is left is no error of reading."""
    path = tmp_path / 'disk'
    path.write_bytes(b'the disk')
    ctx = fakes.make_ctx(fixtures.make_conf(state_path=str(tmp_path)))
    made = Attached(path, exceptions.DetachError('still there', ('sda',)))
    with attached.AttachedSource(made, ctx, nothing) as source:
        assert source.size == 8
        assert made.gone == 0
    assert made.gone == 1
    missing = Attached(tmp_path / 'missing')
    with pytest.raises(exceptions.NotFound):
        attached.AttachedSource(missing, ctx, nothing)
    assert missing.gone == 1


def test_attached_for_writing(tmp_path):
    """It goes when all is written, and also when it cannot be."""
    path = tmp_path / 'disk'
    path.write_bytes(bytes(8))
    ctx = fakes.make_ctx(fixtures.make_conf(state_path=str(tmp_path)))
    made = Attached(path)
    sink = attached.AttachedSink(made, 4, ctx, nothing)
    sink.pwrite(memoryview(b'new!'), 0)
    sink.commit(4)
    assert made.gone == 1
    assert path.read_bytes() == b'new!' + bytes(4)
    small = Attached(path)
    with pytest.raises(exceptions.NoSpace):
        attached.AttachedSink(small, 9, ctx, nothing)
    assert small.gone == 1


def test_attached_to_another_lun(tmp_path):
    """What came in its place meanwhile is no success, in either way."""
    path = tmp_path / 'disk'
    path.write_bytes(bytes(8))
    ctx = fakes.make_ctx(fixtures.make_conf(state_path=str(tmp_path)))
    asked = []

    def join(attachment, ctx):
        asked.append(attachment)
        raise exceptions.AttachError('another LUN')

    made = Attached(path)
    with attached.AttachedSource(made, ctx, join) as source:
        with source.stream(0, None) as stream:
            assert stream.readinto(bytearray(8)) == 8
            assert asked == []
            with pytest.raises(exceptions.IntegrityError, match='another'):
                stream.readinto(bytearray(8))
    sink = attached.AttachedSink(made, 4, ctx, join)
    sink.pwrite(memoryview(b'new!'), 0)
    with pytest.raises(exceptions.IntegrityError, match='another'):
        sink.commit(4)
    sink.abort(False)
    assert asked == [made, made]
    assert made.gone == 2
