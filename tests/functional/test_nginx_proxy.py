# SPDX-License-Identifier: Apache-2.0
"""nginx in the place of a proxy, with the configuration of the manual."""

from __future__ import annotations

from concurrent import futures
import contextlib
import hashlib
import http.client
import socket
import threading

import pytest

import oslo_transfer
from oslo_transfer import credentials as _credentials
from oslo_transfer import exceptions
from tests import groups
from tests.servers import http as servers_http
from tests.servers import nginx_proxy
from tests.servers import resource
from tests import waiting

pytestmark = groups.marks('http', nginx_proxy.NginxProxy.found() is not None)

MIB = 1 << 20
# What it keeps at once.
SLICE = MIB
DATA = resource.pattern(5 * MIB + 77)
OTHER = resource.pattern(5 * MIB + 77, 1)
PATH = '/image'
TOKEN = 'gAAAA-of-the-one-who-may'


@pytest.fixture
def origin():
    with servers_http.ScriptedHTTPServer(name='images') as running:
        running.put(PATH, DATA)
        yield running


@pytest.fixture
def proxy(origin):
    authority = f'{origin.host}:{origin.port}'
    with nginx_proxy.NginxProxy(authority, '127.0.0.0/8') as running:
        yield running


@pytest.fixture
def fetch(conf, proxy, origin, tmp_path):
    """Copies the image through it; returns the bytes."""

    def call(token=None):
        end = proxy.of(origin.url(PATH))
        if token is not None:
            end = oslo_transfer.Location(
                end, credentials=_credentials.TokenCredentials(token)
            )
        dst = tmp_path / 'copy'
        oslo_transfer.copy(end, dst, conf=conf, overwrite=True)
        return dst.read_bytes()

    return call


def ask(proxy, target, method='GET', **headers):
    """Ask it anything; returns the answer, and its body."""
    fields = {name.replace('_', '-'): text for name, text in headers.items()}
    with contextlib.closing(
        http.client.HTTPConnection(proxy.host, proxy.port, timeout=10)
    ) as conn:
        conn.request(method, target, headers=fields)
        with conn.getresponse() as answer:
            return answer, answer.read()


def target_of(proxy, url):
    return proxy.of(url).partition(str(proxy.port))[2]


def fetched(origin):
    """Bytes that the origin has sent, but for those that say who may."""
    probes = sum(
        request.headers.get('range') == 'bytes=0-0'
        for request in origin.requests
    )
    return origin.bytes_sent() - probes


def test_an_image_crosses_once(fetch, origin):
    for _copy in range(3):
        assert fetch() == DATA
    assert fetched(origin) == len(DATA)


def test_only_what_is_read_crosses(proxy, origin):
    target = target_of(proxy, origin.url(PATH))
    answer, body = ask(
        proxy, target, Range=f'bytes={3 * SLICE - 5}-{3 * SLICE + 4}'
    )
    assert (answer.status, body) == (206, DATA[3 * SLICE - 5 :][:10])
    assert answer.headers['ETag'] == '"v1"'
    assert fetched(origin) == 2 * SLICE


def test_who_waits_for_the_same_part_has_it_fetched_once(proxy, origin):
    target = target_of(proxy, origin.url(PATH))
    count = 16
    gate = threading.Barrier(count)

    def read(_number):
        gate.wait()
        return ask(proxy, target, Range='bytes=0-4095')[1]

    with futures.ThreadPoolExecutor(count) as pool:
        assert set(pool.map(read, range(count))) == {DATA[:4096]}
    assert fetched(origin) == SLICE


def test_the_origin_says_who_may_also_of_what_is_here(fetch, origin):
    """K-09: what is cached is for those alone whom it is given to."""
    origin.require_token(PATH, {TOKEN})
    assert fetch(TOKEN) == DATA
    for token in (None, 'another'):
        with pytest.raises(exceptions.AccessDenied):
            fetch(token)
    origin.require_token(PATH, {'a new one'})
    with pytest.raises(exceptions.AccessDenied):
        fetch(TOKEN)


def test_another_version_is_not_mixed_with_what_is_here(fetch, origin):
    """K-08."""
    assert fetch() == DATA
    origin.put(PATH, OTHER, etag='"v2"')
    assert fetch() == OTHER
    origin.put(PATH, DATA)
    before = fetched(origin)
    assert fetch() == DATA
    assert fetched(origin) == before


