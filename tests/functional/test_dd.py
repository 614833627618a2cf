# SPDX-License-Identifier: Apache-2.0
"""dd with real disks, full ones, failing ones, and an NBD server behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import attachment_records
from oslo_transfer.drivers import base
from oslo_transfer.drivers import dd
from oslo_transfer.drivers import nbdfuse
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from oslo_transfer.testing import harness
from tests.functional import forkserver
from tests.functional import storage
from tests.servers import dd_lab
from tests.servers import nbdkit

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group', 'nothing_left'),
]

MIB = 1 << 20
KIB = 1 << 10
SIZE = 9 * MIB + 512 * 3
DATA = harness.pattern(SIZE, 'dd')
OLD = (b'SECRET of the old tenant! ' * 40)[:1024]
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}


@pytest.fixture
def state():
    with dd_lab.state_directory() as directory:
        yield directory


@pytest.fixture
def ctx(conf, state):
    conf.set_override('state_path', str(state), group='oslo_transfer')
    return dd_lab.context(conf)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    return path


@pytest.fixture
def target(tmp_path):
    made = []

    def make(path=None, size=SIZE, **rest):
        made.append(dd_lab.Target(path or tmp_path / 'part', size, **rest))
        return made[-1]

    yield make
    for each in made:
        each.close()


def fill(path, into, ctx, form='path'):
    with dd.DdSource(dd_lab.attachment(path, form=form), ctx) as source:
        source.fill(into)
    assert not into.problems


# Devices and file systems


@pytest.mark.parametrize('sectors', [512, 4096])
def test_from_device_to_device(sectors, ctx, disks, target, tmp_path):
    """With O_DIRECT on both; all of it, and nothing but it."""
    size = 10 * MIB
    data = harness.pattern(size, 'device')
    path = tmp_path / 'disk'
    path.write_bytes(data)
    device = storage.run(
        *('losetup', '-f', '--show', '-b', sectors, '--direct-io=on', path)
    )
    other = disks.loop(size + MIB, fill=OLD)
    try:
        into = target(other, size, device=True)
        fill(device, into, ctx)
        assert into.content[:size] == data
        assert OLD in os.pread(into.fd, MIB, size)
    finally:
        storage.run('losetup', '-d', device)


@pytest.mark.parametrize('kind', ['ext4', 'xfs', 'btrfs', 'tmpfs'])
def test_file_systems(kind, ctx, disks, target):
    directory = (
        getattr(disks, kind)()
        if kind in ('xfs', 'btrfs')
        else getattr(disks, kind)(64 * MIB)
    )
    image = directory / 'image'
    image.write_bytes(DATA)
    into = target(directory / 'part')
    fill(image, into, ctx)
    assert into.content == DATA
    into.close()


def test_zeros_are_left_out_of_a_new_file(ctx, tmp_path, target, conf):
    """Whether the source has them as holes or as blocks."""
    conf.set_override('block_bytes', 64 * KIB, group='oslo_transfer_dd')
    data = harness.spread(
        SIZE, {0: DATA[:MIB], 5 * MIB: DATA[: 128 * KIB], SIZE - 7: b'the end'}
    )
    for name, holes in (('zeros', False), ('holes', True)):
        path = tmp_path / name
        path.write_bytes(data)
        if holes:
            storage.run('fallocate', '--dig-holes', path)
        into = target(tmp_path / f'part {name}')
        fill(path, into, ctx)
        assert into.content == data
        stored = os.fstat(into.fd).st_blocks * 512
        assert stored < 2 * MIB
        written = SIZE - into.by_origin['zeros'] - into.holes
        # The last block of the file system is a whole one.
        assert stored - 4 * KIB < written <= stored


def test_nothing_old_shows_on_a_device(ctx, disks, tmp_path, target):
    """Zeros are written there, and holes too."""
    path = tmp_path / 'image'
    path.write_bytes(harness.spread(8 * MIB, {3 * MIB: DATA[:4096]}))
    storage.run('fallocate', '--dig-holes', path)
    device = disks.loop(8 * MIB, fill=OLD)
    into = target(device, 8 * MIB, device=True)
    fill(path, into, ctx)
    assert into.content == path.read_bytes()
    assert b'SECRET' not in into.content


# Errors


def test_a_full_file_system(ctx, disks, image, target):
    directory = disks.tmpfs(4 * MIB)
    into = target(directory / 'part')
    with pytest.raises(exceptions.NoSpace, match='No space left') as caught:
        fill(image, into, ctx)
    assert 'from byte' in str(caught.value)
    # What was reported is there.
    for start, end in into.in_place:
        assert os.pread(into.fd, end - start, start) == DATA[start:end]
    into.close()


@pytest.mark.parametrize(
    ('inject', 'error'),
    [
        ('write:error=EIO:when=2', exceptions.StorageError),
        ('write:error=ENOSPC:when=2', exceptions.NoSpace),
        ('write:error=EROFS:when=1', exceptions.AccessDenied),
        ('fdatasync:error=EIO', exceptions.StorageError),
        ('read:error=EIO:when=2', exceptions.Unavailable),
        ('read:retval=0:when=2', exceptions.SourceChanged),
    ],
)
def test_system_calls_that_fail(
    inject, error, ctx, conf, image, target, need, tmp_path, monkeypatch
):
    """No byte is reported that is not there, and none is skipped."""
    need('strace')
    conf.set_override('parallel', 1, group='oslo_transfer_dd')
    into = target()
    program = tmp_path / 'bin' / 'dd'
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec strace -qq -o /dev/null -P {image} -P {into.path} '
        f'-e inject={inject} {shutil.which("dd")} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{program.parent}:{os.environ["PATH"]}')
    with pytest.raises(error):
        fill(image, into, ctx)
    for start, end in into.in_place:
        assert os.pread(into.fd, end - start, start) == DATA[start:end]


def test_another_program_of_that_name(
    ctx, image, target, need, tmp_path, monkeypatch
):
    """BusyBox has a dd that knows less."""
    need('busybox')
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'dd').symlink_to(shutil.which('busybox'))
    monkeypatch.setenv('PATH', f'{tmp_path}/bin:{os.environ["PATH"]}')
    with pytest.raises(exceptions.CapabilityMissing, match='GNU'):
        fill(image, target(), ctx)


# Over NBD


@pytest.fixture
def nbd(need, image):
    """A function that serves the image."""
    need('nbdkit', 'nbdfuse', 'fusermount3')
    with contextlib.ExitStack() as stack:

        def serve(*parameters, filters=()):
            return stack.enter_context(
                nbdkit.Nbdkit(
                    *('file', image, *parameters), filters=filters, unix=True
                )
            )

        yield lambda *parameters, **rest: serve(*parameters, **rest).url()


def test_over_nbd(nbd, ctx, target):
    into = target()
    fill(nbd(), into, ctx, form='nbd')
    assert into.content == DATA


def test_a_bad_sector(nbd, ctx, target, tmp_path, conf):
    """It fails where that is; what comes before can be gone on with."""
    conf.set_override('parallel', 1, group='oslo_transfer_dd')
    bad = 5 * MIB + 4096
    mapping = tmp_path / 'map'
    mapping.write_text(
        f'# Mapfile\n0x0 ? 1\n0x0 {bad:#x} +\n{bad:#x} 0x1000 -\n'
        f'{bad + 4096:#x} {SIZE - bad - 4096:#x} +\n'
    )
    into = target()
    with pytest.raises(exceptions.Unavailable, match=f'byte {5 * MIB} on'):
        fill(
            nbd(f'ddrescue-mapfile={mapping}', filters=['ddrescue']),
            into,
            ctx,
            form='nbd',
        )
    assert list(into.in_place) == [(0, 5 * MIB)]


def test_a_server_that_goes_in_the_middle(nbd, ctx, target, image):
    """It is told, and never taken for zeros or for the end."""
    uri = nbd('rdelay=100ms', filters=['delay'])
    into = target()
    server = next(iter(dd_lab.processes(uri.partition('=')[2])))

    def end():
        assert harness.wait_for(lambda: into.in_place.total > 0, 10)
        os.kill(server, signal.SIGKILL)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(exceptions.Unavailable):
        fill(uri, into, ctx, form='nbd')
    thread.join()
    assert 0 < into.in_place.total < SIZE
    for start, stop in into.in_place:
        assert os.pread(into.fd, stop - start, start) == DATA[start:stop]


def test_cancel_over_a_slow_server(nbd, ctx, target):
    """Also a dd that waits in the kernel for FUSE ends at once."""
    cancel = threading.Event()
    timer = threading.Timer(0.3, cancel.set)
    uri = nbd('rdelay=20', filters=['delay'])
    timer.start()
    began = time.monotonic()
    with pytest.raises(exceptions.TransferCancelled):
        fill(uri, target(), ctx.replace(cancel=cancel), form='nbd')
    assert time.monotonic() - began < 0.3 + 1.2
    timer.join()


def test_nothing_to_mount(nbd, ctx, state):
    for uri in (f'nbd+unix:///?socket={state}/none', 'nonsense'):
        with pytest.raises(exceptions.Unavailable, match='nbdfuse'):
            fill(uri, None, ctx, form='nbd')


def test_a_server_that_says_nothing(ctx, state):
    """The wait is bounded."""
    server = silent_socket(state / 's')
    try:
        began = time.monotonic()
        with pytest.raises(exceptions.Unavailable, match='0.4 seconds'):
            fill(
                f'nbd+unix:///?socket={state}/s',
                None,
                ctx.replace(connect_timeout=0.4),
                form='nbd',
            )
        assert time.monotonic() - began < 4
    finally:
        server.close()


def silent_socket(path):
    """A socket that nobody answers on."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def test_without_nbdfuse(nbd, ctx, monkeypatch, tmp_path):
    uri = nbd()
    monkeypatch.setattr('oslo_transfer.children._PATH', str(tmp_path))
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(exceptions.CapabilityMissing, match='libnbd-bin'):
        fill(uri, None, ctx, form='nbd')


