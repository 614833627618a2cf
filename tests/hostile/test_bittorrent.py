# SPDX-License-Identifier: Apache-2.0
"""Whatever peers do, a copy has the right bytes, or ends in time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import socket
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer.testing import harness
from tests.servers import bt_lab
from tests.servers import child
from tests.servers import evil_peer
from tests.servers import torrents

pytestmark = pytest.mark.usefixtures('nothing_left')

BAD = sorted(set(evil_peer.BEHAVIOURS) - {'good', 'gossip'})


@pytest.fixture
def lab(conf, tmp_path):
    with bt_lab.Lab(conf, tmp_path) as lab:
        yield lab


@pytest.fixture
def labs(tmp_path):
    """Several at once, each with a configuration of its own."""
    with contextlib.ExitStack() as stack:

        def make(name, **options):
            directory = tmp_path / name
            directory.mkdir()
            conf = harness.fixtures.make_conf()
            lab = bt_lab.Lab(conf, directory, name=name, **options)
            lab.core(retry_delay=0.01, max_retry_delay=0.2)
            return stack.enter_context(lab)

        yield make


def in_parallel(jobs):
    """The outcome of each job by its name: a value or an exception."""
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        running = {name: pool.submit(job) for name, job in jobs.items()}
        return {
            name: future.exception() or future.result()
            for name, future in running.items()
        }


@pytest.mark.parametrize('kind', BAD)
def test_bad_peer_and_a_good_one(kind, lab):
    """The good one is enough."""
    lab.core(stall_timeout=10.0)
    lab.peer(kind)
    lab.peer()
    started = time.monotonic()
    result = lab.copy()
    assert time.monotonic() - started < 30
    assert result.bytes_by_origin == {'peer': len(lab.data)}


@pytest.mark.parametrize('kind', BAD)
def test_bad_peer_and_an_origin(kind, lab):
    """The origin is enough."""
    lab.peer(kind)
    started = time.monotonic()
    result = lab.copy(lab.url, lab.origin())
    assert time.monotonic() - started < 8
    assert set(result.bytes_by_origin) <= {'peer', 'origin'}


def test_bad_peers_alone(labs, subtests):
    """Without anybody else it ends soon, and says why."""
    jobs = {}
    for kind in evil_peer.USELESS:
        lab = labs(kind)
        lab.peer(kind)
        jobs[kind] = lab.copy
    started = time.monotonic()
    outcomes = in_parallel(jobs)
    assert time.monotonic() - started < 30
    for kind, outcome in outcomes.items():
        with subtests.test(kind):
            assert isinstance(outcome, exceptions.TransferError), outcome
            expected = (
                exceptions.IntegrityError
                if kind in ('poison', 'swap')
                else (exceptions.Stalled, exceptions.Unavailable)
            )
            assert isinstance(outcome, expected)


# Who is left out of it


def test_nobody_is_a_peer_unless_told(lab):
    """With a fresh configuration there is not one packet to a peer."""
    peer = lab.peer()
    lab.set(peer_networks=[])
    result = lab.copy(lab.url, lab.origin())
    assert result.bytes_by_origin == {'origin': len(lab.data)}
    assert not peer.connections


def test_peers_outside_of_the_networks(lab):
    """Also a peer that is configured has to be in one of them."""
    lab.set(peer_networks=['127.0.0.1/32'])
    outsider = lab.peer(host='127.0.0.2')
    insider = lab.peer()
    lab.copy()
    assert not outsider.connections
    assert insider.sent


class Slow:
    """A copy that goes on until it is told to end."""

    def __init__(self, lab, **arguments):
        self.lab = lab
        self.arguments = arguments
        self.result = None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.result = self.lab.copy(**self.arguments)
        except oslo_transfer.TransferError as exc:
            self.result = exc

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_exc):
        self.thread.join(30)
        assert not self.thread.is_alive()


def test_outsiders_that_connect_get_nothing(lab):
    """B-20: not even an answer; peers of the networks do get one."""
    lab.set(peer_networks=['127.0.0.1/32', '127.0.0.3/32'])
    port = lab.port()
    peer = lab.peer(pause=0.05)
    with Slow(lab) as copy:
        assert harness.wait_for(lambda: peer.sent > 0, 10)
        outside = evil_peer.knock(
            '127.0.0.1', port, lab.torrent, source='127.0.0.9', seconds=0.5
        )
        inside = evil_peer.knock(
            '127.0.0.1', port, lab.torrent, source='127.0.0.3', seconds=0.5
        )
    assert isinstance(copy.result, oslo_transfer.TransferResult)
    assert outside == b''
    assert lab.torrent.wire_hash in inside


@pytest.mark.parametrize(
    'said',
    [
        b'',
        b'GET / HTTP/1.1\r\n\r\n',
        b'\x13BitTorrent protocol' + bytes(48),
        os.urandom(5000),
        bytes(200_000),
    ],
    ids=['nothing', 'http', 'other-torrent', 'random', 'zeros'],
)
def test_bad_callers(said, lab):
    """Insiders that connect and talk nonsense hold nothing up."""
    port = lab.port()
    peer = lab.peer(pause=0.02)
    with Slow(lab) as copy, contextlib.ExitStack() as stack:
        assert harness.wait_for(lambda: peer.sent > 0, 10)
        for _ in range(20):
            sock = stack.enter_context(
                socket.create_connection(('127.0.0.1', port), 5)
            )
            with contextlib.suppress(OSError):
                sock.sendall(said)
        copy.thread.join(20)
    assert copy.result.bytes_by_origin == {'peer': len(lab.data)}


def test_gossip_is_not_listened_to(lab):
    """Whom a peer tells of, by PEX or as a DHT node, is not asked."""
    outsider = evil_peer.Peer(lab.torrent, lab.data)
    with outsider:
        gossip = lab.peer('gossip', pause=0.02)
        gossip.outsiders = [(outsider.host, outsider.port)]
        lab.copy()
        assert gossip.sent
        assert not outsider.connections


# Fall back


def test_alone_costs_nothing(lab):
    """Without a peer it is a plain copy from the origin."""
    started = time.monotonic()
    result = lab.copy(lab.url, lab.origin())
    assert time.monotonic() - started < 1.5
    assert result.bytes_by_origin == {'origin': len(lab.data)}
    assert result.driver == 'bittorrent'
    assert lab.server.bytes_sent() == len(lab.data)
    assert result.wasted == 0


def test_black_holes_cost_little(lab):
    """Peers that are down, without a word, hold nobody up."""
    for _ in range(3):
        hole = lab.stack.enter_context(evil_peer.BlackHole())
        lab.know(hole.address)
    lab.know(f'127.0.0.1:{child.free_port()}')
    started = time.monotonic()
    result = lab.copy(lab.url, lab.origin())
    assert time.monotonic() - started < 2.5
    assert result.bytes_by_origin == {'origin': len(lab.data)}


@pytest.mark.parametrize('kind', ['poison', 'claims-all', 'poison-some'])
def test_all_of_four_are_bad(kind, lab):
    """B-16: the origin has what they have not."""
    for _ in range(4):
        lab.peer(kind)
    started = time.monotonic()
    result = lab.copy(lab.url, lab.origin(), **lab.digest)
    assert time.monotonic() - started < 10
    assert result.verified
    assert result.bytes_by_origin['origin'] > 0


@pytest.mark.parametrize('kind', ['poison', 'poison-some'])
def test_one_of_four_is_bad(kind, lab):
    """B-15: the others are enough."""
    lab.core(stall_timeout=10.0)
    lab.peer(kind)
    for _ in range(3):
        lab.peer()
    result = lab.copy()
    assert result.bytes_by_origin == {'peer': len(lab.data)}


def test_seed_vanishes(lab):
    """B-26: what is missing in the end comes from the origin."""
    peer = lab.peer('vanishes')
    result = lab.copy(lab.url, lab.origin())
    assert set(result.bytes_by_origin) <= {'peer', 'origin'}
    assert peer.sent <= len(lab.data)


def test_seed_vanishes_and_nobody_is_left(lab):
    """What it has brought is kept for the next call."""
    peer = lab.peer('vanishes')
    with pytest.raises(oslo_transfer.TransferError) as caught:
        lab.copy()
    assert caught.value.retryable
    assert peer.done.is_set()
    lab.set(peers=[])
    lab.peer()
    result = lab.copy()
    assert result.bytes_by_origin['resumed'] > len(lab.data) * 0.8
    assert sum(result.bytes_by_origin.values()) == len(lab.data)


@pytest.mark.parametrize('place', ['location', 'web seed'])
def test_origin_with_wrong_bytes(place, lab):
    """B-17: it is left, and peers are not blamed for it."""
    wrong = bytes(byte ^ 1 for byte in lab.data)
    if place == 'web seed':
        lab.core(
            untrusted_networks=['127.0.0.0/8'],
            untrusted_ports=[lab.server.port],
        )
        lab.torrent = torrents.make(
            lab.data, piece_bytes=1 << 16, web_seeds=[lab.origin(wrong)]
        )
        sources = [lab.url]
    else:
        sources = [lab.url, lab.origin(wrong)]
    lab.peer()
    result = lab.copy(*sources)
    assert result.bytes_by_origin == {'peer': len(lab.data)}
    blamed = [
        a.location for a in result.attempts if a.error == 'IntegrityError'
    ]
    assert blamed == (sources[1:] if lab.server.bytes_sent() else [])


def test_only_wrong_bytes(lab):
    """Nobody has the right ones: it ends, and shows nothing."""
    wrong = bytes(byte ^ 1 for byte in lab.data)
    lab.peer('poison')
    with pytest.raises(
        (exceptions.IntegrityError, exceptions.AllSourcesFailed)
    ):
        lab.copy(lab.url, lab.origin(wrong), **lab.digest)


@pytest.mark.parametrize('allowed', [False, True])
def test_web_seed(allowed, lab):
    """It is asked like any URL that nobody vouches for: if allowed."""
    if allowed:
        lab.core(
            untrusted_networks=['127.0.0.0/8'],
            untrusted_ports=[lab.server.port],
        )
    seed = lab.origin()
    lab.torrent = torrents.make(
        lab.data, piece_bytes=1 << 16, web_seeds=[seed]
    )
    if allowed:
        result = lab.copy()
        assert result.bytes_by_origin == {'origin': len(lab.data)}
        return
    with pytest.raises(exceptions.TransferError):
        lab.copy()
    assert not lab.server.requests


@pytest.mark.parametrize(
    'seed',
    [
        'file:///etc/passwd',
        'ftp://127.0.0.1/',
        'http://169.254.169.254/latest/',
        'http://[::1]/',
        'torrent+http://127.0.0.1/x',
        '//x',
        'http://' + 'a' * 2000,
    ],
)
def test_web_seeds_that_nobody_allowed(seed, lab):
    """They are left out, and peers bring it."""
    lab.torrent = torrents.make(
        lab.data, piece_bytes=1 << 16, web_seeds=[seed]
    )
    lab.peer()
    result = lab.copy()
    assert result.bytes_by_origin == {'peer': len(lab.data)}


# The torrent file


@pytest.mark.parametrize('name', sorted(torrents.WRONG))
def test_wrong_torrent_file(name, lab):
    """B-10, B-14: refused before anything is asked of a peer."""
    peer = lab.peer()
    url = lab.server.put('/it.torrent', torrents.WRONG[name](lab.torrent))
    with pytest.raises(
        (
            exceptions.ProtocolError,
            exceptions.IntegrityError,
            exceptions.CapabilityMissing,
        )
    ) as caught:
        lab.copy(f'torrent+{url}')
    assert not caught.value.retryable
    assert not peer.connections
    assert len(str(caught.value)) < 1000


def test_torrent_file_without_end(lab):
    """It is not read for ever."""
    url = lab.server.put(
        '/big.torrent', lambda _offset, length: b'd' * length, size=1 << 36
    )
    started = time.monotonic()
    with pytest.raises(exceptions.TransferError):
        lab.copy(f'torrent+{url}')
    assert time.monotonic() - started < 10
    assert lab.server.bytes_sent() < 256 << 20


@pytest.mark.parametrize('which', ['v1', 'v2'])
def test_pinned_hash(which, lab):
    """B-12: the torrent has to be the one that the URL names."""
    lab.peer()
    right = getattr(lab.torrent, which)
    wrong = right[:-1] + ('0' if right[-1] != '0' else '1')
    with pytest.raises(exceptions.IntegrityError):
        lab.copy(f'{lab.url}#{wrong}', **lab.digest)
    lab.copy(f'{lab.url}#{right.upper()}', **lab.digest)


@pytest.mark.parametrize(
    'name',
    [
        '..',
        '../../../escaped',
        '/etc/escaped',
        'a/../../escaped',
        '..\\escaped',
        'nul\x00escaped',
        'x' * 5000,
        '\u202egpj.exe',
        'new\nline',
        '.',
        ' ',
        'CON',
    ],
)
def test_names(name, lab):
    """B-01 to B-09: the caller says where it goes, nobody else."""
    lab.torrent = torrents.make(lab.data, piece_bytes=1 << 16, name=name)
    lab.peer()
    before = set(lab.directory.rglob('*')) | {lab.directory / 'it.torrent'}
    with contextlib.suppress(
        exceptions.ProtocolError, exceptions.InvalidEndpoint
    ):
        lab.copy()
    assert set(lab.directory.rglob('*')) - before <= {lab.dst}


def test_symbolic_link_in_a_torrent(lab):
    """B-09: an attribute makes nothing but the file."""
    lab.torrent = lab.torrent.changed(attr='l', symlink_path=['..', 'x'])
    lab.peer()
    with contextlib.suppress(
        exceptions.ProtocolError, exceptions.CapabilityMissing
    ):
        lab.copy()
        assert lab.dst.is_file() and not lab.dst.is_symlink()


def test_version_1_needs_a_digest(lab):
    """B-13: SHA-1 alone proves nothing."""
    lab.torrent = torrents.make(lab.data, 'v1', piece_bytes=1 << 16)
    peer = lab.peer()
    with pytest.raises(exceptions.TransferError, match='digest'):
        lab.copy()
    assert not peer.sent
    assert lab.copy(**lab.digest).verified


def test_wrong_size(lab):
    """B-10: another size than the caller's is seen before the start."""
    peer = lab.peer()
    with pytest.raises(exceptions.SizeMismatch):
        lab.copy(expected_size=len(lab.data) + 1)
    assert not peer.connections


def test_wrong_digest(lab):
    """All pieces are right, and it is still not what was asked for."""
    lab.peer()
    with pytest.raises(exceptions.IntegrityError):
        lab.copy(hash_algo='sha256', hash_value='0' * 64)
