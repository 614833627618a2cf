# SPDX-License-Identifier: Apache-2.0
"""Copies from and to nbdkit and qemu-nbd, with all that they can do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests import groups
from tests.servers import nbdkit
from tests.servers import resource

pytestmark = groups.marks('nbd', nbdkit.Nbdkit.found() is not None)

MIB = 1 << 20
# Holes at the beginning, in the middle and at the end.
IMAGE = b''.join(
    (
        bytes(2 * MIB),
        resource.pattern(3 * MIB + 4096),
        bytes(5 * MIB),
        resource.pattern(777_216, 1),
        bytes(MIB),
    )
)
IMAGE += bytes(-len(IMAGE) % 65536)
DIGEST = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(IMAGE).hexdigest(),
}


@pytest.fixture
def image(tmp_path):
    """The image, sparse."""
    path = tmp_path / 'image'
    resource.write_sparse(path, IMAGE)
    return path


@pytest.fixture
def target(tmp_path):
    """A file that was used before, as large as the image."""
    path = tmp_path / 'target'
    path.write_bytes(b'\xaa' * len(IMAGE))
    return path


@pytest.mark.parametrize('facts', [{}, DIGEST], ids=['none', 'digest'])
@pytest.mark.parametrize('unix', [False, True], ids=['tcp', 'unix'])
def test_nbdkit_both_ways(
    unix, facts, image, target, conf, tmp_path, nothing_left
):
    """The bytes are the same, and holes are not filled."""
    copied = tmp_path / 'copied'
    with nbdkit.Nbdkit('file', f'dir={tmp_path}', unix=unix) as server:
        result = oslo_transfer.copy(
            server.url('image'), copied, conf=conf, **facts
        )
        assert result.bytes_written < 4 * MIB
        written = oslo_transfer.copy(
            copied, server.url('target'), conf=conf, **facts
        )
    assert written.form == 'device'
    assert copied.read_bytes() == IMAGE
    assert target.read_bytes() == IMAGE
    assert os.stat(target).st_blocks * 512 < 6 * MIB


@pytest.mark.parametrize('kind', ['raw', 'qcow2'])
@pytest.mark.parametrize('unix', [False, True], ids=['tcp', 'unix'])
def test_qemu_both_ways(kind, unix, image, conf, tmp_path, nothing_left):
    """QEMU's own tool finds the same in what was written."""
    disk = nbdkit.QemuNbd.make(tmp_path / 'disk', kind, len(IMAGE))
    with nbdkit.QemuNbd(disk, kind, unix=unix) as server:
        oslo_transfer.copy(image, server.url(), conf=conf)
        result = oslo_transfer.copy(
            server.url(), tmp_path / 'copied', conf=conf, **DIGEST
        )
    assert result.bytes_written < 5 * MIB
    assert (tmp_path / 'copied').read_bytes() == IMAGE
    subprocess.run(
        ['qemu-img', 'compare', '-f', 'raw', '-F', kind, image, disk],
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize('kind', ['raw', 'qcow2'])
def test_qemu_for_one_client(kind, image, conf, tmp_path, nothing_left):
    """As qemu-nbd comes: one connection, and then it ends."""
    disk = tmp_path / 'disk'
    subprocess.run(
        ['qemu-img', 'convert', '-f', 'raw', '-O', kind, image, disk],
        check=True,
    )
    with nbdkit.QemuNbd(disk, kind, options=['--read-only']) as server:
        oslo_transfer.copy(
            server.url(), tmp_path / 'copied', conf=conf, **DIGEST
        )
        assert server.process.wait(5) == 0
    assert (tmp_path / 'copied').read_bytes() == IMAGE


def test_read_only(image, conf, tmp_path, nothing_left):
    with nbdkit.Nbdkit(
        'file', f'dir={tmp_path}', options=['--readonly']
    ) as server:
        with pytest.raises(exceptions.AccessDenied, match='read-only'):
            oslo_transfer.copy(image, server.url('image'), conf=conf)
    assert image.read_bytes() == IMAGE


def test_each_write_is_right(image, conf, nothing_left):
    """The server compares what is written with what has to be there."""
    with nbdkit.Nbdkit('file', image, filters=['checkwrite']) as server:
        # The first MiB is zeros in it: so it is before the end, too.
        oslo_transfer.copy(image, server.url(), conf=conf)
        other = image.with_name('other')
        other.write_bytes(IMAGE[: 4 * MIB] + b'x' + IMAGE[4 * MIB + 1 :])
        with pytest.raises(exceptions.StorageError, match='writing bytes'):
            oslo_transfer.copy(other, server.url(), conf=conf)


@pytest.mark.parametrize('least', [512, 4096, 65536])
def test_blocks(least, image, target, conf, tmp_path, nothing_left):
    """Servers that refuse what is not aligned never have to."""
    with nbdkit.Nbdkit(
        'file',
        f'dir={tmp_path}',
        f'blocksize-minimum={least}',
        f'blocksize-preferred={max(least, 4096)}',
        'blocksize-maximum=192k',
        'blocksize-error-policy=error',
        filters=['blocksize-policy'],
    ) as server:
        oslo_transfer.copy(
            server.url('image'), tmp_path / 'copied', conf=conf, **DIGEST
        )
        odd = tmp_path / 'odd'
        odd.write_bytes(IMAGE[3 * MIB : 4 * MIB + 12_345])
        oslo_transfer.copy(odd, server.url('target'), conf=conf)
    assert (tmp_path / 'copied').read_bytes() == IMAGE
    found = target.read_bytes()
    assert found.rstrip(b'\0') == odd.read_bytes().rstrip(b'\0')


@pytest.mark.parametrize(
    'filters',
    [
        ['noextents'],
        ['nozero'],
        ['noparallel'],
        ['multi-conn', 'multi-conn-mode=disable'],
    ],
    ids=lambda words: words[0],
)
def test_servers_that_can_do_less(
    filters, image, target, conf, tmp_path, nothing_left
):
    name, *parameters = filters
    with nbdkit.Nbdkit(
        'file', f'dir={tmp_path}', *parameters, filters=[name]
    ) as server:
        oslo_transfer.copy(
            server.url('image'), tmp_path / 'copied', conf=conf, **DIGEST
        )
        oslo_transfer.copy(image, server.url('target'), conf=conf)
    assert (tmp_path / 'copied').read_bytes() == IMAGE
    assert target.read_bytes() == IMAGE


def test_old_clients_protocol(image, conf, tmp_path, nothing_left):
    """A server without structured replies."""
    with nbdkit.Nbdkit(
        'file', f'dir={tmp_path}', options=['--no-sr']
    ) as server:
        oslo_transfer.copy(
            server.url('image'), tmp_path / 'copied', conf=conf, **DIGEST
        )
    assert (tmp_path / 'copied').read_bytes() == IMAGE


@pytest.mark.parametrize(
    ('operation', 'error', 'kind'),
    [
        ('pread', 'EIO', exceptions.StorageError),
        ('pread', 'EPERM', exceptions.AccessDenied),
        ('pread', 'ESHUTDOWN', exceptions.Unavailable),
        ('pwrite', 'EIO', exceptions.StorageError),
        ('pwrite', 'ENOSPC', exceptions.NoSpace),
        ('zero', 'EIO', exceptions.StorageError),
    ],
)
def test_errors(
    operation, error, kind, image, target, conf, tmp_path, nothing_left
):
    """What the server says comes out as what it means."""
    conf.set_override('max_retries', 1, group='oslo_transfer')
    with nbdkit.Nbdkit(
        'file',
        f'dir={tmp_path}',
        f'error-{operation}={error}',
        f'error-{operation}-rate=100%',
        filters=['error'],
    ) as server:
        with pytest.raises(kind, match=error):
            if operation == 'pread':
                oslo_transfer.copy(
                    server.url('image'), tmp_path / 'copied', conf=conf
                )
            else:
                oslo_transfer.copy(image, server.url('target'), conf=conf)
    assert not (tmp_path / 'copied').exists()


def test_a_flush_that_fails(image, conf, nothing_left):
    """What was written may be lost: that is no success."""
    with nbdkit.Nbdkit(
        'eval',
        f'get_size=echo {len(IMAGE)}',
        'pread=head -c $3 /dev/zero',
        'pwrite=cat > /dev/null',
        'can_write=exit 0',
        'can_flush=exit 0',
        'flush=echo EIO it is lost >&2; exit 1',
    ) as server:
        with pytest.raises(exceptions.StorageError, match='flushing'):
            oslo_transfer.copy(image, server.url(), conf=conf)


def test_errors_of_extents_are_borne(image, conf, tmp_path, nothing_left):
    """Who cannot tell where holes are can be read nevertheless."""
    with nbdkit.Nbdkit(
        'file',
        f'dir={tmp_path}',
        'error-extents=EIO',
        'error-extents-rate=100%',
        filters=['error'],
    ) as server:
        oslo_transfer.copy(server.url('image'), tmp_path / 'copied', conf=conf)
    assert (tmp_path / 'copied').read_bytes() == IMAGE


def test_latency_is_paid_once(conf, tmp_path, nothing_left):
    """Requests are on their way together."""
    with nbdkit.Nbdkit(
        'pattern', 'size=32M', 'delay-read=100ms', filters=['delay']
    ) as server:
        started = time.monotonic()
        oslo_transfer.copy(server.url(), tmp_path / 'copied', conf=conf)
        # One after the other they would take 3.2 s.
        assert time.monotonic() - started < 2.7


def test_latency_is_paid_once_for_many_holes(conf, tmp_path, nothing_left):
    """What comes behind a hole is asked for before it is read."""
    image = tmp_path / 'image'
    data = resource.pattern(65536)
    with open(image, 'wb') as file:
        for index in range(60):
            file.seek(index * 4 * len(data))
            file.write(data)
    with nbdkit.Nbdkit(
        'file', image, 'delay-read=50ms', filters=['delay']
    ) as server:
        started = time.monotonic()
        result = oslo_transfer.copy(
            server.url(), tmp_path / 'copied', conf=conf
        )
        # One after the other they would take 3 s.
        assert time.monotonic() - started < 2.5
    assert result.bytes_written == 60 * len(data)
    assert (tmp_path / 'copied').read_bytes() == image.read_bytes()


def test_cancel_at_a_low_rate(conf, tmp_path, nothing_left):
    """A copy that crawls can be left at once."""
    cancel = threading.Event()
    with nbdkit.Nbdkit(
        'pattern', 'size=64M', 'rate=8M', filters=['rate']
    ) as server:
        timer = threading.Timer(0.5, cancel.set)
        timer.start()
        started = time.monotonic()
        with pytest.raises(exceptions.TransferCancelled):
            oslo_transfer.copy(
                server.url(), tmp_path / 'copied', conf=conf, cancel=cancel
            )
        assert time.monotonic() - started < 2
        timer.join()
        # It does not mind that its client has gone.
        assert server.process.poll() is None


def test_server_that_is_killed(conf, tmp_path, nothing_left):
    """What it was is told, and nothing is left."""
    server = nbdkit.Nbdkit('pattern', 'size=64M', 'rate=16M', filters=['rate'])
    conf.set_override('max_retries', 1, group='oslo_transfer')
    with server:
        timer = threading.Timer(0.3, server.process.kill)
        timer.start()
        with pytest.raises(exceptions.Unavailable):
            oslo_transfer.copy(server.url(), tmp_path / 'copied', conf=conf)
        timer.join()
    assert os.listdir(tmp_path) == []


# TLS


@pytest.fixture
def pki(certs, tmp_path):
    """Certificates in a directory as nbdkit and QEMU want them."""
    directory = tmp_path / 'pki'
    directory.mkdir()
    cert, key = certs.pair('good')
    shutil.copy(certs.ca_file, directory / 'ca-cert.pem')
    shutil.copy(cert, directory / 'server-cert.pem')
    shutil.copy(key, directory / 'server-key.pem')
    return directory


def _tls_server(program, image, pki, unix):
    if program == 'nbdkit':
        return nbdkit.Nbdkit(
            'file',
            image,
            options=[
                '--tls=require',
                f'--tls-certificates={pki}',
                '--tls-verify-peer',
            ],
            unix=unix,
        )
    return nbdkit.QemuNbd(
        image,
        options=[
            *('--persistent', '--shared=0', '--object'),
            f'tls-creds-x509,id=tls0,dir={pki},endpoint=server,'
            f'verify-peer=yes',
            *('--tls-creds', 'tls0'),
        ],
        unix=unix,
    )


@pytest.mark.parametrize('unix', [False, True], ids=['tcp', 'unix'])
@pytest.mark.parametrize('program', ['nbdkit', 'qemu-nbd'])
def test_tls(
    program, unix, image, target, pki, certs, conf, tmp_path, nothing_left
):
    """Both sides show certificates, and nothing goes without."""
    cert, key = certs.pair('client')
    for name, value in {
        'ca_file': certs.ca_file,
        'cert_file': cert,
        'key_file': key,
    }.items():
        conf.set_override(name, value, group='oslo_transfer_nbd')
    with _tls_server(program, target, pki, unix) as server:
        with pytest.raises(exceptions.AccessDenied, match='use nbds'):
            oslo_transfer.copy(image, server.url(), conf=conf)
        url = server.url(scheme='nbds')
        oslo_transfer.copy(image, url, conf=conf)
        oslo_transfer.copy(url, tmp_path / 'copied', conf=conf, **DIGEST)
        # Programs that would trust others are not asked.
        state = str(tmp_path / 'state')
        conf.set_override('state_path', state, group='oslo_transfer')
        for strategy, word in (('dd', 'nbdfuse'), ('zero_copy', 'overlay')):
            with pytest.raises(exceptions.CapabilityMissing, match=word):
                oslo_transfer.copy(
                    url, tmp_path / 'other', strategy, conf=conf
                )
        assert oslo_transfer.attachments(conf=conf) == []
    assert target.read_bytes() == IMAGE
    assert (tmp_path / 'copied').read_bytes() == IMAGE
    assert not (tmp_path / 'other').exists()


def test_tls_with_a_stranger(image, pki, certs, conf, tmp_path, nothing_left):
    """A server that wants certificates does not serve who has none."""
    conf.set_override('ca_file', certs.ca_file, group='oslo_transfer_nbd')
    conf.set_override('max_retries', 0, group='oslo_transfer')
    with _tls_server('nbdkit', image, pki, False) as server:
        with pytest.raises(exceptions.TransferError):
            oslo_transfer.copy(
                server.url(scheme='nbds'), tmp_path / 'copied', conf=conf
            )


@pytest.mark.parametrize('asks', [True, False], ids=['asked', 'idle'])
def test_another_image_behind_the_same_url(asks, tmp_path, conf, nothing_left):
    """Connecting anew is not hidden: bytes of two images do not go on."""
    image, other = tmp_path / 'image', tmp_path / 'other'
    for path, letter in ((image, b'a'), (other, b'b')):
        path.write_bytes(letter * MIB + bytes(38 * MIB) + letter * MIB)
    with nbdkit.Nbdkit('file', image, unix=True) as server:
        with oslo_transfer.open_source(server.url(), conf=conf) as source:
            with source.stream(0, MIB) as stream:
                assert stream.read(1) == b'a'
            server.end()
            os.rename(other, image)
            server.begin_again()
            if asks:
                assert list(source.extents(MIB, 39 * MIB))
            with pytest.raises(exceptions.Unavailable, match='validator'):
                with source.stream(39 * MIB, MIB) as stream:
                    stream.read(1)


# Attachments


def test_attachment(image, conf, tmp_path, nothing_left):
    """A program reads it by the URL that it is given."""
    conf.set_override('state_path', str(tmp_path), group='oslo_transfer')
    with nbdkit.Nbdkit('file', f'dir={tmp_path}', unix=True) as server:
        made = oslo_transfer.attach(server.url('image'), conf=conf)
        assert (made.form, made.size) == ('nbd', len(IMAGE))
        found = subprocess.run(
            ['nbdinfo', '--json', made.path],
            check=True,
            capture_output=True,
            text=True,
        )
        (export,) = json.loads(found.stdout)['exports']
        assert export['export-size'] == len(IMAGE)
        assert [each.id for each in oslo_transfer.attachments(conf=conf)] == [
            made.id
        ]
        oslo_transfer.detach(made.id, conf=conf)
        assert not oslo_transfer.attachments(conf=conf)
