# SPDX-License-Identifier: Apache-2.0
"""What a proxy says of itself: control API, its document, and metrics."""

from __future__ import annotations

import copy
import json
import re

import jsonschema
import openapi_spec_validator
from prometheus_client import parser
import pytest

from oslo_transfer.cache import trace as _trace
from oslo_transfer.service.proxy import metrics
from oslo_transfer.service.proxy import openapi
from tests.servers import resource
from tests.unit import proxies
from tests.unit import services
from tests import waiting

BLOCK = proxies.BLOCK
COUNT = 16
DATA = resource.pattern(COUNT * BLOCK - 100)
PREFIX = 'oslo_transfer_proxy_'


@pytest.fixture
def url(server):
    return server.put('/image', DATA) + '?sig=geheim'


@pytest.fixture
def proxy(conf, tmp_path, server, nothing_left):
    admins = tmp_path / 'admins'
    admins.write_text(proxies.ADMIN)
    with proxies.Proxy(
        conf,
        tmp_path / 'state',
        origins=[server.origin],
        admin_tokens_file=str(admins),
    ) as made:
        yield made


@pytest.fixture
def image(proxy, url):
    """Of which there are the first two blocks, and the fourth."""
    proxy.read(url, 0, 2 * BLOCK)
    proxy.read(url, 3 * BLOCK, 10)
    (found,) = proxy.get('/v1/proxy/images')['images']
    return found


# The document


def test_the_document_is_one():
    document = json.loads(json.dumps(openapi.document()))
    openapi_spec_validator.validate(document)


def strict(schema):
    """A schema that has nothing that is not in it."""
    if isinstance(schema, dict):
        schema = {name: strict(each) for name, each in schema.items()}
        if 'properties' in schema and 'type' in schema:
            schema['additionalProperties'] = False
        return schema
    return (
        [strict(each) for each in schema]
        if isinstance(schema, list)
        else schema
    )


class Documented:
    """Asks the proxy, and compares what it answers with the document."""

    def __init__(self, proxy):
        self._proxy = proxy
        self.document = json.loads(proxy.page('GET', '/openapi.json').data)
        self.asked = set()

    def schema(self, content):
        (found,) = content['content'].values()
        return strict({**found['schema'], **self._components()})

    def _components(self):
        return {'components': copy.deepcopy(self.document['components'])}

    def __call__(self, method, template, identifier='', body=None, status=200):
        operation = self.document['paths'][template][method.lower()]
        path = template.replace('{id}', identifier)
        if body is not None:
            jsonschema.validate(body, self.schema(operation['requestBody']))
        found = self._proxy.page(
            method, path, body, authorization=f'Bearer {proxies.ADMIN}'
        )
        assert found.status == status, found.data
        responses = operation['responses']
        expected = responses.get(str(status), responses.get('default'))
        assert found.content_type.partition(';')[0] in expected['content']
        self.asked.add((method, template))
        if found.content_type != 'application/json':
            return found.data.decode()
        fields = json.loads(found.data)
        jsonschema.validate(fields, self.schema(expected))
        return fields


@pytest.fixture
def documented(proxy):
    return Documented(proxy)


def test_answers_are_as_documented(proxy, documented, image, url):
    base = '/v1/proxy'
    one = image['id']
    documented('GET', base)
    documented('GET', f'{base}/images')
    documented('GET', f'{base}/images/{{id}}', one)
    documented('GET', f'{base}/maps/{{id}}', one)
    documented('GET', f'{base}/traces/{{id}}', one)
    documented('POST', f'{base}/pins/{{id}}', one)
    documented('DELETE', f'{base}/images/{{id}}', one, status=409)
    documented('DELETE', f'{base}/pins/{{id}}', one)
    body = {
        'url': url,
        'kind': 'ranges',
        'ranges': [[0, 1]],
        'rate_limit': 1 << 30,
        'headers': {'X-Auth-Token': 't'},
    }
    job = documented('POST', f'{base}/prefetches', body=body, status=202)['id']
    documented('GET', f'{base}/prefetches')
    proxy.ended(job)
    documented('GET', f'{base}/prefetches/{{id}}', job)
    documented('DELETE', f'{base}/prefetches/{{id}}', job)
    documented('DELETE', f'{base}/images/{{id}}', one)
    documented('GET', f'{base}/images/{{id}}', 'unknown', status=404)
    documented('GET', '/healthz')
    documented('GET', '/metrics')
    documented('GET', '/openapi.json')
    assert documented.asked == {
        (method.upper(), path)
        for path, operations in documented.document['paths'].items()
        for method in operations
    }


