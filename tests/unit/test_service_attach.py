# SPDX-License-Identifier: Apache-2.0
"""The role attach: what it is asked, what it keeps, what it starts again."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time

import pytest

from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import qemunbd
from oslo_transfer.drivers.iscsi import userspace
from oslo_transfer import exceptions
from oslo_transfer.service import attach
from oslo_transfer.service import attached
from oslo_transfer.service import client
from oslo_transfer.testing import harness
from tests.servers import dd_lab
from tests.unit import services

pytestmark = pytest.mark.usefixtures('nothing_left')

NAME = 'ab' * 16
PASSWORD = 'a-secret-of-chap'
# Root can give files to any group, others to their own.
GROUP = os.getgid() or 12345
LUN = _lun.Lun(
    where='iscsi://***@portal/iqn.2026-01.org.example:a/1',
    paths=(_lun.Path('portal', 3260, 'iqn.2026-01.org.example:a', 1),),
    username='joe',
    password=PASSWORD,
    size=4096,
)


class FakeServer:
    """Serves nothing, and fails where it is told to."""

    made: list = []
    problem = None
    size = 4096

    def __init__(self, lun, directory, ctx, *, writing):
        if FakeServer.problem is not None:
            raise FakeServer.problem
        self.lun, self.directory, self.writing = lun, directory, writing
        self.size = FakeServer.size
        if lun.size not in (None, self.size):
            raise exceptions.SizeMismatch(lun.size, self.size)
        self.running = True
        self.errors = 'fell over'
        self.closed = False
        with open(os.path.join(directory, qemunbd.SOCKET), 'w'):
            pass
        FakeServer.made.append(self)

    def close(self):
        self.closed, self.running = True, False


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(FakeServer, 'made', [])
    monkeypatch.setattr(FakeServer, 'problem', None)
    monkeypatch.setattr(FakeServer, 'size', 4096)
    monkeypatch.setattr(attach.qemunbd, 'Server', FakeServer)
    monkeypatch.setattr(
        *(userspace, 'pinned'),
        lambda lun, _ctx: dataclasses.replace(lun, size=FakeServer.size),
    )
    monkeypatch.setattr(attach, '_LOOK', 0.01)
    monkeypatch.setattr(attach, '_FIRST_PAUSE', 0.02)
    return FakeServer


@pytest.fixture
def place(conf):
    made = services.Place(conf)
    yield made
    made.close()


@pytest.fixture
def asks(conf):
    return client.Client(conf)


def serve(place):
    return place.serve(attach.AttachRole(place.conf))


def add(asks, name=NAME, **changes):
    fields = {'writing': False, **changes}
    return asks.add_attachment(
        name, userspace.as_json(LUN), PASSWORD, **fields
    )


def until(condition):
    assert harness.wait_for(condition, 5)


def test_add_and_remove(place, fake, asks):
    with serve(place):
        path, size = add(asks, writing=True)
        directory = place.path / 'state' / 'exports' / NAME
        assert path == f'nbd+unix:///?socket={directory}/nbd.sock'
        assert size == 4096
        (server,) = fake.made
        assert server.lun == LUN
        assert server.writing
        assert asks.attachments() == [
            {
                'id': NAME,
                'source': LUN.where,
                'path': path,
                'size': 4096,
                'read_only': False,
                'running': True,
                'connections': 0,
                'problem': '',
            }
        ]
        assert asks.status()['roles']['attach'] == {
            'attachments': 1,
            'running': 1,
        }
        with pytest.raises(exceptions.AlreadyExists):
            add(asks)
        asks.remove_attachment(NAME)
        assert server.closed
        assert asks.attachments() == []
        assert not directory.exists()
        with pytest.raises(exceptions.NotFound):
            asks.remove_attachment(NAME)


@pytest.mark.parametrize(
    'error',
    [
        exceptions.AccessDenied('no'),
        exceptions.NotFound('no'),
        exceptions.Unavailable('no'),
        exceptions.AttachError('no'),
        exceptions.SizeMismatch(1, 2),
        exceptions.CapabilityMissing('no'),
    ],
)
def test_what_cannot_be_attached_leaves_nothing(error, place, fake, asks):
    """And the client gets an error of the same kind."""
    kind = type(error)
    if kind is exceptions.SizeMismatch:
        kind = exceptions.IntegrityError
    with serve(place):
        fake.problem = error
        with pytest.raises(kind):
            add(asks)
        assert asks.attachments() == []
        assert [
            each
            for each in (place.path / 'state' / 'exports').iterdir()
            if each.name != 'lock'
        ] == []
        fake.problem = None
        add(asks)


def test_a_connection_keeps_it(place, fake, asks, monkeypatch):
    monkeypatch.setattr(userspace, '_SETTLE', 0.05)
    with serve(place):
        add(asks)
        monkeypatch.setattr(attach.qemunbd, 'clients', lambda _path: 3)
        with pytest.raises(exceptions.DetachError, match='in use'):
            asks.remove_attachment(NAME)
        assert not fake.made[0].closed
        monkeypatch.setattr(attach.qemunbd, 'clients', lambda _path: 0)
        asks.remove_attachment(NAME)


def test_it_is_started_again(place, fake, asks, caplog):
    with serve(place):
        add(asks)
        fake.problem = exceptions.Unavailable('the target is down')
        fake.made[0].running = False
        until(lambda: asks.attachments()[0]['problem'])
        assert 'fell over' in caplog.text
        told = asks.attachments()[0]
        assert not told['running']
        assert 'the target is down' in told['problem']
        fake.problem = None
        until(lambda: asks.attachments()[0]['running'])
        assert asks.attachments()[0]['problem'] == ''
        # Another volume has come in its place.
        fake.made[-1].running = False
        fake.size = 8192
        until(lambda: '8192' in asks.attachments()[0]['problem'])


def test_a_restart_goes_on(place, fake, asks):
    with serve(place):
        asks.add_attachment(
            *(NAME, userspace.as_json(dataclasses.replace(LUN, size=None))),
            *(PASSWORD,),
            writing=True,
        )
    assert fake.made[0].closed
    fake.made.clear()
    with serve(place):
        until(lambda: fake.made)
        until(lambda: asks.attachments()[0]['running'])
        # With the size that it had, for another is another volume.
        assert fake.made[0].lun == LUN
        assert fake.made[0].writing
        assert asks.attachments()[0]['size'] == 4096


def test_one_that_takes_long_keeps_no_other_waiting(
    place, fake, asks, monkeypatch
):
    """Guests wait for theirs; the target of another may be silent."""
    other = 'cd' * 16
    with serve(place):
        add(asks)
        add(asks, other)
    stuck, go_on = threading.Event(), threading.Event()

    class Slow(fake):
        def __init__(self, lun, directory, ctx, **rest):
            if directory.endswith(NAME):
                stuck.set()
                assert go_on.wait(20)
            super().__init__(lun, directory, ctx, **rest)

    monkeypatch.setattr(attach.qemunbd, 'Server', Slow)
    with serve(place):
        assert stuck.wait(5)
        until(lambda: running(asks) == {NAME: False, other: True})
        go_on.set()
        until(lambda: running(asks) == {NAME: True, other: True})


def running(asks):
    return {each['id']: each['running'] for each in asks.attachments()}


def test_a_removal_while_it_is_started(place, fake, asks, monkeypatch):
    """What is removed is not there once more a moment later."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow(FakeServer):
        def __init__(self, *args, **rest):
            inside.set()
            go_on.wait(5)
            super().__init__(*args, **rest)

    with serve(place):
        add(asks)
        monkeypatch.setattr(attach.qemunbd, 'Server', Slow)
        fake.made[0].running = False
        assert inside.wait(5)
        thread = threading.Thread(target=asks.remove_attachment, args=[NAME])
        thread.start()
        go_on.set()
        thread.join()
        assert asks.attachments() == []
        assert all(each.closed for each in fake.made)


