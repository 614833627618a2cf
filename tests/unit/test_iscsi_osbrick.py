# SPDX-License-Identifier: Apache-2.0
"""The engine of the kernel's initiator, on a host made of dictionaries."""

from __future__ import annotations

import dataclasses
import json
import threading

from oslo_concurrency import processutils
import pytest

from oslo_transfer import attachment_records
from oslo_transfer.drivers import base
from oslo_transfer.drivers.iscsi import detaching
from oslo_transfer.drivers.iscsi import driver as iscsi_driver
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import osbrick
from oslo_transfer.drivers.iscsi import sysfs
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from tests.unit import fakes
from tests.unit import iscsi_host

IQN = 'iqn.2010-10.org.openstack:volume-1'
PORTAL = '192.0.2.1:3260'
OTHER = '192.0.2.2:3260'
URL = f'iscsi://192.0.2.1/{IQN}/1'
BOTH = f'iscsi://192.0.2.1,192.0.2.2/{IQN}/1'
DISK = iscsi_host.Disk('sda')


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def conf(tmp_path):
    found = fixtures.make_conf(state_path=str(tmp_path / 'state'))
    found.register_opts(
        iscsi_driver.ISCSIDriver.OPTIONS, group='oslo_transfer_iscsi'
    )
    return found


@pytest.fixture
def host(tmp_path, monkeypatch):
    made = iscsi_host.Host(tmp_path)
    made.luns = {
        (PORTAL, IQN, 1): DISK,
        (PORTAL, IQN, 2): iscsi_host.Disk('sdb', serial='serial-2'),
        (OTHER, IQN, 1): dataclasses.replace(DISK, name='sdc'),
    }
    iscsi_host.install(made, monkeypatch)
    return made


@pytest.fixture
def ctx(conf, host):
    return dataclasses.replace(
        fakes.make_ctx(conf), connector=iscsi_host.Network(host)
    )


class Records:
    """Takes details, as the core does."""

    def __init__(self):
        self.all = []

    def __call__(self, details):
        self.all.append(json.loads(json.dumps(dict(details))))

    @property
    def last(self):
        return base.Attachment(
            id='1',
            driver='iscsi',
            source=URL,
            form='',
            path='',
            size=None,
            details=self.all[-1],
        )


def make_lun(ctx, url=URL, **info):
    if info:
        ctx = ctx.replace(connection_info=info)
    return _lun.from_endpoint(endpoint.parse(url), ctx)


def attach(ctx, url=URL, record=None, **info):
    made = osbrick.attach(make_lun(ctx, url, **info), ctx, record or Records())
    return dataclasses.replace(
        made, details=json.loads(json.dumps(dict(made.details)))
    )


def test_attach_and_detach(host, ctx):
    """A LUN becomes a device that cannot be written, and then is gone."""
    before = host.state()
    made = attach(ctx)
    assert (made.form, made.path) == ('device', '/dev/sda')
    assert made.size == DISK.size
    assert made.read_only
    assert host.read_only == {'sda': True}
    for force in (False, False, True):
        osbrick.detach(made, ctx, force)
        assert host.state() == before


def test_writing(host, ctx):
    """It can be written if that is what it is attached for."""
    made = attach(ctx.replace(writing=True))
    assert not made.read_only
    assert host.read_only == {'sda': False}


def test_recorded_before_anything_changes(host, ctx):
    """Whatever changes the host comes after the record."""
    records = Records()
    changing = []

    def before(command):
        if {'new', '--login', 'update', 'delete', 'tee'} & set(command):
            changing.append(command)
            assert records.all

    host.before = before
    attach(ctx, record=records)
    assert changing


def test_no_record_no_login(host, ctx):
    """Where nothing can be noted nothing is done."""
    before = host.state()

    def refuse(_details):
        raise exceptions.StorageError('the disk is full')

    with pytest.raises(exceptions.StorageError):
        attach(ctx, record=refuse)
    assert host.state() == before


