# SPDX-License-Identifier: Apache-2.0
"""Large files, odd names and bad luck, with OpenSSH's sshd."""

from __future__ import annotations

import hashlib
import os
import pathlib
import threading
import time
import urllib.parse

import paramiko
import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.functional import forkserver
from tests import groups
from tests.servers import openssh
from tests.servers import resource
from tests.servers import scripted_ssh
from tests import waiting

pytestmark = groups.marks('sftp', openssh.OpenSSH.found() is not None)

MIB = 1 << 20
SIZE = 4 * MIB
DATA = resource.pattern(SIZE)
STALL = 0.5


def digest_of(data):
    """What copy() is told of data."""
    return {
        'hash_algo': 'sha256',
        'hash_value': hashlib.sha256(data).hexdigest(),
    }


@pytest.fixture(scope='module')
def sshd():
    """One for all tests."""
    with openssh.OpenSSH() as server:
        yield server


@pytest.fixture
def relay(nothing_left, sshd, conf, tmp_path):
    """The way to it, which can be cut or blocked."""
    with scripted_ssh.Relay(sshd.port) as made:
        login(conf, sshd, tmp_path, made.port)
        for name, value in {
            'stall_timeout': STALL,
            'connect_timeout': 2.0,
        }.items():
            conf.set_override(name, value, group='oslo_transfer')
        yield made


def login(conf, sshd, directory, port):
    """Let the driver know the server by a port, and log in."""
    known_hosts = directory / 'known_hosts'
    known_hosts.write_text(
        sshd.known_hosts.replace(f':{sshd.port} ', f':{port} ')
    )
    for name, value in {
        'known_hosts_file': str(known_hosts),
        'private_key_file': str(sshd.key),
        'username': sshd.user,
    }.items():
        conf.set_override(name, value, group='oslo_transfer_sftp')


@pytest.fixture
def there(tmp_path):
    """A directory on the server."""
    path = tmp_path / 'there'
    path.mkdir()
    return path


@pytest.fixture
def image(there):
    path = there / 'image'
    path.write_bytes(DATA)
    return path


def url(relay, path):
    return f'sftp://127.0.0.1:{relay.port}{urllib.parse.quote(str(path))}'


# New keys in the middle (S-15)


@pytest.mark.parametrize(
    ('cipher', 'mebibytes'),
    [
        ('aes128-gcm@openssh.com', 64),
        ('aes128-ctr', 16),  # Slow: paramiko's own code.
    ],
)
def test_server_rekeys(cipher, mebibytes, nothing_left, conf, tmp_path, there):
    """New keys after each MiB, in both directions."""
    data = resource.pattern(MIB) * mebibytes
    digest = digest_of(data)
    src, dst = there / 'src', tmp_path / 'dst'
    src.write_bytes(data)
    with openssh.OpenSSH(
        lines=['RekeyLimit 1M', f'Ciphers {cipher}'], log_level='DEBUG'
    ) as sshd:
        login(conf, sshd, tmp_path, sshd.port)
        oslo_transfer.copy(sshd.url(src), dst, conf=conf, **digest)
        down = sshd.log().count('rekey')
        assert down > mebibytes / 2
        oslo_transfer.copy(dst, sshd.url(there / 'up'), conf=conf, **digest)
        assert sshd.log().count('rekey') - down > mebibytes / 2
    assert (there / 'up').read_bytes() == data


def test_client_rekeys(monkeypatch, conf, tmp_path, sshd, relay, image):
    """Our side makes new keys, too, when these have been used enough."""
    monkeypatch.setattr(paramiko.Packetizer, 'REKEY_BYTES', MIB)
    made = []
    init = paramiko.Transport._send_kex_init

    def count(transport):
        made.append(transport)
        init(transport)

    monkeypatch.setattr(paramiko.Transport, '_send_kex_init', count)
    dst = tmp_path / 'dst'
    oslo_transfer.copy(url(relay, image), dst, conf=conf, **digest_of(DATA))
    assert dst.read_bytes() == DATA
    assert len(made) >= 3
    made.clear()
    oslo_transfer.copy(dst, url(relay, f'{image}2'), conf=conf)
    assert pathlib.Path(f'{image}2').read_bytes() == DATA
    assert len(made) >= 3


# Names (S-07), and what is no file (S-08, S-09)