def test_a_killed_nbdfuse(nbd, ctx, target, state):
    """Its mount goes with it, and dd's error is no end of the data."""
    uri = nbd('rdelay=100ms', filters=['delay'])
    into = target()
    source = dd.DdSource(dd_lab.attachment(uri, form='nbd'), ctx)

    def end():
        assert harness.wait_for(lambda: into.in_place.total > 0, 10)
        for pid, command in dd_lab.processes(state).items():
            if 'nbdfuse -r' in command:
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=end)
    thread.start()
    with source, pytest.raises(exceptions.Unavailable):
        source.fill(into)
    thread.join()
    assert into.in_place.total < SIZE


# Being killed


def open_and_fill(uri, path, state, rate):
    """The job of a child."""
    conf = forkserver.make_conf({'state_path': str(state)})
    into = dd_lab.Target(path, SIZE)
    into.limit = rate
    fill(uri, into, dd_lab.context(conf), form='nbd')


@pytest.mark.parametrize('seconds', [0.0, 0.05, 0.2, 0.5])
def test_killed_at_any_time(seconds, nbd, state, children, tmp_path, ctx):
    """Whatever it had started ends with it."""
    uri = nbd('rdelay=50ms', filters=['delay'])
    child = children.start(
        open_and_fill, uri, tmp_path / 'part', state, 8 * MIB
    )
    child.wait(seconds)
    child.kill()
    assert child.wait(5)
    assert harness.wait_for(lambda: not dd_lab.processes(state), 5)
    assert harness.wait_for(lambda: not dd_lab.mounts(state), 5)
    # Only an empty directory can be left, for the next one to remove.
    with nbdfuse.mounted(nbd(), ctx):
        assert len(os.listdir(state / nbdfuse.DIRECTORY)) == 1


