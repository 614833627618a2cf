# SPDX-License-Identifier: Apache-2.0
"""Copies go through proxies, and on without those that fail."""

from __future__ import annotations

import contextlib
import hashlib

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.servers import http
from tests.servers import resource
from tests.unit import test_proxied

pytestmark = pytest.mark.usefixtures('nothing_left')

MIB = 1 << 20
DATA = resource.pattern(4 * MIB + 17)
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}


class Proxies:
    """HTTP servers that have the image of another one, as caches would."""

    def __init__(self, stack, origin, conf, count):
        self.servers = [
            stack.enter_context(http.ScriptedHTTPServer())
            for _ in range(count)
        ]
        self.origin = origin
        self.url = origin.put('/image', DATA)
        self.path = f'/http/{self.url.removeprefix("http://")}'
        for each in self.servers:
            each.put(self.path, DATA)
        test_proxied.configure(
            conf, [f'plain+{each.origin}' for each in self.servers]
        )


@pytest.fixture
def make(server, conf):
    """Make proxies of an origin."""
    with contextlib.ExitStack() as stack:
        yield lambda count=2: Proxies(stack, server, conf, count)


@pytest.mark.parametrize('facts', [{}, SHA256], ids=['none', 'digest'])
@pytest.mark.parametrize('strategy', ['proxy_cache', 'full_copy', None])
def test_the_first_proxy_gives_all(make, conf, tmp_path, strategy, facts):
    """Nobody else is asked, also where a digest would allow for it."""
    lab = make()
    dst = tmp_path / 'image'
    result = oslo_transfer.copy(lab.url, dst, strategy, conf=conf, **facts)
    assert dst.read_bytes() == DATA
    assert result.bytes_by_origin == {'proxy': len(DATA)}
    assert result.source == f'{lab.servers[0].origin}{lab.path}'
    assert result.verified == bool(facts)
    assert lab.servers[1].requests == lab.origin.requests == []


@pytest.mark.parametrize('status', [403, 404, 500, 502, 503])
def test_a_proxy_that_says_no(make, conf, tmp_path, status):
    lab = make()
    lab.servers[0].put(lab.path, DATA, status=status)
    dst = tmp_path / 'image'
    result = oslo_transfer.copy(lab.url, dst, 'proxy_cache', conf=conf)
    assert dst.read_bytes() == DATA
    assert result.bytes_by_origin == {'proxy': len(DATA)}
    (attempt,) = result.attempts
    assert attempt.location == f'{lab.servers[0].origin}{lab.path}'
    assert str(status) in attempt.reason
    assert lab.origin.requests == []


def test_no_proxy_works(make, conf, tmp_path):
    lab = make()
    for each in lab.servers:
        each.delete(lab.path)
    dst = tmp_path / 'image'
    result = oslo_transfer.copy(lab.url, dst, 'proxy_cache', conf=conf)
    assert dst.read_bytes() == DATA
    assert result.bytes_by_origin == {'origin': len(DATA)}
    assert [each.error for each in result.attempts] == ['NotFound'] * 2


def test_nothing_works(make, conf, tmp_path):
    lab = make()
    for each in (*lab.servers, lab.origin):
        each.put(lab.path, DATA, status=500)
        each.put('/image', DATA, status=500)
    conf.set_override('max_retries', 0, group='oslo_transfer')
    with pytest.raises(exceptions.Unavailable) as caught:
        oslo_transfer.copy(lab.url, tmp_path / 'x', 'proxy_cache', conf=conf)
    assert len(caught.value.attempts) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('facts', [{}, SHA256], ids=['none', 'digest'])
