# SPDX-License-Identifier: Apache-2.0
"""One libtorrent session for a process, for as long as it is needed."""

from __future__ import annotations

import os
import socket

import pytest

from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer.drivers.bittorrent import session
from oslo_transfer.drivers.bittorrent import torrent
from oslo_transfer import exceptions
from tests.servers import torrents

pytestmark = pytest.mark.usefixtures('nothing_left')

ONE, TWO = 'a' * 40, 'b' * 40


@pytest.fixture
def group(conf):
    conf.set_override(
        'listen_address', '127.0.0.1', 'oslo_transfer_bittorrent'
    )
    return conf.oslo_transfer_bittorrent


def takes_connections(port):
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(('127.0.0.1', port)) == 0


def test_torrents_share_it_and_the_last_one_ends_it(group):
    one = session.acquire(group, ONE)
    assert session.acquire(group, TWO) is one
    port = one.port
    session.release(one, ONE)
    assert takes_connections(port)
    session.release(one, TWO)
    assert not takes_connections(port)


def test_the_same_torrent_twice_takes_two(group):
    """Two copies of one image at once, to two places."""
    one, other = session.acquire(group, ONE), session.acquire(group, ONE)
    try:
        assert one is not other
        assert one.port != other.port
    finally:
        session.release(one, ONE)
        session.release(other, ONE)


def test_other_options_take_another(group, conf):
    """Nobody gets peers that only somebody else's options allow."""
    one = session.acquire(group, ONE)
    conf.set_override(
        'peer_networks', ['127.0.0.0/8'], 'oslo_transfer_bittorrent'
    )
    other = session.acquire(group, TWO)
    try:
        assert one is not other
        assert '127.0.0.1' not in one.allowed
        assert '127.0.0.1' in other.allowed
    finally:
        session.release(one, ONE)
        session.release(other, TWO)


def test_a_child_has_none_of_its_parents(group):
    one = session.acquire(group, ONE)
    child = os.fork()
    if not child:
        status = 1
        try:
            mine = session.acquire(group, TWO)
            status = 0 if mine is not one else 2
            session.release(mine, TWO)
        finally:
            os._exit(status)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        session.release(one, ONE)


def test_bad_networks_are_told_and_leave_nothing(group, conf):
    conf.set_override('peer_networks', ['x'], 'oslo_transfer_bittorrent')
    with pytest.raises(exceptions.ConfigurationError, match='peer_networks'):
        session.acquire(group, ONE)


def test_it_goes_out_by_the_address_that_it_listens_on(group, conf, tmp_path):
    """Else others would see it come from a network that they refuse."""
    for name, value in (
        ('listen_address', '127.0.3.1'),
        ('peer_networks', ['127.0.0.0/8']),
    ):
        conf.set_override(name, value, 'oslo_transfer_bittorrent')
    meta = metainfo.parse(torrents.make(b'data').encoded)
    with socket.create_server(('127.0.3.2', 0)) as peer:
        peer.settimeout(10)
        found = torrent.Torrent(
            meta, str(tmp_path / 'file'), group, have=(), wanted=True
        )
        try:
            found.connect([peer.getsockname()])
            connection, address = peer.accept()
            connection.close()
        finally:
            found.close()
    assert address[0] == '127.0.3.1'


@pytest.mark.parametrize('address', ['::1', '::', '0.0.0.0'])
def test_it_listens_on_any_kind_of_address(group, conf, address):
    conf.set_override('listen_address', address, 'oslo_transfer_bittorrent')
    found = session.acquire(group, ONE)
    try:
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        host = '::1' if ':' in address else '127.0.0.1'
        with socket.socket(family) as probe:
            probe.settimeout(5)
            assert probe.connect_ex((host, found.port)) == 0
    finally:
        session.release(found, ONE)
