# SPDX-License-Identifier: Apache-2.0
"""Who may be a peer: nobody but the configured networks."""

from __future__ import annotations

import socket
import types

import pytest

from oslo_transfer.drivers.bittorrent import bound
from oslo_transfer.drivers.bittorrent import peers
from oslo_transfer import exceptions
from tests.unit import fakes

LOCAL = peers.Allowed(['10.1.0.0/16', 'fd00:1::/64', '127.0.0.1/32'])


@pytest.fixture
def ctx(conf):
    return fakes.make_ctx(conf)


@pytest.fixture
def names(monkeypatch):
    """What names resolve to."""
    table = {}

    def getaddrinfo(host, *_args, **_kwargs):
        if host not in table:
            raise socket.gaierror('no such name')
        return [(0, 0, 0, '', (each, 0)) for each in table[host]]

    monkeypatch.setattr(peers.socket, 'getaddrinfo', getaddrinfo)
    return table


def torrent(*tiers):
    return types.SimpleNamespace(trackers=tiers)


@pytest.mark.parametrize(
    ('address', 'inside'),
    [
        ('10.1.255.255', True),
        ('10.2.0.0', False),
        ('fd00:1::5', True),
        ('fd00:1::5%eth0', True),
        ('fd00:2::5', False),
        ('::ffff:10.1.0.1', False),
        ('169.254.169.254', False),
    ],
)
def test_networks(address, inside):
    assert (address in LOCAL) is inside


def test_no_networks_mean_nobody():
    assert '127.0.0.1' not in peers.Allowed([])


@pytest.mark.parametrize('text', ['10.0.0.1/8', '10.0.0.0/33', 'here', ''])
def test_malformed_networks_are_named(text):
    with pytest.raises(exceptions.ConfigurationError, match='peer_networks'):
        peers.Allowed([text])


def test_given_peers(ctx, names):
    names['seed.example'] = ['10.1.0.5', '10.1.0.6']
    found = peers.GivenPeers(
        ['seed.example:6881', '[fd00:1::1]:51413', '10.1.0.7:1']
    )
    assert found.peers('', ctx) == [
        ('10.1.0.5', 6881),
        ('10.1.0.6', 6881),
        ('fd00:1::1', 51413),
        ('10.1.0.7', 1),
    ]


def test_a_peer_without_an_address_is_left_out(ctx, names, caplog):
    found = peers.GivenPeers(['gone.example:6881', '10.1.0.7:1'])
    assert found.peers('', ctx) == [('10.1.0.7', 1)]
    assert 'gone.example' in caplog.text


@pytest.mark.parametrize(
    'text', ['seed', 'seed:', ':6881', 'seed:0', 'seed:65536', 'seed:x']
)
def test_malformed_peers_are_named(text):
    with pytest.raises(exceptions.ConfigurationError, match='HOST:PORT'):
        peers.GivenPeers([text])


def test_trackers_of_a_torrent_need_allowed_addresses(ctx, names):
    names['in.example'] = ['10.1.0.1']
    names['out.example'] = ['192.0.2.1']
    # One address inside would let the other one through.
    names['both.example'] = ['10.1.0.1', '192.0.2.1']
    found = peers.trackers(
        torrent(
            ('http://in.example/announce', 'http://out.example/announce'),
            ('udp://both.example:1/', 'udp://10.1.0.9:6969/announce'),
            ('http://169.254.169.254/latest', 'http://nowhere.example/'),
        ),
        [],
        LOCAL,
        ctx,
    )
    assert found == [
        'http://in.example/announce',
        'udp://10.1.0.9:6969/announce',
    ]


@pytest.mark.parametrize(
    'url',
    ['file:///etc/passwd', 'wss://10.1.0.1/', 'http://', 'udp://10.1.0.1:0/'],
)
def test_odd_trackers_of_a_torrent_are_left_out(ctx, url):
    assert peers.trackers(torrent((url,)), [], LOCAL, ctx) == []


def test_odd_trackers_of_the_configuration_are_errors(ctx):
    with pytest.raises(exceptions.ConfigurationError, match='trackers'):
        peers.trackers(torrent(), ['file:///etc/passwd'], LOCAL, ctx)


def test_configured_trackers_come_first_and_once(ctx):
    one, two = 'http://10.1.0.1/a', 'http://10.1.0.2/a'
    found = peers.trackers(torrent((one, two)), [two], LOCAL, ctx)
    assert found == [two, one]


def test_thousands_of_trackers_are_not_asked(ctx):
    many = tuple(f'http://10.1.0.1/{number}' for number in range(5000))
    assert len(peers.trackers(torrent(many), [], LOCAL, ctx)) == 16


@pytest.mark.parametrize(
    ('origin', 'host', 'hosts', 'seconds'),
    [
        # What the origin, a host and all together can send decides in turn.
        (1.0, 10.0, 1, 100.0),
        (10.0, 1.0, 1, 100.0),
        (10.0, 10.0, 8, 10.0),
        (1e9, 10.0, 1000, 10.0),
        (5.0, 10.0, 8, 20.0),
    ],
)
def test_lower_bound(origin, host, hosts, seconds):
    assert bound.lower_bound(100, origin, host, hosts) == seconds
