# SPDX-License-Identifier: Apache-2.0
"""A destination can be read at once, is complete soon, and stays right.

The service runs as operators run it, the origin is nginx, and those who read
are QEMU and the kernel.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer import qcow2
from oslo_transfer import qemu_img
from tests import groups
from tests.servers import cache_service
from tests.servers import certs
from tests.servers import child
from tests.servers import dd_lab
from tests.servers import nginx
from tests.servers import qemu_io
from tests.servers import qmp
from tests.servers import resource
from tests import waiting

MIB = 1 << 20
DATA = (
    resource.pattern(5 * MIB)
    + bytes(9 * MIB)
    + resource.pattern(4 * MIB + 512)
)
DIGEST = hashlib.sha256(DATA).hexdigest()

pytestmark = groups.marks(
    'cache',
    all(
        map(
            shutil.which,
            (
                *('nginx', 'nbdfuse', 'qemu-img', 'qemu-io'),
                'qemu-system-x86_64',
            ),
        )
    ),
)


@pytest.fixture
def here():
    with dd_lab.short_directory() as path:
        yield path


@pytest.fixture
def origin(tmp_path):
    (tmp_path / 'image').write_bytes(DATA)
    with nginx.Nginx(tmp_path) as server:
        yield server


class Host(cache_service.CacheService):
    """Copies to where it runs."""

    def copy(self, url, name='disk', form='overlay', **options):
        made = oslo_transfer.copy(
            url,
            self.path / name,
            'copy_on_read',
            conf=self.conf(),
            accept=('file', form),
            **options,
        )
        assert made.form == form
        return made.attachment


class Guest(qemu_io.QemuIo):
    """Has a disk open, and reads and writes it."""

    def read(self, offset, length):
        self.begin(offset, length)
        return self.end()

    def begin(self, offset, length):
        self.ask(f'read -v {offset} {length}')

    def end(self):
        told = self.answer(20)
        assert told is not None
        if 'read failed' in told:
            raise OSError(told)
        lines = [line for line in told.splitlines() if line[8:9] == ':']
        return b''.join(bytes.fromhex(line[9:58]) for line in lines)

    def write(self, offset, length, byte):
        self.ask(f'write -P {byte} {offset} {length}')
        assert f'wrote {length}/{length}' in self.answer(20)


def as_nobody(service):
    """The command line as a user without rights."""
    command = service.command

    def called(*words):
        found = command(*words)
        user = ['setpriv', '--reuid', '65534', '--regid', '65534']
        return [*user, '--clear-groups', '--', *found]

    return called


def host(path, **options):
    return Host(path, {'oslo_transfer_cache': {'hydrate_delay': 0, **options}})


def read(path):
    """All of a disk, as QEMU sees it."""
    copied = path.parent / 'copied'
    subprocess.run(
        ['qemu-img', 'convert', '-O', 'raw', path, copied],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return copied.read_bytes()


def requests(origin, method='GET'):
    log = (origin.directory / 'access.log').read_text().splitlines()
    return [line for line in log if f'"{method} /image' in line]


def sent(origin):
    """Bytes that the origin has sent, but for the first look of each."""
    sizes = [int(line.split('" ')[1].split()[1]) for line in requests(origin)]
    return sum(size for size in sizes if size > 1)


@pytest.mark.parametrize('form', ['overlay', 'path'])
def test_a_destination_becomes_independent(form, here, origin):
    """And what was asked of the origin is the image, once."""
    disk = here / 'disk'
    with host(here) as service:
        attachment = service.copy(
            origin.url('/image'),
            form=form,
            hash_algo='sha256',
            hash_value=DIGEST,
        )
        assert read(disk) == DATA
        service.wait(disk, 'released')
        origin.stop()
        attachment.detach()
        assert oslo_transfer.attachments(service.conf()) == []
        assert service.client.cached() == []
    assert not disk.is_symlink()
    assert read(disk) == DATA
    base = disk if form == 'path' else here / 'disk.base'
    assert base.read_bytes() == DATA
    # The holes are still there.
    assert base.stat().st_blocks * 512 < 10 * MIB
    assert base.stat().st_nlink == 1


def test_the_origin_sends_the_image_once(here, origin):
    """And no more."""
    with host(here) as service:
        service.copy(origin.url('/image'))
        service.wait(here / 'disk', 'released')
    assert sent(origin) == len(DATA), requests(origin)


def test_no_byte_is_moved_twice(here, origin):
    """The data file gets the name."""
    with host(here, hydrate_delay=3600) as service:
        service.copy(origin.url('/image'), form='path')
        (data,) = (here / 'state' / 'cache').glob('*/data')
        inode = data.stat().st_ino
        service.stop()
    with host(here) as service:
        service.wait(here / 'disk', 'released')
    assert (here / 'disk').stat().st_ino == inode


def test_who_reads_does_not_notice(here, origin):
    """A file that was opened before goes on to be read."""
    with host(here) as service:
        attachment = service.copy(origin.url('/image'), form='path')
        with open(here / 'disk', 'rb') as file:
            assert file.read(4096) == DATA[:4096]
            waiting.until(
                lambda: 'in use' in service.export(here / 'disk')['problem']
            )
            # The next one can read it, too, as long as somebody does.
            assert (here / 'disk').read_bytes() == DATA
            assert (here / 'disk').is_symlink()
            with pytest.raises(exceptions.DetachError, match='in use'):
                attachment.detach()
            origin.stop()
            assert file.read() == DATA[4096:]
        service.wait(here / 'disk', 'released')


def test_a_guest_keeps_its_overlay(here, origin):
    """It is not changed under it, but as soon as nobody uses it."""
    disk = here / 'disk'
    with host(here) as service:
        attachment = service.copy(origin.url('/image'))
        with Guest(disk) as guest:
            guest.write(MIB, 4096, 0x5A)
            service.wait(disk, 'promoted')
            waiting.until(lambda: 'in use' in service.export(disk)['problem'])
            with pytest.raises(exceptions.DetachError, match='in use'):
                attachment.detach()
            assert guest.read(MIB, 4096) == b'\x5a' * 4096
        attachment.detach()
    assert qcow2.backing(str(disk)) == (str(here / 'disk.base'), 'raw')
    assert read(disk) == DATA[:MIB] + b'\x5a' * 4096 + DATA[MIB + 4096 :]


def test_a_running_guest_lets_go(here, origin):
    """As the user guide has it: by QMP, and QEMU does not need the service."""
    disk, base = here / 'disk', here / 'disk.base'
    with host(here) as service:
        service.copy(origin.url('/image'))
        with qmp.Qemu(disk) as guest:
            service.wait(disk, 'promoted')
            guest.ask(
                'blockdev-add',
                **{'node-name': 'base0', 'driver': 'raw', 'read-only': True},
                file={'driver': 'file', 'filename': str(base)},
            )
            reopened = {'node-name': 'disk0', 'driver': 'qcow2'}
            reopened.update(file='file0', backing='base0')
            guest.ask('blockdev-reopen', options=[reopened])
            # Only the overlay itself is in use now.
            waiting.until(lambda: str(disk) in service.export(disk)['problem'])
        service.wait(disk, 'released')
    assert qcow2.backing(str(disk)) == (str(base), 'raw')


def test_who_reads_is_not_cut_off(here, origin):
    """By a detach, while it still needs the origin."""
    with host(here, hydrate='false') as service:
        attachment = service.copy(origin.url('/image'))
        with Guest(here / 'disk') as guest:
            assert guest.read(0, 65536) == DATA[:65536]
            for force in (False, True):
                with pytest.raises(exceptions.DetachError, match='in use'):
                    attachment.detach(force)
            assert guest.read(MIB, 65536) == DATA[MIB:][:65536]
        attachment.detach()


def test_a_detach_at_the_last_moment(here, origin):
    """What is complete becomes a file, whoever is quicker."""
    with host(here) as service:
        for number in range(5):
            name = f'disk{number}'
            attachment = service.copy(origin.url('/image'), name)
            service.wait(here / name, 'complete', 'promoted', 'released')
            attachment.detach()
            assert read(here / name) == DATA
            assert (here / f'{name}.base').read_bytes() == DATA


def nbdfuses(service):
    """Their processes."""
    found = dd_lab.processes(service.state / 'cached')
    return [
        pid
        for pid, command in found.items()
        if command.split()[0].endswith('nbdfuse')
    ]


def test_nbdfuse_dies(here, origin):
    """The file is back in a moment, and is never an empty one."""
    disk = here / 'disk'
    with host(here, hydrate='false') as service:
        service.copy(origin.url('/image'), form='path')
        (pid,) = nbdfuses(service)
        os.kill(pid, signal.SIGKILL)
        waiting.until(lambda: nbdfuses(service) not in ([], [pid]))
        waiting.until(
            lambda: disk.exists() and disk.stat().st_size == len(DATA)
        )
        assert disk.read_bytes() == DATA


def test_a_cache_on_another_file_system(here, origin, disks):
    """It is copied, once, and nothing is left behind."""
    blocks = disks.tmpfs(64 * MIB)
    with host(here, directory=blocks) as service:
        for form in ('overlay', 'path'):
            service.copy(origin.url('/image'), form, form)
            service.wait(here / form, 'released')
            assert read(here / form) == DATA
        assert list(blocks.glob('.taken/*')) == []
    assert list(here.glob('.*')) == []


def test_a_destination_that_cannot_be_made(here, origin):
    """It is refused at once, and not when all has arrived."""
    (here / 'there').mkdir(0o500)
    os.chown(here / 'there', 65534, 65534)
    lost = host(here)
    lost.command = as_nobody(lost)
    os.chown(here, 65534, 65534)
    with lost as service:
        for form in ('overlay', 'path'):
            with pytest.raises(exceptions.AccessDenied, match='may not write'):
                service.copy(origin.url('/image'), 'there/disk', form)
        assert service.client.cached() == []


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_guest_survives_a_restart(number, here, origin):
    """Also one that happens while it reads, and without the origin."""
    with host(here, hydrate='false') as service:
        service.copy(origin.url('/image'))
        with Guest(here / 'disk') as guest:
            assert guest.read(0, 65536) == DATA[:65536]
            service.stop(number)
            guest.begin(4 * MIB, 65536)
            service.start()
            assert guest.end() == DATA[4 * MIB :][:65536]
            assert guest.read(15 * MIB, 65536) == DATA[15 * MIB :][:65536]
            if number == signal.SIGTERM:
                origin.stop()
                service.stop(number)
                service.start()
                assert guest.read(0, 65536) == DATA[:65536]


def test_two_guests_of_one_image(here, origin):
    """Its blocks are fetched once."""
    with host(here) as service:
        for name in ('one', 'two'):
            service.copy(origin.url('/image'), name)
        for name in ('one', 'two'):
            assert read(here / name) == DATA
            service.wait(here / name, 'released')
        assert sent(origin) < 1.5 * len(DATA), requests(origin)
    assert (here / 'one.base').read_bytes() == DATA
    assert (here / 'two.base').read_bytes() == DATA


def test_a_second_guest_when_the_first_has_its_file(here, origin):
    """What the first one does with it is not the second one's business."""
    with host(here) as service:
        service.copy(origin.url('/image'), 'one')
        with Guest(here / 'one') as guest:
            service.wait(here / 'one', 'promoted')
            made = service.copy(origin.url('/image'), 'two')
            with open(here / 'one.base', 'r+b') as file:
                file.write(b'Z' * 65536)
            assert read(here / 'two') == DATA
            service.wait(here / 'two', 'released')
            assert guest.read(MIB, 4096) == DATA[MIB : MIB + 4096]
        made.detach()
        service.wait(here / 'one', 'released')
    assert (here / 'two.base').read_bytes() == DATA


