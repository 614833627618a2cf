# SPDX-License-Identifier: Apache-2.0
"""The real initiator: os-brick, iscsid, the kernel, tgt and LIO."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
import signal
import socket
import tempfile
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.guest import kernel
from tests.guest import tools
from tests.servers import resource

pytestmark = pytest.mark.functional

MIB = 1 << 20
# Seconds, where a hang would be for ever; the guest may be slow.
SOON = 100
DATA = resource.pattern(2 * MIB)


@pytest.fixture
def conf(tmp_path):
    """Records in a directory of the test's."""
    made = kernel.make_conf(tmp_path / 'state')
    yield made
    kernel.detach_all(made)


def location(lun, paths=1, **data):
    """As Cinder tells it, all of it."""
    told = {**lun.data(paths), 'target_discovered': True, **data}
    return oslo_transfer.Location(lun.url(paths), connection_info=told)


def attach(lun, conf, paths=1, **data):
    return oslo_transfer.attach(location(lun, paths, **data), conf=conf)


def read(path, length=len(DATA)):
    with open(path, 'rb') as file:
        return file.read(length)


@pytest.mark.parametrize('kind', ['tgt', 'lio'])
def test_attach(request, kind, conf):
    """The device has the LUN's bytes, cannot be written, and goes again."""
    targets = request.getfixturevalue(kind)
    chap = ('reader', 'secret-secret')
    lun = targets.lun(content=DATA, chap=chap, serial='0123456789abcdef')
    with attach(lun, conf) as made:
        assert made.size == lun.size
        assert read(made.path) == DATA
        with (
            open(made.path, 'r+b', buffering=0) as file,
            pytest.raises(PermissionError),
        ):
            file.write(bytes(512))
        assert 'secret-secret' not in json.dumps(dict(made.details))
        (session,) = kernel.sessions()
        where = f'/sys/class/iscsi_session/session{session.sid}'
        with open(f'{where}/recovery_tmo') as file:
            assert int(file.read()) == kernel.OPTIONS['path_timeout']
        disk = made.details['disk']
        assert disk['serial'] == '0123456789abcdef'
    assert kernel.sessions() == []
    assert not os.path.exists(made.path)
    with pytest.raises(exceptions.AccessDenied):
        attach(lun, conf, auth_password='another-secret')
    assert kernel.sessions() == []
    assert oslo_transfer.attachments(conf=conf) == []


def test_copy_from_and_to(lio, conf, tmp_path):
    """A LUN is read and written by a copy, which leaves nothing."""
    lun = lio.lun(content=DATA)
    result = oslo_transfer.copy(
        location(lun),
        str(tmp_path / 'image'),
        conf=conf,
        strategy='full_copy',
        hash_algo='sha256',
        hash_value=hashlib.sha256(
            DATA + bytes(lun.size - len(DATA))
        ).hexdigest(),
    )
    assert result.verified
    assert kernel.sessions() == []
    new = resource.pattern(3 * MIB)[::-1]
    (tmp_path / 'new').write_bytes(new)
    oslo_transfer.copy(
        str(tmp_path / 'new'), location(lun), conf=conf, strategy='full_copy'
    )
    assert kernel.sessions() == []
    assert lun.backing.read_bytes() == new + bytes(lun.size - len(new))


def test_wrong_names(tgt, conf):
    """No such target, LUN or portal; another portal is enough."""
    lun = tgt.lun(content=DATA)
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.attach(lun.url().replace(lun.iqn, 'iqn.x'), conf=conf)
    url = lun.url().removesuffix(f'/{lun.number}') + '/7'
    with pytest.raises(exceptions.NotFound, match='no LUN 7'):
        oslo_transfer.attach(url, conf=conf)
    url = lun.url().replace(lun.addresses[0], '10.79.0.77')
    with pytest.raises(exceptions.Unavailable):
        oslo_transfer.attach(url, conf=conf)
    both = lun.url(2).replace(lun.addresses[0], '10.79.0.77')
    with oslo_transfer.attach(both, conf=conf) as made:
        assert read(made.path) == DATA


def test_silent_portal(paths, conf):
    """One that takes the connection and says nothing is given up."""
    conf.set_override('connect_timeout', 2.0, group='oslo_transfer')
    with paths.host.inside():
        server = socket.create_server((paths.addresses[0], 3260))
    url = f'iscsi://{paths.addresses[0]}/iqn.2026-11.org.example:x/1'
    started = time.monotonic()
    with server, pytest.raises(exceptions.Unavailable):
        oslo_transfer.attach(url, conf=conf)
    assert time.monotonic() - started < SOON
    assert kernel.sessions() == []


