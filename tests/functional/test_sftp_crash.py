# SPDX-License-Identifier: Apache-2.0
"""A copy over SFTP that is killed can be repeated, and goes on."""

from __future__ import annotations

import hashlib
import os

import pytest

import oslo_transfer
from tests.functional import forkserver
from tests import groups
from tests.servers import openssh
from tests.servers import resource
from tests.servers import scripted_ssh
from tests import waiting

pytestmark = groups.marks('sftp', openssh.OpenSSH.found() is not None)

MIB = 1 << 20
SIZE = 8 * MIB
DATA = resource.pattern(MIB) * (SIZE // MIB)
OLD = b'what was there before'
DIGEST = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
SEGMENT = MIB
CONF = {
    'segment_bytes': SEGMENT,
    'sync_bytes': 2 * MIB,
    'buffer_bytes': 256 * 1024,
}
# Handshakes, heads of packets, and the overlap.
SLACK = MIB // 4


def copy(sftp, src, dst, **options):
    """The job of the children."""
    return oslo_transfer.copy(src, dst, conf=make_conf(sftp), **options)


def make_conf(sftp):
    """A configuration as children have it."""
    conf = forkserver.make_conf(CONF)
    for name, value in sftp.items():
        conf.set_override(name, value, group='oslo_transfer_sftp')
    return conf


@pytest.fixture(scope='module')
def sshd():
    """One for all tests."""
    with openssh.OpenSSH() as server:
        yield server


@pytest.fixture
def relay(sshd):
    """The way to it, which can be blocked."""
    with scripted_ssh.Relay(sshd.port) as made:
        yield made


@pytest.fixture
def sftp(sshd, relay, tmp_path):
    """Options of the driver."""
    known_hosts = tmp_path / 'known_hosts'
    known_hosts.write_text(
        sshd.known_hosts.replace(f':{sshd.port} ', f':{relay.port} ')
    )
    return {
        'known_hosts_file': str(known_hosts),
        'private_key_file': str(sshd.key),
        'username': sshd.user,
    }


@pytest.fixture
def place(tmp_path):
    """A directory with nothing in it."""
    path = tmp_path / 'there'
    path.mkdir()
    return path


def stored(directory):
    """Bytes that the files of a directory take."""
    return sum(512 * each.stat().st_blocks for each in directory.iterdir())


def killed(children, relay, sftp, src, dst, at, reached, **options):
    """Kill a copy when so many bytes have passed, and have arrived."""
    relay.freeze_at = at
    child = children.start(copy, sftp, src, dst, **options)
    waiting.until(relay.frozen.is_set)
    waiting.until(reached)
    child.kill()
    with pytest.raises(forkserver.Died):
        child.result()
    relay.freeze_at = None
    relay.frozen.clear()


@pytest.mark.parametrize('fraction', [0.3, 0.8])
def test_killed_download(fraction, children, relay, sftp, place, tmp_path):
    """The second copy fetches the rest, and a segment again."""
    src = tmp_path / 'image'
    src.write_bytes(DATA)
    url = f'sftp://127.0.0.1:{relay.port}{src}'
    dst = place / 'image'
    at = int(fraction * SIZE)
    killed(
        children, relay, sftp, url, str(dst), at,
        lambda: place.exists() and stored(place) > at - SEGMENT, **DIGEST,
    )  # fmt: skip
    assert not dst.exists()
    before = relay.received
    result = oslo_transfer.copy(url, dst, conf=make_conf(sftp), **DIGEST)
    assert dst.read_bytes() == DATA
    assert os.listdir(place) == ['image']
    resumed = result.bytes_by_origin['resumed']
    # Of what was stored, no more than a segment was not noted yet.
    assert resumed >= at - 2 * SEGMENT - CONF['buffer_bytes']
    assert relay.received - before <= SIZE - resumed + SLACK


@pytest.mark.parametrize('old', [None, OLD])
@pytest.mark.parametrize('fraction', [0.0, 0.6])
def test_killed_upload(fraction, old, children, relay, sftp, place, tmp_path):
    """The name is as it was, and the second copy takes it."""
    src = tmp_path / 'image'
    src.write_bytes(DATA)
    target = place / 'image'
    if old is not None:
        target.write_bytes(old)
    url = f'sftp://127.0.0.1:{relay.port}{target}'
    # A login takes less.
    at = max(int(fraction * SIZE), 5000)
    options = {'overwrite': old is not None}
    killed(children, relay, sftp, str(src), url, at, lambda: True, **options)
    found = target.read_bytes() if target.exists() else None
    assert found == old
    oslo_transfer.copy(src, url, conf=make_conf(sftp), **options)
    assert target.read_bytes() == DATA