def test_a_removal_ends_the_attempt_to_start_it(
    place, fake, asks, monkeypatch
):
    """Nobody waits for a portal that says nothing."""
    inside = threading.Event()

    class Silent(FakeServer):
        def __init__(self, lun, directory, ctx, *, writing):
            inside.set()
            ctx.sleep(30)

    with serve(place):
        monkeypatch.setattr(attach.qemunbd, 'Server', Silent)
        errors = []

        def ask():
            try:
                add(asks)
            except exceptions.TransferError as exc:
                errors.append(exc)

        thread = threading.Thread(target=ask)
        thread.start()
        assert inside.wait(5)
        began = time.monotonic()
        with pytest.raises(exceptions.NotFound):
            asks.remove_attachment(NAME)
        assert time.monotonic() - began < 2
        thread.join()
        assert errors
        assert asks.attachments() == []


def test_a_removal_that_comes_first(place, fake, asks):
    """As where the service hung, and both have waited for it."""
    with serve(place):
        with pytest.raises(exceptions.NotFound):
            asks.remove_attachment(NAME)
        with pytest.raises(exceptions.AttachError, match='given up'):
            add(asks)
        assert asks.attachments() == []
        assert not (place.path / 'state' / 'exports' / NAME).exists()


# What is on the disk


def test_secrets_stay_in_their_file(place, fake, asks, caplog):
    caplog.set_level('DEBUG')
    with serve(place):
        add(asks)
        directory = place.path / 'state' / 'exports' / NAME
        assert directory.stat().st_mode & 0o777 == 0o700
        found = {
            path.name: (path.stat().st_mode & 0o777, path.read_text())
            for path in directory.iterdir()
        }
        assert found['secret'] == (0o600, PASSWORD)
        assert PASSWORD not in found['record'][1]
        assert found['record'][0] == 0o600
        assert PASSWORD not in json.dumps(asks.attachments())
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize('umask', [0o022, 0o077])
def test_a_group_may_connect(umask, place, fake, asks):
    """Also with the umask of the service's unit."""
    place.set('control_socket_group', str(GROUP), 'oslo_transfer_service')
    before = os.umask(umask)
    try:
        check_group(place, asks)
    finally:
        os.umask(before)