def test_a_wrong_digest_is_no_file(here, origin):
    """It is served on, for guests run from it, and said."""
    with host(here) as service:
        wrong = {'hash_algo': 'sha256', 'hash_value': '0' * 64}
        attachment = service.copy(origin.url('/image'), **wrong)
        service.wait(here / 'disk', 'damaged')
        waiting.until(
            lambda: 'sha256' in service.export(here / 'disk')['problem']
        )
        assert read(here / 'disk') == DATA
        with pytest.raises(exceptions.IntegrityError):
            service.copy(origin.url('/image'), 'other', **wrong)
        attachment.detach()
        assert not (here / 'disk.base').exists()
        # Nothing of it is kept.
        right = {**wrong, 'hash_value': DIGEST}
        service.copy(origin.url('/image'), 'right', **right)
        service.wait(here / 'right', 'released')


def test_another_version_is_never_mixed_in(here, origin):
    """What is here is served, what is missing fails."""
    with host(here, hydrate='false') as service:
        service.copy(origin.url('/image'))
        with Guest(here / 'disk') as guest:
            assert guest.read(0, 65536) == DATA[:65536]
            service.stop()
            path = origin.root / 'image'
            path.write_bytes(bytes(len(DATA)))
            os.utime(path, (1, 1))
            service.start()
            assert guest.read(0, 65536) == DATA[:65536]
            with pytest.raises(OSError, match='read failed'):
                guest.read(16 * MIB, 4096)


