# SPDX-License-Identifier: Apache-2.0
"""Connections that break anywhere cost little, and no byte is wrong."""

from __future__ import annotations

import hashlib
import random

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.servers import resource

KIB = 1 << 10
SIZE = 1 << 20
DATA = resource.pattern(SIZE)
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
OVERLAP = 16 * KIB

POWERS = [(1 << i) + j for i in range(16, 21) for j in (-1, 0, 1)]
BORDERS = [k + j for k in (OVERLAP, 3 * OVERLAP, 300 * KIB) for j in (-1, 1)]
RANDOM = random.Random(1).sample(range(2 * OVERLAP, SIZE), 10)
SMALL = [1, 2, 100, 4 * KIB - 1, 4 * KIB, 4 * KIB + 1, OVERLAP]

pytestmark = pytest.mark.usefixtures('nothing_left')


class Dropping:
    """Ends each connection after so many bytes of the body."""

    def __init__(self, count, **options):
        self._resource = resource.Resource(DATA, SIZE, **options)
        self._count = count
        self.drops = 0

    def __call__(self, request, conn):
        start = self._resource.plan(request)[2]
        if self._resource.answer(request, conn, start + self._count):
            self.drops += 1
            conn.close()


def drop(server, conf, dst, count, **options):
    dropping = Dropping(count)
    url = server.serve('/image', dropping)
    for name, value in {'max_streams': 1, 'retry_delay': 0.0}.items():
        conf.set_override(name, value, group='oslo_transfer')
    result = oslo_transfer.copy(url, dst, conf=conf, **options)
    return result, dropping.drops


@pytest.mark.parametrize('count', sorted({*POWERS, *BORDERS[2:], *RANDOM}))
def test_dropped_after_each_so_many_bytes(count, server, conf, tmp_path):
    """2 % more than the data, and an overlap for each connection."""
    dst = tmp_path / 'image'
    result, drops = drop(server, conf, dst, count)
    assert dst.read_bytes() == DATA
    assert drops == 0 if count >= SIZE else drops > 0
    assert server.bytes_sent() <= 1.02 * SIZE + drops * OVERLAP
    assert result.wasted <= drops * OVERLAP
    assert result.size == SIZE


@pytest.mark.parametrize('count', [*SMALL, *BORDERS[:2]])
def test_dropped_before_anything_is_gained(count, server, conf, tmp_path):
    """Right bytes or an error, and an end to it."""
    dst = tmp_path / 'image'
    try:
        drop(server, conf, dst, count, **SHA256)
    except exceptions.TransferError as exc:
        assert exc.retryable
        assert not dst.exists()
    else:
        assert dst.read_bytes() == DATA


def test_drops_with_progress_do_not_add_up(server, conf, tmp_path):
    """Ten are no more than one, if bytes came in between."""
    conf.set_override('max_retries', 2, group='oslo_transfer')
    dst = tmp_path / 'image'
    _result, drops = drop(server, conf, dst, 80 * KIB)
    assert drops >= 10
    assert dst.read_bytes() == DATA


def test_nothing_is_joined_without_proof(server, conf, tmp_path):
    """No validator and no digest: each try begins at the first byte."""
    conf.set_override('max_retries', 2, group='oslo_transfer')
    dropping = Dropping(300 * KIB, etag=None)
    url = server.serve('/image', dropping)
    with pytest.raises(exceptions.TransferError):
        oslo_transfer.copy(url, tmp_path / 'image', conf=conf)
    for request in server.seen('/image'):
        assert request.range is None or request.range[0] == 0
    assert not (tmp_path / 'image').exists()
