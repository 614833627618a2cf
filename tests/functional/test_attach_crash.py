# SPDX-License-Identifier: Apache-2.0
"""Attachments of LUNs while processes are killed and volumes exchanged.

Whatever happens, what is left is listed, and can be detached.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pathlib
import shutil
import signal
import socket
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import attachment_records
from oslo_transfer import credentials
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import pool
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import userspace
from oslo_transfer import exceptions
from oslo_transfer import filler
from oslo_transfer import qemu_img
from oslo_transfer.service import attach
from oslo_transfer.service import attached
from oslo_transfer.service import client
from oslo_transfer.service import daemon
from oslo_transfer.testing import harness
from tests.functional import forkserver
from tests.servers import dd_lab
from tests.servers import relay
from tests.servers import tgt

pytestmark = dd_lab.marks()

MIB = 1 << 20
SIZE = 6 * MIB
DATA = harness.pattern(SIZE, 'lun')
OTHER = harness.pattern(SIZE, 'another tenant')
CANARY = 'c4n4ry-of-chap'
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}


@pytest.fixture(scope='module')
def target():
    with tgt.Tgt() as running:
        yield running


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'lun'
    path.write_bytes(DATA)
    return path


@pytest.fixture
def url(target, image):
    """A LUN of a target of its own."""
    name = target.target()
    target.disk(name, image)
    return target.url(name)


@pytest.fixture
def state():
    with dd_lab.state_directory() as directory:
        yield directory


@pytest.fixture(autouse=True)
def iscsi_conf(conf, state):
    return dd_lab.configure(conf, state)


def serving(conf):
    return daemon.Service(conf, [attach.AttachRole(conf)])


def detach_all(conf):
    """All that is listed."""
    for each in oslo_transfer.attachments(conf=conf):
        each.detach()
    assert oslo_transfer.attachments(conf=conf) == []


# Processes that kill themselves


def die(*_args, **_rest):
    """What a process does at the stage of a test."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(where, name):
    """Die when a function is about to be called."""
    setattr(where, name, die)


def after(where, name, times=1):
    """Die when a function has returned for the last of some times."""
    function, calls = getattr(where, name), []

    def call(*args, **rest):
        found = function(*args, **rest)
        calls.append(name)
        if len(calls) == times:
            die()
        return found

    setattr(where, name, call)


SERVICE = {
    'never': lambda: None,
    'nothing': lambda: before(attached.Records, 'add'),
    'recorded': lambda: after(attached.Records, 'add'),
    'served': lambda: before(attached.Records, 'open_up'),
    'opened': lambda: after(attached.Records, 'open_up'),
    'saved': lambda: after(attached.Records, 'save'),
    'closed': lambda: before(attached.Records, 'remove'),
    'gone': lambda: after(attached.Records, 'remove'),
    'half gone': lambda: before(os, 'rmdir'),
}


def serve(state, stage):
    """The job of a child."""
    SERVICE[stage]()
    with serving(dd_lab.configure(forkserver.make_conf({}), state)):
        threading.Event().wait()


@pytest.mark.parametrize('stage', list(SERVICE)[1:])
def test_the_service_is_killed(stage, url, iscsi_conf, state, children):
    """While it attaches, or detaches: nothing is held that is not listed."""
    child = children.start(serve, str(state), stage)
    assert harness.wait_for((state / 'sock').exists, 10)
    with contextlib.suppress(exceptions.TransferError):
        made = oslo_transfer.attach(url, conf=iscsi_conf)
        with pytest.raises(exceptions.DetachError) as caught:
            made.detach()
        assert caught.value.leftovers
        assert oslo_transfer.attachments(conf=iscsi_conf) == [made]
    assert child.wait(5)
    assert harness.wait_for(lambda: not dd_lab.processes(state), 5)
    with serving(iscsi_conf):
        detach_all(iscsi_conf)
        assert client.Client(iscsi_conf).attachments() == []


CLIENT = {
    'asked': lambda: before(userspace, '_ask_service'),
    'answered': lambda: after(userspace, '_ask_service'),
    'recorded': lambda: after(attachment_records.Records, 'write', 2),
    'looked': lambda: before(qemu_img, 'create_overlay'),
    'made': lambda: after(qemu_img, 'create_overlay'),
}


def zero_copy(url, dst, state, stage):
    """The job of a child."""
    CLIENT[stage]()
    conf = dd_lab.configure(forkserver.make_conf({}), state)
    oslo_transfer.copy(url, dst, 'zero_copy', conf=conf)
    die()