def test_all_routes_are_documented(proxy):
    documented = {
        (method.upper(), re.sub('{id}$', '', path))
        for path, operations in openapi.document()['paths'].items()
        for method in operations
        if path.startswith('/v1/')
    }
    routes = {(each.method, each.path) for each in proxy.api.routes()}
    assert routes == documented


def test_the_unix_socket_answers_the_same(proxy, image, conf):
    place = services.Place(conf)
    conf.set_override('state_path', str(proxy.path), group='oslo_transfer')
    try:
        with place.serve(_Role(proxy.api)):
            path = f'/v1/proxy/images/{image["id"]}'
            _, by_socket = place.ask('GET', path)
            by_tcp = proxy.get(path)
            for found in (by_socket, by_tcp):
                del found['rates']
            assert by_socket == by_tcp
            assert (
                place.ask('POST', '/v1/proxy/pins/' + image['id'], {})[0]
                == 200
            )
    finally:
        place.close()


class _Role:
    name = 'proxy'

    def __init__(self, api):
        self.routes = api.routes
        self.start = self.tick = self.stop = lambda: None
        self.status = api.summary


# What it says


def test_counts(proxy, image, server, url):
    assert image['origin'] == server.url('/image') + '?***'
    assert image['size'] == len(DATA)
    assert (image['blocks'], image['block_bytes']) == (COUNT, BLOCK)
    assert image['bytes_here'] == 3 * BLOCK
    assert image['bytes_fetched'] == 3 * BLOCK
    assert image['bytes_served'] == 2 * BLOCK + 10
    assert image['bytes_saved'] == 0
    assert not image['pinned']
    for _ in range(3):
        proxy.read(url, 0, 2 * BLOCK)
    found = proxy.get('/v1/proxy')
    assert found['datacenter'] == 'near'
    assert found['problem'] == ''
    totals = found['totals']
    assert totals['bytes_served'] == 8 * BLOCK + 10
    assert totals['bytes_fetched'] == 3 * BLOCK
    assert totals['bytes_saved'] == 5 * BLOCK + 10
    assert totals['hits'] >= 3
    assert (totals['requests'], totals['connections']) == (7, 3)
    assert found['store']['bytes_used'] > 0
    (origin,) = found['origins']
    assert origin['origin'] == server.origin
    assert origin['bytes_fetched'] == 3 * BLOCK


def test_totals_outlive_images(proxy, image):
    before = proxy.get('/v1/proxy')['totals']
    status, _ = proxy.ask('DELETE', f'/v1/proxy/images/{image["id"]}')
    assert status == 200
    after = proxy.get('/v1/proxy')['totals']
    assert after['bytes_served'] == before['bytes_served'] > 0


def test_map(proxy, image):
    found = proxy.get(f'/v1/proxy/maps/{image["id"]}')
    assert found['block_bytes'] == BLOCK
    assert found['runs'] == [
        ['hot', 2],
        ['missing', 1],
        ['hot', 1],
        ['missing', COUNT - 4],
    ]
    assert sum(count for _state, count in found['runs']) == found['blocks']


def test_looking_opens_nothing(proxy, image, server):
    """Nothing is fetched for a page that shows images nobody reads."""
    path = f'/v1/proxy/maps/{image["id"]}'
    traced = path.replace('maps', 'traces')
    before = proxy.get(path), proxy.get(traced)
    opened = proxy.catalog.get(image['id'])
    waiting.until(lambda: opened.close_if_idle(0))
    was = opened.used, len(server.requests)
    assert (proxy.get(path), proxy.get(traced)) == before
    assert opened.shared is None
    assert (opened.used, len(server.requests)) == was


def test_map_of_what_was_read_later(proxy, url, image):
    """What is not read for the first time by a reader is not hot."""
    proxy.ended(proxy.prefetch(url=url, kind='full'))
    found = proxy.get(f'/v1/proxy/maps/{image["id"]}')
    assert found['runs'] == [
        ['hot', 2],
        ['cached', 1],
        ['hot', 1],
        ['cached', COUNT - 4],
    ]


def test_map_shows_what_is_in_flight(proxy, url, image, server):
    path = f'/v1/proxy/maps/{image["id"]}'
    with proxies.held(server, DATA, '/image'):
        job = proxy.prefetch(
            url=url, kind='ranges', ranges=[[8 * BLOCK, BLOCK]]
        )
        waiting.until(lambda: ['flight', 1] in proxy.get(path)['runs'])
    proxy.ended(job)
    assert ['cached', 1] in proxy.get(path)['runs']