def test_wrong_device(lio, conf):
    """Another volume behind the same number is let go untouched."""
    lun = lio.lun(content=DATA)
    for error, told in (
        (exceptions.IntegrityError, {'scsi_serial': 'another'}),
        (exceptions.IntegrityError, {'scsi_wwn': '36001405' + 25 * '0'}),
        (exceptions.SizeMismatch, {'scsi_size': 4096}),
    ):
        with pytest.raises(error):
            attach(lun, conf, **told)
        assert kernel.sessions() == []


def test_multipath_outlives_a_path(lio, conf, paths):
    """One path is cut in mid-copy: reading goes on by the other."""
    content = resource.pattern(12 * MIB)
    lun = lio.lun(content=content)
    made = attach(lun, conf, paths=2)
    name = os.path.basename(made.path)
    assert name.startswith('dm-')
    assert len(os.listdir(f'/sys/block/{name}/slaves')) == 2
    found = bytearray()
    with kernel.direct(made.path) as step:
        while len(found) < len(content):
            if len(found) == 4 * MIB:
                paths.cut(0)
            found += step(len(found))
        assert bytes(found) == content
        # Without any path it fails, and does not wait for one.
        paths.cut(1)
        started = time.monotonic()
        with pytest.raises(OSError):
            step(0)
        assert time.monotonic() - started < SOON
    for number in range(2):
        paths.join(number)
    made.detach()
    assert kernel.sessions() == []


def test_only_path_is_cut(tgt, conf, paths, tmp_path):
    """A copy whose only path dies ends with an error, and soon."""
    lun = tgt.lun(size=64 * MIB, content=DATA)
    cut = threading.Event()

    def progress(_chunk, _total):
        if not cut.is_set():
            cut.set()
            paths.cut(0)

    started = time.monotonic()
    try:
        with pytest.raises(exceptions.TransferError):
            oslo_transfer.copy(
                location(lun),
                str(tmp_path / 'image'),
                conf=conf,
                strategy='full_copy',
                progress=progress,
                rate_limit=16 * MIB,
            )
    finally:
        paths.join(0)
    assert cut.is_set()
    assert time.monotonic() - started < SOON
    assert not (tmp_path / 'image').exists()
    kernel.detach_all(conf)
    assert kernel.sessions() == []


@pytest.mark.parametrize('stage', ['record', 'login', 'scan', 'attached'])
def test_killed(tgt, conf, stage):
    """What a killed process leaves is listed, and detached, also twice."""
    lun = tgt.lun(content=DATA)
    pid = kernel.attach_elsewhere(lun.url(), conf, stage)
    assert kernel.ended(pid) == -signal.SIGKILL
    assert bool(kernel.sessions()) == (stage != 'record')
    (left,) = oslo_transfer.attachments(conf=conf)
    assert left.source == lun.url()
    left.detach()
    left.detach()
    assert kernel.sessions() == []
    assert oslo_transfer.attachments(conf=conf) == []


def test_two_processes(tgt, conf):
    """Both get one device; it goes with the last of them.

    Also where a process was killed before, in the middle of it: its session
    is not doubled.
    """
    lun = tgt.lun(content=DATA)
    pid = kernel.attach_elsewhere(lun.url(), conf, 'scan')
    assert kernel.ended(pid) == -signal.SIGKILL
    both = [kernel.attach_elsewhere(lun.url(), conf) for _ in range(2)]
    assert [kernel.ended(pid) for pid in both] == [0, 0]
    first, second = oslo_transfer.attachments(conf=conf)
    assert first.path == second.path
    assert len(kernel.sessions()) == 1
    first.detach()
    assert read(second.path) == DATA
    second.detach()
    assert kernel.sessions() == []


def test_in_use(tgt, conf, tmp_path):
    """A device that is open or mounted stays until that is over."""
    lun = tgt.lun()
    tools.run('mke2fs', '-q', '-t', 'ext4', '-F', lun.backing)
    made = attach(lun, conf)
    with open(made.path, 'rb') as file:
        with pytest.raises(exceptions.DetachError) as caught:
            made.detach(force=True)
        assert f'(pid {os.getpid()})' in str(caught.value)
        assert len(file.read(MIB)) == MIB
    where = tmp_path / 'mounted'
    where.mkdir()
    tools.run('mount', '-o', 'ro,noload', made.path, where)
    try:
        with pytest.raises(exceptions.DetachError, match=str(where)):
            made.detach()
    finally:
        tools.run('umount', where)
    made.detach()
    assert kernel.sessions() == []


def test_session_of_somebody(tgt, conf):
    """A session, its record and its devices that others made survive."""
    lun = tgt.lun(content=DATA)
    with kernel.session_of_somebody(lun) as sid:
        before = kernel.disks()
        settings = kernel.iscsiadm(lun)
        made = attach(lun, conf)
        assert read(made.path) == DATA
        made.detach()
        assert [each.sid for each in kernel.sessions()] == [sid]
        assert kernel.disks() == before
        assert kernel.iscsiadm(lun) == settings


