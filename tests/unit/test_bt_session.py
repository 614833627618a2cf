# SPDX-License-Identifier: Apache-2.0
"""One libtorrent session for a process, for as long as it is needed."""

from __future__ import annotations

import os
import socket

import pytest

from oslo_transfer.drivers.bittorrent import session
from oslo_transfer import exceptions

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
