# SPDX-License-Identifier: Apache-2.0
"""What a real proxy says of itself, over its port."""

from __future__ import annotations

import contextlib
import json
import pathlib
import tempfile
import urllib.error
import urllib.request

import openapi_spec_validator
import pytest

from oslo_transfer import call
from oslo_transfer.service import proxy_client
from tests.servers import proxy_service
from tests.servers import resource
from tests.unit import test_proxy_api
from tests import waiting

DATA = resource.pattern((4 << 20) + 17)
PREFIX = test_proxy_api.PREFIX


@pytest.fixture
def proxy(server):
    with tempfile.TemporaryDirectory(prefix='ot') as path:
        with proxy_service.ProxyService(
            pathlib.Path(path),
            {'oslo_transfer_proxy': {'origins': server.origin}},
        ) as running:
            yield running


def metrics(proxy):
    """Sums by name, of those without labels."""
    found = test_proxy_api.samples(proxy.get('/metrics').decode())
    return {
        name.removeprefix(PREFIX): value
        for (name, labels), value in found.items()
        if not labels
    }


def refused(proxy, method, path, status, **headers):
    with pytest.raises(urllib.error.HTTPError) as caught:
        proxy.ask(method, path, headers=headers)
    with contextlib.closing(caught.value) as answer:
        assert answer.status == status
        assert set(json.loads(answer.read())) == {'error', 'message'}
        return answer.headers


def test_counts_of_a_real_one(proxy, server):
    url = server.put('/image', DATA)
    for _ in range(5):
        assert proxy.get(url) == DATA
    with pytest.raises(urllib.error.HTTPError):
        proxy.get('http://other.example/a')
    found = metrics(proxy)
    assert found['requests_total'] >= 5
    assert found['bytes_served_total'] == 5 * len(DATA)
    assert len(DATA) <= found['bytes_fetched_total'] < 1.1 * len(DATA)
    assert found['refused_total'] == 1
    assert found['connections'] >= 1
    assert found['misses_total'] > 0
    summary = proxy.ask('GET', '/v1/proxy')
    assert summary['totals']['bytes_saved'] >= 3.9 * len(DATA)
    (origin,) = summary['origins']
    assert origin['origin'] == server.origin
    waiting.until(lambda: proxy.ask('GET', '/v1/proxy')['rates']['out'] > 0)
    image = proxy.image(url)
    (run,) = proxy.ask('GET', f'/v1/proxy/maps/{image["id"]}')['runs']
    assert run == ['hot', image['blocks']]


def test_the_document_over_the_port(proxy):
    openapi_spec_validator.validate(
        json.loads(proxy.get('/openapi.json')),
    )
    assert json.loads(proxy.get('/healthz'))['status'] == 'ok'


def test_what_only_an_administrator_may(proxy, server):
    url = server.put('/image', DATA)
    proxy.get(url)
    path = f'/v1/proxy/pins/{proxy.image(url)["id"]}'
    headers = refused(proxy, 'POST', path, 401)
    assert headers['WWW-Authenticate'] == 'Bearer'
    assert headers['X-Request-Id']
    refused(proxy, 'POST', path, 401, Authorization='Bearer other')
    assert not proxy.image(url)['pinned']
    assert proxy.ask('POST', path)['pinned']
    refused(
        proxy,
        'DELETE',
        path.replace('pins', 'images'),
        409,
        **proxy_service.AS_ADMIN,
    )
    log = proxy.log.read_text()
    assert proxy_service.ADMIN not in log
    assert path in log


def test_a_head_has_no_body(proxy):
    for path in ('/metrics', '/v1/proxy', '/healthz', '/openapi.json'):
        request = urllib.request.Request(proxy.url + path, method='HEAD')
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert int(answer.headers['Content-Length']) > 10
            assert answer.headers['Cache-Control'] == 'no-store'
            assert answer.read() == b''


def test_the_unix_socket_needs_no_token(proxy, server):
    url = server.put('/image', DATA)
    job = proxy.client.ask(
        'POST', '/v1/proxy/prefetches', {'url': url, 'kind': 'full'}
    )
    path = f'/v1/proxy/prefetches/{job["id"]}'
    waiting.until(lambda: proxy.client.ask('GET', path)['state'] == 'done')
    here = proxy_client.HostProxy(
        proxy.conf(), call.Call(proxy.conf(), None, None, None).ctx
    )
    (image,) = here.images()
    assert here.pin(image['id'], True)['pinned']
    assert not here.pin(image['id'], False)['pinned']
    status = proxy.client.status()['roles']['proxy']
    assert status['totals']['bytes_fetched'] >= len(DATA)
    server.delete('/image')
    # What was prefetched is served while the origin is known to grant it.
    assert proxy.image(url)['bytes_here'] == len(DATA)
