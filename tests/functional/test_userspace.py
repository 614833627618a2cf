# SPDX-License-Identifier: Apache-2.0
"""LUNs of a real target, attached without the initiator of the kernel."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import cleanup
from oslo_transfer import credentials
from oslo_transfer.drivers import base
from oslo_transfer.drivers import dd
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import qemunbd
from oslo_transfer.drivers.iscsi import userspace
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.service import attach
from oslo_transfer.service import client
from oslo_transfer.service import daemon
from oslo_transfer.testing import harness
from tests.functional import forkserver
from tests.servers import dd_lab
from tests.servers import qemu_io
from tests.servers import relay
from tests.servers import tgt

pytestmark = dd_lab.marks()

MIB = 1 << 20
SIZE = 6 * MIB
DATA = harness.pattern(SIZE, 'lun')
PASSWORD = 'se,cret=12345x'
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}


@pytest.fixture(scope='module')
def target():
    with tgt.Tgt() as running:
        yield running


def offer(target, path):
    """Have a target of its own for a file; returns the name."""
    name = target.target()
    target.disk(name, path)
    return name


def protect(target, name):
    """Ask for a login; returns it."""
    user = f'user{name.rpartition("-")[2]}'
    target.chap(name, user, PASSWORD)
    return Login(user, PASSWORD)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(DATA)
    return path


@pytest.fixture
def state():
    with dd_lab.state_directory() as directory:
        yield directory


@pytest.fixture
def iscsi_conf(conf, state):
    return dd_lab.configure(conf, state)


@pytest.fixture
def ctx(iscsi_conf):
    return dd_lab.context(iscsi_conf)


class Login(credentials.Credentials):
    """The secrets of a location."""

    def __init__(self, user, password):
        self._login = user, password

    def login(self):
        return self._login


def make(url, ctx):
    lun = _lun.from_endpoint(_endpoint.parse(url), ctx)
    return userspace.attach(lun, ctx, lambda _details: None)


@pytest.fixture
def attached(ctx):
    """A function that attaches; it is detached in the end."""
    with contextlib.ExitStack() as stack:

        def attach_it(url, **changes):
            made = make(url, ctx.replace(**changes))
            stack.callback(userspace.detach, made, ctx, False)
            return made

        yield attach_it


def read(attachment):
    """All of it, by a client that others wrote."""
    with dd_lab.short_directory() as directory:
        subprocess.run(
            ['nbdcopy', attachment.path, directory / 'copy'],
            check=True,
            timeout=30,
        )
        return (directory / 'copy').read_bytes()


def test_attach(target, image, attached, state):
    name = offer(target, image)
    made = attached(f'iscsi://{target.portal}/{name}/1')
    assert (made.form, made.size, made.read_only) == ('nbd', SIZE, True)
    assert read(made) == DATA
    # Nobody else on the host reads another tenant's volume.
    (directory,) = (state / 'qemu-nbd').iterdir()
    assert directory.stat().st_mode & 0o077 == 0
    json.dumps(made.details)


def test_secrets_are_not_shown(target, image, attached, state):
    name = offer(target, image)
    login = protect(target, name)
    url = f'iscsi://{target.portal}/{name}/1'
    made = attached(url, credentials=login)
    assert read(made) == DATA
    assert PASSWORD not in repr(made) + json.dumps(made.details)
    (command,) = dd_lab.processes(state).values()
    assert 'secret,id=chap' in command
    for text in ('se,cret', 'se,,cret', '12345'):
        assert text not in command
    for wrong in (
        None,
        Login(login.login()[0], 'x' * 12),
        Login('jim', PASSWORD),
    ):
        with pytest.raises(exceptions.AccessDenied) as caught:
            attached(url, credentials=wrong)
        assert 'jim' not in str(caught.value)


def test_what_is_not_there(target, image, attached):
    name = offer(target, image)
    for path in (f'{name}/7', 'iqn.2026-01.org.example:none/1'):
        with pytest.raises(exceptions.NotFound):
            attached(f'iscsi://{target.portal}/{path}')
    with pytest.raises(exceptions.AttachError, match='no disk'):
        attached(f'iscsi://{target.portal}/{name}/0')


def test_portals_are_tried_in_order(target, image, attached):
    name = offer(target, image)
    dead = '127.0.0.1:1'
    made = attached(f'iscsi://{dead},{target.portal}/{name}/1')
    assert read(made) == DATA
    with pytest.raises(exceptions.Unavailable) as caught:
        attached(f'iscsi://{dead},127.0.0.1:2/{name}/1')
    assert '127.0.0.1:1' in str(caught.value)
    assert '127.0.0.1:2' in str(caught.value)
    assert caught.value.retryable


def test_a_portal_that_says_nothing(target, image, attached):
    """Each has its time; then it is the next one's turn."""
    name = offer(target, image)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        made = attached(
            f'iscsi://127.0.0.1:{port},{target.portal}/{name}/1',
            connect_timeout=0.5,
        )
        assert time.monotonic() - began < 3
        assert read(made) == DATA
        cancel = threading.Event()
        timer = threading.Timer(0.2, cancel.set)
        timer.start()
        began = time.monotonic()
        with pytest.raises(exceptions.TransferCancelled):
            attached(f'iscsi://127.0.0.1:{port}/{name}/1', cancel=cancel)
        assert time.monotonic() - began < 1.2
        timer.join()