@pytest.mark.parametrize(
    'name',
    [
        'with space',
        '~root',
        '~',
        '-r',
        '*',
        '$(id)',
        "quo'te",
        'new\nline',
        'caf\u00e9',
        'a%2fb',
        '#1',
        '?',
        'x' * 255,
    ],
)
def test_names_are_taken_as_they_are(name, conf, tmp_path, relay, there):
    (there / name).write_bytes(b'data of it')
    dst = tmp_path / 'dst'
    oslo_transfer.copy(url(relay, there / name), dst, conf=conf)
    assert dst.read_bytes() == b'data of it'
    (there / name).unlink()
    oslo_transfer.copy(dst, url(relay, there / name), conf=conf)
    assert os.listdir(there) == [name]
    assert (there / name).read_bytes() == b'data of it'


@pytest.mark.parametrize('path', ['', '/', '/~/', '/%00', '/a%00b', '/a/'])
def test_what_is_no_name(path, conf, tmp_path, relay):
    with pytest.raises(exceptions.InvalidEndpoint):
        oslo_transfer.copy(
            f'sftp://127.0.0.1:{relay.port}{path}', tmp_path / 'd', conf=conf
        )
    assert relay.count == 0


def test_home(conf, tmp_path, relay, image):
    """Under /~/ a path begins at home."""
    home = pathlib.Path('~').expanduser()
    path = os.path.relpath(image, home)
    dst = tmp_path / 'dst'
    oslo_transfer.copy(url(relay, f'/~/{path}'), dst, conf=conf)
    assert dst.read_bytes() == DATA


def make_special(kind, path):
    """Make something that is no file."""
    if kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'directory':
        path.mkdir()
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    elif kind == 'dangling':
        path.symlink_to(path.with_name('missing'))
    elif kind == 'loop':
        path.symlink_to(path)
    elif kind == 'fifo-link':
        os.mkfifo(path.with_name('fifo'))
        path.symlink_to('fifo')
    elif kind == 'directory-link':
        path.symlink_to(path.parent)


KINDS = [
    'fifo',
    'directory',
    'device',
    'dangling',
    'loop',
    'fifo-link',
    'directory-link',
]


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_no_file(kind, conf, tmp_path, relay, there):
    """It is refused, and not opened: a FIFO would never answer."""
    path = there / 'special'
    make_special(kind, path)
    dst = tmp_path / 'dst'
    started = time.monotonic()
    with pytest.raises(exceptions.TransferError):
        oslo_transfer.copy(url(relay, path), dst, conf=conf)
    assert not dst.exists()
    # And it is no place to write to.
    before = sorted(os.listdir(there))
    for overwrite in (False, True):
        if kind in ('dangling', 'loop') and overwrite:
            continue  # A link that leads nowhere can be replaced.
        with pytest.raises(exceptions.TransferError):
            oslo_transfer.copy(
                __file__, url(relay, path), conf=conf, overwrite=overwrite
            )
    assert sorted(os.listdir(there)) == before
    assert time.monotonic() - started < 5


def test_symlink_to_a_file(conf, tmp_path, relay, image):
    link = image.with_name('link')
    link.symlink_to('image')
    dst = tmp_path / 'dst'
    oslo_transfer.copy(url(relay, link), dst, conf=conf)
    assert dst.read_bytes() == DATA


# Drops (S-16), and peers that vanish (S-19)


