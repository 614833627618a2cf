# SPDX-License-Identifier: Apache-2.0
"""What file systems and names can do to a copy, and it to them."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat

import pytest

import oslo_transfer
from oslo_transfer.drivers import file as drivers_file
from oslo_transfer import exceptions
from oslo_transfer import flight
from tests.functional import forkserver
from tests.servers import resource
from tests.unit import fakes

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group', 'nothing_left'),
]

MIB = 1 << 20
KIB = 1 << 10
DATA = resource.pattern(3 * MIB + 777)
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}


@pytest.fixture
def src(tmp_path):
    path = tmp_path / 'source' / 'image'
    path.parent.mkdir()
    path.write_bytes(DATA)
    return path


@pytest.fixture
def place(tmp_path):
    """An empty directory for the destination."""
    path = tmp_path / 'there'
    path.mkdir()
    return path


def allocated(path):
    return os.stat(path).st_blocks * 512


def used(directory):
    found = os.statvfs(directory)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


# Full disks


@pytest.mark.parametrize('kind', ['tmpfs', 'ext4'])
def test_too_little_space_is_known_before_the_first_byte(
    kind, disks, conf, server
):
    there = getattr(disks, kind)(8 * MIB)
    before = used(there)
    data = resource.Virtual(64 * MIB)
    url = server.put('/image', data)
    with pytest.raises(exceptions.NoSpace, match='are needed') as caught:
        oslo_transfer.copy(url, there / 'image', conf=conf)
    assert not caught.value.retryable
    assert server.bytes_sent() < 20 * MIB, 'only what was on its way'
    assert set(os.listdir(there)) <= {'lost+found'}
    assert used(there) == before


@pytest.mark.parametrize('kind', ['tmpfs', 'ext4'])
@pytest.mark.parametrize('streams', [1, 4])
def test_disk_that_fills_up_in_the_middle(
    streams, kind, disks, conf, server, monkeypatch
):
    """Somebody else takes the space that was there at first."""
    there = getattr(disks, kind)(8 * MIB)
    size = 5 * MIB
    data = resource.pattern(size)
    url = server.put('/image', data, rate=3 * MIB)
    conf.set_override('max_streams', streams, group='oslo_transfer')
    thief = there / 'thief'

    def steal(chunk, total):
        if total > MIB and not thief.exists():
            with open(thief, 'wb') as file:
                try:
                    while True:
                        file.write(bytes(64 * KIB))
                        file.flush()
                except OSError:
                    pass

    with pytest.raises(exceptions.NoSpace):
        oslo_transfer.copy(url, there / 'image', conf=conf, progress=steal)
    assert not (there / 'image').exists()
    thief.unlink()
    result = oslo_transfer.copy(url, there / 'image', conf=conf)
    assert (there / 'image').read_bytes() == data
    assert result.bytes_by_origin['resumed'] > 0
    assert set(os.listdir(there)) <= {'image', 'lost+found'}


@pytest.mark.parametrize('kind', ['tmpfs', 'ext4'])
def test_disk_that_is_too_small_for_what_has_no_size(
    kind, disks, conf, server
):
    there = getattr(disks, kind)(8 * MIB)
    before = used(there)
    url = server.put(
        '/image', resource.Virtual(16 * MIB), chunked=True, etag=None
    )
    with pytest.raises(exceptions.NoSpace):
        oslo_transfer.copy(url, there / 'image', conf=conf)
    assert set(os.listdir(there)) <= {'lost+found'}
    assert used(there) == before


def test_sparse_image_needs_room_for_its_data_only(disks, conf, tmp_path):
    there = disks.tmpfs(8 * MIB)
    image = tmp_path / 'image'
    with open(image, 'wb') as file:
        for offset in (0, 1 << 30, 9 << 30):
            file.seek(offset)
            file.write(DATA[:MIB])
        file.truncate(10 << 30)
    result = oslo_transfer.copy(image, there / 'image', conf=conf)
    assert result.size == 10 << 30
    assert result.bytes_written <= 3 * MIB
    assert allocated(there / 'image') <= 4 * MIB


def test_space_that_must_be_reserved_is_reserved_first(disks, conf, server):
    there = disks.tmpfs(8 * MIB)
    conf.set_override('preallocate', True, group='oslo_transfer')
    data = DATA[:MIB] + bytes(3 * MIB)
    url = server.put('/image', data)
    oslo_transfer.copy(url, there / 'image', conf=conf)
    assert (there / 'image').read_bytes() == data
    assert allocated(there / 'image') >= len(data)
    before = used(there)
    with pytest.raises(exceptions.NoSpace):
        oslo_transfer.copy(
            server.put('/more', resource.Virtual(6 * MIB)),
            there / 'more',
            conf=conf,
        )
    assert os.listdir(there) == ['image']
    assert used(there) == before


@pytest.mark.parametrize('known', [True, False])
def test_files_may_not_get_longer(known, children, server, place):
    """RLIMIT_FSIZE; the signal that comes with it kills nobody."""
    url = server.put('/image', DATA, chunked=not known)
    child = children.start(
        forkserver.copy_with_limit,
        'RLIMIT_FSIZE',
        MIB,
        url,
        str(place / 'image'),
        **({} if known else SHA256),
    )
    with pytest.raises(exceptions.NoSpace):
        child.result()
    assert not (place / 'image').exists()
    if known:
        assert not os.listdir(place)


def test_full_device_file(conf, src):
    """A character device is no destination, whatever it does."""
    with pytest.raises(exceptions.InvalidEndpoint):
        oslo_transfer.copy(src, '/dev/full', conf=conf, overwrite=True)


def test_full_file_object(conf, src):
    with open('/dev/full', 'wb', buffering=0) as file:
        with pytest.raises(exceptions.NoSpace):
            oslo_transfer.copy(src, file, conf=conf)


# Places where nothing can be written


def test_read_only_file_system(disks, conf, src):
    there = disks.tmpfs(8 * MIB)
    closed = disks.read_only(there)
    with pytest.raises(exceptions.AccessDenied, match='Read-only'):
        oslo_transfer.copy(src, closed / 'image', conf=conf)
    assert not os.listdir(there)


def test_directory_that_is_missing(conf, src, place):
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.copy(src, place / 'no' / 'image', conf=conf)
    assert not os.listdir(place)


def test_directory_that_is_a_file(conf, src, place):
    (place / 'file').write_bytes(b'x')
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.copy(src, place / 'file' / 'image', conf=conf)
    assert os.listdir(place) == ['file']


def test_directory_that_is_not_ours(need, children, src, place):
    need(root=True)
    place.chmod(0o555)
    for path in (place, *place.parents, *src.parents):
        if str(path).startswith('/tmp/'):
            path.chmod(path.stat().st_mode | 0o055)
    child = children.start(
        forkserver.copy_as, 65534, str(src), str(place / 'image')
    )
    with pytest.raises(exceptions.AccessDenied):
        child.result()
    assert not os.listdir(place)


@pytest.mark.parametrize('end', ['/', '/.', '/..', ''])
def test_directory_is_no_destination(end, conf, src, place):
    with pytest.raises(exceptions.InvalidEndpoint):
        oslo_transfer.copy(src, f'{place}{end}', conf=conf, overwrite=True)
    assert not os.listdir(place)


# What may be there already


def test_existing_file_stays(conf, src, place):
    dst = place / 'image'
    dst.write_bytes(b'mine')
    with pytest.raises(exceptions.AlreadyExists):
        oslo_transfer.copy(src, dst, conf=conf)
    assert dst.read_bytes() == b'mine'
    assert os.listdir(place) == ['image']


def test_existing_file_that_is_right_is_used(conf, place):
    """Nobody is asked: the source does not even exist."""
    dst = place / 'image'
    dst.write_bytes(DATA)
    before = dst.stat()
    result = oslo_transfer.copy(place / 'no', dst, conf=conf, **SHA256)
    assert result.reused
    assert result.verified
    assert result.size == len(DATA)
    after = dst.stat()
    assert (before.st_ino, before.st_mtime_ns) == (
        after.st_ino,
        after.st_mtime_ns,
    )
    assert os.listdir(place) == ['image']


def test_existing_file_that_is_wrong_is_not_used(conf, src, place):
    dst = place / 'image'
    for wrong in (DATA[:-1], DATA + b'x', b'', DATA[:-1] + b'x'):
        dst.write_bytes(wrong)
        with pytest.raises(exceptions.AlreadyExists):
            oslo_transfer.copy(src, dst, conf=conf, **SHA256)
        assert dst.read_bytes() == wrong
    result = oslo_transfer.copy(src, dst, conf=conf, overwrite=True, **SHA256)
    assert not result.reused
    assert dst.read_bytes() == DATA


def test_observers_see_also_what_is_used(conf, place):
    """A signature is checked, or it is not: it must not be passed over."""
    dst = place / 'image'
    dst.write_bytes(DATA)

    class Observer:
        seen = b''

        def update(self, data):
            self.seen += data

    observer = Observer()
    oslo_transfer.copy(
        place / 'no', dst, conf=conf, observers=[observer], **SHA256
    )
    assert observer.seen == DATA

    class Strict:
        def update(self, data):
            raise RuntimeError('the signature is wrong')

    with pytest.raises(RuntimeError):
        oslo_transfer.copy(
            place / 'no', dst, conf=conf, observers=[Strict()], **SHA256
        )
    assert dst.read_bytes() == DATA


def test_old_content_is_there_until_the_new_is(conf, server, place):
    dst = place / 'image'
    dst.write_bytes(b'old')
    reader = open(dst, 'rb')
    seen = set()

    def look(chunk, total):
        seen.add(dst.read_bytes())

    url = server.put('/image', DATA, rate=8 * MIB)
    oslo_transfer.copy(url, dst, conf=conf, overwrite=True, progress=look)
    assert seen == {b'old'}
    assert dst.read_bytes() == DATA
    # Whoever has the old one open keeps it.
    assert reader.read() == b'old'
    reader.close()


def make_link(path):
    target = path.parent.parent / 'target'
    target.write_bytes(b'mine')
    path.symlink_to(target)


def make_dangling_link(path):
    path.symlink_to(path.parent.parent / 'nowhere')


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        old = os.getcwd()
        os.chdir(path.parent)
        try:
            sock.bind(path.name)
        finally:
            os.chdir(old)


def make_device(path):
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 7))


KINDS = {
    'link': make_link,
    'dangling link': make_dangling_link,
    'directory': os.mkdir,
    'fifo': os.mkfifo,
    'socket': make_socket,
    'device': make_device,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize('overwrite', [True, False])
@pytest.mark.parametrize('kind', KINDS)
def test_what_is_no_file_is_left_alone(
    kind, overwrite, need, conf, src, place
):
    need(root=kind == 'device')
    dst = place / 'image'
    KINDS[kind](dst)
    before = os.lstat(dst)
    with pytest.raises(exceptions.InvalidEndpoint):
        oslo_transfer.copy(src, dst, conf=conf, overwrite=overwrite)
    after = os.lstat(dst)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert os.listdir(place) == ['image']
    if kind == 'link':
        assert (place.parent / 'target').read_bytes() == b'mine'
    if kind == 'dangling link':
        assert not (place.parent / 'nowhere').exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('which', ['part', 'journal'])
def test_what_is_planted_beside_is_not_written_to(
    which, kind, need, conf, src, place
):
    """Somebody who can write there puts traps where we work."""
    need(root=kind == 'device')
    dst = place / 'image'
    trap = flight.part_path(str(dst))
    if which == 'journal':
        trap = flight.journal_path(trap)
    KINDS[kind](type(dst)(trap))
    try:
        oslo_transfer.copy(src, dst, conf=conf)
    except exceptions.TransferError:
        assert not dst.exists()
    else:
        assert dst.read_bytes() == DATA
    if kind == 'link':
        assert (place.parent / 'target').read_bytes() == b'mine'
    assert not (place.parent / 'nowhere').exists()


def test_hard_link_to_the_part_is_not_written_to(conf, src, place):
    """What somebody linked there keeps its bytes and its name."""
    dst = place / 'image'
    precious = place.parent / 'precious'
    precious.write_bytes(b'mine')
    os.link(precious, flight.part_path(str(dst)))
    oslo_transfer.copy(src, dst, conf=conf)
    assert dst.read_bytes() == DATA
    assert precious.read_bytes() == b'mine'
    assert precious.stat().st_nlink == 1
    assert os.listdir(place) == ['image']


@pytest.mark.parametrize('kind', ['file', *KINDS])
@pytest.mark.parametrize('overwrite', [True, False])
def test_name_that_is_taken_meanwhile(
    overwrite, kind, need, conf, server, place
):
    need(root=kind == 'device')
    dst = place / 'image'
    url = server.put('/image', DATA, rate=20 * MIB)

    def take(chunk, total):
        if not os.path.lexists(dst):
            if kind == 'file':
                dst.write_bytes(b'mine')
            else:
                KINDS[kind](dst)

    copy = {'conf': conf, 'overwrite': overwrite, 'progress': take}
    if overwrite and kind != 'directory':
        # A name is replaced, and not what a link leads to.
        oslo_transfer.copy(url, dst, **copy)
        assert dst.read_bytes() == DATA
        assert not dst.is_symlink()
        return
    with pytest.raises(exceptions.TransferError) as caught:
        oslo_transfer.copy(url, dst, **copy)
    if not overwrite:
        assert isinstance(caught.value, exceptions.AlreadyExists)
    if kind == 'file':
        assert dst.read_bytes() == b'mine'
    if kind == 'link':
        assert (place.parent / 'target').read_bytes() == b'mine'


@pytest.mark.parametrize('replaced', [True, False])
@pytest.mark.parametrize('overwrite', [True, False])
def test_part_that_is_taken_away_meanwhile(
    overwrite, replaced, conf, server, place
):
    """Another file under its name is not shown as the destination."""
    dst = place / 'image'
    part = flight.part_path(str(dst))
    url = server.put('/image', DATA, rate=20 * MIB)
    taken = []

    def take_away(chunk, total):
        if taken:
            return
        taken.append(total)
        os.unlink(part)
        if replaced:
            with open(part, 'wb') as file:
                file.write(b'half a copy of somebody else')

    with pytest.raises(exceptions.StorageError):
        oslo_transfer.copy(
            url, dst, conf=conf, overwrite=overwrite, progress=take_away
        )
    assert not dst.exists()
    if replaced:
        with open(part, 'rb') as file:
            assert file.read() == b'half a copy of somebody else'


def test_directory_that_is_taken_away_meanwhile(conf, server, place):
    url = server.put('/image', DATA, rate=20 * MIB)

    def take_away(chunk, total):
        if place.exists():
            shutil.rmtree(place)

    with pytest.raises(exceptions.TransferError):
        oslo_transfer.copy(url, place / 'image', conf=conf, progress=take_away)
    assert not place.exists()


# Names


@pytest.mark.parametrize(
    'name',
    [
        'x' * 255,
        '\N{SNOWMAN}' * 85,
        os.fsdecode(b'\xff\xfe not UTF-8 \x80'),
        os.fsdecode(b'\xff' * 255),
        'white space\tand\nlines',
        '-rf',
        '.hidden',
        '%2e%2e',
        "quo'te\"s",
        'C:',
        'x' * 238 + '.raw',
        'y' * 239,
        'z' * 247,
    ],
    ids=repr,
)
def test_every_name_works(name, conf, src, place):
    dst = f'{place}/{name}'
    oslo_transfer.copy(src, dst, conf=conf, **SHA256)
    assert os.listdir(place) == [name]
    assert oslo_transfer.copy(src, dst, conf=conf, **SHA256).reused
    again = oslo_transfer.copy(dst, f'{place}/copy', conf=conf)
    assert again.size == len(DATA)


@pytest.mark.parametrize(
    'name', ['x' * 256, '\N{SNOWMAN}' * 86, 'a' * 4096, 'nul\0nul']
)
def test_names_that_cannot_be(name, conf, src, place):
    with pytest.raises(exceptions.InvalidEndpoint):
        oslo_transfer.copy(src, f'{place}/{name}', conf=conf)
    assert not os.listdir(place)


def test_long_names_that_begin_alike_do_not_meet(conf, src, place):
    """Their part files have short names, but not the same."""
    names = ['n' * 250 + str(number) for number in range(3)]
    parts = {flight.part_path(f'{place}/{name}') for name in names}
    assert len(parts) == 3
    assert all(len(os.path.basename(part)) < 247 for part in parts)


# Mode and owner


@pytest.mark.parametrize('umask', [0o022, 0o077, 0o000, 0o027])
def test_mode_is_what_open_would_give(umask, conf, src, place):
    old = os.umask(umask)
    try:
        oslo_transfer.copy(src, place / 'image', conf=conf)
    finally:
        os.umask(old)
    mode = (place / 'image').stat().st_mode
    assert stat.S_IMODE(mode) == 0o666 & ~umask


@pytest.mark.parametrize('mode', [0o600, 0o640, 0o444, 0o777, 0o4755])
def test_mode_and_owner_of_what_is_replaced(mode, need, conf, src, place):
    need(root=True)
    dst = place / 'image'
    dst.write_bytes(b'old')
    os.chown(dst, 1234, 5678)
    dst.chmod(mode)
    oslo_transfer.copy(src, dst, conf=conf, overwrite=True)
    found = dst.stat()
    assert (found.st_uid, found.st_gid) == (1234, 5678)
    # Who owns the bytes of a setuid program has not changed them.
    assert stat.S_IMODE(found.st_mode) == mode & 0o777


def test_nobody_else_can_read_a_part(conf, server, place):
    modes = set()

    def look(chunk, total):
        modes.update(
            stat.S_IMODE((place / name).stat().st_mode)
            for name in os.listdir(place)
        )

    url = server.put('/image', DATA, rate=20 * MIB)
    oslo_transfer.copy(url, place / 'image', conf=conf, progress=look)
    assert modes == {0o600}


# Holes and zeros


def test_huge_sparse_image_takes_no_time(disks, conf, tmp_path):
    """10 GiB with little in it, by size as well as by content."""
    image = tmp_path / 'image'
    spots = [0, 64 * KIB + 1, 5 << 30, (10 << 30) - 5 * KIB]
    with open(image, 'wb') as file:
        for number, offset in enumerate(spots):
            file.seek(offset)
            file.write(DATA[number * KIB : number * KIB + 4 * KIB])
        file.truncate(10 << 30)
    dst = tmp_path / 'there'
    result = oslo_transfer.copy(image, dst, 'full_copy', conf=conf)
    assert result.size == 10 << 30 == dst.stat().st_size
    assert result.bytes_written < MIB
    assert allocated(dst) <= allocated(image) + MIB
    assert result.seconds < 5
    with open(dst, 'rb') as file:
        for number, offset in enumerate(spots):
            file.seek(offset)
            right = DATA[number * KIB : number * KIB + 4 * KIB]
            assert file.read(4 * KIB) == right
            assert not any(file.read(4 * KIB)) or number == 0


def test_zeros_that_are_data_become_holes(conf, tmp_path):
    """A fat image gets lean, and only with the option on."""
    data = bytes(4 * MIB) + DATA[:MIB] + bytes(4 * MIB)
    image = tmp_path / 'image'
    image.write_bytes(data)
    assert allocated(image) >= len(data)
    for detect, most in ((True, 2 * MIB), (False, len(data) + MIB)):
        conf.set_override('detect_zeros', detect, group='oslo_transfer')
        dst = tmp_path / str(detect)
        result = oslo_transfer.copy(image, dst, 'full_copy', conf=conf)
        assert dst.read_bytes() == data
        assert most // 2 <= allocated(dst) <= most
        assert result.bytes_written == (MIB if detect else len(data))


@pytest.mark.parametrize('digest', [True, False])
@pytest.mark.parametrize('tail', [1, 4 * KIB, 3 * MIB])
def test_zeros_at_the_end_are_there(tail, digest, conf, server, tmp_path):
    data = DATA + bytes(tail)
    options = {}
    if digest:
        options['hash_algo'] = 'sha256'
        options['hash_value'] = hashlib.sha256(data).hexdigest()
    url = server.put('/image', data)
    oslo_transfer.copy(url, tmp_path / 'a', conf=conf, **options)
    assert (tmp_path / 'a').read_bytes() == data
    image = tmp_path / 'hole'
    image.write_bytes(DATA)
    os.truncate(image, len(data))
    oslo_transfer.copy(image, tmp_path / 'b', conf=conf, **options)
    assert (tmp_path / 'b').read_bytes() == data


@pytest.mark.parametrize('size', [0, 1])
def test_smallest_images(size, conf, tmp_path):
    image = tmp_path / 'image'
    image.write_bytes(b'x' * size)
    for name in ('clone', 'full_copy', None):
        dst = tmp_path / str(name)
        try:
            oslo_transfer.copy(image, dst, name, conf=conf)
        except exceptions.CapabilityMissing:
            assert name == 'clone'
            continue
        assert dst.read_bytes() == b'x' * size


def test_source_that_is_cut_while_it_is_read(conf, tmp_path):
    """The hole that it leaves is not taken for zeros."""
    image = tmp_path / 'image'
    image.write_bytes(DATA)
    ctx = fakes.make_ctx(conf)
    with drivers_file.FileSource(str(image), ctx) as source:
        (whole,) = source.extents(0, len(DATA))
        assert whole.data
        os.truncate(image, MIB)
        with pytest.raises(exceptions.SourceChanged):
            list(source.extents(2 * MIB, MIB))


@pytest.mark.parametrize('change', ['append', 'rewrite'])
def test_source_that_is_written_to_while_it_is_read(change, conf, tmp_path):
    image = tmp_path / 'image'
    image.write_bytes(DATA)
    conf.set_override('max_retries', 0, group='oslo_transfer')

    def write(chunk, total):
        with open(image, 'r+b') as file:
            file.seek(0, os.SEEK_END if change == 'append' else os.SEEK_SET)
            file.write(b'new')

    with pytest.raises(exceptions.SourceChanged):
        oslo_transfer.copy(
            image,
            tmp_path / 'dst',
            'full_copy',
            conf=conf,
            progress=write,
            rate_limit=8 * MIB,
        )
    assert not (tmp_path / 'dst').exists()


# Reflinks


@pytest.mark.parametrize('kind', ['xfs', 'btrfs'])
def test_clone_moves_no_bytes(kind, disks, conf):
    there = getattr(disks, kind)()
    image = there / 'image'
    data = resource.pattern(16 * MIB)
    image.write_bytes(data)
    os.sync()
    before = used(there)
    for digest in (False, True):
        options = {}
        if digest:
            options['hash_algo'] = 'sha256'
            options['hash_value'] = hashlib.sha256(data).hexdigest()
        dst = there / f'copy-{digest}'
        result = oslo_transfer.copy(image, dst, conf=conf, **options)
        assert result.strategy == 'clone'
        assert result.method == 'reflink'
        assert result.bytes_written == 0
        assert result.size == len(data)
        assert result.verified is digest
        assert not result.attempts
        assert dst.read_bytes() == data
    os.sync()
    assert used(there) < before + 8 * MIB, 'the blocks are shared'
    assert sorted(os.listdir(there)) == [
        'copy-False',
        'copy-True',
        'image',
    ]
    # And yet they are two files.
    with open(there / 'copy-True', 'r+b') as file:
        file.write(b'changed')
    assert image.read_bytes() == data


@pytest.mark.parametrize('kind', ['xfs', 'btrfs'])
def test_clone_is_verified(kind, disks, conf):
    there = getattr(disks, kind)()
    image = there / 'image'
    image.write_bytes(DATA[::-1])
    with pytest.raises(exceptions.DigestMismatch):
        oslo_transfer.copy(image, there / 'dst', 'clone', conf=conf, **SHA256)
    with pytest.raises(exceptions.IntegrityError):
        oslo_transfer.copy(image, there / 'dst', conf=conf, **SHA256)
    with pytest.raises(exceptions.SizeMismatch):
        oslo_transfer.copy(
            image, there / 'dst', 'clone', conf=conf, expected_size=5
        )
    assert os.listdir(there) == ['image']


def test_clone_of_less_than_there_was(disks, conf):
    """A longer part file of an earlier copy does not shine through."""
    there = disks.xfs()
    image = there / 'image'
    image.write_bytes(DATA)
    with open(flight.part_path(str(there / 'dst')), 'wb') as file:
        file.write(b'x' * 2 * len(DATA))
    result = oslo_transfer.copy(image, there / 'dst', 'clone', conf=conf)
    assert result.size == len(DATA)
    assert (there / 'dst').read_bytes() == DATA


@pytest.mark.parametrize('kind', ['tmpfs', 'ext4', 'across'])
def test_where_there_is_no_clone_the_bytes_are_copied(kind, disks, conf):
    if kind == 'across':
        here, there = disks.xfs(), disks.btrfs()
    else:
        here = there = getattr(disks, kind)(16 * MIB)
    image = here / 'image'
    image.write_bytes(DATA)
    with pytest.raises(exceptions.CapabilityMissing) as caught:
        oslo_transfer.copy(image, there / 'dst', 'clone', conf=conf)
    assert not (there / 'dst').exists()
    result = oslo_transfer.copy(image, there / 'dst', conf=conf)
    assert result.strategy == 'full_copy'
    assert result.bytes_written == len(DATA)
    (attempt,) = result.attempts
    assert attempt.strategy == 'clone'
    assert attempt.error == 'CapabilityMissing'
    assert attempt.reason == str(caught.value)
    reason = 'different file systems' if kind == 'across' else 'no reflinks'
    assert reason in attempt.reason
    assert (there / 'dst').read_bytes() == DATA
    assert set(os.listdir(there)) <= {'image', 'dst', 'lost+found'}


def test_clone_that_cannot_be_leaves_what_can_be_resumed(
    disks, conf, children
):
    """The default order tries it first each time."""
    there = disks.ext4(32 * MIB)
    conf.set_override('segment_bytes', MIB, group='oslo_transfer')
    image = there / 'image'
    data = resource.pattern(6 * MIB)
    image.write_bytes(data)
    value = hashlib.sha256(data).hexdigest()
    options = {'hash_algo': 'sha256', 'hash_value': value}

    def stop(chunk, total):
        if total > 4 * MIB:
            raise RuntimeError('enough')

    with pytest.raises(RuntimeError):
        oslo_transfer.copy(
            image,
            there / 'dst',
            conf=conf,
            progress=stop,
            rate_limit=16 * MIB,
            **options,
        )
    result = oslo_transfer.copy(image, there / 'dst', conf=conf, **options)
    assert result.bytes_by_origin['resumed'] >= 3 * MIB
    assert (there / 'dst').read_bytes() == data


def test_next_strategy_keeps_the_lock(conf, src, place, children):
    """Another process must not begin with the same part file."""
    dst = place / 'image'
    part = flight.part_path(str(dst))
    inodes = set()

    def look(chunk, total):
        inodes.add(os.stat(part).st_ino)
        with pytest.raises(exceptions.DeadlineExceeded):
            children.start(
                forkserver.copy, str(src), str(dst), deadline=0.05
            ).result()

    oslo_transfer.copy(src, dst, conf=conf, progress=look, rate_limit=8 * MIB)
    assert len(inodes) == 1
    assert dst.read_bytes() == DATA
    assert os.listdir(place) == ['image']