def info(**changes):
    return {'driver_volume_type': 'iscsi', 'data': changes}


def test_another_size_than_asked(target, image, attached):
    url = f'iscsi://{target.portal}/{offer(target, image)}/1'
    attached(url, connection_info=info(scsi_size=SIZE))
    with pytest.raises(exceptions.SizeMismatch):
        attached(url, connection_info=info(scsi_size=SIZE + 512))


@pytest.mark.parametrize('lasting', [False, True])
def test_another_unit_than_asked(lasting, service, target, image, attached):
    """qemu-nbd does not look at that, so we do."""
    if lasting:
        service()
    name = target.target()
    target.disk(name, image, scsi_sn='mine')
    url = f'iscsi://{target.portal}/{name}/1'
    made = attached(
        url, connection_info=info(scsi_serial='mine'), lasting=lasting
    )
    assert read(made) == DATA
    with pytest.raises(exceptions.IntegrityError):
        attached(
            url, connection_info=info(scsi_serial='yours'), lasting=lasting
        )


def test_writing(target, image, attached):
    """Only where it is asked for, and allowed."""
    url = f'iscsi://{target.portal}/{offer(target, image)}/1'
    write = ['nbdcopy', '/dev/stdin']
    new = harness.pattern(SIZE, 'new')
    for writing in (False, True):
        made = attached(url, writing=writing)
        assert made.read_only is not writing
        done = subprocess.run(
            [*write, made.path], input=new, check=False, capture_output=True
        )
        assert (done.returncode == 0) is writing
    assert image.read_bytes() == new
    with pytest.raises(exceptions.AccessDenied):
        attached(url, writing=True, connection_info=info(access_mode='ro'))


def test_a_path_that_is_too_long(target, image, ctx, iscsi_conf, tmp_path):
    iscsi_conf.set_override(
        *('state_path', str(tmp_path / ('x' * 90))), group='oslo_transfer'
    )
    url = f'iscsi://{target.portal}/{offer(target, image)}/1'
    with pytest.raises(exceptions.AttachError, match='state_path'):
        make(url, ctx)


@pytest.mark.parametrize('force', [False, True])
def test_what_is_in_use_stays(force, target, image, attached, ctx):
    made = attached(f'iscsi://{target.portal}/{offer(target, image)}/1')
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(made.path.partition('=')[2])
        reader.recv(18)
        with pytest.raises(exceptions.DetachError) as caught:
            userspace.detach(made, ctx, force)
        assert caught.value.leftovers
    userspace.detach(made, ctx, force)
    userspace.detach(made, ctx, force)
    with pytest.raises(subprocess.CalledProcessError):
        read(made)


# Other processes


def attach_and_wait(url, state, report):
    """The job of a child."""
    conf = forkserver.make_conf({'state_path': str(state)})
    made = make(url, dd_lab.context(conf))
    pathlib.Path(report + '.new').write_text(
        json.dumps({'path': made.path, 'details': dict(made.details)})
    )
    os.rename(report + '.new', report)
    threading.Event().wait()


def reported(path):
    assert harness.wait_for(path.exists, 10)
    fields = json.loads(path.read_text())
    return base.Attachment(
        **fields, id='', driver='iscsi', source='', form='nbd', size=None
    )