def check_group(place, asks):
    with serve(place):
        add(asks)
        directory = place.path / 'state' / 'exports' / NAME
        assert directory.parent.stat().st_mode & 0o777 == 0o711
        for path, mode in (
            (directory, 0o710),
            (directory / 'nbd.sock', 0o660),
        ):
            assert path.stat().st_gid == GROUP
            assert path.stat().st_mode & 0o777 == mode
        for name in ('record', 'secret'):
            assert (directory / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    'content',
    [
        '',
        '[]',
        '{}',
        '{"version": 2, "lun": {}, "writing": false, "added": 1}',
        '{"version": 1, "lun": {}, "writing": false, "added": 1}',
        '{"version": 1, "lun": 5, "writing": "no", "added": 1}',
        '{"version": 1, "writing": "no"}',
        '[' * 100_000,
    ],
)
def test_damaged_records(content, place, fake, asks, caplog):
    """They are reported, and left alone."""
    directory = place.path / 'state' / 'exports' / NAME
    directory.mkdir(parents=True)
    (directory / 'record').write_text(content)
    with serve(place):
        assert asks.attachments() == []
    assert (directory / 'record').exists()
    assert str(directory) in caplog.text


def test_what_was_cut_short_is_removed(place, fake, asks):
    exports = place.path / 'state' / 'exports'
    for name, files in (
        ('00' * 16, []),
        ('11' * 16, ['secret', 'record.new']),
        ('22' * 16, ['secret.new', 'nbd.sock', 'pid']),
    ):
        (exports / name).mkdir(parents=True)
        for each in files:
            (exports / name / each).touch()
    (exports / 'of somebody else').mkdir()
    with serve(place):
        assert asks.attachments() == []
    assert {each.name for each in exports.iterdir()} == {
        'lock',
        'of somebody else',
    }


