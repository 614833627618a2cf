# SPDX-License-Identifier: Apache-2.0
"""A copy by BitTorrent that is killed, or runs out of space, goes on later.

What it left is hashed piece by piece: nothing of it is believed.
"""

from __future__ import annotations

import os
import signal
import threading

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer import flight
from oslo_transfer.testing import harness
from tests.functional import forkserver
from tests.servers import bt_lab
from tests.servers import evil_peer
from tests.servers import torrents
from tests import waiting

pytestmark = pytest.mark.functional

MIB = 1 << 20
SIZE = 4 * MIB + 77
PIECE = 1 << 16
# What is written and not yet reported, or not reported whole, at most.
UNREPORTED = 2 * MIB
DATA = harness.pattern(SIZE, 'crash')
TORRENT = torrents.make(DATA, piece_bytes=PIECE)
POINTS = 20


@pytest.fixture(scope='module', autouse=True)
def torrent_group():
    """Leave the tests out where their group is left out."""
    groups = os.environ.get('OSLO_TRANSFER_TEST_GROUPS')
    if groups is not None and 'bittorrent' not in groups.split():
        pytest.skip('the group "bittorrent" is left out')


@pytest.fixture
def job(tmp_path):
    """Source and destination of a copy."""
    path = TORRENT.write(tmp_path / 'it.torrent')
    dst = tmp_path / 'there' / 'image'
    dst.parent.mkdir()
    return f'torrent+file://{path}', str(dst)


def make_conf(*peers):
    """A configuration that knows these peers."""
    conf = forkserver.make_conf({})
    for name, value in {
        'peer_networks': [bt_lab.LOOPBACK],
        'listen_address': '127.0.0.1',
        'peers': list(peers),
    }.items():
        conf.set_override(name, value, group=bt_lab.GROUP)
    return conf


def copy(src, dst, *peers, die_at=None, **options):
    """The job of the children.

    :param die_at: get killed when so many bytes have arrived
    """

    def progress(_count, total):
        if die_at is not None and total >= die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return oslo_transfer.copy(
        src, dst, conf=make_conf(*peers), progress=progress, **options
    )


def check_done(result, dst):
    with open(dst, 'rb') as file:
        assert file.read() == DATA
    assert os.listdir(os.path.dirname(dst)) == ['image']
    assert sum(result.bytes_by_origin.values()) == SIZE


def test_killed_and_killed_again(job, children):
    """B-24: at twenty points; what was there is not fetched again."""
    _src, dst = job
    with evil_peer.Peer(TORRENT, DATA, pause=0.002) as peer:
        for point in range(POINTS):
            die_at = point * SIZE // POINTS
            with pytest.raises(forkserver.Died):
                children.start(
                    copy, *job, peer.address, die_at=max(1, die_at)
                ).result()
            assert not os.path.exists(dst), 'seen too early'
        waiting.until(lambda: not peer.open)
        before = peer.sent
        result = copy(*job, peer.address)
        check_done(result, dst)
        resumed = result.bytes_by_origin.get('resumed', 0)
        assert resumed >= SIZE * (POINTS - 1) // POINTS - UNREPORTED
        assert peer.sent - before <= SIZE - resumed + PIECE


@pytest.mark.parametrize('what', ['pieces', 'journal', 'both'])
def test_what_is_left_was_tampered_with(what, job, children):
    """B-23: wrong bytes are fetched again, right ones are not."""
    _src, dst = job
    with evil_peer.Peer(TORRENT, DATA, pause=0.002) as peer:
        with pytest.raises(forkserver.Died):
            children.start(copy, *job, peer.address, die_at=SIZE // 2).result()
        part = flight.part_path(dst)
        if what != 'journal':
            with open(part, 'r+b') as file:
                for offset in range(0, SIZE, 16 * PIECE):
                    file.seek(offset + 5)
                    file.write(b'tampered')
        if what != 'pieces':
            for name in os.listdir(os.path.dirname(dst)):
                path = os.path.join(os.path.dirname(dst), name)
                if path != part and os.path.getsize(path):
                    with open(path, 'r+b') as file:
                        file.seek(os.path.getsize(path) // 2)
                        file.write(b'\xff\xff\xff')
        result = copy(*job, peer.address)
    check_done(result, dst)
    assert result.bytes_by_origin.get('resumed', 0) < SIZE


def test_another_torrent_under_the_same_name(job, children, tmp_path):
    """What a killed copy left of another version is not joined."""
    _src, dst = job
    new = harness.pattern(SIZE, 'new')
    changed = torrents.make(new, piece_bytes=PIECE)
    with evil_peer.Peer(TORRENT, DATA, pause=0.002) as peer:
        with pytest.raises(forkserver.Died):
            children.start(copy, *job, peer.address, die_at=SIZE // 2).result()
    changed.write(tmp_path / 'it.torrent')
    with evil_peer.Peer(changed, new) as peer:
        result = copy(*job, peer.address)
    with open(dst, 'rb') as file:
        assert file.read() == new
    assert 'resumed' not in result.bytes_by_origin


@pytest.mark.parametrize('place', ['tmpfs', 'ext4'])
def test_disk_full(place, disks, job):
    """B-25: it says so, and the session works for the next copy."""
    src, dst = job
    small = getattr(disks, place)(12 * MIB)
    filler = small / 'filler'

    def progress(_count, total):
        if total > MIB and not filler.exists():
            take_all(filler)

    with evil_peer.Peer(TORRENT, DATA, pause=0.005) as peer:
        with pytest.raises(exceptions.NoSpace):
            oslo_transfer.copy(
                src,
                str(small / 'image'),
                conf=make_conf(peer.address),
                progress=progress,
            )
        assert filler.exists()
        assert not (small / 'image').exists()
        check_done(copy(src, dst, peer.address), dst)


def test_disk_too_small(disks, job):
    """That is seen before anything is fetched."""
    src, _dst = job
    small = disks.tmpfs(2 * MIB)
    with evil_peer.Peer(TORRENT, DATA) as peer:
        with pytest.raises(exceptions.NoSpace):
            copy(src, str(small / 'image'), peer.address)
        assert not peer.sent


def take_all(path):
    """Take all the space that is left."""
    with open(path, 'wb', buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            return


def test_session_survives(job, tmp_path):
    """A copy that fails leaves the others of the process alone."""
    src, dst = job
    other = tmp_path / 'other'
    other.mkdir()
    with (
        evil_peer.Peer(TORRENT, DATA, pause=0.005) as peer,
        evil_peer.Peer(TORRENT, DATA, 'poison') as poison,
    ):
        results = []
        thread = threading.Thread(
            target=lambda: results.append(copy(src, dst, peer.address))
        )
        thread.start()
        with pytest.raises(exceptions.TransferError):
            copy(
                src,
                str(other / 'image'),
                poison.address,
                deadline=2.0,
            )
        thread.join(forkserver.END_SECONDS)
    check_done(results[0], dst)


def test_fork(job, children):
    """A process that forks leaves its session behind."""
    src, dst = job
    with evil_peer.Peer(TORRENT, DATA) as peer:
        outcome = children.start(_fork_and_copy, src, dst, peer.address)
        assert outcome.result()


def _fork_and_copy(src, dst, address):
    copy(src, dst, address)
    os.unlink(dst)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            copy(src, dst, address)
            code = 0
        finally:
            os._exit(code)
    _pid, status = os.waitpid(pid, 0)
    with open(dst, 'rb') as file:
        return status == 0 and file.read() == DATA
