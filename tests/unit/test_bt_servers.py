# SPDX-License-Identifier: Apache-2.0
"""The BitTorrent test servers do what they claim, and leave nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
import urllib.error
import urllib.request

import libtorrent
import pytest

from oslo_transfer.testing import harness
from tests.servers import evil_peer
from tests.servers import evil_tracker
from tests.servers import http
from tests.servers import opentracker
from tests.servers import rawclient
from tests.servers import torrents

DATA = harness.pattern(300_001)


@pytest.fixture(autouse=True)
def nothing_left():
    with rawclient.nothing_left():
        yield


@pytest.mark.parametrize('kind', torrents.KINDS)
@pytest.mark.parametrize('piece_bytes', [1 << 14, 1 << 16, 1 << 20])
def test_torrents_are_right(kind, piece_bytes):
    """libtorrent finds the same hashes in them."""
    made = torrents.make(
        DATA,
        kind,
        piece_bytes=piece_bytes,
        trackers=['http://127.0.0.1/announce', 'udp://127.0.0.1:1/'],
        web_seeds=['http://127.0.0.1/image'],
        nodes=[('127.0.0.1', 6881)],
        private=True,
    )
    found = libtorrent.load_torrent_buffer(made.encoded)
    hashes = found.ti.info_hashes()
    assert found.ti.layout().file_size(0) == len(DATA)
    assert found.ti.num_pieces() == made.piece_count
    assert hashes.has_v1() == (kind != 'v2')
    assert hashes.has_v2() == (kind != 'v1')
    assert str(hashes.v1) == made.v1 or kind == 'v2'
    assert str(hashes.v2) == made.v2 or kind == 'v1'
    assert len(found.trackers) == 2
    # It takes its padding for a file, and the URL for that of a directory.
    slash = '/' if found.ti.num_files() > 1 else ''
    assert found.url_seeds == [f'http://127.0.0.1/image{slash}']
    assert found.dht_nodes == [('127.0.0.1', 6881)]
    assert found.ti.priv()


def test_wrong_torrents_are_wrong():
    """libtorrent refuses them, or they are not of what they should be."""
    good = torrents.make(DATA)
    for name, make in torrents.WRONG.items():
        with contextlib.suppress(RuntimeError):
            info = libtorrent.load_torrent_buffer(make(good)).ti
            assert (
                info.num_files() != 1
                or str(info.info_hashes().v1) != good.v1
                or name == 'no-layers'
            ), name


@contextlib.contextmanager
def connected(peer):
    """A connection behind the handshake."""
    with socket.create_connection((peer.host, peer.port), 5) as sock:
        hello = b'\x13BitTorrent protocol' + bytes(8)
        sock.sendall(hello + peer.torrent.wire_hash + bytes(20))
        with sock.makefile('rb') as file:
            yield sock, file


def blocks(peer, *indices):
    """What a peer sends when it is asked for blocks."""
    found = []
    with connected(peer) as (sock, file):
        assert file.read(68)[:20] == b'\x13BitTorrent protocol'
        for index in indices:
            sock.sendall(struct.pack('>IBIII', 13, 6, index, 0, 1 << 14))
        while len(found) < len(indices):
            length = int.from_bytes(file.read(4), 'big')
            if not length:
                break
            body = file.read(length)
            if body[:1] == b'\x07':
                found.append(body[9:])
    return found


def test_good_peer():
    made = torrents.make(DATA)
    with evil_peer.Peer(made, DATA) as peer:
        assert blocks(peer, 0, 1) == [DATA[: 1 << 14], DATA[1 << 16 :][:16384]]
        assert peer.sent == 2 << 14
        assert peer.requests == [(0, 0, 1 << 14), (1, 0, 1 << 14)]


@pytest.mark.parametrize('kind', ['poison', 'poison-some', 'swap'])
def test_poison(kind):
    made = torrents.make(DATA)
    with evil_peer.Peer(made, DATA, kind) as peer:
        found = blocks(peer, 0, 0, 0, 0, 0)
        assert len(found) == 5
        assert found != [DATA[: 1 << 14]] * 5


@pytest.mark.parametrize('kind', sorted(evil_peer.BEHAVIOURS))
def test_peers_end(kind):
    """Each with a client in the middle of a conversation."""
    made = torrents.make(DATA)
    with evil_peer.Peer(made, DATA, kind) as peer:
        with connected(peer) as (sock, _file):
            sock.sendall(struct.pack('>IBIII', 13, 6, 0, 0, 1 << 14))
            assert harness.wait_for(lambda: peer.connections == 1, 5)


def test_peer_dials():
    made = torrents.make(DATA)
    with (
        evil_peer.Peer(made, DATA) as peer,
        socket.create_server(('127.0.0.1', 0)) as listening,
    ):
        peer.dial(*listening.getsockname())
        sock, _ = listening.accept()
        with sock, sock.makefile('rb') as file:
            assert file.read(68)[28:48] == made.wire_hash


def test_black_hole():
    with evil_peer.BlackHole() as hole:
        with pytest.raises(TimeoutError):
            socket.create_connection((hole.host, hole.port), 0.1)


def test_knock():
    made = torrents.make(DATA)
    with evil_peer.Peer(made, DATA) as peer:
        said = evil_peer.knock(peer.host, peer.port, made, seconds=0.3)
    assert DATA[:1000] in said


@pytest.mark.parametrize('name', sorted(evil_tracker.BEHAVIOURS))
def test_trackers(name):
    """Each answers, or keeps its client waiting."""
    if name in ('huge-body', 'endless-head'):
        least, most = 1 << 20, 1 << 21
    else:
        least, most = 0 if name == 'silent' else 1, 1 << 20
    with http.ScriptedHTTPServer() as server:
        url = evil_tracker.add(server, name, [('127.0.0.1', 4711)])
        with socket.create_connection((server.host, server.port)) as sock:
            sock.settimeout(0.1 if name == 'silent' else 5)
            path = url.removeprefix(server.origin).encode()
            sock.sendall(b'GET %s HTTP/1.0\r\n\r\n' % path)
            said = b''
            end = time.monotonic() + 15
            with contextlib.suppress(TimeoutError):
                while len(said) < most and (more := sock.recv(1 << 20)):
                    said += more
                    if name == 'trickle':
                        break
        assert time.monotonic() < end
    assert len(said) >= least
    assert (b'\x7f\0\0\x01\x12\x67' in said) == (
        name in ('good', 'outsiders', 'many', 'negative', 'zero')
    )


def test_redirecting_tracker():
    with http.ScriptedHTTPServer() as server:
        url = evil_tracker.redirect(server, '/away', 'http://127.0.0.1:1/')
        with pytest.raises(urllib.error.URLError, match='refused'):
            urllib.request.urlopen(url, timeout=5)  # noqa: S310


@pytest.mark.parametrize(
    'kind',
    ['good', 'outsiders', 'silent', 'error', 'garbage', 'short', 'negative'],
)
def test_udp_trackers(kind):
    peer = ('127.0.0.1', 4711)
    with evil_tracker.UDPTracker(kind, [peer]) as tracker:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.1)
            sock.connect(('127.0.0.1', tracker.port))
            sock.send(struct.pack('>QII', 0x41727101980, 0, 7))
            said = b''
            with contextlib.suppress(TimeoutError):
                said = sock.recv(2000)
                sock.send(struct.pack('>QII', 4711, 1, 8) + bytes(82))
                said = sock.recv(2000)
        assert bool(said) == (kind != 'silent')
        good = kind in ('good', 'outsiders', 'negative')
        assert (evil_tracker.compact([peer]) in said) == good


def test_libtorrent_gets_it_from_opentracker(tmp_path):
    """Peer and tracker are good enough for a real client."""
    made = torrents.make(DATA, trackers=[])
    settings = {
        'listen_interfaces': '127.0.0.1:0',
        'enable_dht': False,
        'enable_lsd': False,
        'enable_upnp': False,
        'enable_natpmp': False,
        'enable_outgoing_utp': False,
        'ssrf_mitigation': False,
    }
    with (
        evil_peer.Peer(made, DATA) as peer,
        opentracker.OpenTracker(made) as tracker,
    ):
        tracker.announce(made, peer.port)
        for scheme in ('http', 'udp'):
            session = libtorrent.session(settings)
            what = libtorrent.load_torrent_buffer(made.encoded)
            what.save_path = str(tmp_path / scheme)
            what.trackers = [tracker.url(scheme)]
            handle = session.add_torrent(what)
            end = time.monotonic() + 30
            while not handle.status().is_seeding:
                assert time.monotonic() < end
                session.wait_for_alert(50)
                session.pop_alerts()
            # Written by another thread; it is closed when it is removed.
            handle.flush_cache()
            session.remove_torrent(handle)
            path = tmp_path / scheme / 'image'
            assert harness.wait_for(
                lambda path=path: (
                    os.path.exists(path) and path.read_bytes() == DATA
                ),
                5,
            )
            del handle, session
