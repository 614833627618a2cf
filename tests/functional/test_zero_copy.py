# SPDX-License-Identifier: Apache-2.0
"""A destination that is usable at once, over what was attached."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import subprocess

import pytest

import oslo_transfer
from oslo_transfer.drivers import base
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from tests.servers import resource

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group', 'nothing_left'),
]

MIB = 1 << 20
DATA = resource.pattern(2 * MIB)


class Shelf(base.Driver):
    """Attaches local files, and notes what is attached."""

    name = 'shelf'
    schemes = ('shelf',)
    capabilities = base.Capability.ATTACH
    attached: set = set()

    def attach(self, endpoint, ctx, record):
        record({})
        if not os.path.exists(endpoint.path):
            raise exceptions.AttachError(f'{endpoint} is not there')
        assert ctx.lasting and not ctx.writing
        self.attached.add(endpoint.path)
        return base.Attachment(
            id='',
            driver=self.name,
            source=str(endpoint),
            form='path',
            path=endpoint.path,
            size=os.stat(endpoint.path).st_size,
        )

    def detach(self, attachment, ctx, force):
        self.attached.discard(attachment.path)


@pytest.fixture(autouse=True)
def shelf(need, conf, tmp_path, monkeypatch):
    need('qemu-img')
    monkeypatch.setattr(Shelf, 'attached', set())
    conf.set_override('state_path', str(tmp_path / 'state'), 'oslo_transfer')
    with fixtures.registered(Shelf):
        yield Shelf


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    return path


def info(path):
    """What qemu-img says of an image."""
    told = subprocess.run(
        ['qemu-img', 'info', '--output=json', path],
        check=True,
        capture_output=True,
    )
    return json.loads(told.stdout)


def content(path):
    """What a guest would read."""
    raw = f'{path}.raw'
    subprocess.run(
        ['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', path, raw],
        check=True,
    )
    with open(raw, 'rb') as file:
        return file.read()


def zero_copy(src, dst, conf, **options):
    return oslo_transfer.copy(src, dst, 'zero_copy', conf=conf, **options)


def test_overlay_reads_what_is_attached(conf, image, tmp_path, shelf):
    disk = tmp_path / 'disk'
    result = zero_copy(f'shelf://a{image}', disk, conf)
    assert (result.strategy, result.form) == ('zero_copy', 'overlay')
    assert not result.verified
    assert result.size == result.bytes_written == 0
    assert result.attachment.path == str(image)
    found = info(disk)
    assert found['virtual-size'] == len(DATA)
    assert found['backing-filename'] == str(image)
    assert found['backing-filename-format'] == 'raw'
    assert content(disk) == DATA
    (attachment,) = oslo_transfer.attachments(conf)
    assert attachment == result.attachment
    attachment.detach()
    assert shelf.attached == set()


def test_writes_go_to_the_overlay(conf, image, tmp_path):
    disk = tmp_path / 'disk'
    result = zero_copy(f'shelf://a{image}', disk, conf)
    subprocess.run(
        ['qemu-io', '-f', 'qcow2', '-c', 'write -P 7 4096 512', disk],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    changed = DATA[:4096] + bytes([7]) * 512 + DATA[4096 + 512 :]
    assert content(disk) == changed
    assert image.read_bytes() == DATA
    result.attachment.detach()


def test_overlay_of_a_qcow2_image(conf, image, tmp_path):
    packed, disk = tmp_path / 'packed', tmp_path / 'disk'
    subprocess.run(
        ['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', image, packed],
        check=True,
    )
    with zero_copy(f'shelf://a{packed}', disk, conf).attachment:
        found = info(disk)
        assert found['backing-filename-format'] == 'qcow2'
        assert found['virtual-size'] == len(DATA)
        assert content(disk) == DATA


def test_link(conf, image, tmp_path):
    conf.set_override('zero_copy_form', 'device', 'oslo_transfer')
    disk = tmp_path / 'disk'
    result = zero_copy(f'shelf://a{image}', disk, conf)
    assert result.form == 'path'
    assert os.readlink(disk) == str(image)
    assert disk.read_bytes() == DATA
    result.attachment.detach()


@pytest.mark.parametrize(
    'accept, form', [(('overlay',), 'overlay'), (('path', 'device'), 'path')]
)
@pytest.mark.parametrize('default', ['overlay', 'device'])
def test_form_is_one_that_the_call_accepts(
    accept, form, default, conf, image, tmp_path
):
    conf.set_override('zero_copy_form', default, 'oslo_transfer')
    conf.set_override(
        'strategy_order', ['zero_copy', 'full_copy'], 'oslo_transfer'
    )
    result = oslo_transfer.copy(
        f'shelf://a{image}', tmp_path / 'disk', conf=conf, accept=accept
    )
    assert result.form == form
    result.attachment.detach()


def test_not_for_a_call_that_wants_a_file(conf, image, tmp_path):
    conf.set_override(
        'strategy_order', ['zero_copy', 'full_copy'], 'oslo_transfer'
    )
    result = oslo_transfer.copy(image, tmp_path / 'disk', conf=conf)
    assert result.strategy == 'full_copy'
    assert [each.strategy for each in result.attempts] == ['zero_copy']


def test_form_that_it_cannot_be(conf, image, tmp_path, shelf):
    with pytest.raises(exceptions.CapabilityMissing, match='device'):
        zero_copy(
            f'shelf://a{image}', tmp_path / 'disk', conf, accept=('device',)
        )
    assert shelf.attached == set()


def test_next_location(conf, image, tmp_path, shelf):
    locations = [f'shelf://a{tmp_path}/missing', f'shelf://a{image}']
    result = zero_copy(locations, tmp_path / 'disk', conf)
    assert result.source == locations[1]
    assert [each.error for each in result.attempts] == ['AttachError']
    assert shelf.attached == {str(image)}
    result.attachment.detach()


def fails(error, src, conf, tmp_path, **options):
    """The same as before is there afterwards."""
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error) as caught:
        zero_copy(src, tmp_path / 'disk', conf, **options)
    after = [each for each in os.listdir(tmp_path) if each != 'state']
    assert sorted(after) == [each for each in before if each != 'state']
    assert Shelf.attached == set()
    assert oslo_transfer.attachments(conf) == []
    return caught.value


def test_size_that_differs(conf, image, tmp_path):
    fails(
        exceptions.SizeMismatch,
        f'shelf://a{image}',
        conf,
        tmp_path,
        expected_size=len(DATA) - 1,
    )


@pytest.mark.parametrize('form', ['overlay', 'device'])
def test_name_that_may_not_last(form, conf, image, tmp_path, monkeypatch):
    """Nothing leads to what is not attached any more."""
    conf.set_override('zero_copy_form', form, 'oslo_transfer')

    real = localfs.sync_directory

    def fail(path):
        if path == str(tmp_path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        real(path)

    monkeypatch.setattr(localfs, 'sync_directory', fail)
    fails(exceptions.StorageError, f'shelf://a{image}', conf, tmp_path)


def test_destination_that_exists(conf, image, tmp_path):
    (tmp_path / 'disk').write_bytes(b'mine')
    fails(exceptions.AlreadyExists, f'shelf://a{image}', conf, tmp_path)
    assert (tmp_path / 'disk').read_bytes() == b'mine'
    result = zero_copy(
        f'shelf://a{image}', tmp_path / 'disk', conf, overwrite=True
    )
    assert content(tmp_path / 'disk') == DATA
    result.attachment.detach()


@pytest.mark.parametrize('form', ['overlay', 'device'])
def test_a_device_is_no_place_for_an_overlay(
    form, conf, image, tmp_path, disks
):
    """Nothing is written to it, and its name stays."""
    conf.set_override('zero_copy_form', form, 'oslo_transfer')
    device = disks.loop(MIB, fill=b'mine')
    name = tmp_path / 'device'
    name.symlink_to(device)
    for dst in (name, device):
        with pytest.raises(exceptions.CapabilityMissing):
            zero_copy(f'shelf://a{image}', dst, conf, overwrite=True)
    assert os.readlink(name) == str(device)
    assert stat.S_ISBLK(os.stat(device).st_mode)
    assert device.read_bytes() == b'mine' * (MIB // 4)
    assert Shelf.attached == set()


# Images that reach beyond themselves


def qcow2(path, *options):
    subprocess.run(
        ['qemu-img', 'create', '-q', '-f', 'qcow2', *options, path, '1M'],
        check=True,
    )


def with_backing_file(path, image):
    qcow2(path, '-u', '-b', '/etc/passwd', '-F', 'raw')


def with_json_backing(path, image):
    qcow2(
        path,
        '-u',
        '-b',
        'json:{"driver":"raw","file.filename":"/etc/passwd"}',
        '-F',
        'raw',
    )


def with_data_file(path, image):
    qcow2(path, '-o', f'data_file={path}.data')
    os.unlink(f'{path}.data')


def with_unknown_features(path, image):
    qcow2(path)
    with open(path, 'r+b') as file:
        file.seek(72)  # incompatible_features, docs/interop/qcow2.txt
        file.write(struct.pack('>Q', 1 << 40))


def of_two_formats(path, image):
    qcow2(path)
    with open(path, 'r+b') as file:
        file.seek(0x8001)  # ISO 9660's volume descriptor
        file.write(b'CD001')


def too_large(path, image):
    qcow2(path)
    with open(path, 'r+b') as file:
        file.seek(24)
        file.write(struct.pack('>Q', (1 << 63) - 512))


def vmdk(path, image):
    subprocess.run(
        ['qemu-img', 'convert', '-f', 'raw', '-O', 'vmdk', image, path],
        check=True,
    )


def marked_as_corrupt(path, image):
    qcow2(path)
    with open(path, 'r+b') as file:
        file.seek(72)
        file.write(struct.pack('>Q', 1 << 1))


def cut_off(path, image):
    qcow2(path)
    os.truncate(path, 0x30000)


def too_small(path, image):
    path.write_bytes(b'QFI\xfb')


@pytest.mark.parametrize(
    'make',
    [
        with_backing_file,
        with_json_backing,
        with_data_file,
        with_unknown_features,
        of_two_formats,
        too_large,
        vmdk,
        too_small,
        marked_as_corrupt,
        cut_off,
    ],
)
def test_image_that_is_refused(make, conf, image, tmp_path):
    path = tmp_path / 'bad'
    make(path, image)
    error = fails(
        exceptions.IntegrityError, f'shelf://a{path}', conf, tmp_path
    )
    assert not error.retryable
    # The next location is tried.
    result = zero_copy(
        [f'shelf://a{path}', f'shelf://a{image}'], tmp_path / 'disk', conf
    )
    assert result.source == f'shelf://a{image}'
    result.attachment.detach()


def converted(kind, *options):
    """One that qemu-img makes of the image."""

    def make(path, image):
        subprocess.run(
            [
                *('qemu-img', 'convert', '-f', 'raw', '-O', kind),
                *(*options, image, path),
            ],
            check=True,
        )

    return make


def vmdk_descriptor(path, image):
    """A text that names another file (CVE-2022-47951)."""
    path.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=12345678\n'
        'parentCID=ffffffff\ncreateType="monolithicFlat"\n'
        'RW 2048 FLAT "/etc/passwd" 0\n' + '#' * 1024
    )


def json_text(path, image):
    """What QEMU would take for a description of a device."""
    path.write_text(
        'json:{"driver":"raw","file":{"driver":"file",'
        '"filename":"/etc/passwd"}}' + ' ' * 1024
    )


def version(number):
    def make(path, image):
        qcow2(path)
        with open(path, 'r+b') as file:
            file.seek(4)
            file.write(struct.pack('>I', number))

    return make


@pytest.mark.parametrize(
    'make',
    [
        converted('vhdx'),
        converted('vpc'),
        converted('vdi'),
        converted('qcow'),
        converted('qed'),
        converted('parallels'),
        converted('vmdk', '-o', 'subformat=streamOptimized'),
        vmdk_descriptor,
        json_text,
        version(1),
        version(4),
    ],
)
def test_image_of_another_kind(make, conf, image, tmp_path):
    """It is refused, or no more than its bytes to whoever reads it."""
    path, disk = tmp_path / 'odd', tmp_path / 'disk'
    make(path, image)
    try:
        result = zero_copy(f'shelf://a{path}', disk, conf)
    except exceptions.IntegrityError:
        assert not disk.exists()
        return
    found = info(disk)
    assert found['backing-filename-format'] == 'raw'
    data = path.read_bytes()
    assert content(disk)[: len(data)] == data
    result.attachment.detach()


def test_a_raw_base_that_becomes_something_else(conf, image, tmp_path):
    """Its format was told once; nobody looks again (CVE-2026-24708)."""
    disk = tmp_path / 'disk'
    result = zero_copy(f'shelf://a{image}', disk, conf)
    with_backing_file(tmp_path / 'bad', image)
    bad = (tmp_path / 'bad').read_bytes()
    with open(image, 'r+b') as file:
        file.write(bad)
    assert content(disk) == image.read_bytes()
    assert content(disk).startswith(bad)
    told = subprocess.run(
        ['qemu-img', 'info', '--backing-chain', disk],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.count('\nfile format: ') == 2
    assert 'passwd' not in told.stdout
    result.attachment.detach()


def test_qcow2_where_only_raw_is_allowed(conf, tmp_path):
    """A guest could have written that header to its raw disk."""
    conf.set_override('zero_copy_formats', ['raw'], 'oslo_transfer')
    qcow2(tmp_path / 'packed')
    fails(
        exceptions.IntegrityError,
        f'shelf://a{tmp_path}/packed',
        conf,
        tmp_path,
    )


def test_without_qemu_img(conf, image, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    error = fails(
        exceptions.CapabilityMissing, f'shelf://a{image}', conf, tmp_path
    )
    assert 'qemu-utils' in str(error)