def test_trace(proxy, image):
    text = proxy.get(f'/v1/proxy/traces/{image["id"]}')['iolog']
    found = _trace.Trace.parse(text.encode())
    assert [tuple(touch[1:]) for touch in found.touches] == [
        (0, 2 * BLOCK),
        (3 * BLOCK, BLOCK),
    ]


def test_pins(proxy, image):
    path = f'/v1/proxy/pins/{image["id"]}'
    assert proxy.ask('POST', path)[1]['pinned'] is True
    status, found = proxy.ask('DELETE', f'/v1/proxy/images/{image["id"]}')
    assert (status, found['error']) == (409, 'DetachError')
    assert proxy.ask('DELETE', path)[1]['pinned'] is False


def test_no_secret_is_told(proxy, image, url):
    proxy.ended(
        proxy.prefetch(url=url, kind='hot', headers={'X-Auth-Token': 'geheim'})
    )
    for path in (
        '/v1/proxy',
        '/v1/proxy/images',
        '/v1/proxy/prefetches',
        '/metrics',
        f'/v1/proxy/traces/{image["id"]}',
    ):
        found = proxy.page('GET', path).data
        assert b'geheim' not in found


# Who may ask


@pytest.mark.parametrize(
    'path', ['/v1/proxy', '/v1/proxy/images', '/metrics', '/v1/nothing']
)
def test_readers_may_look(conf, tmp_path, path):
    (tmp_path / 'readers').write_text(proxies.READER)
    with proxies.Proxy(
        conf, tmp_path / 'state', tokens_file=str(tmp_path / 'readers')
    ) as proxy:
        found = proxy.page('GET', path)
        assert found.status == 401
        assert found.headers['WWW-Authenticate'] == 'Bearer'
        assert proxy.page('GET', path, authorization='Bearer x').status == 401
        for name in ('authorization', 'proxy_authorization'):
            fields = {name: f'Bearer {proxies.READER}'}
            assert proxy.page('GET', path, **fields).status in (200, 404)
            # Nobody may change anything, for there are no administrators.
            status = proxy.page('DELETE', '/v1/proxy/pins/x', **fields).status
            assert status == 403


def test_only_administrators_may_change(proxy, image):
    path = f'/v1/proxy/images/{image["id"]}'
    for fields in ({}, {'authorization': f'Bearer {proxies.READER}'}):
        for method in ('DELETE', 'PUT'):
            assert proxy.page(method, path, **fields).status == 401
    assert proxy.get(path)['bytes_here'] == 3 * BLOCK


@pytest.mark.parametrize('path', ['/healthz', '/openapi.json', '/status', '/'])
def test_open_to_all(conf, tmp_path, path):
    (tmp_path / 'readers').write_text(proxies.READER)
    with proxies.Proxy(
        conf, tmp_path / 'state', tokens_file=str(tmp_path / 'readers')
    ) as proxy:
        assert proxy.page('GET', path).status in (200, 302)


# What makes no sense


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [
        ('GET', '/v1/nothing', 404),
        ('GET', '/v1/proxy/', 404),
        ('GET', '/v1/proxy/images/', 404),
        ('GET', '/v1/proxy/images/a/b', 404),
        ('GET', '/v1/proxy/../status', 404),
        ('GET', '/v1/proxy/images/unknown', 404),
        ('POST', '/v1/proxy', 405),
        ('PUT', '/v1/proxy/prefetches', 405),
        ('POST', '/metrics', 405),
        ('POST', '/healthz', 405),
        ('DELETE', '/openapi.json', 405),
        ('HEAD', '/v1/proxy', 200),
        ('HEAD', '/metrics', 200),
    ],
)
def test_other_requests(proxy, method, path, status):
    found = proxy.page(method, path, authorization=f'Bearer {proxies.ADMIN}')
    assert found.status == status
    if status >= 400:
        assert set(json.loads(found.data)) == {'error', 'message'}
    if status == 405:
        assert found.headers['Allow']


@pytest.mark.parametrize(
    'path', ['/v1', '/v2/proxy', '/http/far.example/a', '/images/a', '/x']
)
def test_what_is_no_page(proxy, path):
    assert not proxy.api.is_page(path)