def test_one_service_has_the_records(place, fake, conf):
    directory = str(place.path / 'state' / 'exports')
    records = attached.Records(directory, None)
    with pytest.raises(exceptions.Unavailable), serve(place):
        pass
    records.close()
    with serve(place):
        pass


# What can be asked


@pytest.mark.parametrize(
    'body',
    [
        {},
        {'id': 5},
        {'id': NAME, 'lun': {}, 'writing': False},
        {'id': NAME, 'lun': None, 'writing': False},
        {'id': '../../etc', 'writing': False, 'lun': 1},
        {'id': NAME, 'writing': 'yes', 'lun': userspace.as_json(LUN)},
        {
            'id': '../x',
            'writing': False,
            'lun': userspace.as_json(LUN),
        },
        *(
            {
                'id': NAME,
                'writing': False,
                'lun': {**userspace.as_json(LUN), key: value},
            }
            for key, value in (
                ('paths', []),
                ('paths', [['portal', 3260, 'iqn']]),
                ('paths', [['portal', '3260', 'iqn', 1]]),
                ('paths', 'abcd'),
                ('size', 'big'),
                ('where', None),
                ('username', 7),
            )
        ),
    ],
)
def test_nonsense_is_refused(body, place, fake):
    with serve(place):
        status, told = place.ask('POST', '/v1/attachments', body)
        assert status == 400
        assert told['error'] == 'InvalidEndpoint'
    assert fake.made == []


def test_nonsense_to_remove(asks):
    for name in ('', '../x', 'ä'):
        with pytest.raises(exceptions.InvalidEndpoint):
            asks.remove_attachment(name)


def test_without_the_role(place, asks):
    """A service that does other things only."""
    with place.serve():
        with pytest.raises(exceptions.CapabilityMissing):
            add(asks)


# What qemu-nbd says


@pytest.mark.parametrize(
    ('told', 'error', 'words'),
    [
        (
            "Unknown driver 'iscsi'",
            exceptions.CapabilityMissing,
            'qemu-block-extra',
        ),
        (
            'iSCSI: Failed to connect to LUN : Failed to log in to target. '
            'Status: Authentication failure(513)',
            exceptions.AccessDenied,
            'CHAP',
        ),
        (
            'iSCSI: Failed to connect to LUN : Failed to log in to target. '
            'Status: Target not found(515)',
            exceptions.NotFound,
            'Target not found',
        ),
        (
            'iSCSI: Failed to connect to LUN : SENSE KEY:ILLEGAL_REQUEST(5) '
            'ASCQ:LOGICAL_UNIT_NOT_SUPPORTED(0x2500)',
            exceptions.NotFound,
            'LOGICAL_UNIT_NOT_SUPPORTED',
        ),
        (
            'iSCSI: Failed to connect to LUN : iscsi_service failed with : '
            'iscsi_service_reconnect_if_loggedin. Can not reconnect right '
            'now.',
            exceptions.Unavailable,
            'no connection',
        ),
        ('Segmentation fault', exceptions.AttachError, 'no reason'),
        ('', exceptions.AttachError, 'no reason'),
    ],
)
def test_what_qemu_nbd_says(
    told, error, words, tmp_path, monkeypatch, conf, place
):
    program = tmp_path / 'qemu-nbd'
    program.write_text(
        '#!/bin/sh\n'
        'echo "qemu-nbd: Failed to blk_new_open \'file.user=joe,$0\': "'
        f'"{told}" >&2; exit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    with pytest.raises(error, match=words) as caught:
        qemunbd.Server(
            LUN, str(place.path), dd_lab.context(conf), writing=False
        )
    assert 'joe' not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_mutual_chap_is_not_left_out(conf, place):
    """What cannot be checked is not done without the check."""
    for name in ('mutual_chap_username', 'mutual_chap_password'):
        conf.set_override(name, 'target-secret', group='oslo_transfer_iscsi')
    with pytest.raises(exceptions.CapabilityMissing, match='mutual'):
        qemunbd.Server(
            LUN, str(place.path), dd_lab.context(conf), writing=False
        )