@pytest.mark.parametrize('its', ['alive', 'killed', 'stuck'])
def test_detached_by_another_process(
    its, target, image, state, children, tmp_path, ctx
):
    """Whether the one that made it lives or not, and whatever it does."""
    url = f'iscsi://{target.portal}/{offer(target, image)}/1'
    child = children.start(attach_and_wait, url, state, str(tmp_path / 'made'))
    made = reported(tmp_path / 'made')
    assert read(made) == DATA
    if its == 'killed':
        child.kill()
        assert harness.wait_for(lambda: not dd_lab.processes(state), 5)
    elif its == 'stuck':
        (pid,) = dd_lab.processes(state)
        os.kill(pid, signal.SIGSTOP)
    userspace.detach(made, ctx, False)
    assert not dd_lab.processes(state)


@pytest.mark.parametrize('seconds', [0.0, 0.01, 0.03, 0.06])
def test_killed_while_attaching(
    seconds, target, image, state, children, tmp_path, ctx
):
    """What is recorded before is enough to take it away."""
    url = f'iscsi://{target.portal}/{offer(target, image)}/1'
    child = children.start(attach_and_wait, url, state, str(tmp_path / 'made'))
    parent = state / 'qemu-nbd'
    harness.wait_for(lambda: any(parent.glob('*')), 5)
    child.wait(seconds)
    child.kill()
    assert child.wait(5)
    assert harness.wait_for(lambda: not dd_lab.processes(state), 5)
    for directory in parent.iterdir():
        made = dd_lab.attachment(
            '', form='', details={'directory': str(directory)}
        )
        userspace.detach(made, ctx, False)


# Copies


@pytest.fixture
def copy(iscsi_conf):
    def run(src, dst, **options):
        return oslo_transfer.copy(
            src, dst, conf=iscsi_conf, strategy='dd', **options
        )

    return run


def test_a_copy_by_dd(target, image, copy, tmp_path):
    """A target, qemu-nbd, nbdfuse, dd: and nothing of it is left."""
    name = offer(target, image)
    login = protect(target, name)
    location = oslo_transfer.Location(
        f'iscsi://{target.portal}/{name}/1', credentials=login
    )
    dst = tmp_path / 'copy'
    result = copy(location, dst, **SHA256)
    assert dst.read_bytes() == DATA
    assert (result.verified, result.driver) == (True, 'iscsi')
    assert result.bytes_written == SIZE


def test_a_target_that_dies_in_the_middle(target, image, copy, tmp_path):
    """It is an error in bounded time, and the next copy goes on."""
    dst = tmp_path / 'there' / 'copy'
    dst.parent.mkdir()
    with tgt.Tgt() as mortal:
        url = f'iscsi://{mortal.portal}/{offer(mortal, image)}/1'
        began = []

        def progress(_count, total):
            if total > 2 * MIB and not began:
                began.append(time.monotonic())
                mortal.stop()

        with pytest.raises(exceptions.TransferError):
            copy(url, dst, progress=progress, rate_limit=4 * MIB, **SHA256)
        assert time.monotonic() - began[0] < 10
    assert not dst.exists()
    url = f'iscsi://{target.portal}/{offer(target, image)}/1'
    result = copy(url, dst, **SHA256)
    assert dst.read_bytes() == DATA
    assert result.bytes_by_origin['resumed'] > 0


def test_a_target_that_hangs_in_the_middle(image, copy, tmp_path):
    """The stall rule ends it, and all that waits for an answer."""
    with tgt.Tgt() as mortal:
        url = f'iscsi://{mortal.portal}/{offer(mortal, image)}/1'
        stopped = []

        def progress(_count, total):
            if total > 2 * MIB and not stopped:
                stopped.append(time.monotonic())
                mortal.process.send_signal(signal.SIGSTOP)

        with pytest.raises(exceptions.Stalled):
            copy(
                *(url, tmp_path / 'copy'),
                progress=progress,
                rate_limit=4 * MIB,
            )
        # A second for the rule, and some for those that are killed.
        assert time.monotonic() - stopped[0] < 8
    assert os.listdir(tmp_path) == ['disk']


def slow_copy(url, dst, state):
    """The job of a child."""
    conf = forkserver.make_conf({'state_path': str(state)})
    conf.set_override('engine', 'libiscsi', group='oslo_transfer_iscsi')
    return oslo_transfer.copy(
        url, dst, conf=conf, strategy='dd', rate_limit=8 * MIB, **SHA256
    )


