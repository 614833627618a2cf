# SPDX-License-Identifier: Apache-2.0
"""Any mix of peers and origins: one good one is enough."""

from __future__ import annotations

import random

import pytest

from oslo_transfer.testing import fixtures
from tests.servers import bt_lab
from tests.servers import evil_peer

pytestmark = pytest.mark.usefixtures('nothing_left')

KINDS = sorted(evil_peer.BEHAVIOURS)
ORIGINS = ('good', 'wrong', 'missing', 'cut', 'no ranges')


def mix(seed, directory):
    """Copy from a mix that has at least one good source."""
    chance = random.Random(seed)
    conf = fixtures.make_conf()
    directory.mkdir()
    with bt_lab.Lab(conf, directory, name='image', piece_bytes=1 << 15) as lab:
        lab.core(
            stall_timeout=10.0,
            connect_timeout=3.0,
            retry_delay=0.01,
            max_retry_delay=0.2,
        )
        peers = chance.choices(KINDS, k=chance.randrange(4))
        origins = chance.choices(ORIGINS, k=chance.randrange(3))
        if chance.random() < 0.5 or not peers:
            origins.append('good')
        else:
            peers.append('good')
        chance.shuffle(peers)
        chance.shuffle(origins)
        for kind in peers:
            lab.peer(kind)
        sources = [lab.url, *(origin(lab, kind) for kind in origins)]
        digest = lab.digest if chance.random() < 0.5 else {}
        try:
            result = lab.copy(*sources, **digest)
        except Exception as exc:
            raise AssertionError(f'{seed}: {peers} {origins}: {exc}') from exc
        assert sum(result.bytes_by_origin.values()) == len(lab.data)
        assert result.verified == bool(digest)


def origin(lab, kind):
    """An origin of some kind."""
    if kind == 'missing':
        return lab.server.url('/missing')
    if kind == 'wrong':
        return lab.origin(bytes(byte ^ 1 for byte in lab.data))
    if kind == 'cut':
        return lab.origin(lab.data[:-1])
    return lab.origin(ranges=kind == 'good')


@pytest.mark.parametrize('seed', range(6))
def test_mixes(seed, tmp_path):
    mix(seed, tmp_path / 'mix')


@pytest.mark.campaign
@pytest.mark.parametrize('seed', range(100, 300))
def test_many_mixes(seed, tmp_path):
    mix(seed, tmp_path / 'mix')
