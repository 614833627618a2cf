# SPDX-License-Identifier: Apache-2.0
"""What a proxy brings ahead: to the end, whatever comes between."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.cache import fetcher
from oslo_transfer.cache import trace as _trace
from oslo_transfer import exceptions
from oslo_transfer.service.proxy import prefetch
from oslo_transfer.service.proxy import prefetch_plan
from oslo_transfer.service.proxy import prefetch_records
from oslo_transfer import statefile
from tests.servers import resource
from tests.unit import proxies
from tests import waiting

BLOCK = proxies.BLOCK
COUNT = 32
DATA = resource.pattern(COUNT * BLOCK - 100)
BASE = '/v1/proxy/prefetches'


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """What failed is tried again soon."""
    monkeypatch.setattr(prefetch, '_SHORTEST', 0.05)


@pytest.fixture
def url(server):
    return server.put('/image', DATA) + '?sig=geheim'


@pytest.fixture
def make(conf, tmp_path, server, nothing_left):
    """Makes proxies, one after the other, with the same state."""
    admins = tmp_path / 'admins'
    admins.write_text(proxies.ADMIN)
    options = {
        'origins': [server.origin],
        'admin_tokens_file': str(admins),
        'grant_seconds': 0.0,
    }
    return lambda **more: proxies.Proxy(
        conf, tmp_path / 'state', **{**options, **more}
    )


@pytest.fixture
def proxy(make):
    with make() as made:
        yield made


def runs(proxy, identifier):
    image = proxy.get(f'{BASE}/{identifier}')['image']
    return proxy.get(f'/v1/proxy/maps/{image}')['runs']


def iolog(*ranges):
    return (
        _trace.Trace(
            _trace.Touch(number, *each) for number, each in enumerate(ranges)
        )
        .dump('image')
        .decode()
    )


def test_all_of_an_image(proxy, url, server):
    found = proxy.ended(proxy.prefetch(url=url, kind='full'))
    assert found['bytes_wanted'] == found['bytes_here'] == len(DATA)
    assert found['origin'] == server.url('/image') + '?***'
    assert found['seconds'] > 0
    sent = server.bytes_sent('/image')
    assert sent <= len(DATA) + 1
    server.delete('/image')
    opened = proxy.catalog.get(found['image'])
    with proxy.catalog.using(opened) as shared:
        buffer = bytearray(len(DATA))
        assert shared.blocks.read(memoryview(buffer), 0) == len(DATA)
    assert buffer == DATA


def test_nothing_comes_twice(proxy, url, server):
    for _ in range(2):
        proxy.ended(proxy.prefetch(url=url, kind='full'))
    # One byte each time, to see who it is.
    assert server.bytes_sent('/image') <= len(DATA) + 4
    assert len(proxy.get(BASE)['prefetches']) == 2


@pytest.mark.parametrize(
    'wanted',
    [
        {
            'kind': 'ranges',
            'ranges': [[5 * BLOCK + 1, BLOCK], [0, 1], [1 << 40, 5]],
        },
        {
            'kind': 'trace',
            'iolog': iolog((5 * BLOCK, 2 * BLOCK), (0, 1), (1 << 40, 5)),
        },
    ],
)
def test_parts_of_an_image(proxy, url, wanted):
    identifier = proxy.prefetch(url=url, **wanted)
    found = proxy.ended(identifier)
    if wanted['kind'] == 'ranges':
        assert found['bytes_wanted'] == found['bytes_here'] == 3 * BLOCK
        assert runs(proxy, identifier) == [
            ['cached', 1],
            ['missing', 4],
            ['cached', 2],
            ['missing', COUNT - 7],
        ]
    # A small gap is read, too.
    assert [state for state, _ in runs(proxy, identifier)][0] == 'cached'


def test_the_end_of_an_image(proxy, url):
    offset = (COUNT - 1) * BLOCK
    identifier = proxy.prefetch(
        url=url, kind='ranges', ranges=[[offset, 1 << 40]]
    )
    found = proxy.ended(identifier)
    assert found['bytes_wanted'] == found['bytes_here'] == BLOCK - 100


def test_what_is_hot(proxy, url, server):
    proxy.read(url, 3 * BLOCK, BLOCK)
    (image,) = proxy.get('/v1/proxy/images')['images']
    proxy.ask('DELETE', f'/v1/proxy/images/{image["id"]}')
    found = proxy.ended(proxy.prefetch(url=url, kind='hot'))
    assert found['bytes_wanted'] == BLOCK
    assert proxy.read(url, 3 * BLOCK, BLOCK) == DATA[3 * BLOCK : 4 * BLOCK]


def test_nobody_knows_what_is_hot(proxy, url):
    found = proxy.ended(proxy.prefetch(url=url, kind='hot'), 'failed')
    assert 'nobody has noted' in found['problem']


@pytest.mark.parametrize(
    ('target', 'problem'),
    [('/nothing', '404'), ('http://other.example/a', 'origins')],
)
def test_what_cannot_be_had(proxy, server, target, problem):
    url = target if '://' in target else server.url(target)
    found = proxy.ended(proxy.prefetch(url=url, kind='full'), 'failed')
    assert problem in found['problem']


def test_headers_are_for_the_origin(proxy, url, server):
    server.require_token('/image', {'mine'})
    found = proxy.ended(proxy.prefetch(url=url, kind='full'), 'failed')
    assert '401' in found['problem']
    headers = {'X-Auth-Token': 'mine'}
    proxy.ended(proxy.prefetch(url=url, kind='full', headers=headers))


def test_the_same_is_done_once(proxy, url, server):
    with proxies.held(server, DATA, '/image'):
        first = proxy.prefetch(url=url, kind='full')
        status, found = proxy.ask(
            'POST', BASE, {'url': url, 'kind': 'full', 'rate_limit': 1 << 40}
        )
        assert (status, found['id']) == (200, first)
        assert found['rate_limit'] == 1 << 40
        other = proxy.prefetch(url=url, kind='ranges', ranges=[[0, 1]])
        assert other != first
    proxy.ended(first)
    proxy.ended(other)


def test_who_reads_goes_first(proxy, server):
    """K-25: all streams are busy for long with what nobody waits for."""
    size = 64 << 20
    data = resource.Virtual(size)
    url = server.put('/large', data, rate=2 << 20)
    identifier = proxy.prefetch(url=url, kind='full')
    path = f'{BASE}/{identifier}'
    waiting.until(lambda: proxy.get(path)['bytes_here'])
    for offset in (size - BLOCK, size // 2, size // 4):
        started = time.monotonic()
        assert proxy.read(url, offset, BLOCK) == data(offset, BLOCK)
        assert time.monotonic() < started + 2
    assert proxy.get(path)['state'] == 'running'
    proxy.ask('DELETE', path)
    proxy.ended(identifier, 'cancelled')


def test_it_waits_while_the_origin_is_away(proxy, url, server):
    proxy.read(url, 0, 1)
    server.serve('/image', lambda _, conn: conn.reply(503, b'later'))
    identifier = proxy.prefetch(url=url, kind='full')
    path = f'{BASE}/{identifier}'
    waiting.until(lambda: proxy.get(path)['problem'])
    # Others have their turn meanwhile.
    other = server.put('/other', DATA)
    more = [
        proxy.prefetch(url=url, kind='ranges', ranges=[[number, 1]])
        for number in range(prefetch.AT_ONCE)
    ]
    proxy.ended(proxy.prefetch(url=other, kind='full'))
    assert proxy.get(path)['problem']
    server.put('/image', DATA)
    for each in more:
        proxy.ended(each)
    assert proxy.ended(identifier)['bytes_here'] == len(DATA)


def test_one_that_is_due_is_tried_once(proxy, server):
    """Also where it has to wait for its turn for long."""
    paths = [f'/{number}' for number in range(prefetch.AT_ONCE)]
    url = server.serve('/away', lambda _, conn: conn.reply(503, b'later'))
    away = f'{BASE}/{proxy.prefetch(url=url, kind="full")}'
    waiting.until(lambda: proxy.get(away)['problem'])
    with proxies.held(server, DATA, *paths):
        jobs = [
            proxy.prefetch(url=server.url(path), kind='full') for path in paths
        ]
        queue = proxy.prefetches._pool._work_queue
        waiting.until(
            lambda: all(
                proxy.get(f'{BASE}/{job}')['state'] == 'running'
                for job in jobs
            )
        )
        # Each look is a tick, too.
        waiting.until(lambda: proxy.get(away) and queue.qsize())
        for _ in range(20):
            proxy.get(away)
        assert queue.qsize() == 1
    for job in jobs:
        proxy.ended(job)
    server.put('/away', DATA)
    waiting.until(lambda: proxy.get(away)['state'] == 'done')


def test_another_version_meanwhile(proxy, url, server):
    """What is wanted is the image as it is now."""
    with proxies.held(server, DATA, '/image'):
        identifier = proxy.prefetch(url=url, kind='full')
        waiting.until(lambda: proxy.get(f'{BASE}/{identifier}')['image'])
        old = proxy.get(f'{BASE}/{identifier}')['image']
        data = resource.pattern(len(DATA), 1)
        server.put('/image', data, etag='"2"')
    found = proxy.ended(identifier)
    assert proxy.read(url) in (DATA, data)
    if found['image'] != old:
        assert proxy.read(url) == data


def test_cancel(proxy, url, server):
    with proxies.held(server, DATA, '/image'):
        identifier = proxy.prefetch(url=url, kind='full')
        waiting.until(
            lambda: (
                proxy.get(f'{BASE}/{identifier}')['bytes_wanted'] is not None
            )
        )
        status, found = proxy.ask('DELETE', f'{BASE}/{identifier}')
        assert (status, found['state']) == (200, 'cancelled')
        proxy.ended(identifier, 'cancelled')
    # One that has ended is forgotten.
    assert proxy.ask('DELETE', f'{BASE}/{identifier}')[0] == 200
    assert proxy.ask('GET', f'{BASE}/{identifier}')[0] == 404
    assert proxy.ask('DELETE', f'{BASE}/{identifier}')[0] == 404


def test_cancel_before_its_turn(proxy, server):
    """Others are being brought; it never was."""
    paths = [f'/{number}' for number in range(prefetch.AT_ONCE + 1)]
    with proxies.held(server, DATA, *paths):
        jobs = [
            proxy.prefetch(url=server.url(path), kind='full') for path in paths
        ]
        path = f'{BASE}/{jobs[-1]}'
        assert proxy.get(path)['state'] == 'waiting'
        assert proxy.ask('DELETE', path)[1]['state'] == 'cancelled'
        assert proxy.get(path)['seconds'] == 0
    for job in jobs[:-1]:
        proxy.ended(job)
    assert proxy.get(path)['state'] == 'cancelled'


def test_more_than_the_cache_holds(make, url):
    with make(max_bytes=20 * BLOCK) as proxy:
        found = proxy.ended(proxy.prefetch(url=url, kind='full'), 'failed')
        assert 'max_bytes' in found['problem']
        found = proxy.get('/v1/proxy')
        assert found['totals']['bytes_fetched'] == 0


def test_no_room_for_the_map(make, url, server):
    """The image alone would just fit."""
    with make(max_bytes=len(DATA)) as proxy:
        found = proxy.ended(proxy.prefetch(url=url, kind='full'), 'failed')
        assert 'all that it has is in use' in found['problem']
        assert server.bytes_sent('/image') < 3 * len(DATA)


def test_blocks_that_go_as_fast_as_they_come(proxy, url, server, monkeypatch):
    """The same is not fetched over and over."""
    here = property(lambda _: 0)
    monkeypatch.setattr(prefetch_plan.Plan, 'here', here)
    found = proxy.ended(proxy.prefetch(url=url, kind='full'), 'failed')
    assert 'as fast as they come' in found['problem']
    assert server.bytes_sent('/image') <= len(DATA) + 1


def test_an_image_that_is_closed_meanwhile(proxy, url, server, monkeypatch):
    """Whoever has closed it: it is opened again."""
    monkeypatch.setattr(fetcher, '_END', 0.1)
    with proxies.held(server, DATA, '/image'):
        identifier = proxy.prefetch(url=url, kind='full')
        path = f'{BASE}/{identifier}'
        waiting.until(lambda: proxy.get(path)['image'])
        opened = proxy.catalog.get(proxy.get(path)['image'])
        waiting.until(opened.under_way)
        opened.close()
    assert proxy.ended(identifier)['bytes_here'] == len(DATA)


def test_a_bug_is_told_as_one(proxy, url, monkeypatch, caplog):
    monkeypatch.setattr(proxy.catalog, 'open', lambda *_: 1 / 0)
    found = proxy.ended(proxy.prefetch(url=url, kind='full'), 'failed')
    assert 'bug' in found['problem']
    assert 'ZeroDivisionError' in caplog.text


def test_no_room_beside_what_is_pinned(make, url, server):
    other = server.put('/other', DATA)
    with make(max_bytes=48 * BLOCK) as proxy:
        proxy.ended(proxy.prefetch(url=other, kind='full'))
        (image,) = proxy.get('/v1/proxy/images')['images']
        proxy.ask('POST', f'/v1/proxy/pins/{image["id"]}')
        found = proxy.ended(proxy.prefetch(url=url, kind='full'), 'failed')
        assert 'all that it has is in use' in found['problem']
        assert server.bytes_sent('/image') < 4 * len(DATA)


def test_a_limit_is_kept_and_can_be_changed(proxy, url):
    identifier = proxy.prefetch(url=url, kind='full', rate_limit=BLOCK)
    path = f'{BASE}/{identifier}'
    waiting.until(lambda: proxy.get(path)['bytes_here'])
    assert proxy.get(path)['bytes_here'] < len(DATA) / 2
    proxy.prefetch(url=url, kind='full', rate_limit=1 << 40)
    assert proxy.ended(identifier)['seconds'] < 10


# The records


def records(proxy):
    path = proxy.path / 'prefetches'
    return sorted(each for each in path.iterdir() if each.is_dir())


def test_it_goes_on_after_a_restart(make, url, server):
    with make() as proxy:
        identifier = proxy.prefetch(url=url, kind='full', rate_limit=BLOCK)
        path = f'{BASE}/{identifier}'
        waiting.until(lambda: proxy.get(path)['bytes_here'])
        (record,) = records(proxy)
        assert 'geheim' not in (record / 'record').read_text()
        assert stat.S_IMODE((record / 'secret').stat().st_mode) == 0o600
        assert stat.S_IMODE(record.stat().st_mode) == 0o700
    with make() as proxy:
        proxy.prefetch(url=url, kind='full', rate_limit=1 << 40)
        found = proxy.ended(identifier)
        assert found['bytes_here'] == len(DATA)
        (record,) = records(proxy)
        assert os.listdir(record) == ['record']
    # What was here is not fetched again, but for what was under way.
    assert server.bytes_sent('/image') < 1.5 * len(DATA)
    with make() as proxy:
        assert proxy.get(path) == found


def test_damaged_records_are_left_alone(make, url, caplog):
    with make() as proxy:
        for _ in range(4):
            proxy.ended(proxy.prefetch(url=url, kind='full'))
        found = records(proxy)
    (found[0] / 'record').write_text('{')
    fields = json.loads((found[1] / 'record').read_text())
    for number, change in ((1, {'version': 9}), (2, {'ended': None})):
        changed = {**fields, **change}
        (found[number] / 'record').write_text(json.dumps(changed))
    with make() as proxy:
        (left,) = proxy.get(BASE)['prefetches']
        assert left['id'] == found[3].name
        assert records(proxy) == found
    assert caplog.text.count('cannot be used') == 3


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1])
    | st.floats()
    | st.text()
    | st.sampled_from([*prefetch_records.KINDS, *prefetch_records.STATES]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(
    [*('url', 'kind', 'iolog', 'ranges', 'rate_limit', 'headers')]
)


@hypothesis.given(st.dictionaries(NAMES, JSON) | JSON)
@hypothesis.example({'url': 'a', 'kind': 'trace', 'iolog': '\ud800'})
@hypothesis.example({'url': '\ud800', 'kind': 'full'})
def test_any_body_is_understood_or_refused(body):
    try:
        found = prefetch_records.wanted_of(body)
        prefetch_records.rate_limit_of(body)
    except exceptions.TransferError:
        return
    assert prefetch_records.wanted_of(vars(found)) == found


@hypothesis.given(st.data())
def test_any_record_is_understood_or_refused(data):
    record = prefetch_records.Record('0' * 32, 'full', 'x', 1.0)
    fields = {**record.fields(), 'state': 'running'}
    name = data.draw(st.sampled_from([*fields]))
    fields[name] = data.draw(JSON)
    secret = data.draw(st.none() | JSON.map(json.dumps) | st.text())
    records = prefetch_records.Records.__new__(prefetch_records.Records)
    with contextlib.suppress(*statefile.UNUSABLE):
        found = records.decode('0' * 32, fields, secret)
        assert (found.wanted is None) == (found.ended is not None)
        json.dumps(found.fields(), allow_nan=False)


def test_old_records_go(proxy, url, monkeypatch):
    monkeypatch.setattr(prefetch, 'MOST', 2)
    for _ in range(5):
        last = proxy.ended(proxy.prefetch(url=url, kind='full'))
    listed = proxy.get(BASE)['prefetches']
    assert listed[0] == last
    assert len(listed) == len(records(proxy)) == 3


def test_too_many(proxy, url, server, monkeypatch):
    monkeypatch.setattr(prefetch, 'MOST', 1)
    with proxies.held(server, DATA, '/image'):
        job = proxy.prefetch(url=url, kind='full')
        status, found = proxy.ask('POST', BASE, {'url': url, 'kind': 'hot'})
        assert (status, found['error']) == (503, 'Unavailable')
    proxy.ended(job)


def test_a_record_that_cannot_be_written(proxy, url, monkeypatch):
    def fail(*_args):
        raise exceptions.NoSpace('the disk is full')

    monkeypatch.setattr(prefetch_records.Records, 'add', fail)
    status, found = proxy.ask('POST', BASE, {'url': url, 'kind': 'full'})
    assert (status, found['error']) == (507, 'NoSpace')
    assert proxy.get(BASE) == {'prefetches': []}


def test_one_process_has_the_records(proxy, make):
    with pytest.raises(exceptions.Unavailable, match='another'):
        make().__enter__()