@pytest.mark.parametrize('stage', list(CLIENT))
def test_a_zero_copy_is_killed(
    stage, url, iscsi_conf, state, children, tmp_path
):
    """There is no destination, and the next call makes it."""
    dst = tmp_path / 'there' / 'disk'
    dst.parent.mkdir()
    with serving(iscsi_conf):
        child = children.start(zero_copy, url, str(dst), str(state), stage)
        with pytest.raises(forkserver.Died):
            child.result()
        assert not dst.exists()
        (left,) = oslo_transfer.attachments(conf=iscsi_conf)
        made = oslo_transfer.copy(url, dst, 'zero_copy', conf=iscsi_conf)
        assert os.listdir(dst.parent) == ['disk']
        left.detach()
        assert oslo_transfer.attachments(conf=iscsi_conf) == [made.attachment]
        detach_all(iscsi_conf)
        assert client.Client(iscsi_conf).attachments() == []


def back_and_forth(url, state, times):
    """The job of a child."""
    conf = dd_lab.configure(forkserver.make_conf({}), state)
    for _ in range(times):
        with oslo_transfer.attach(url, conf=conf) as made:
            source = oslo_transfer.Location(made.path)
            path = f'{state}/copy{os.getpid()}'
            oslo_transfer.copy(
                source, path, 'full_copy', conf=conf, overwrite=True, **SHA256
            )
            os.unlink(path)


def test_two_processes_at_once(url, iscsi_conf, state, children):
    """Neither takes away what the other one reads."""
    with serving(iscsi_conf):
        started = [
            children.start(back_and_forth, url, str(state), 4)
            for _ in range(2)
        ]
        for each in started:
            each.result()
        assert client.Client(iscsi_conf).attachments() == []
    assert oslo_transfer.attachments(conf=iscsi_conf) == []