def test_session_of_somebody_without_the_device(tgt, conf):
    """Ours comes and goes in a session that stays."""
    lun = tgt.lun(content=DATA)
    with kernel.session_of_somebody(lun) as sid:
        (name,) = kernel.disks()
        tools.run('sh', '-c', f'echo 1 > /sys/block/{name}/device/delete')
        settings = kernel.iscsiadm(lun)
        with attach(lun, conf) as made:
            assert read(made.path) == DATA
        assert [each.sid for each in kernel.sessions()] == [sid]
        assert kernel.disks() == []
        assert kernel.iscsiadm(lun) == settings


def test_record_of_somebody(lio, conf):
    """A record that a discovery has left is as it was."""
    lun = lio.lun(content=DATA)
    tools.run(
        *('iscsiadm', '-m', 'discovery', '-t', 'st', '-p', lun.portals[0])
    )
    try:
        settings = kernel.iscsiadm(lun)
        with attach(lun, conf) as made:
            assert read(made.path) == DATA
        assert kernel.sessions() == []
        assert kernel.iscsiadm(lun) == settings
    finally:
        tools.run('iscsiadm', '-m', 'node', '-o', 'delete')
        tools.run(
            *('iscsiadm', '-m', 'discoverydb', '-t', 'st'),
            *('-p', lun.portals[0], '-o', 'delete'),
        )


def test_discovery(lio, conf):
    """One portal tells of the other, and nothing of it is kept."""
    lun = lio.lun(content=DATA)
    with attach(lun, conf, target_discovered=False) as made:
        assert len(kernel.sessions()) == 2
        assert os.path.basename(made.path).startswith('dm-')
        assert read(made.path) == DATA


def test_replaced(tgt, conf):
    """Another LUN, or another size of it, behind a device is noticed."""
    lun = tgt.lun(content=DATA, serial='0123456789abcdef')
    first = oslo_transfer.attach(lun.url(), conf=conf)
    os.truncate(lun.backing, 2 * lun.size)
    for serial in ('0123456789abcdef', 'fedcba9876543210'):
        replace(tgt, lun, serial)
        with pytest.raises(exceptions.AttachError, match='another size'):
            oslo_transfer.attach(lun.url(), conf=conf)
    first.detach()
    with oslo_transfer.attach(lun.url(), conf=conf) as made:
        assert made.size == 2 * lun.size


def delete(tgt, unit):
    try:
        tgt.admin('--op', 'delete', *unit)
    except RuntimeError as exc:
        if 'still active' in str(exc):
            return False
        raise
    return True


def replace(tgt, lun, serial):
    """Put another LUN in the place of one."""
    unit = ('--mode', 'logicalunit', '--tid', '1', '--lun', str(lun.number))
    # udev may still have something to ask it.
    tools.until(lambda: delete(tgt, unit), 'nobody uses the LUN')
    tgt.admin('--op', 'new', *unit, '--backing-store', str(lun.backing))
    for told in (f'scsi_sn={serial}', f'scsi_id=IET {serial}'):
        tgt.admin('--op', 'update', *unit, f'--params={told}')


def test_vanished(tgt, conf):
    """The target is gone: detaching tells, or works, and does not hang."""
    lun = tgt.lun(content=DATA)
    made = attach(lun, conf)
    tgt.kill()
    started = time.monotonic()
    made.detach(force=True)
    assert time.monotonic() - started < SOON
    assert kernel.sessions() == []


def test_bad_sector(flaky_disks, tgt, conf, tmp_path):
    """An unreadable sector ends dd, and is never skipped."""
    disk = flaky_disks.disk(content=resource.pattern(8 * MIB))
    lun = tgt.lun(backing=disk.path)
    copy = functools.partial(
        oslo_transfer.copy,
        lun.url(),
        str(tmp_path / 'image'),
        conf=conf,
        strategy='dd',
    )
    disk.bad_at(5 * MIB)
    with pytest.raises(exceptions.TransferError):
        copy()
    assert not (tmp_path / 'image').exists()
    assert kernel.sessions() == []
    disk.heal()
    copy()
    assert (tmp_path / 'image').read_bytes() == disk.path.read_bytes()
    assert kernel.sessions() == []


def test_not_root(tgt, conf):
    """Root is two daemons of few capabilities; the copy is nobody's."""
    lun = tgt.lun(content=DATA)
    with tempfile.TemporaryDirectory() as name:
        there = pathlib.Path(name)
        os.chown(there, kernel.NOBODY, kernel.NOBODY)
        conf.set_override('state_path', name, group='oslo_transfer')
        copy = functools.partial(
            oslo_transfer.copy,
            lun.url(),
            str(there / 'image'),
            conf=conf,
            strategy='full_copy',
        )
        assert kernel.ended(kernel.as_nobody(copy, conf, there)) == 0
        assert (there / 'image').stat().st_uid == kernel.NOBODY
        assert (there / 'image').read_bytes() == lun.backing.read_bytes()
    assert kernel.sessions() == []
