# SPDX-License-Identifier: Apache-2.0
"""Foreign clients and trackers, real servers, and the network's silence."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading

import pytest

from oslo_transfer.testing import harness
from tests.functional import conftest
from tests.functional import forkserver
from tests.servers import aria2
from tests.servers import bt_lab
from tests.servers import evil_peer
from tests.servers import netns
from tests.servers import nginx
from tests.servers import opentracker
from tests.servers import torrents
from tests.servers import transmission
from tests import waiting

pytestmark = pytest.mark.functional

MIB = 1 << 20


@pytest.fixture(scope='module', autouse=True)
def torrent_group():
    """Leave the tests out where their group is left out."""
    groups = os.environ.get('OSLO_TRANSFER_TEST_GROUPS')
    if groups is not None and 'bittorrent' not in groups.split():
        pytest.skip('the group "bittorrent" is left out')
    for program in (
        aria2.Aria2,
        transmission.Transmission,
        opentracker.OpenTracker,
        nginx.Nginx,
    ):
        if program.found() is None:
            conftest.lacks(f'{program.program} is missing')


@pytest.fixture
def make_lab(conf, tmp_path):
    with contextlib.ExitStack() as stack:

        def make(**options):
            lab = stack.enter_context(bt_lab.Lab(conf, tmp_path, **options))
            # Transmission looks every ten seconds who may ask.
            lab.core(stall_timeout=20.0)
            return lab

        yield make


# Debian's aria2 and Transmission know version 1 only, and take a hybrid
# torrent for another one: see that a hash tells us enough.


@pytest.mark.parametrize('encryption', ['disabled', 'allowed', 'required'])
def test_from_aria2(encryption, make_lab):
    lab = make_lab(kind='v1', size=3 * MIB + 5)
    lab.set(encryption=encryption)
    with aria2.Aria2(lab.torrent, lab.data) as seed:
        lab.know(seed.address)
        result = lab.copy(**lab.digest)
        assert result.bytes_by_origin == {'peer': len(lab.data)}


class Late(evil_peer.Session):
    """Has to be told before it gives anything."""

    def on_request(self, index, begin, length):
        self.peer.done.wait(60)
        super().on_request(index, begin, length)


@contextlib.contextmanager
def all_but_one_piece(lab, leech):
    """A copy, done but for a piece, that a foreign leech is a peer of."""
    lab.know(leech.address)
    last = lab.torrent.piece_count - 1
    lab.peer(has=set(range(last)))
    late = lab.peer(Late, has={last})
    outcomes = []
    thread = threading.Thread(
        target=lambda: outcomes.append(lab.copy(**lab.digest))
    )
    thread.start()
    try:
        yield
    finally:
        late.done.set()
        thread.join(30)
    assert outcomes[0].bytes_by_origin == {'peer': len(lab.data)}


def test_to_aria2(make_lab):
    """A copy that goes on gives what it has to a foreign leech."""
    lab = make_lab(kind='v1', size=3 * MIB + 5)
    with aria2.Aria2(lab.torrent) as leech, all_but_one_piece(lab, leech):
        waiting.until(
            lambda: int(leech.state().get('completedLength', 0)) > MIB, 20
        )


def test_transmission(make_lab, tmp_path):
    """Both ways at the same time: it takes its time for each."""
    lab = make_lab(kind='v1', size=3 * MIB + 5)
    (tmp_path / 'from').mkdir()
    other = bt_lab.Lab(
        forkserver.make_conf({'stall_timeout': 20.0}),
        tmp_path / 'from',
        kind='v1',
        name='other',
        size=3 * MIB + 5,
    )
    other.core(stall_timeout=20.0)
    with (
        other,
        transmission.Transmission(other.torrent, other.data) as seed,
        transmission.Transmission(lab.torrent) as leech,
    ):
        other.know(seed.address)
        outcomes = []
        thread = threading.Thread(
            target=lambda: outcomes.append(other.copy(**other.digest))
        )
        thread.start()
        with all_but_one_piece(lab, leech):
            waiting.until(
                lambda: leech.state().get('percentDone', 0) > 0.3, 25
            )
        thread.join(30)
    assert outcomes[0].bytes_by_origin == {'peer': len(other.data)}


@pytest.fixture(scope='module')
def tracker():
    """An opentracker that serves all labs of the usual size.

    One for all: libtorrent believes for a minute that at an address there
    is the tracker that was there before.
    """
    data = harness.pattern(MIB + 77, 'torrent')
    made = [
        torrents.make(data, kind, piece_bytes=1 << 16)
        for kind in torrents.KINDS
    ]
    with opentracker.OpenTracker(*made) as running:
        yield running


@pytest.mark.parametrize('scheme', ['http', 'udp'])
@pytest.mark.parametrize('kind', torrents.KINDS)
def test_opentracker(kind, scheme, make_lab, tracker):
    """It tells of a peer, and is told of us."""
    lab = make_lab(kind=kind)
    with evil_peer.Peer(lab.torrent, lab.data, pause=0.01) as hidden:
        tracker.announce(lab.torrent, hidden.port)
        lab.set(trackers=[tracker.url(scheme)])
        port = lab.port()
        told = []

        def progress(_count, _total):
            if not told:
                told.append(tracker.announce(lab.torrent, hidden.port))

        result = lab.copy(progress=progress, **lab.digest)
    assert result.bytes_by_origin == {'peer': len(lab.data)}
    assert struct.pack('>4BH', 127, 0, 0, 1, port) in told[0]


def test_nginx_beside_peers(make_lab, tmp_path):
    """Origin and peers together; the shares add up."""
    lab = make_lab(size=8 * MIB + 5)
    root = tmp_path / 'root'
    root.mkdir()
    (root / 'image').write_bytes(lab.data)
    with nginx.Nginx(root) as server:
        lab.peer(has=set(range(40)))
        result = lab.copy(lab.url, server.url('/image'), **lab.digest)
    shares = result.bytes_by_origin
    assert sum(shares.values()) == len(lab.data)
    assert shares['origin'] >= len(lab.data) - 40 * lab.torrent.piece_bytes
    assert set(shares) <= {'origin', 'peer'}


# B-19


class Wire:
    """Notes who is sent what from an interface: addresses and protocols."""

    def __init__(self, host):
        with host.inside():
            self._sock = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)
            )
        self._sock.bind(('eth0', 0))
        self._sock.settimeout(0.2)
        self._ended = threading.Event()
        self.sent = set()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._ended.set()
        self._thread.join()
        self._sock.close()

    def _run(self):
        while not self._ended.is_set():
            try:
                frame, where = self._sock.recvfrom(1 << 16)
            except TimeoutError:
                continue
            if where[2] == socket.PACKET_OUTGOING:
                self.sent.add(self._read(frame))

    @staticmethod
    def _read(frame):
        kind = struct.unpack('>H', frame[12:14])[0]
        if kind == 0x0800:
            ihl = (frame[14] & 15) * 4
            port = struct.unpack('>H', frame[16 + ihl : 18 + ihl])[0]
            return (
                {6: 'tcp', 17: 'udp'}.get(frame[23], frame[23]),
                socket.inet_ntoa(frame[30:34]),
                port,
            )
        if kind == 0x0806:
            return ('arp', socket.inet_ntoa(frame[38:42]), 0)
        if kind == 0x86DD:
            return (
                f'ipv6-{frame[20]}',
                socket.inet_ntop(socket.AF_INET6, frame[38:54]),
                0,
            )
        return (kind, '', 0)


# What a host says by itself when it gets an interface: MLD, DAD, router
# solicitation.
def _by_itself(packet):
    return str(packet[0]).startswith('ipv6') and packet[1].startswith('ff02')


def test_not_a_packet_to_anybody_else(tmp_path):
    """B-19: whatever a torrent and a peer name, nobody outside is told."""
    if reason := netns.missing():
        conftest.lacks(reason)
    outside = '10.77.0.3'
    with netns.Network(3) as network:
        here, seed, other = network.hosts
        for host in network.hosts:
            # Or the kernel itself talks to its neighbours now and then.
            with host.inside(), contextlib.suppress(OSError):
                with open(
                    '/proc/sys/net/ipv6/conf/all/disable_ipv6', 'w'
                ) as file:
                    file.write('1')
        assert other.address == outside
        conf = forkserver.make_conf({'stall_timeout': 10.0})
        lab = bt_lab.Lab(
            conf,
            tmp_path,
            trackers=[
                f'http://{outside}/announce',
                f'udp://{outside}:6969/announce',
                'udp://192.0.2.1:6969/announce',
                f'http://{netns.BLACK_HOLE}/announce',
            ],
            web_seeds=[f'http://{outside}/image', 'ftp://192.0.2.1/image'],
            nodes=[(outside, 6881), ('192.0.2.1', 6881)],
        )
        lab.set(
            peer_networks=[f'{seed.address}/32'],
            listen_address=here.address,
        )
        with seed.inside():
            gossip = evil_peer.Peer(
                lab.torrent,
                lab.data,
                'gossip',
                host=seed.address,
                pause=0.02,
            )
        gossip.outsiders = [(outside, 6881), ('192.0.2.1', 6881)]
        with lab, gossip, Wire(here) as wire:
            lab.know(gossip.address, f'{outside}:6881')
            outcomes = []

            def run():
                with here.inside():
                    outcomes.append(lab.copy())

            thread = threading.Thread(target=run)
            thread.start()
            thread.join(30)
            assert not thread.is_alive()
            # What it might have put off.
            harness.wait_for(lambda: False, 1.0)
    assert outcomes[0].bytes_by_origin == {'peer': len(lab.data)}
    others = {
        packet
        for packet in wire.sent
        if packet[1] not in (seed.address, here.address)
        and not _by_itself(packet)
    }
    assert others == set()
    assert ('tcp', seed.address, gossip.port) in wire.sent
    assert {packet[0] for packet in wire.sent} <= {'tcp', 'arp', 'ipv6-0'}
