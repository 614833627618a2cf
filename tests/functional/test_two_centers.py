# SPDX-License-Identifier: Apache-2.0
"""Two datacentres, and what crosses the WAN between them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from tests import groups
from tests.servers import netns
from tests.servers import two_centers

pytestmark = groups.marks('proxy', netns.missing() is None)

MIB = 1 << 20


# The lab itself


def talk(server, client, count):
    """Have one host send bytes to another; returns the seconds it took."""
    with server.inside(), socket.create_server((server.address, 0)) as there:

        def give():
            sock, _address = there.accept()
            with sock:
                sock.sendall(bytes(count))

        thread = threading.Thread(target=give)
        thread.start()
        with client.inside():
            address = there.getsockname()
            with socket.create_connection(address, 10) as here:
                began = time.monotonic()
                left = count
                while left and (data := here.recv(MIB)):
                    left -= len(data)
        thread.join()
    assert not left
    return time.monotonic() - began


def test_the_lab_counts_what_crosses_the_wan():
    with two_centers.TwoCenters(2, 2) as lab:
        before = lab.wan.to_far()
        talk(lab.near.hosts[0], lab.near.hosts[1], MIB)
        talk(lab.far.hosts[0], lab.far.hosts[1], MIB)
        assert lab.wan.to_far() - before < 10_000
        talk(lab.near.hosts[0], lab.far.hosts[1], 8 * MIB)
        assert 8 * MIB < lab.wan.to_far() - before < 8.5 * MIB
        assert lab.wan.to_near() < MIB


def test_the_lab_has_a_rate_and_a_round_trip():
    with two_centers.TwoCenters(
        1, 1, rate=100_000_000, round_trip=0.05
    ) as lab:
        near, far = lab.near.hosts[0], lab.far.hosts[0]
        took = talk(near, far, 5 * MIB)
        # The queue of the WAN lets its bytes pass at the beginning.
        assert 0.05 + 4 * MIB / 12.5e6 < took < 2.0
        took = min(talk(near, far, 1) for _try in range(3))
        assert 0.025 <= took < 0.2


def test_a_wan_that_is_cut_says_nothing():
    with two_centers.TwoCenters(1, 1, round_trip=0.01) as lab:
        near, far = lab.near.hosts[0], lab.far.hosts[0]
        with contextlib.ExitStack() as stack:
            with near.inside():
                there = stack.enter_context(
                    socket.create_server((near.address, 0))
                )
            with far.inside():
                here = stack.enter_context(
                    socket.create_connection(there.getsockname(), 5)
                )
            sock, _address = there.accept()
            stack.enter_context(sock)
            lab.wan.cut()
            sock.sendall(b'late')
            here.settimeout(0.5)
            with pytest.raises(TimeoutError):
                here.recv(4)
            lab.wan.mend()
            here.settimeout(10)
            assert here.recv(4) == b'late'