def test_who_may_not_read_it_gets_nothing(here, tmp_path):
    """Each is asked for by its own credentials, whatever is here."""
    (tmp_path / 'image').write_bytes(DATA)
    (tmp_path / 'users').write_text('me:{PLAIN}secret\n')
    location = f'auth_basic "x"; auth_basic_user_file "{tmp_path}/users";'
    with nginx.Nginx(tmp_path, location=location) as origin, host(here) as it:
        url = origin.url('/image')
        known = oslo_transfer.Location(
            url, credentials=oslo_transfer.LoginCredentials('me', 'secret')
        )
        it.copy(known, 'mine')
        assert read(here / 'mine') == DATA
        with pytest.raises(exceptions.AccessDenied):
            it.copy(url, 'other')
        assert [each['destination'] for each in it.client.cached()] == [
            str(here / 'mine')
        ]


def test_secrets_are_shown_to_nobody(here, origin):
    url = origin.url('/image?signature=hidden')
    with host(here, hydrate='false') as service:
        service.copy(url.replace('://', '://me:secret@'))
        told = str(service.client.cached()) + service.log.read_text()
        told += service.run('cache', 'list', '-f', 'json').stdout
        told += service.run('attachment', 'list', '-f', 'json').stdout
        told += (here / 'disk').read_bytes()[:65536].decode('latin-1')
        for path in (here / 'state' / 'cached').glob('*/secret'):
            assert path.stat().st_mode & 0o077 == 0
            assert 'hidden' in path.read_text()
    assert 'hidden' not in told
    assert 'secret' not in told