def test_what_a_killed_helper_has_left_is_swept(nbd, ctx, state):
    """Also a dead mount, where even fusermount3 was killed."""
    stale = state / nbdfuse.DIRECTORY / 'stale'
    stale.mkdir(parents=True)
    (stale / 'export').touch()
    helper = subprocess.Popen(
        ['nbdfuse', '-r', '-P', stale / 'pid', stale / 'export', nbd()]
    )
    assert harness.wait_for((stale / 'pid').exists, 10)
    helper.kill()
    helper.wait()
    assert dd_lab.mounts(stale)
    with nbdfuse.mounted(nbd(), ctx) as mount:
        assert not stale.exists()
        assert os.path.getsize(mount.path) == SIZE


# As a strategy


@pytest.fixture
def copies(conf, state):
    conf.set_override('state_path', str(state), group='oslo_transfer')

    def copy(src, dst, **options):
        return oslo_transfer.copy(
            src, dst, strategy='dd', conf=conf, **options
        )

    return copy


def test_copy(copies, image, tmp_path):
    dst = tmp_path / 'copy'
    result = copies(image, dst, **SHA256)
    assert dst.read_bytes() == DATA
    assert result.strategy == 'dd'
    assert result.verified
    assert result.bytes_by_origin == {'origin': SIZE}


