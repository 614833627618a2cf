# SPDX-License-Identifier: Apache-2.0
"""A block device shows nothing but the image and zeros.

What was on it before is an old tenant's: it must not show behind the
image, between its data, or after a copy that failed.
"""

from __future__ import annotations

import hashlib
import os
import signal

import pytest

import oslo_transfer
from oslo_transfer.drivers import device as devices
from oslo_transfer import exceptions
from oslo_transfer import growth
from tests.functional import forkserver
from tests.functional import storage
from tests.servers import resource
from tests import waiting

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group', 'nothing_left'),
]

MIB = 1 << 20
KIB = 1 << 10
SIZE = 12 * MIB
OLD = b'SECRET of the old tenant! ' * 40 + b'0123456789abcdef'
OLD = OLD[:1024]
DATA = resource.pattern(3 * MIB + 512 * 5)


def digest_of(data):
    return {
        'hash_algo': 'sha256',
        'hash_value': hashlib.sha256(data).hexdigest(),
    }


@pytest.fixture
def device(disks):
    """One that is full of old data."""
    return disks.loop(SIZE, fill=OLD)


def content(device):
    """What a machine would read, and not what is cached."""
    fd = os.open(device, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        with open(fd, 'rb', closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def assert_clean(device, data):
    """The data, then zeros, and nothing old anywhere."""
    found = content(device)
    assert len(found) == SIZE
    assert found[: len(data)] == data
    assert not any(found[len(data) :])
    assert b'SECRET' not in found


@pytest.fixture
def src(tmp_path):
    def make(data):
        path = tmp_path / 'image'
        path.write_bytes(data)
        return path

    return make


IMAGES = {
    'data': DATA,
    'zeros inside': DATA[:MIB] + bytes(4 * MIB) + DATA[:MIB],
    'zeros at the end': DATA + bytes(3 * MIB),
    'zeros at the start': bytes(3 * MIB) + DATA,
    'short runs of zeros': b''.join(
        DATA[i * 4096 : i * 4096 + 4096] + bytes(64 * KIB + i)
        for i in range(40)
    ),
    'only zeros': bytes(5 * MIB),
    'less than a block': DATA[:333],
    'a little over the first MiB': DATA[: MIB + 1],
    'as large as the device': resource.pattern(SIZE),
    'nothing': b'',
}


@pytest.mark.parametrize(
    ('origin', 'digest'), [('file', False), ('http', True)]
)
@pytest.mark.parametrize('kind', IMAGES)
def test_nothing_old_shows(kind, origin, digest, device, conf, server, src):
    data = IMAGES[kind]
    url = server.put('/image', data) if origin == 'http' else src(data)
    result = oslo_transfer.copy(
        url, device, conf=conf, **(digest_of(data) if digest else {})
    )
    assert result.form == 'device'
    assert result.size == len(data)
    assert result.verified is digest
    assert_clean(device, data)


def test_holes_are_no_gaps_to_look_through(device, conf, tmp_path):
    """A hole of the image is zeros on the device, whatever was there."""
    image = tmp_path / 'image'
    with open(image, 'wb') as file:
        for offset in (64 * KIB, 3 * MIB, 7 * MIB):
            file.seek(offset)
            file.write(DATA[: 128 * KIB])
        file.truncate(9 * MIB)
    oslo_transfer.copy(image, device, conf=conf)
    assert_clean(device, image.read_bytes())


def test_size_that_is_not_known(device, conf, server):
    url = server.put('/image', DATA, chunked=True, etag=None)
    oslo_transfer.copy(url, device, conf=conf)
    assert_clean(device, DATA)


def test_several_streams(device, conf, server, monkeypatch):
    monkeypatch.setattr(
        growth.Growth,
        'wants_more',
        lambda self, streams, **_rest: streams < self._most,
    )
    data = DATA + bytes(4 * MIB) + DATA
    url = server.put('/image', data, rate=8 * MIB)
    oslo_transfer.copy(url, device, conf=conf, **digest_of(data))
    assert len(server.seen('/image')) > 1
    assert_clean(device, data)


def test_device_without_zeroing_is_written(device, conf, src, monkeypatch):
    """Where the kernel has no quick way the zeros are written."""
    monkeypatch.setattr(devices, '_BLKZEROOUT', 0x9999)
    data = IMAGES['zeros inside']
    oslo_transfer.copy(src(data), device, conf=conf)
    assert_clean(device, data)


# Until it is verified


@pytest.mark.parametrize('origin', ['file', 'http'])
def test_wrong_image_does_not_boot(origin, device, conf, server, src):
    data = DATA + bytes(MIB)
    url = server.put('/image', data) if origin == 'http' else src(data)
    with pytest.raises(exceptions.DigestMismatch):
        oslo_transfer.copy(url, device, conf=conf, **digest_of(b'other'))
    assert not any(content(device)[:MIB])


def test_first_mib_is_last(device, conf, server):
    """Neither the old system nor half of the new one is there."""
    seen = []

    def look(chunk, total):
        seen.append(content(device)[:MIB])

    url = server.put('/image', DATA, rate=8 * MIB)
    oslo_transfer.copy(url, device, conf=conf, progress=look)
    assert seen
    assert not any(any(each) for each in seen)
    assert_clean(device, DATA)


@pytest.mark.parametrize('fraction', [0.05, 0.6])
def test_killed_copy_does_not_boot(fraction, device, conf, server, children):
    data = resource.pattern(6 * MIB)
    url = server.put('/image', data, rate=10 * MIB)
    child = children.start(forkserver.copy, url, str(device))
    waiting.until(lambda: server.bytes_sent() > fraction * len(data))
    child.kill(signal.SIGKILL)
    with pytest.raises(forkserver.Died):
        child.result()
    assert not any(content(device)[:MIB])
    # And the next one has it for itself at once.
    oslo_transfer.copy(url, device, conf=conf)
    assert_clean(device, data)


def test_copy_that_fails_does_not_boot(device, conf, server):
    url = server.put('/image', DATA, rate=8 * MIB)

    def stop(chunk, total):
        raise RuntimeError('enough')

    with pytest.raises(RuntimeError):
        oslo_transfer.copy(url, device, conf=conf, progress=stop)
    assert not any(content(device)[:MIB])


def test_next_location_begins_anew(device, conf, server):
    """Nothing of the first one shines through the second."""
    wrong = resource.pattern(6 * MIB, seed=3)
    urls = [server.put('/wrong', wrong), server.put('/right', DATA)]
    result = oslo_transfer.copy(urls, device, conf=conf, **digest_of(DATA))
    assert len(result.attempts) >= 1
    assert_clean(device, DATA)


# What must not be touched


def test_too_small_is_known_before_a_byte_is_written(
    device, conf, server, src
):
    before = content(device)
    for source in (
        server.put('/image', resource.Virtual(SIZE + 1)),
        src(resource.pattern(SIZE + 512)),
    ):
        with pytest.raises(exceptions.NoSpace):
            oslo_transfer.copy(source, device, conf=conf)
    url = server.put('/unknown', DATA, chunked=True)
    with pytest.raises(exceptions.NoSpace):
        oslo_transfer.copy(url, device, conf=conf, expected_size=SIZE + 1)
    assert content(device) == before


def test_too_small_for_what_has_no_size(device, conf, server):
    url = server.put(
        '/image', resource.Virtual(2 * SIZE), chunked=True, etag=None
    )
    with pytest.raises(exceptions.NoSpace):
        oslo_transfer.copy(url, device, conf=conf)
    assert not any(content(device)[:MIB])


def test_source_that_cannot_be_read_leaves_it_alone(
    device, conf, server, tmp_path
):
    before = content(device)
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.copy(tmp_path / 'no', device, conf=conf)
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.copy(server.url('/no'), device, conf=conf)
    url = server.put('/image', DATA)
    with pytest.raises(exceptions.SizeMismatch):
        oslo_transfer.copy(url, device, conf=conf, expected_size=5)
    assert content(device) == before


def test_mounted_device_is_not_touched(disks, need, conf, src):
    need('mkfs.ext4')
    device = disks.loop(SIZE)
    storage.run('mkfs.ext4', '-q', device)
    there = disks.mount(device)
    (there / 'file').write_bytes(b'mine')
    os.sync()
    before = content(device)
    with pytest.raises(exceptions.AccessDenied, match='in use'):
        oslo_transfer.copy(src(DATA), device, conf=conf, overwrite=True)
    assert content(device) == before
    assert (there / 'file').read_bytes() == b'mine'


def test_read_only_device(disks, conf, src):
    device = disks.loop(SIZE, fill=OLD, read_only=True)
    with pytest.raises(exceptions.AccessDenied):
        oslo_transfer.copy(src(DATA), device, conf=conf)
    assert content(device).count(OLD) == SIZE // len(OLD)


def test_device_that_somebody_has_claimed(device, conf, src):
    """As device mapper, RAID and cluster managers claim theirs."""
    fd = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        before = content(device)
        with pytest.raises(exceptions.AccessDenied, match='in use'):
            oslo_transfer.copy(src(DATA), device, conf=conf)
        assert content(device) == before
    finally:
        os.close(fd)


def test_clone_is_passed_over(device, conf, src):
    result = oslo_transfer.copy(src(DATA), device, conf=conf)
    assert result.strategy == 'full_copy'
    with pytest.raises(exceptions.CapabilityMissing):
        oslo_transfer.copy(src(DATA), device, 'clone', conf=conf)


# Other ways to name it, and to use it


def test_link_to_a_device_is_followed(device, conf, src, tmp_path):
    link = tmp_path / 'by-id'
    link.symlink_to(device)
    second = tmp_path / 'by-path'
    second.symlink_to(link)
    result = oslo_transfer.copy(src(DATA), second, conf=conf)
    assert result.form == 'device'
    assert_clean(device, DATA)
    assert second.is_symlink()
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ['by-id', 'by-path', 'image']


def test_zeroed_device_gets_the_data_only(disks, conf, src):
    """The caller says that it reads as zeros, so nothing is cleared."""
    device = disks.loop(SIZE)
    data = IMAGES['zeros inside']
    place = oslo_transfer.Location(str(device), zeroed=True)
    result = oslo_transfer.copy(src(data), place, conf=conf, **digest_of(data))
    assert result.bytes_written <= 2 * MIB + 128 * KIB
    assert_clean(device, data)
    backing = storage.run(
        'losetup', '--noheadings', '--output', 'BACK-FILE', device
    )
    os.sync()
    assert os.stat(backing).st_blocks * 512 <= 3 * MIB


@pytest.mark.parametrize('digest', [True, False])
def test_device_as_source(digest, device, conf, tmp_path):
    data = content(device)
    dst = tmp_path / 'image'
    result = oslo_transfer.copy(
        device, dst, conf=conf, **(digest_of(data) if digest else {})
    )
    assert result.size == SIZE
    assert dst.read_bytes() == data
    assert content(device) == data


@pytest.mark.parametrize('strategy', ['full_copy', 'dd'])
@pytest.mark.parametrize('size', [SIZE - MIB, SIZE + MIB])
def test_device_that_is_resized(size, strategy, device, conf, tmp_path):
    """Neither less of it nor what was its size before is a copy."""
    conf.set_override('state_path', str(tmp_path / 'state'), 'oslo_transfer')
    backing = storage.run(
        'losetup', '--noheadings', '--output', 'BACK-FILE', device
    )
    resized = []

    def resize(_count, _total):
        if not resized:
            resized.append(size)
            os.truncate(backing, size)
            storage.run('losetup', '--set-capacity', device)

    with pytest.raises(exceptions.TransferError) as caught:
        oslo_transfer.copy(
            device,
            tmp_path / 'image',
            strategy,
            conf=conf,
            expected_size=SIZE,
            rate_limit=16 * MIB,
            progress=resize,
        )
    assert resized
    assert 'SizeMismatch' in [each.error for each in caught.value.attempts]
    assert not (tmp_path / 'image').exists()


def test_device_to_device(disks, device, conf):
    other = disks.loop(SIZE, fill=bytes(1024))
    oslo_transfer.copy(device, other, conf=conf)
    assert content(other) == content(device)


def test_zeros_of_a_device_become_holes(disks, conf, tmp_path):
    device = disks.loop(SIZE)
    dst = tmp_path / 'image'
    result = oslo_transfer.copy(device, dst, conf=conf)
    assert result.size == SIZE == dst.stat().st_size
    assert result.bytes_written == 0
    assert dst.stat().st_blocks == 0


def test_copies_to_one_device_take_turns(device, conf, server, children):
    """Never a mixture, and never an error because of the other one."""
    images = [resource.pattern(4 * MIB, seed=seed) for seed in range(3)]
    started = [
        children.start(
            forkserver.copy,
            server.put(f'/{number}', data, rate=16 * MIB),
            str(device),
            **digest_of(data),
        )
        for number, data in enumerate(images)
    ]
    results = [child.result() for child in started]
    assert all(result.verified for result in results)
    found = content(device)[: 4 * MIB]
    assert found in images
    assert_clean(device, found)


def test_deadline_holds_while_another_has_the_device(
    device, conf, server, children
):
    data = resource.pattern(4 * MIB)
    url = server.put('/image', data, rate=2 * MIB)
    child = children.start(forkserver.copy, url, str(device))
    waiting.until(lambda: server.bytes_sent() > 0)
    with pytest.raises(exceptions.DeadlineExceeded):
        oslo_transfer.copy(url, device, conf=conf, deadline=0.3)
    child.kill()
    with pytest.raises(forkserver.Died):
        child.result()