@pytest.mark.parametrize('seconds', [0.02, 0.05, 0.08, 0.12, 0.2, 0.4])
def test_a_copy_that_is_killed(
    seconds, target, image, state, children, tmp_path, iscsi_conf, copy
):
    """At any stage: what it had started ends, and the rest is known."""
    url = f'iscsi://{target.portal}/{offer(target, image)}/1'
    dst = tmp_path / 'there' / 'copy'
    dst.parent.mkdir()
    child = children.start(slow_copy, url, str(dst), state)
    harness.wait_for((state / 'attachments').exists, 5)
    child.wait(seconds)
    child.kill()
    assert child.wait(5)
    assert harness.wait_for(lambda: not dd_lab.processes(state), 5)
    assert harness.wait_for(lambda: not dd_lab.mounts(state), 5)
    assert harness.wait_for(lambda: not dd_lab.openers(dst.parent), 5)
    assert not dst.exists()
    for each in oslo_transfer.attachments(conf=iscsi_conf):
        each.detach()
    assert oslo_transfer.attachments(conf=iscsi_conf) == []
    copy(url, dst, **SHA256)
    assert dst.read_bytes() == DATA
    assert os.listdir(dst.parent) == ['copy']
    # A record that was being written, as "oslo-transfer cleanup" does.
    cleanup.clean([str(state / 'attachments')], older_than=0.0)


# What outlives the call


@pytest.fixture
def service(iscsi_conf):
    """A function that serves on this host."""
    running = []

    def start():
        served = daemon.Service(iscsi_conf, [attach.AttachRole(iscsi_conf)])
        running.append(served.__enter__())
        return served

    yield start
    for each in running:
        each.__exit__()


def test_without_a_service(target, image, ctx):
    """The library leaves no process behind."""
    url = f'iscsi://{target.portal}/{offer(target, image)}/1'
    with pytest.raises(exceptions.AttachError, match='--role attach'):
        make(url, ctx.replace(lasting=True))


def test_the_service_holds_it(service, target, image, attached, ctx, state):
    service()
    name = offer(target, image)
    login = protect(target, name)
    made = attached(
        f'iscsi://{target.portal}/{name}/1',
        lasting=True,
        credentials=login,
    )
    assert made.size == SIZE
    assert read(made) == DATA
    (told,) = client.Client(ctx.conf).attachments()
    assert told['running']
    assert told['source'] == made.source
    assert PASSWORD not in json.dumps(told)
    (directory,) = (
        each for each in (state / 'exports').iterdir() if each.is_dir()
    )
    assert PASSWORD not in (directory / 'record').read_text()
    assert directory.stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(made.path.partition('=')[2])
        with pytest.raises(exceptions.DetachError, match='in use'):
            userspace.detach(made, ctx, False)
    userspace.detach(made, ctx, False)
    userspace.detach(made, ctx, False)


def test_what_is_in_use_stays_known(service, target, image, iscsi_conf):
    """It can be detached later, by whoever looks into the list."""
    service()
    url = f'iscsi://{target.portal}/{offer(target, image)}/1'
    made = oslo_transfer.attach(url, conf=iscsi_conf)
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(made.path.partition('=')[2])
        with pytest.raises(exceptions.DetachError, match='in use') as caught:
            oslo_transfer.detach(made.id, conf=iscsi_conf)
        assert caught.value.leftovers
        assert oslo_transfer.attachments(conf=iscsi_conf) == [made]
    oslo_transfer.detach(made.id, conf=iscsi_conf)
    assert oslo_transfer.attachments(conf=iscsi_conf) == []


def test_what_ends_is_started_again(service, target, image, attached, state):
    service()
    made = attached(
        f'iscsi://{target.portal}/{offer(target, image)}/1', lasting=True
    )
    (pid,) = dd_lab.processes(state)
    os.kill(pid, signal.SIGKILL)
    assert harness.wait_for(
        lambda: bool(set(dd_lab.processes(state)) - {pid}), 5
    )
    path = made.path.partition('=')[2]
    assert harness.wait_for(lambda: os.path.exists(path), 5)
    assert harness.wait_for(lambda: qemunbd.clients(path) == 0, 5)
    assert read(made) == DATA