@pytest.mark.parametrize('stage', ['new', 'scan', '--login', 'tee'])
def test_killed_on_the_way(host, ctx, stage, monkeypatch):
    """What a killed process leaves is taken away by its record."""
    before = host.state()
    records = Records()

    def kill(command):
        if any(stage in part for part in command):
            raise Killed

    host.before = kill
    with monkeypatch.context() as patch:
        patch.setattr(osbrick, '_undo', lambda *args: None)
        with pytest.raises(Killed):
            attach(ctx, record=records)
    host.before = lambda command: None
    for _ in range(2):
        osbrick.detach(records.last, ctx, False)
        assert host.state() == before


@pytest.mark.parametrize('stage', ['new', 'scan', '--login', 'tee'])
def test_failing_on_the_way(host, ctx, stage):
    """What fails or is cancelled leaves nothing behind."""
    before = host.state()
    cancel = threading.Event()

    def stop(command):
        if any(stage in part for part in command):
            cancel.set()

    host.before = stop
    with pytest.raises(exceptions.TransferCancelled):
        attach(ctx.replace(cancel=cancel))
    assert host.state() == before


def test_session_of_others(host, ctx):
    """A session that was there stays, with its record as it was."""
    host.add_node(PORTAL, IQN, **{'node.startup': 'automatic'})
    host.log_in(PORTAL, IQN)
    before = host.state()
    made = attach(ctx)
    assert made.path == '/dev/sda'
    osbrick.detach(made, ctx, False)
    assert host.state() == before
    assert not any('--login' in each for each in host.commands)


def test_session_of_others_after_a_failure(host, ctx):
    """It stays also where attaching fails."""
    host.add_node(PORTAL, IQN)
    host.log_in(PORTAL, IQN)
    before = host.state()
    with pytest.raises(exceptions.NotFound, match='no LUN 7'):
        attach(ctx, url=f'iscsi://192.0.2.1/{IQN}/7')
    assert host.state() == before


def test_record_of_others(host, ctx):
    """A node that was known stays so, with what it said."""
    host.add_node(PORTAL, IQN)
    before = host.state()
    osbrick.detach(attach(ctx), ctx, False)
    assert host.state() == before


def test_record_of_others_with_chap(host, ctx):
    """A record for another user could not be set back: it is refused."""
    host.add_node(
        PORTAL,
        IQN,
        **{
            'node.session.auth.authmethod': 'CHAP',
            'node.session.auth.username': 'somebody',
        },
    )
    before = host.state()
    with pytest.raises(exceptions.AttachError, match='another user name'):
        attach(ctx)
    assert host.state() == before


def test_device_of_others(host, ctx):
    """A device that was there is used, and stays as it is."""
    host.add_node(PORTAL, IQN)
    host.scan(host.log_in(PORTAL, IQN), 1)
    before = host.state()
    made = attach(ctx)
    assert made.path == '/dev/sda'
    osbrick.detach(made, ctx, True)
    assert host.state() == before
    assert host.read_only == {}


def test_two_luns_of_one_target(host, ctx):
    """They share a session; it ends with the last of them."""
    before = host.state()
    driver = fixtures_driver(ctx)
    first = attachment_records.attach(driver, endpoint.parse(URL), ctx)
    second = attachment_records.attach(
        driver, endpoint.parse(f'iscsi://192.0.2.1/{IQN}/2'), ctx
    )
    assert len(host.sessions) == 1
    first.detach()
    assert host.disks(1) == ['sdb']
    second.detach()
    assert host.state() == before


def test_one_lun_twice(host, ctx):
    """Both are one device; it goes with the last."""
    before = host.state()
    driver = fixtures_driver(ctx)
    first = attachment_records.attach(driver, endpoint.parse(URL), ctx)
    second = attachment_records.attach(driver, endpoint.parse(URL), ctx)
    assert first.path == second.path
    first.detach()
    assert host.disks(1) == ['sda']
    second.detach()
    assert host.state() == before


def fixtures_driver(ctx):
    """The driver, with this engine."""
    ctx.conf.set_override('engine', 'os_brick', group='oslo_transfer_iscsi')
    return iscsi_driver.ISCSIDriver(ctx.conf)


@pytest.fixture(autouse=True)
def usable(monkeypatch):
    """Whatever this host has."""
    monkeypatch.setattr(osbrick, 'usable', lambda conf: None)


