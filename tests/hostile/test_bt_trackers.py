# SPDX-License-Identifier: Apache-2.0
"""Whatever trackers do, a copy goes on, and talks to nobody else."""

from __future__ import annotations

import socket
import time

import pytest

from oslo_transfer import exceptions
from oslo_transfer.testing import harness
from tests.servers import bt_lab
from tests.servers import child
from tests.servers import evil_peer
from tests.servers import evil_tracker
from tests.servers import http


@pytest.fixture
def lab(conf, tmp_path):
    with bt_lab.Lab(conf, tmp_path) as lab:
        lab.core(stall_timeout=10.0)
        yield lab


@pytest.fixture
def stranger(lab):
    """A good peer that the copy is not told of."""
    with evil_peer.Peer(lab.torrent, lab.data) as peer:
        yield peer


def renamed(lab, *trackers):
    """Have the torrent name trackers; its hash stays."""
    content = {**lab.torrent.content, 'announce': trackers[0]}
    content['announce-list'] = [[each] for each in trackers]
    object.__setattr__(lab.torrent, 'content', content)


GOOD = ('good', 'no-compact', 'outsiders', 'negative', 'zero', 'many')


@pytest.mark.parametrize('name', GOOD)
def test_trackers_that_know_a_peer(name, lab, stranger):
    """Among whatever else they tell."""
    address = (stranger.host, stranger.port)
    lab.set(trackers=[evil_tracker.add(lab.server, name, [address])])
    result = lab.copy()
    assert result.bytes_by_origin == {'peer': len(lab.data)}
    # A negative interval is no reason to ask all the time.
    assert len(lab.server.requests) <= 8


@pytest.mark.parametrize(
    'name', sorted(set(evil_tracker.BEHAVIOURS) - set(GOOD))
)
def test_trackers_that_are_of_no_use(name, lab):
    """A peer that is known is enough, and nobody waits for the tracker."""
    lab.set(trackers=[evil_tracker.add(lab.server, name)])
    # Slow enough that the tracker has its chance.
    lab.peer(pause=0.01)
    started = time.monotonic()
    result = lab.copy()
    assert time.monotonic() - started < 10
    assert result.bytes_by_origin == {'peer': len(lab.data)}
    assert lab.server.requests


def test_tracker_without_anybody(lab):
    """It is given time to find somebody, and that ends."""
    lab.core(stall_timeout=1.0)
    lab.set(trackers=[evil_tracker.add(lab.server, 'good')])
    with pytest.raises(exceptions.Stalled):
        lab.copy()


def test_dead_tracker(lab, stranger, nothing_left):
    """It takes a while to take leave of trackers; then nothing is left."""
    lab.set(
        trackers=[
            f'http://127.0.0.1:{child.free_port()}/announce',
            f'udp://127.0.0.1:{child.free_port()}/announce',
        ]
    )
    lab.know(stranger.address)
    assert lab.copy().bytes_by_origin == {'peer': len(lab.data)}


@pytest.mark.parametrize(
    ('kind', 'useful'),
    [
        ('good', True),
        ('outsiders', True),
        ('negative', True),
        ('silent', False),
        ('error', False),
        ('garbage', False),
        ('short', False),
        ('wrong-transaction', False),
    ],
)
def test_udp_trackers(kind, useful, lab, stranger):
    address = (stranger.host, stranger.port)
    with evil_tracker.UDPTracker(kind, [address]) as tracker:
        lab.set(trackers=[tracker.url])
        if not useful:
            lab.know(stranger.address)
        result = lab.copy()
        assert result.bytes_by_origin == {'peer': len(lab.data)}
        assert tracker.received


# B-21, B-22: where a tracker may not send anybody


@pytest.fixture
def internal(lab):
    """A server in this host that is not for peers and trackers."""
    lab.set(peer_networks=['127.0.0.1/32'])
    with http.ScriptedHTTPServer(host='127.0.0.2') as server:
        yield server


def test_trackers_of_a_torrent(lab, internal):
    """Whom a torrent names is asked only if the deployer allows it."""
    allowed = evil_tracker.add(lab.server, 'good')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(('127.0.0.2', 0))
        deaf.setblocking(False)
        renamed(
            lab,
            evil_tracker.add(internal, 'good'),
            f'udp://127.0.0.2:{deaf.getsockname()[1]}/announce',
            'http://169.254.169.254/latest/meta-data/',
            'http://[::ffff:127.0.0.2]/announce',
            'http://0x7f000002/announce',
            'file:///etc/passwd',
            'https://user:password@127.0.0.2/announce',
            'gopher://127.0.0.2/',
            'http://127.0.0.2:99999/',
            '',
            'http:///announce',
            allowed,
        )
        lab.peer(pause=0.01)
        lab.copy()
        with pytest.raises(BlockingIOError):
            deaf.recv(1)
    assert not internal.requests
    assert not internal.connections.total
    assert lab.server.requests


@pytest.mark.parametrize('configured', [True, False])
def test_redirects_to_internal_hosts(configured, lab, internal):
    """Not even a connection goes there."""
    inside = evil_tracker.add(internal, 'good')
    url = evil_tracker.redirect(lab.server, '/announce', inside)
    if configured:
        lab.set(trackers=[url])
    else:
        renamed(lab, url)
    lab.peer(pause=0.01)
    lab.copy()
    assert harness.wait_for(lambda: bool(lab.server.requests), 5)
    assert not internal.connections.total


@pytest.mark.parametrize(
    'to',
    [
        'file:///etc/passwd',
        'http://169.254.169.254/latest/',
        'http://[::1]:80/',
        'udp://127.0.0.2:1/announce',
        'ftp://127.0.0.2/',
        '//127.0.0.2/',
        '\r\nX: y',
        '',
    ],
)
def test_redirects_to_odd_places(to, lab, internal):
    lab.set(trackers=[evil_tracker.redirect(lab.server, '/announce', to)])
    lab.peer(pause=0.01)
    assert lab.copy().bytes_by_origin == {'peer': len(lab.data)}
    assert not internal.connections.total


def test_peers_of_a_tracker_outside_of_the_networks(lab, internal):
    """A tracker does not decide who is a peer."""
    with evil_peer.Peer(lab.torrent, lab.data, host='127.0.0.2') as outsider:
        told = [
            (outsider.host, outsider.port),
            ('127.0.0.2', internal.port),
            *evil_tracker.OUTSIDERS,
        ]
        lab.set(trackers=[evil_tracker.add(lab.server, 'good', told)])
        lab.peer(pause=0.02)
        lab.copy()
        assert lab.server.requests
        assert not outsider.connections
    assert not internal.connections.total


def test_tracker_with_a_login(lab, stranger, caplog):
    """A login in its URL stays where it belongs."""
    caplog.set_level('DEBUG')
    port = child.free_port()
    url = f'http://user:s3cr3t@127.0.0.1:{port}/announce?key=t0ken'
    lab.set(trackers=[url])
    lab.know(stranger.address)
    result = lab.copy()
    for text in (caplog.text, repr(result)):
        assert 's3cr3t' not in text
        assert 't0ken' not in text