def test_detached_twice_at_once(url, iscsi_conf):
    """One of them does it; none fails."""
    with serving(iscsi_conf):
        made = oslo_transfer.attach(url, conf=iscsi_conf)
        errors = []

        def detach():
            try:
                made.detach()
            except exceptions.TransferError as exc:
                errors.append(exc)

        threads = [threading.Thread(target=detach) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert errors == []


@pytest.mark.parametrize('how', ['cancel', 'deadline'])
def test_a_portal_that_says_nothing(how, iscsi_conf):
    """Who asked the service is not kept waiting, and leaves nothing."""
    iscsi_conf.set_override('connect_timeout', 30, 'oslo_transfer')
    limits = {}
    with socket.create_server(('127.0.0.1', 0)) as silent:
        port = silent.getsockname()[1]
        with serving(iscsi_conf):
            cancel = threading.Event()
            timer = threading.Timer(0.4, cancel.set)
            timer.start()
            limits = {'cancel': cancel, 'deadline': 0.4}
            began = time.monotonic()
            with pytest.raises(
                (exceptions.TransferCancelled, exceptions.DeadlineExceeded)
            ):
                oslo_transfer.attach(
                    f'iscsi://127.0.0.1:{port}/{tgt.IQN}/1',
                    conf=iscsi_conf,
                    **{how: limits[how]},
                )
            assert time.monotonic() - began < 0.4 + 1.2
            timer.join()
            assert oslo_transfer.attachments(conf=iscsi_conf) == []
            asks = client.Client(iscsi_conf)
            assert harness.wait_for(lambda: asks.attachments() == [], 2)


def make_overlay(url, dst, state):
    """The job of a child."""
    conf = dd_lab.configure(forkserver.make_conf({}), state)
    return oslo_transfer.copy(url, dst, 'zero_copy', conf=conf).strategy


def test_two_overlays_of_one_name(url, iscsi_conf, state, children, tmp_path):
    """One is there; what was attached for the other one is not."""
    dst = tmp_path / 'there' / 'disk'
    dst.parent.mkdir()
    with serving(iscsi_conf):
        started = [
            children.start(make_overlay, url, str(dst), str(state))
            for _ in range(3)
        ]
        outcomes = []
        for each in started:
            try:
                outcomes.append(each.result())
            except exceptions.AlreadyExists:
                outcomes.append(None)
        assert sorted(map(str, outcomes)) == ['None', 'None', 'zero_copy']
        assert os.listdir(dst.parent) == ['disk']
        assert len(client.Client(iscsi_conf).attachments()) == 1
        detach_all(iscsi_conf)


def test_no_room_for_an_overlay(url, iscsi_conf, disks):
    """Nothing stays attached for what was not made."""
    directory = disks.tmpfs(MIB)
    (directory / 'full').write_bytes(bytes(MIB - 8192))
    with serving(iscsi_conf):
        with pytest.raises(exceptions.StorageError):
            oslo_transfer.copy(
                url, directory / 'disk', 'zero_copy', conf=iscsi_conf
            )
        assert os.listdir(directory) == ['full']
        assert oslo_transfer.attachments(conf=iscsi_conf) == []
        assert client.Client(iscsi_conf).attachments() == []


def test_the_service_hangs(url, iscsi_conf, state, children):
    """The limits of the call are kept; what comes of it is listed."""
    child = children.start(serve, str(state), 'never')
    assert harness.wait_for((state / 'sock').exists, 10)
    os.kill(child.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(exceptions.AttachError) as caught:
        oslo_transfer.attach(url, conf=iscsi_conf, deadline=0.5)
    assert time.monotonic() - began < 0.5 + 1.5
    assert caught.value.leftovers
    assert len(oslo_transfer.attachments(conf=iscsi_conf)) == 1
    os.kill(child.pid, signal.SIGCONT)
    detach_all(iscsi_conf)
    asks = client.Client(iscsi_conf)
    assert harness.wait_for(lambda: asks.attachments() == [], 5)


def test_the_target_is_killed(iscsi_conf, image):
    """What it served can be detached all the same, and soon."""
    with tgt.Tgt() as mortal, serving(iscsi_conf):
        name = mortal.target()
        mortal.disk(name, image)
        made = oslo_transfer.attach(mortal.url(name), conf=iscsi_conf)
        mortal.stop()
        began = time.monotonic()
        made.detach()
        assert time.monotonic() - began < 10
        assert oslo_transfer.attachments(conf=iscsi_conf) == []
        assert client.Client(iscsi_conf).attachments() == []


# Another volume under the same name


def exchange(target, url, path, **params):
    """Put another volume of the same size in the place of a LUN."""
    name = url.split('/')[3]
    target.take_away(name)
    path.write_bytes(OTHER)
    target.disk(name, path, **params)


def test_another_volume_when_the_service_comes_back(
    target, url, iscsi_conf, tmp_path
):
    """It is no business of whoever has the overlay (CVE-2023-2088)."""
    with serving(iscsi_conf):
        made = oslo_transfer.attach(url, conf=iscsi_conf)
    exchange(target, url, tmp_path / 'other')
    with serving(iscsi_conf):
        asks = client.Client(iscsi_conf)
        assert harness.wait_for(lambda: asks.attachments()[0]['problem'], 10)
        (told,) = asks.attachments()
        assert 'expected' in told['problem']
        assert not told['running']
        with pytest.raises(exceptions.TransferError):
            oslo_transfer.copy(made.path, tmp_path / 'copy', conf=iscsi_conf)
        made.detach()


@pytest.mark.parametrize('digest', [False, True])
def test_another_volume_in_the_middle_of_dd(
    digest, target, url, iscsi_conf, tmp_path
):
    """No image is made of two, also where there is no digest."""
    done = []

    def progress(_count, total):
        if total > 2 * MIB and not done:
            done.append(total)
            exchange(target, url, tmp_path / 'other')

    with pytest.raises(exceptions.TransferError):
        oslo_transfer.copy(
            *(url, tmp_path / 'copy', 'dd'),
            conf=iscsi_conf,
            rate_limit=4 * MIB,
            progress=progress,
            **(SHA256 if digest else {}),
        )
    assert done
    assert not (tmp_path / 'copy').exists()


# Bad luck of dd, over an attachment in user space


@pytest.mark.parametrize('program', ['qemu-nbd', 'nbdfuse', 'dd'])
def test_what_dd_needs_is_killed(
    program, url, iscsi_conf, state, tmp_path, monkeypatch
):
    """It is told, and what had arrived is gone on with."""
    dst = tmp_path / 'there' / 'copy'
    dst.parent.mkdir()
    last = tmp_path / 'last'
    fake = tmp_path / 'bin' / 'dd'
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\n[ -e {last} ] && rm {last} && kill -9 $$\n'
        f'exec {shutil.which("dd")} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv('PATH', f'{fake.parent}:{os.environ["PATH"]}')
    killed = []

    def progress(_count, total):
        if total <= 2 * MIB or killed:
            return
        if program == 'dd':
            last.touch()
            killed.append(program)
        for pid, command in dd_lab.processes(state).items():
            if f'{program} ' in command:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    copy = {'strategy': 'dd', 'conf': iscsi_conf, **SHA256}
    with pytest.raises(exceptions.Unavailable) as caught:
        oslo_transfer.copy(
            url, dst, progress=progress, rate_limit=4 * MIB, **copy
        )
    assert caught.value.retryable
    assert killed
    assert not dst.exists()
    result = oslo_transfer.copy(url, dst, **copy)
    assert result.bytes_by_origin['resumed'] > 0
    assert dst.read_bytes() == DATA
    assert oslo_transfer.attachments(conf=iscsi_conf) == []


@pytest.mark.parametrize('program', ['qemu-nbd', 'nbdfuse'])
def test_what_dd_needs_hangs(program, url, iscsi_conf, state, tmp_path):
    """It is given up in bounded time, and ended all the same."""
    stopped = []

    def progress(_count, total):
        if total > 2 * MIB and not stopped:
            for pid, command in dd_lab.processes(state).items():
                if f'{program} ' in command:
                    os.kill(pid, signal.SIGSTOP)
                    stopped.append(time.monotonic())

    with pytest.raises(exceptions.Stalled):
        oslo_transfer.copy(
            *(url, tmp_path / 'copy', 'dd'),
            conf=iscsi_conf,
            rate_limit=4 * MIB,
            progress=progress,
        )
    # A second for the rule, and some for those that are killed.
    assert time.monotonic() - stopped[0] < 8
    assert not (tmp_path / 'copy').exists()
    assert oslo_transfer.attachments(conf=iscsi_conf) == []


@pytest.mark.parametrize('limit', ['stall', 'cancel'])
def test_a_hang_before_dd_begins(
    limit, url, iscsi_conf, state, disks, monkeypatch
):
    """What is read without it keeps the same limits."""
    copy_start, stopped = filler.Filler._copy_start, []
    cancel = threading.Event()

    def hang(self):
        for pid, command in dd_lab.processes(state).items():
            if 'qemu-nbd ' in command:
                os.kill(pid, signal.SIGSTOP)
                stopped.append(time.monotonic())
        if limit == 'cancel':
            threading.Timer(0.2, cancel.set).start()
        copy_start(self)

    monkeypatch.setattr(filler.Filler, '_copy_start', hang)
    iscsi_conf.set_override(
        'stall_timeout', 1 if limit == 'stall' else 60, 'oslo_transfer'
    )
    kind = {
        'stall': exceptions.Stalled,
        'cancel': exceptions.TransferCancelled,
    }[limit]
    with pytest.raises(kind):
        oslo_transfer.copy(
            *(url, disks.loop(SIZE), 'dd'), conf=iscsi_conf, cancel=cancel
        )
    # Some seconds for what is killed.
    assert time.monotonic() - stopped[0] < 8
    assert oslo_transfer.attachments(conf=iscsi_conf) == []


def test_a_full_file_system(url, iscsi_conf, disks):
    """It is told, and nothing stays attached."""
    directory = disks.tmpfs(4 * MIB)
    with pytest.raises(exceptions.NoSpace):
        oslo_transfer.copy(url, directory / 'copy', 'dd', conf=iscsi_conf)
    assert not (directory / 'copy').exists()
    assert oslo_transfer.attachments(conf=iscsi_conf) == []


@pytest.mark.parametrize(
    ('why', 'error'),
    [
        ('small', exceptions.NoSpace),
        ('mounted', exceptions.AccessDenied),
        ('claimed', exceptions.AccessDenied),
        ('read-only', exceptions.AccessDenied),
    ],
)
def test_a_device_that_is_not_touched(why, error, url, iscsi_conf, disks):
    old = b'old' * 1000
    if why == 'mounted':
        directory = disks.ext4(16 * MIB)
        lines = pathlib.Path('/proc/self/mounts').read_text().splitlines()
        (device,) = (
            pathlib.Path(line.split()[0])
            for line in lines
            if line.split()[1] == str(directory)
        )
    else:
        device = disks.loop(
            SIZE - 512 if why == 'small' else SIZE,
            fill=old,
            read_only=why == 'read-only',
        )
    content = device.read_bytes()
    with contextlib.ExitStack() as stack:
        if why == 'claimed':
            fd = os.open(device, os.O_RDWR | os.O_EXCL)
            stack.callback(os.close, fd)
        with pytest.raises(error):
            oslo_transfer.copy(url, device, 'dd', conf=iscsi_conf)
    assert device.read_bytes() == content
    assert oslo_transfer.attachments(conf=iscsi_conf) == []


# LUNs as destinations


def kill_in_the_middle(src, dst, state):
    """The job of a child."""

    def progress(_count, total):
        if total >= SIZE // 2:
            die()

    oslo_transfer.copy(
        *(src, dst, 'full_copy'),
        conf=dd_lab.configure(forkserver.make_conf({}), state),
        progress=progress,
        rate_limit=8 * MIB,
    )


def test_a_killed_copy_to_a_lun(
    target, url, image, iscsi_conf, state, children, tmp_path
):
    """Half an image does not boot, no session is left, and all goes anew."""
    src = tmp_path / 'image'
    src.write_bytes(OTHER)
    child = children.start(kill_in_the_middle, str(src), url, str(state))
    with pytest.raises(forkserver.Died):
        child.result()
    assert image.read_bytes()[:MIB] != OTHER[:MIB]
    assert harness.wait_for(lambda: not target.sessions(), 5)
    oslo_transfer.copy(src, url, 'full_copy', conf=iscsi_conf)
    assert image.read_bytes() == OTHER


@pytest.mark.parametrize('thin', [True, False])
def test_a_target_whose_disk_is_full(
    thin, target, iscsi_conf, disks, tmp_path
):
    """What it could not store is no success."""
    path = disks.tmpfs(4 * MIB) / 'lun'
    with open(path, 'wb') as file:
        file.truncate(SIZE)
    name = target.target()
    target.disk(name, path, thin=thin)
    src = tmp_path / 'image'
    src.write_bytes(DATA)
    try:
        with pytest.raises((exceptions.StorageError, exceptions.NoSpace)):
            oslo_transfer.copy(
                src, target.url(name), 'full_copy', conf=iscsi_conf
            )
    finally:
        assert harness.wait_for(lambda: not target.sessions(), 5)
        target.take_away(name)


def test_a_flush_that_fails(url, iscsi_conf, tmp_path, monkeypatch):
    """What was written last may be lost: that is no success."""
    run = pool.Pool.run

    def fail(self, commands, waiter):
        for each in commands:
            if each.what == 'flushing':
                raise failures.SenseError(each.what, scsi.MEDIUM_ERROR, 0xC00)
        return run(self, commands, waiter)

    monkeypatch.setattr(pool.Pool, 'run', fail)
    src = tmp_path / 'image'
    src.write_bytes(DATA)
    with pytest.raises(exceptions.StorageError, match='may be lost'):
        oslo_transfer.copy(src, url, 'full_copy', conf=iscsi_conf)


# Secrets


def test_secrets_are_nowhere(
    target, image, iscsi_conf, state, tmp_path, caplog
):
    """But in the file that the service needs after a restart."""
    caplog.set_level(logging.DEBUG)
    name = target.target()
    target.disk(name, image)
    user = f'u{name.rpartition("-")[2]}'
    target.chap(name, user, CANARY)
    portal = target.portal
    told = []
    wrong = CANARY + '-wrong'
    with serving(iscsi_conf), relay.Relay(target.port) as way:
        for src in (
            f'iscsi://{user}:{CANARY}@{portal}/{name}/1',
            oslo_transfer.Location(
                f'iscsi://{portal}/{name}/1',
                credentials=credentials.LoginCredentials(user, CANARY),
            ),
            oslo_transfer.Location(
                f'iscsi://127.0.0.1:{way.port}/{name}/1',
                connection_info={
                    'driver_volume_type': 'iscsi',
                    'data': {
                        'auth_method': 'CHAP',
                        'auth_username': user,
                        'auth_password': CANARY,
                    },
                },
            ),
        ):
            disk = tmp_path / 'disk'
            result = oslo_transfer.copy(
                src, disk, 'zero_copy', conf=iscsi_conf
            )
            told += [repr(result), disk.read_bytes().decode('latin-1')]
            told += dd_lab.processes(state).values()
            told += secrets_on_disk(state)
            disk.unlink()
            result.attachment.detach()
            copied = oslo_transfer.copy(src, disk, 'dd', conf=iscsi_conf)
            told.append(repr(copied))
            disk.unlink()
        for strategy in ('zero_copy', 'dd', 'full_copy'):
            with pytest.raises(exceptions.AccessDenied) as caught:
                oslo_transfer.copy(
                    f'iscsi://{user}:{wrong}@{portal}/{name}/1',
                    tmp_path / 'disk',
                    strategy,
                    conf=iscsi_conf,
                )
            told += [str(caught.value), repr(caught.value.attempts)]
    told += [record.getMessage() for record in caplog.records]
    told += [str(record.exc_text) for record in caplog.records]
    assert [text for text in told if CANARY in text] == []


def secrets_on_disk(state):
    """What all files of the state directory have, but the service's own."""
    return [
        f'{path}: {path.read_text(errors="replace")}'
        for path in state.rglob('*')
        if path.is_file() and path.name != 'secret'
    ]