def test_a_version_that_comes_in_mid_copy(conf, proxy, origin, tmp_path):
    """Nobody gets the head of the one with the tail of the other."""
    origin.put(PATH, DATA, rate=8 * MIB)
    dst = tmp_path / 'copy'

    def progress(_count, total):
        if total > MIB:
            origin.put(PATH, OTHER, etag='"v2"')

    try:
        oslo_transfer.copy(
            proxy.of(origin.url(PATH)), dst, conf=conf, progress=progress
        )
    except exceptions.TransferError:
        assert not dst.exists()
    else:
        assert dst.read_bytes() in (DATA, OTHER)


@pytest.mark.parametrize(
    'target',
    [
        '/',
        '/http/other.example/image',
        '/https/{origin}/image',
        '/http/{origin}@other.example/image',
        '/http/{origin}.other.example/image',
        '/http/other.example/../{origin}/image',
        '/http//{origin}/image',
        '/http/{origin}',
        '/oslo-transfer-grant',
        '/ftp/{origin}/image',
    ],
)
def test_other_origins_are_refused(target, proxy, origin):
    authority = f'{origin.host}:{origin.port}'
    answer, body = ask(proxy, target.format(origin=authority))
    assert answer.status in (301, 403, 404)
    assert DATA[:100] not in body
    assert not origin.requests


@pytest.mark.parametrize('method', ['POST', 'PUT', 'DELETE', 'PATCH'])
def test_it_only_reads(method, proxy, origin):
    target = target_of(proxy, origin.url(PATH))
    assert ask(proxy, target, method)[0].status == 403
    assert not origin.requests


def test_a_stranger_is_refused(origin):
    authority = f'{origin.host}:{origin.port}'
    with nginx_proxy.NginxProxy(authority, '203.0.113.0/24') as proxy:
        target = target_of(proxy, origin.url(PATH))
        assert ask(proxy, target)[0].status == 403
    assert not origin.requests


def test_the_query_arrives_as_it_was_and_is_not_logged(proxy, origin):
    """What is signed is a secret, and wrong if a character changes."""
    query = '?X-Amz-Signature=s3cr3t%2Fab%7e+c&x=%20'
    path = '/a%2Fb%20c'
    origin.serve(path, resource.Resource(DATA, len(DATA)))
    target = target_of(proxy, origin.url(path) + query)
    answer, body = ask(
        proxy,
        target,
        Authorization=f'Bearer {TOKEN}',
        Proxy_Authorization='Bearer of-the-proxy',
    )
    assert (answer.status, body) == (200, DATA)
    assert {request.target for request in origin.requests} == {path + query}
    for request in origin.requests:
        assert request.headers['authorization'] == f'Bearer {TOKEN}'
        assert request.headers['host'] == f'{origin.host}:{origin.port}'
        assert 'proxy-authorization' not in request.headers
    waiting.until(proxy.access_log)
    logs = proxy.log()
    assert answer.headers['X-Request-Id'] in logs
    for secret in ('s3cr3t', TOKEN, 'of-the-proxy'):
        assert secret not in logs


def test_what_is_not_there(fetch, origin):
    origin.delete(PATH)
    with pytest.raises(exceptions.NotFound):
        fetch()


def test_an_origin_that_is_down(conf, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as sock:
        port = sock.getsockname()[1]
    with nginx_proxy.NginxProxy(f'127.0.0.1:{port}', '127.0.0.0/8') as proxy:
        conf.set_override('max_retries', 0, group='oslo_transfer')
        with pytest.raises(exceptions.TransferError) as caught:
            oslo_transfer.copy(
                proxy.of(f'http://127.0.0.1:{port}{PATH}'),
                tmp_path / 'copy',
                conf=conf,
            )
    assert caught.value.retryable


def test_the_proxy_may_be_dead_and_the_origin_is_not(
    conf, proxy, origin, tmp_path
):
    """Both are locations of one image: the copy goes on from the other."""
    origin.put(PATH, DATA, rate=4 * MIB)
    dst = tmp_path / 'copy'

    def progress(_count, total):
        if total > MIB:
            proxy.stop()

    url = origin.url(PATH)
    result = oslo_transfer.copy(
        [proxy.of(url), url],
        dst,
        conf=conf,
        progress=progress,
        hash_algo='sha256',
        hash_value=hashlib.sha256(DATA).hexdigest(),
    )
    assert dst.read_bytes() == DATA
    assert result.verified
    assert result.attempts