@pytest.mark.parametrize(
    ('info', 'error'),
    [
        ({'scsi_serial': 'other'}, exceptions.IntegrityError),
        ({'scsi_wwn': '36001405bbbbbbbb'}, exceptions.IntegrityError),
        ({'scsi_size': 4096}, exceptions.SizeMismatch),
    ],
)
def test_wrong_lun(host, ctx, info, error):
    """Another LUN than asked for is refused, and let go."""
    before = host.state()
    with pytest.raises(error):
        attach(ctx, **info)
    assert host.state() == before
    assert host.read_only == {}


def test_right_lun(host, ctx):
    """What is asked for is compared, and taken."""
    made = attach(
        ctx,
        scsi_serial='serial-1',
        scsi_wwn='0x6001405aaaa',
        scsi_size=DISK.size,
    )
    assert made.path == '/dev/sda'


def test_paths_to_different_luns(host, ctx):
    """Two portals with different LUNs under one number are no paths."""
    host.running_multipath = True
    host.luns[OTHER, IQN, 1].serial = 'serial-3'
    before = host.state()
    with pytest.raises(exceptions.IntegrityError, match='different LUNs'):
        attach(ctx, url=BOTH)
    assert host.state() == before


def test_resized(host, ctx):
    """A device whose LUN has another size by now is not handed out."""
    host.add_node(PORTAL, IQN)
    host.scan(host.log_in(PORTAL, IQN), 1)
    before = host.state()
    host.luns[PORTAL, IQN, 1] = dataclasses.replace(DISK, size=1 << 30)
    with pytest.raises(exceptions.AttachError, match='resized'):
        attach(ctx)
    assert host.state() == before


@pytest.mark.parametrize(
    ('code', 'error'),
    [
        (5, exceptions.Unavailable),
        (24, exceptions.AccessDenied),
        (19, exceptions.NotFound),
        (8, exceptions.Unavailable),
        (255, exceptions.Unavailable),
    ],
)
def test_login_fails(host, ctx, code, error):
    """Each reason has its own error, and none leaves anything."""
    host.refuses[PORTAL] = code
    before = host.state()
    with pytest.raises(error, match='logging in'):
        attach(ctx)
    assert host.state() == before


def test_login_without_a_word(host, ctx):
    """LIO says nothing of a target that it does not have; others are asked."""
    host.refuses[PORTAL] = 8
    before = host.state()
    with pytest.raises(exceptions.NotFound, match='no such target'):
        attach(ctx, url=URL.replace('volume-1', 'volume-2'))
    assert host.state() == before


def test_chap(host, ctx):
    """The login reaches the target, and no record of ours."""
    records = Records()
    made = attach(
        ctx, url=URL.replace('//', '//user:hunter2@'), record=records
    )
    assert host.nodes[PORTAL, IQN]['node.session.auth.password'] == 'hunter2'
    assert 'hunter2' not in json.dumps(records.all) + repr(made)


def test_not_again_after_a_boot(host, ctx):
    """iscsid does not log in by itself when the host starts again."""
    attach(ctx)
    assert host.nodes[PORTAL, IQN]['node.startup'] == 'manual'


def test_path_timeout(host, ctx, conf):
    """How long an interrupted session keeps readers waiting is set."""
    conf.set_override('path_timeout', 7, group='oslo_transfer_iscsi')
    attach(ctx)
    name = 'node.session.timeo.replacement_timeout'
    assert host.nodes[PORTAL, IQN][name] == '7'


def test_in_use(host, ctx):
    """A device that somebody has open stays, and so does its session."""
    made = attach(ctx)
    before = host.state()
    host.users['sda'] = ['dd (pid 5) has /dev/sda open']
    for force in (False, True):
        with pytest.raises(exceptions.DetachError, match='in use') as caught:
            osbrick.detach(made, ctx, force)
        assert caught.value.leftovers == ('dd (pid 5) has /dev/sda open',)
        assert host.state() == before


def test_in_use_by_udev(host, ctx, monkeypatch):
    """Who only looks at what is new is waited for."""
    before = host.state()
    made = attach(ctx)
    looking = [['(udev-worker) (pid 5) has /dev/sda open']] * 3
    monkeypatch.setattr(
        detaching.inuse,
        'users_of_device',
        lambda *_args: looking.pop() if looking else [],
    )
    osbrick.detach(made, ctx, False)
    assert looking == []
    assert host.state() == before