@pytest.mark.parametrize(
    'body',
    [
        b'{',
        b'[]',
        b'\xff',
        b'[' * 100_000,
        {},
        {'url': 'http://a/b'},
        {'url': 5, 'kind': 'full'},
        {'url': '', 'kind': 'full'},
        {'url': 'http://a b/', 'kind': 'full'},
        {'url': 'http://a/b', 'kind': 'other'},
        {'url': 'http://a/b', 'kind': 'trace'},
        {'url': 'http://a/b', 'kind': 'full', 'iolog': 'x'},
        {'url': 'http://a/b', 'kind': 'ranges'},
        {'url': 'http://a/b', 'kind': 'ranges', 'ranges': [[0]]},
        {'url': 'http://a/b', 'kind': 'ranges', 'ranges': [[0, 0]]},
        {'url': 'http://a/b', 'kind': 'ranges', 'ranges': [[-1, 1]]},
        {'url': 'http://a/b', 'kind': 'ranges', 'ranges': [[0, True]]},
        {'url': 'http://a/b', 'kind': 'ranges', 'ranges': [[0, 1 << 70]]},
        {'url': 'http://a/b', 'kind': 'ranges', 'ranges': 'x'},
        {'url': 'http://a/b', 'kind': 'full', 'rate_limit': 0},
        {'url': 'http://a/b', 'kind': 'full', 'rate_limit': 1.5},
        {'url': 'http://a/b', 'kind': 'full', 'rate_limit': True},
        {'url': 'http://a/b', 'kind': 'full', 'headers': {'a': 1}},
        {'url': 'http://a/b', 'kind': 'full', 'headers': {'a': 'b\r\nc: d'}},
        {'url': 'http://a/b', 'kind': 'full', 'headers': 'x'},
    ],
)
def test_senseless_prefetches(proxy, body):
    status, found = proxy.ask('POST', '/v1/proxy/prefetches', body)
    assert (status, found['error']) == (400, 'InvalidEndpoint')
    assert proxy.get('/v1/proxy/prefetches') == {'prefetches': []}


def test_a_bug_is_told_as_one(proxy, monkeypatch, caplog):
    monkeypatch.setattr(proxy.catalog, 'all', lambda: 1 / 0)
    found = proxy.page('GET', '/v1/proxy')
    assert found.status == 500
    assert b'bug' in found.data
    assert 'ZeroDivisionError' in caplog.text


# Metrics


def samples(text):
    """Values by name and labels, as a strict parser has them."""
    found = {}
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ('counter', 'gauge')
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            assert sample.name.startswith(PREFIX)
            assert sample.name.endswith('_total') == (family.type == 'counter')
            found[key] = sample.value
    return found


def test_metrics_are_those_of_the_api(proxy, image):
    page = proxy.page('GET', '/metrics')
    assert page.content_type == metrics.CONTENT_TYPE
    found = samples(page.data.decode())
    summary = proxy.get('/v1/proxy')

    def value(name, **labels):
        return found[PREFIX + name, tuple(sorted(labels.items()))]

    assert value('requests_total') == 7
    assert value('bytes_served_total') == 2 * BLOCK + 10
    assert value('bytes_fetched_total') == 3 * BLOCK
    assert value('impaired') == 0
    (origin,) = summary['origins']
    assert (
        value('origin_requests_total', origin=origin['origin'])
        == origin['requests']
    )
    labels = {'image': image['id'], 'origin': image['origin']}
    assert value('image_here_bytes', **labels) == 3 * BLOCK
    assert value('image_size_bytes', **labels) == len(DATA)
    assert value('store_objects_open') == 1
    assert value('prefetches', state='done') == 0
    assert value('info', version=summary['version'], datacenter='near') == 1


def test_labels_with_anything_in_them(proxy):
    summary = proxy.api.summary()
    odd = 'a"b\\c\nd{e="f"} ü'
    summary['origins'] = [
        {
            'origin': odd,
            'bytes_fetched': 1 << 60,
            'requests': 1,
            'failures': 0,
            'problem': 'x',
        }
    ]
    found = samples(metrics.render(summary, [], []))
    key = PREFIX + 'origin_bytes_fetched_total', (('origin', odd),)
    assert found[key] == 1 << 60
    assert found[PREFIX + 'origin_impaired', (('origin', odd),)] == 1


def test_health(proxy, monkeypatch):
    assert proxy.get('/healthz') == {'status': 'ok', 'problem': ''}
    monkeypatch.setattr(
        type(proxy.catalog), 'problem', property(lambda _: 'the disk is full')
    )
    assert proxy.get('/healthz') == {
        'status': 'impaired',
        'problem': 'the disk is full',
    }
    assert f'{PREFIX}impaired 1' in proxy.page('GET', '/metrics').data.decode()