def test_a_proxy_that_dies_in_mid_copy(make, conf, tmp_path, facts):
    """What has come of it counts: it is the same version everywhere."""
    lab = make()
    dying = resource.Resource(DATA, len(DATA))

    def answer(request, conn):
        """Half of it, and nothing more ever."""
        if len(lab.servers[0].requests) > 1:
            conn.close()
            return
        status, headers, start, stop = dying.plan(request)
        conn.send_head(status, {**headers, 'Content-Length': str(len(DATA))})
        conn.send(DATA[: len(DATA) // 2])
        conn.close()

    lab.servers[0].serve(lab.path, answer)
    dst = tmp_path / 'image'
    result = oslo_transfer.copy(
        lab.url, dst, 'proxy_cache', conf=conf, **facts
    )
    assert dst.read_bytes() == DATA
    assert result.attempts[0].location.startswith(lab.servers[0].origin)
    assert result.bytes_by_origin.keys() <= {'proxy', 'resumed'}
    assert lab.servers[1].bytes_sent() < 0.75 * len(DATA)
    assert lab.origin.requests == []


def test_one_that_failed_is_asked_last_for_a_while(make, conf, tmp_path):
    lab = make(1)
    lab.servers[0].put(lab.path, DATA, status=500)
    oslo_transfer.copy(lab.url, tmp_path / 'a', 'proxy_cache', conf=conf)
    asked = len(lab.servers[0].requests)
    result = oslo_transfer.copy(
        lab.url, tmp_path / 'b', 'proxy_cache', conf=conf
    )
    assert result.bytes_by_origin == {'origin': len(DATA)}
    assert len(lab.servers[0].requests) == asked
    assert result.attempts == ()


def test_another_version_at_the_next_one(make, conf, tmp_path):
    """Bytes of two versions are not joined."""
    lab = make(1)
    new = resource.pattern(len(DATA), 7)
    lab.origin.put('/image', new, etag='"v2"')

    def answer(request, conn):
        conn.send_head(200, {'ETag': '"v1"', 'Content-Length': str(len(DATA))})
        conn.send(DATA[: 2 * MIB])
        conn.close()

    lab.servers[0].serve(lab.path, answer)
    dst = tmp_path / 'image'
    result = oslo_transfer.copy(lab.url, dst, 'proxy_cache', conf=conf)
    assert dst.read_bytes() == new
    assert result.bytes_by_origin == {'origin': len(DATA)}


def test_wrong_bytes_of_a_proxy(make, conf, tmp_path):
    """The digest is checked here, whoever has checked it before."""
    lab = make(1)
    rotten = bytearray(DATA)
    rotten[MIB] ^= 1
    lab.servers[0].put(lab.path, bytes(rotten))
    dst = tmp_path / 'image'
    result = oslo_transfer.copy(
        lab.url, dst, 'proxy_cache', conf=conf, **SHA256
    )
    assert dst.read_bytes() == DATA and result.verified
    assert result.attempts[0].error == 'DigestMismatch'


def test_a_proxy_heals(make, conf, tmp_path):
    """It is told not to believe what it keeps, and fetches that again."""
    lab = make(1)
    rotten, sound = (
        resource.Resource(data, len(DATA)) for data in (bytes(len(DATA)), DATA)
    )

    def answer(request, conn):
        healed = request.headers.get('cache-control') == 'no-cache'
        (sound if healed else rotten)(request, conn)

    lab.servers[0].serve(lab.path, answer)
    dst = tmp_path / 'image'
    result = oslo_transfer.copy(
        lab.url, dst, 'proxy_cache', conf=conf, **SHA256
    )
    assert dst.read_bytes() == DATA and result.verified
    assert result.bytes_by_origin == {'proxy': len(DATA)}
    assert result.wasted == len(DATA)
    assert lab.origin.requests == []


def test_without_a_proxy_it_is_passed_over(server, conf, tmp_path):
    """The next strategy of the order does it, and the result says why."""
    url = server.put('/image', DATA)
    order = ['proxy_cache', 'full_copy']
    conf.set_override('strategy_order', order, group='oslo_transfer')
    result = oslo_transfer.copy(url, tmp_path / 'image', conf=conf)
    assert result.strategy == 'full_copy'
    (attempt,) = result.attempts
    assert attempt.strategy == 'proxy_cache'
    assert 'no proxy of this datacenter' in attempt.reason


def test_explained_before(make, conf):
    lab = make()
    found = oslo_transfer.explain(
        lab.url, '/srv/image', 'proxy_cache', conf=conf
    )
    assert [each.location for each in found.locations] == [
        *(f'{each.origin}{lab.path}' for each in lab.servers),
        lab.url,
    ]
    assert found.strategies[0].steps[-1].startswith('if that fails')
    assert lab.origin.requests == lab.servers[0].requests == []