@pytest.mark.parametrize('fraction', [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize('cuts', [1, 3])
def test_dropped(fraction, cuts, conf, tmp_path, relay, image):
    """With a digest the copy goes on, and fetches little again."""
    relay.limit, relay.cuts = int(fraction * SIZE), cuts
    dst = tmp_path / 'dst'
    result = oslo_transfer.copy(
        url(relay, image), dst, conf=conf, **digest_of(DATA)
    )
    assert dst.read_bytes() == DATA
    assert result.verified
    # What is on its way at a cut is asked for again: as much as has come
    # before, and a MiB.
    assert relay.received < SIZE * 1.05 + cuts * (SIZE // 2 + MIB // 2)
    assert result.wasted <= (cuts + 1) * 64 * 1024


@pytest.mark.parametrize('at', [0, 1, 30, 500, 1500, 1700, 2500, 3500, 4500])
def test_dropped_before_the_first_byte(at, conf, tmp_path, relay, image):
    """Wherever a handshake breaks off, the next one works."""
    relay.limit, relay.cuts = at, 2
    dst = tmp_path / 'dst'
    oslo_transfer.copy(url(relay, image), dst, conf=conf)
    assert dst.read_bytes() == DATA


def test_dropped_upload(conf, tmp_path, sshd, relay, there):
    """Nothing shows under the name, and nothing is left beside it."""
    src = tmp_path / 'src'
    src.write_bytes(DATA)
    target = there / 'image'
    relay.limit, relay.cuts = 8000, 1
    try:
        oslo_transfer.copy(src, url(relay, target), conf=conf)
    except exceptions.Unavailable:
        assert os.listdir(there) == []
    # An upload may need fewer replies than that.
    relay.cuts = 0
    oslo_transfer.copy(src, url(relay, target), conf=conf, overwrite=True)
    assert os.listdir(there) == ['image']
    assert target.read_bytes() == DATA


class Frozen:
    """Blocks a relay when a copy has begun."""

    def __init__(self, relay, after=MIB):
        self._relay = relay
        self._after = after
        self.at = None

    def __call__(self, _chunk, _total):
        if self.at is None and self._relay.received > self._after:
            self._relay.frozen.set()
            self.at = time.monotonic()


def test_vanished(conf, tmp_path, relay, image):
    """A peer that is silent for the stall time is given up."""
    conf.set_override('max_retries', 0, group='oslo_transfer')
    conf.set_override('connect_timeout', 0.5, group='oslo_transfer')
    frozen = Frozen(relay, SIZE // 4)
    image.write_bytes(DATA * 8)
    with pytest.raises((exceptions.Stalled, exceptions.Unavailable)):
        oslo_transfer.copy(
            url(relay, image), tmp_path / 'dst', conf=conf, progress=frozen,
            **digest_of(DATA * 8),
        )  # fmt: skip
    assert time.monotonic() - frozen.at < STALL + 2


def test_vanished_for_an_upload(conf, tmp_path, relay, there):
    conf.set_override('connect_timeout', 0.5, group='oslo_transfer')
    src = tmp_path / 'src'
    src.write_bytes(DATA * 8)
    started = []

    def freeze(_chunk, _total):
        if not started:
            relay.frozen.set()
            started.append(time.monotonic())

    with pytest.raises((exceptions.Stalled, exceptions.Unavailable)):
        oslo_transfer.copy(
            src, url(relay, there / 'image'), conf=conf, progress=freeze
        )
    assert time.monotonic() - started[0] < STALL + 3
    assert not (there / 'image').exists()


def test_cancelled_in_the_middle(conf, tmp_path, relay, image):
    """It ends within a second, whatever the peer does."""
    image.write_bytes(DATA * 8)
    cancel = threading.Event()
    frozen = Frozen(relay)
    conf.set_override('stall_timeout', 30.0, group='oslo_transfer')
    timer = threading.Timer(0.5, cancel.set)
    timer.start()
    with pytest.raises(exceptions.TransferCancelled):
        oslo_transfer.copy(
            url(relay, image), tmp_path / 'dst', conf=conf, cancel=cancel,
            progress=frozen,
        )  # fmt: skip
    assert time.monotonic() - frozen.at < 1.5
    timer.join()


# What is left (S-22), and what it takes (S-21)


def test_nothing_is_left_by_many(conf, tmp_path, relay, image):
    """No thread and no descriptor of ten connections, also broken ones."""
    before = {thread.name for thread in threading.enumerate()}
    for number in range(10):
        relay.limit, relay.cuts = SIZE // 2, number % 2
        source = oslo_transfer.open_source(url(relay, image), conf=conf)
        with source, source.stream(0, None) as stream:
            buffer = bytearray(MIB)
            try:
                while stream.readinto(buffer):
                    pass
            except exceptions.Unavailable:
                assert number % 2
    relay.close()
    waiting.until(
        lambda: (
            not {
                name
                for thread in threading.enumerate()
                if 'Transport' in (name := f'{thread!r}')
                or 'sftp' in thread.name
            }
        )
    )
    assert before


def grown(conf_of_sftp, src, count):
    """Read a part of a large file; return by how much memory grew."""
    conf = forkserver.make_conf({})
    for name, value in conf_of_sftp.items():
        conf.set_override(name, value, group='oslo_transfer_sftp')
    with oslo_transfer.open_source(src, conf=conf) as source:
        with source.stream(0, None) as stream:
            buffer = bytearray(MIB)
            stream.readinto(buffer)
            base = resident()
            most = done = 0
            while done < count:
                done += stream.readinto(buffer)
                most = max(most, resident())
    assert source.size == 64 << 30
    return most - base


def resident():
    """Bytes of memory that this process has."""
    with open('/proc/self/statm') as statm:
        return int(statm.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def test_memory_is_flat(conf, relay, there, children):
    """64 GiB are read like 64 MiB."""
    path = there / 'large'
    with open(path, 'wb') as file:
        file.truncate(64 << 30)
    options = {
        name: conf.oslo_transfer_sftp[name]
        for name in ('known_hosts_file', 'private_key_file', 'username')
    }
    child = children.start(grown, options, url(relay, path), 128 * MIB)
    assert child.result() < 64 * MIB