def test_the_next_reader_is_ahead(here, origin):
    """What the first has read is fetched before the second asks."""
    with host(here, hydrate='false') as service:
        attachment = service.copy(origin.url('/image'), 'first')
        with Guest(here / 'first') as guest:
            guest.read(3 * MIB, 65536)
            guest.read(15 * MIB, 65536)
        attachment.detach()
        shutil.rmtree(here / 'state' / 'cache', ignore_errors=True)
        service.stop()
    with host(here, hydrate='false') as service:
        service.copy(origin.url('/image'), 'second')
        waiting.until(
            lambda: service.export(here / 'second')['here'] >= 2 * 65536
        )
        origin.stop()
        with Guest(here / 'second') as guest:
            assert guest.read(15 * MIB, 65536) == DATA[15 * MIB :][:65536]
            assert guest.read(3 * MIB, 65536) == DATA[3 * MIB :][:65536]


def test_a_name_that_is_taken(here, origin):
    (here / 'disk.base').write_bytes(b'mine')
    with host(here) as service:
        with pytest.raises(exceptions.AlreadyExists, match='disk.base'):
            service.copy(origin.url('/image'))
        assert service.client.cached() == []
    assert (here / 'disk.base').read_bytes() == b'mine'
    assert not (here / 'disk').exists()


def test_a_link_that_somebody_replaced(here, origin):
    """Is left as it is."""
    with host(here, hydrate_delay=3600) as service:
        service.copy(origin.url('/image'), form='path')
        service.stop()
    (here / 'disk').unlink()
    (here / 'disk').write_bytes(b'mine')
    with host(here) as service:
        waiting.until(
            lambda: 'left as it is' in service.export(here / 'disk')['problem']
        )
        service.stop()
    assert (here / 'disk').read_bytes() == b'mine'


def test_without_a_service(here, origin):
    """The next strategy of the order does it."""
    lost = host(here)
    with pytest.raises(exceptions.AttachError, match='--role cache'):
        lost.copy(origin.url('/image'))
    conf = lost.conf()
    conf.set_override(
        'strategy_order', ['copy_on_read', 'full_copy'], 'oslo_transfer'
    )
    made = oslo_transfer.copy(
        origin.url('/image'),
        here / 'disk',
        conf=conf,
        accept=('file', 'overlay'),
    )
    assert made.strategy == 'full_copy'
    assert pathlib.Path(here / 'disk').read_bytes() == DATA