def flush_fails(command):
    """The device is there, and takes no writes any more."""
    if command[0] == 'blockdev':
        raise processutils.ProcessExecutionError(
            cmd=' '.join(command), exit_code=1, stderr='Input/output error\n'
        )


@pytest.mark.parametrize('force', [False, True])
def test_not_flushed_but_not_written(host, ctx, force, caplog):
    """Where nothing can have been written there is nothing to lose."""
    before = host.state()
    made = attach(ctx)
    host.before = flush_fails
    osbrick.detach(made, ctx, force)
    assert host.state() == before
    (record,) = caplog.records
    assert record.levelname == 'WARNING'
    assert 'blockdev --flushbufs /dev/sda: Input/output' in record.message
    assert 'Traceback' not in record.message


def test_not_flushed(host, ctx):
    """What was written stays with the device until somebody lets it go."""
    before = host.state()
    made = attach(ctx.replace(writing=True))
    host.before = flush_fails
    with pytest.raises(exceptions.DetachError) as caught:
        osbrick.detach(made, ctx, False)
    assert '/dev/sda' in caught.value.leftovers
    with pytest.raises(exceptions.DetachError) as caught:
        osbrick.detach(made, ctx, True)
    assert host.state() == before
    assert caught.value.leftovers == ()
    assert str(caught.value) == (
        f'{URL} is detached, but what was written last may be lost: '
        f'blockdev --flushbufs /dev/sda: Input/output error'
    )


def test_detach_fails(host, ctx):
    """What cannot be done is told, and can be tried again."""
    before = host.state()
    made = attach(ctx)
    host.before = refuse('--logout')
    with pytest.raises(exceptions.DetachError) as caught:
        osbrick.detach(made, ctx, False)
    assert f'session 1 to {IQN}' in caught.value.leftovers
    host.before = refuse('delete')
    with pytest.raises(exceptions.DetachError) as caught:
        osbrick.detach(made, ctx, False)
    assert caught.value.leftovers == (f'the record of {IQN} at {PORTAL}',)
    host.before = refuse()
    osbrick.detach(made, ctx, False)
    assert host.state() == before


def test_settings_of_others_stay_changed(host, ctx):
    """A record that could not be set back is told, and is the next time."""
    host.add_node(PORTAL, IQN)
    before = host.state()
    made = attach(ctx)
    host.before = refuse('node.session.scan')
    with pytest.raises(exceptions.DetachError) as caught:
        osbrick.detach(made, ctx, True)
    assert 'settings of the record' in caught.value.leftovers[0]
    host.before = refuse()
    osbrick.detach(made, ctx, False)
    assert host.state() == before


def refuse(*words):
    """Have commands fail that have one of some words."""

    def call(command):
        if set(words) & set(command):
            raise OSError(5, 'Input/output error')

    return call


def test_undoing_fails(host, ctx):
    """What a failed attempt could not take away is in its error.

    And stays in its record.
    """
    host.before = refuse('--logout')
    with pytest.raises(exceptions.AttachError, match='session 1') as caught:
        attach(ctx, scsi_serial='other')
    assert 'serial-1' in str(caught.value)
    assert any('session' in each for each in caught.value.leftovers)


def test_after_a_boot(host, ctx, monkeypatch):
    """Sessions of another boot are not ours; a record of a node may be."""
    made = attach(ctx)
    monkeypatch.setattr(sysfs, 'boot', lambda: 'the next one')
    before = host.state()
    osbrick.detach(made, ctx, False)
    assert host.state() == before
    host.log_out(PORTAL, IQN)
    osbrick.detach(made, ctx, False)
    assert host.nodes == {}


def test_multipath(host, ctx):
    """Two portals make one device, which does not wait for dead paths."""
    host.running_multipath = True
    before = host.state()
    made = attach(ctx, url=BOTH)
    assert made.path == '/dev/dm-0'
    assert host.read_only == {'dm-0': True}
    queueing = ('multipathd', 'disablequeueing', 'map', '36001405aaaa')
    assert queueing in host.commands
    osbrick.detach(made, ctx, False)
    assert host.state() == before