def test_zeros_do_not_count_as_written(copies, tmp_path, conf):
    """As with any other copy: what is not stored was not written."""
    conf.set_override('block_bytes', 64 * KIB, group='oslo_transfer_dd')
    image = tmp_path / 'image'
    image.write_bytes(
        harness.spread(SIZE, {MIB: DATA[:MIB], SIZE - 512: DATA[:512]})
    )
    dst = tmp_path / 'copy'
    result = copies(image, dst)
    assert dst.read_bytes() == image.read_bytes()
    assert result.bytes_written <= dst.stat().st_blocks * 512 < 2 * MIB
    assert result.bytes_written >= MIB + 512
    assert result.bytes_by_origin == {'origin': SIZE}


class Stuck(base.Driver):
    """What it attaches is not there, and cannot be taken away."""

    name = 'stuck'
    schemes = ('stuck',)
    capabilities = base.Capability.ATTACH

    def attach(self, endpoint, ctx, record):
        record({})
        return dd_lab.attachment(endpoint.path)

    def detach(self, attachment, ctx, force):
        raise exceptions.DetachError('it is stuck', ('all of it',))


def test_the_first_error_counts(copies, tmp_path, conf, caplog):
    """And what is left can be found: in the log, and in the list."""
    with fixtures.registered(Stuck):
        with pytest.raises(exceptions.NotFound, match='nothing-here'):
            copies(f'stuck://host{tmp_path}/nothing-here', tmp_path / 'copy')
        assert 'it is stuck' in caplog.text
        (left,) = oslo_transfer.attachments(conf=conf)
    attachment_records.Records(dd_lab.context(conf)).remove(left.id)


def test_copy_to_a_device(copies, image, disks):
    """Nothing old shows behind the image either."""
    device = disks.loop(12 * MIB, fill=OLD)
    result = copies(image, device, **SHA256)
    assert result.form == 'device'
    assert device.read_bytes() == DATA + bytes(12 * MIB - SIZE)


def test_two_copies_share_a_limit(copies, image, tmp_path, conf):
    """That of the process, which both of them keep together."""
    conf.set_override(
        *('process_rate_limit_bytes_per_second', 8 * MIB),
        group='oslo_transfer',
    )
    began = time.monotonic()
    threads = [
        threading.Thread(target=copies, args=[image, tmp_path / name])
        for name in ('one', 'two')
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    # What comes in the first moment, and the last slices, are not waited for.
    assert time.monotonic() - began > 2 * SIZE / (8 * MIB) - 0.6
    assert (tmp_path / 'one').read_bytes() == DATA
    assert (tmp_path / 'two').read_bytes() == DATA


def test_a_wrong_copy_is_not_shown(copies, image, tmp_path, disks):
    wrong = {'hash_algo': 'sha256', 'hash_value': '0' * 64}
    with pytest.raises(exceptions.IntegrityError):
        copies(image, tmp_path / 'copy', **wrong)
    assert os.listdir(tmp_path) == ['image']
    device = disks.loop(12 * MIB, fill=OLD)
    with pytest.raises(exceptions.IntegrityError):
        copies(image, device, **wrong)
    # A half image would not boot.
    assert DATA[:512] not in device.read_bytes()[:MIB]


def kill_in_the_middle(src, dst, state, at):
    """The job of a child."""

    def progress(_count, total):
        if total >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    return forkserver.copy(
        *(src, dst, {'state_path': str(state), 'sync_bytes': MIB}),
        strategy='dd',
        progress=progress,
        rate_limit=16 * MIB,
        **SHA256,
    )


def test_a_killed_copy_goes_on(copies, image, tmp_path, children, state, conf):
    """No dd writes on when the lock is free again."""
    dst = tmp_path / 'there' / 'copy'
    dst.parent.mkdir()
    child = children.start(
        kill_in_the_middle, str(image), str(dst), state, 5 * MIB
    )
    with pytest.raises(forkserver.Died):
        child.result()
    assert harness.wait_for(lambda: not dd_lab.openers(dst.parent), 1)
    assert not dst.exists()
    result = copies(image, dst, **SHA256)
    assert dst.read_bytes() == DATA
    assert os.listdir(dst.parent) == ['copy']
    assert result.bytes_by_origin.get('resumed', 0) > 0
    # What the killed one had attached is still known.
    for each in oslo_transfer.attachments(conf=conf):
        each.detach()