@pytest.mark.parametrize('form', ['overlay', 'path'])
def test_what_is_released_is_its_owners(form, here, origin):
    """The service does not look at it again, whatever becomes of it."""
    with host(here) as service:
        attachment = service.copy(origin.url('/image'), form=form)
        service.wait(here / 'disk', 'released')
        for path in here.glob('disk*'):
            path.unlink()
        service.stop()
        before = len(requests(origin))
        service.start()
        assert service.export(here / 'disk')['state'] == 'released'
        attachment.detach()
        assert service.client.cached() == []
        assert len(requests(origin)) == before
    assert not list(here.glob('disk*'))


@pytest.mark.parametrize('secure', [False, True])
def test_other_hosts(secure, here, origin):
    """By NBD and HTTP, at one port each, with TLS if there is a key."""
    ports = {'nbd_port': child.free_port(), 'http_port': child.free_port()}
    curl = ['curl', '-sS', '--fail']
    scheme = 's' if secure else ''
    if secure:
        authority = certs.Certs(here / 'certs')
        ports['cert_file'], ports['key_file'] = authority.pair()
        curl += ['--cacert', authority.ca_file]
    with host(here, hydrate='false', **ports) as service:
        attachment = service.copy(origin.url('/image'))
        nbd, http = service.export(here / 'disk')['urls']
        assert nbd.startswith(f'nbd{scheme}://127.0.0.1:')
        assert http.startswith(f'http{scheme}://127.0.0.1:')
        got = subprocess.run(
            [*curl, '-r', f'{MIB}-{2 * MIB - 1}', http],
            check=True,
            capture_output=True,
        )
        assert got.stdout == DATA[MIB : 2 * MIB]
        conf = service.conf()
        if secure:
            conf.set_override(
                'ca_file', authority.ca_file, 'oslo_transfer_nbd'
            )
        oslo_transfer.copy(nbd, here / 'copied', conf=conf)
        assert (here / 'copied').read_bytes() == DATA
        attachment.detach()
        refused = subprocess.run([*curl, http], capture_output=True)
        assert refused.returncode == 22


def test_a_cache_that_is_too_small(here, origin):
    """All of an image can be read, and what it cannot become is said."""
    with host(here, max_bytes=4 * MIB) as service:
        service.copy(origin.url('/image'))
        waiting.until(
            lambda: 'max_bytes' in service.export(here / 'disk')['problem']
        )
        assert read(here / 'disk') == DATA
        store = service.client.status()['roles']['cache']['store']
        assert store['bytes_used'] <= 4 * MIB
        assert service.export(here / 'disk')['state'] == 'serving'


def identity(path):
    if not os.path.lexists(path):
        return None
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize('what', ['nothing', 'fifo', 'file', 'overlay'])
@pytest.mark.parametrize('form', ['overlay', 'path'])
def test_a_destination_that_is_another_thing(what, form, here, origin):
    """It is left alone, nobody hangs, and it can be detached."""
    disk = here / 'disk'
    with host(here, hydrate_delay=3600) as service:
        attachment = service.copy(origin.url('/image'), form=form)
        service.stop()
    disk.unlink()
    if what == 'fifo':
        os.mkfifo(disk)
    elif what == 'file':
        disk.write_bytes(b'mine')
    elif what == 'overlay':
        qemu_img.create_overlay(
            str(disk), '/nowhere', 'raw', MIB, dd_lab.context(service.conf())
        )
    before = identity(disk)
    with host(here) as service:
        waiting.until(
            lambda: 'left as it is' in service.export(disk)['problem']
        )
        attachment.detach()
        assert service.client.cached() == []
    assert identity(disk) == before
    assert not (here / 'disk.base').exists()
    assert list((here / 'state' / 'cached').glob('*/*')) == []


def test_two_images_in_a_cache_for_one(here, origin):
    """What cannot be kept is not fetched again and again."""
    (origin.root / 'other').write_bytes(resource.pattern(len(DATA)))
    with host(here, max_bytes=24 * MIB) as service:
        conf = service.conf()
        first = oslo_transfer.attach(
            f'cache+{origin.url("/other")}', conf=conf
        )
        waiting.until(lambda: service.client.cached()[0]['here'] == len(DATA))
        made = service.copy(origin.url('/image'))
        waiting.until(
            lambda: 'in use' in service.export(here / 'disk')['problem']
        )
        assert read(here / 'disk') == DATA
        before = sent(origin)
        first.detach()
        # There is room for it now.
        service.wait(here / 'disk', 'released')
        assert sent(origin) - before < 1.2 * len(DATA)
        made.detach()
    assert (here / 'disk.base').read_bytes() == DATA