@pytest.mark.parametrize('first', [True, False])
def test_multipath_changed_meanwhile(host, ctx, conf, first):
    """What was attached goes as it came, whatever the option says now."""
    host.running_multipath = True
    before = host.state()
    conf.set_override('multipath', first, group='oslo_transfer_iscsi')
    made = attach(ctx, url=BOTH)
    conf.set_override('multipath', not first, group='oslo_transfer_iscsi')
    osbrick.detach(made, ctx, False)
    assert host.state() == before


@pytest.mark.parametrize('running', [True, False])
def test_no_multipath(host, ctx, conf, running):
    """One path is enough where that is configured, or all there is."""
    conf.set_override('multipath', not running, group='oslo_transfer_iscsi')
    host.running_multipath = running
    assert attach(ctx, url=BOTH).path == '/dev/sda'
    assert len(host.sessions) == 1


def test_map_without_paths(host, ctx):
    """A multipath device that has lost all paths is taken away."""
    host.running_multipath = True
    before = host.state()
    made = attach(ctx, url=BOTH)
    for portal in (PORTAL, OTHER):
        host.log_out(portal, IQN)
    assert sysfs.Sysfs().maps('mpath-36001405aaaa') == ['dm-0']
    osbrick.detach(made, ctx, False)
    assert host.state() == before


def test_dead_portal(host, ctx):
    """It is left out; nobody waits for a login there."""
    host.dead_hosts = {'192.0.2.1'}
    assert attach(ctx, url=BOTH).path == '/dev/sdc'
    assert list(host.nodes) == [(OTHER, IQN)]


def test_dead_portals(host, ctx):
    """Without any other the error says so."""
    host.dead_hosts = {'192.0.2.1', '192.0.2.2'}
    with pytest.raises(exceptions.Unavailable, match='192.0.2.2'):
        attach(ctx, url=BOTH)


def test_host_name(host, ctx):
    """os-brick gets addresses: it never finds a session by a name."""
    host.luns['192.0.2.9:3260', IQN, 1] = DISK
    made = attach(ctx, url=f'iscsi://storage.example/{IQN}/1')
    assert made.details['targets'] == [['192.0.2.9:3260', IQN, 1]]


def test_discovery(host, ctx):
    """A portal is asked for others where Cinder says so."""
    host.running_multipath = True
    made = attach(
        ctx,
        target_portal=PORTAL,
        target_iqn=IQN,
        target_lun=1,
        target_discovered=False,
    )
    assert made.path == '/dev/dm-0'
    assert sorted(host.sessions.values()) == [(PORTAL, IQN), (OTHER, IQN)]


def test_addressing_mode(host, ctx):
    """The number of the LUN is the kernel's."""
    host.luns[PORTAL, IQN, 16385] = DISK
    made = attach(
        ctx,
        target_portal=PORTAL,
        target_iqn=IQN,
        target_lun=1,
        addressing_mode='SAM3-flat',
    )
    assert made.details['targets'] == [[PORTAL, IQN, 16385]]


def test_join(host, ctx):
    """What is shared is looked at again; another LUN there is refused."""
    made = attach(ctx)
    osbrick.join(made, ctx)
    host.luns[PORTAL, IQN, 1] = dataclasses.replace(DISK, serial='serial-9')
    with pytest.raises(exceptions.AttachError, match='another LUN'):
        osbrick.join(made, ctx)
    host.remove('sda')
    with pytest.raises(exceptions.AttachError, match='is gone'):
        osbrick.join(made, ctx)


def test_record_of_nothing(host, ctx):
    """A record from before anything was planned needs nothing."""
    made = base.Attachment(
        id='1', driver='iscsi', source=URL, form='', path='', size=None
    )
    osbrick.detach(made, ctx, False)
    assert host.commands == []


def test_damaged_record(host, ctx):
    """A record that says nothing sensible is told, and hinders nobody."""
    made = attach(ctx)
    for details in ({**made.details, 'disk': 'sda'}, {'targets': 5}):
        with pytest.raises(exceptions.DetachError, match='cannot be used'):
            osbrick.detach(
                dataclasses.replace(made, details=details), ctx, False
            )
    assert host.disks(1) == ['sda']