def test_a_new_service_goes_on(target, image, ctx, iscsi_conf, state):
    """With the secret, which nobody is there to give again."""
    name = offer(target, image)
    login = protect(target, name)
    roles = [attach.AttachRole(iscsi_conf)]
    with daemon.Service(iscsi_conf, roles):
        made = make(
            f'iscsi://{target.portal}/{name}/1',
            ctx.replace(lasting=True, credentials=login),
        )
    assert not dd_lab.processes(state)
    with pytest.raises(exceptions.DetachError):
        userspace.detach(made, ctx, False)
    roles = [attach.AttachRole(iscsi_conf)]
    with daemon.Service(iscsi_conf, roles):
        asks = client.Client(iscsi_conf)
        assert harness.wait_for(lambda: asks.attachments()[0]['running'], 10)
        assert read(made) == DATA
        userspace.detach(made, ctx, False)
        assert asks.attachments() == []


def test_a_guest_waits_for_a_new_service(target, image, iscsi_conf, tmp_path):
    """Its overlay is over the export, and the export stays where it was."""
    disk = tmp_path / 'overlay'
    url = f'iscsi://{target.portal}/{offer(target, image)}/1'
    with contextlib.ExitStack() as stack:
        roles = [attach.AttachRole(iscsi_conf)]
        with daemon.Service(iscsi_conf, roles):
            made = oslo_transfer.copy(url, disk, 'zero_copy', conf=iscsi_conf)
            guest = stack.enter_context(qemu_io.QemuIo(disk))
            guest.ask('read 0 512')
            assert 'read 512/512' in guest.answer(10)
        guest.ask('read 1M 512')
        assert guest.answer(0.5) is None
        roles = [attach.AttachRole(iscsi_conf)]
        with daemon.Service(iscsi_conf, roles):
            assert 'read 512/512' in guest.answer(20)
            stack.close()
            made.attachment.detach()


def test_a_network_that_comes_back(service, target, image, attached):
    """Readers wait meanwhile; it is the same process that goes on."""
    service()
    name = offer(target, image)
    with relay.Relay(target.port) as way:
        port = way.port
        made = attached(f'iscsi://127.0.0.1:{port}/{name}/1', lasting=True)
        assert read(made) == DATA
    with relay.Relay(target.port, listen=port) as way:
        assert read(made) == DATA
        assert way.accepted


def test_a_lun_that_does_not_come_back(image, ctx, iscsi_conf, state):
    """It is told, tried again, and can be taken away."""
    with tgt.Tgt() as mortal:
        url = f'iscsi://{mortal.portal}/{offer(mortal, image)}/1'
        with daemon.Service(iscsi_conf, [attach.AttachRole(iscsi_conf)]):
            made = make(url, ctx.replace(lasting=True))
    with daemon.Service(iscsi_conf, [attach.AttachRole(iscsi_conf)]):
        asks = client.Client(iscsi_conf)
        assert harness.wait_for(lambda: asks.attachments()[0]['problem'], 10)
        assert 'cannot connect' in asks.attachments()[0]['problem']
        assert asks.status()['roles']['attach'] == {
            'attachments': 1,
            'running': 0,
        }
        userspace.detach(made, ctx, False)


def test_the_service_is_killed(
    target, image, ctx, iscsi_conf, state, children
):
    """What it ran ends with it; the next one starts it again."""
    child = children.start(serve, str(state))
    asks = client.Client(iscsi_conf)
    assert harness.wait_for((state / 'sock').exists, 10)
    made = make(
        f'iscsi://{target.portal}/{offer(target, image)}/1',
        ctx.replace(lasting=True),
    )
    child.kill()
    assert child.wait(5)
    assert harness.wait_for(lambda: not dd_lab.processes(state), 5)
    with daemon.Service(iscsi_conf, [attach.AttachRole(iscsi_conf)]):
        assert harness.wait_for(lambda: asks.attachments()[0]['running'], 10)
        assert read(made) == DATA
        userspace.detach(made, ctx, False)


def serve(state):
    """The job of a child."""
    conf = dd_lab.configure(forkserver.make_conf({}), state)
    with daemon.Service(conf, [attach.AttachRole(conf)]):
        threading.Event().wait()


def test_it_is_read_by_dd_while_held(service, target, image, attached, ctx):
    """The same export for who stays and who comes and goes."""
    service()
    made = attached(
        f'iscsi://{target.portal}/{offer(target, image)}/1', lasting=True
    )
    with dd.DdSource(made, ctx) as source, source.stream(MIB, 4096) as stream:
        assert stream.read() == DATA[MIB : MIB + 4096]
