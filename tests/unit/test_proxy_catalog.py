# SPDX-License-Identifier: Apache-2.0
"""The images of a proxy: versions, grants, pins, and what a restart knows."""

from __future__ import annotations

from concurrent import futures
import contextlib
import email.utils
import functools
import json
import os
import random
import time
import urllib.parse

import pytest

from oslo_transfer.cache import opts as cache_opts
from oslo_transfer import exceptions
from oslo_transfer.export import gate
from oslo_transfer.service.proxy import catalog as _catalog
from oslo_transfer.service.proxy import opened as _opened
from oslo_transfer.service.proxy import opts
from oslo_transfer.service.proxy import shelf as _shelf
from tests.servers import http
from tests.servers import resource
from tests import waiting

pytestmark = pytest.mark.usefixtures('nothing_left')

BLOCK = 4096
DATA = resource.pattern(20 * BLOCK + 100)
OTHER = resource.pattern(20 * BLOCK + 100, seed=2)
ALICE, BOB = {'x-auth-token': 'alice'}, {'x-auth-token': 'bob'}
NEWS = {'cache-control': 'no-cache'}


@pytest.fixture
def configure(conf, server, tmp_path):
    """Sets options of the proxy."""
    conf.set_override('state_path', str(tmp_path / 's'), 'oslo_transfer')
    conf.set_override('block_bytes', BLOCK, cache_opts.GROUP)
    conf.set_override('max_retries', 0, 'oslo_transfer')

    def configure(**options):
        for name, value in options.items():
            conf.set_override(name, value, group=opts.GROUP)
        return conf

    configure(origins=[server.origin], grant_seconds=3600.0)
    return configure


@pytest.fixture
def make(configure):
    """Starts a catalog, with options."""

    @contextlib.contextmanager
    def make(**options):
        catalog = _catalog.Catalog(configure(**options))
        with contextlib.closing(catalog):
            yield catalog

    return make


@pytest.fixture
def catalog(make):
    with make() as made:
        yield made


def asked(url, fields=()):
    target = '/' + url.replace('://', '/', 1)
    path = urllib.parse.unquote(target.partition('?')[0])
    return gate.Asked('GET', target, path, dict(fields), '192.0.2.1')


def read(image, offset=0, length=None):
    length = image.size - offset if length is None else length
    buffer = bytearray(length)
    with image.reader() as reader:
        reader.read(memoryview(buffer), offset)
    return bytes(buffer)


def get(catalog, url, fields=()):
    """As the server does it."""
    request = asked(url, fields)
    return catalog.find(request) or catalog.admit(request)


def only(catalog):
    (found,) = catalog.all()
    return found


def test_what_was_fetched_is_not_fetched_again(catalog, server):
    url = server.put('/image', DATA)
    assert catalog.find(asked(url)) is None
    image = get(catalog, url)
    assert read(image) == DATA
    requests = len(server.requests)
    assert get(catalog, url) is image is catalog.find(asked(url))
    assert read(image) == DATA
    assert len(server.requests) == requests
    found = only(catalog)
    assert (found.where, found.size, found.blocks) == (url, len(DATA), 21)
    assert found.here == len(DATA) and not found.problem
    assert len(found.id) == 32 and catalog.get(found.id) is found
    statistics = found.statistics()
    assert statistics['bytes_fetched'] == len(DATA)
    assert statistics['bytes_served'] == 2 * len(DATA)
    assert statistics['hits'] > 0 < statistics['misses']
    origin = catalog.origins()[0]
    assert origin.origin == server.origin and not origin.failures
    assert origin.bytes_fetched == len(DATA)


def test_the_tag_is_the_one_of_the_origin(catalog, server):
    assert get(catalog, server.put('/a', DATA, etag='"abc"')).etag == 'abc'


@pytest.mark.parametrize(
    'options',
    [
        {'etag': 'W/"abc"'},
        {'etag': None, 'last_modified': 'Wed, 01 Jan 2020 00:00:00 GMT'},
    ],
)
def test_a_tag_of_its_own(make, server, options):
    """It is the same wherever a proxy makes one of a version."""
    url = server.put('/a', DATA, **options)
    tags = set()
    for _ in range(2):
        with make() as catalog:
            tags.add(get(catalog, url).etag)
    assert len(tags) == 1 and len(tags.pop()) == 64


def test_what_has_just_changed_is_not_kept(catalog, server):
    """It may change again, and look the same."""
    for age, stored, kept in (
        *((0, 0, False), (-1, 0, False), (1, 0, True), (-3600, 0, True)),
        # What a cache of the origin has had for a while.
        *((0, 1, True), (-2, 1, False)),
    ):
        modified, date = (
            email.utils.formatdate(when, usegmt=True)
            for when in (1.7e9 - age, 1.7e9)
        )
        url = server.put(
            *(f'/{age}-{stored}', DATA),
            etag=None,
            last_modified=modified,
            headers={'Date': date, 'Age': str(stored)},
        )
        if kept:
            assert read(get(catalog, url)) == DATA
        else:
            with pytest.raises(exceptions.CapabilityMissing, match='ETag'):
                get(catalog, url)


def test_without_a_version_nothing_is_kept(catalog, server):
    url = server.put('/a', DATA, etag=None, last_modified=None)
    with pytest.raises(exceptions.CapabilityMissing, match='version'):
        get(catalog, url)


def test_each_is_asked_for(catalog, server):
    url = server.put('/image', DATA)
    server.require_token('/image', {'alice'})
    assert read(get(catalog, url, ALICE)) == DATA
    for stranger in ((), BOB):
        assert catalog.find(asked(url, stranger)) is None
        with pytest.raises(exceptions.AccessDenied):
            catalog.admit(asked(url, stranger))
    assert catalog.refused == 2
    server.require_token('/image', {'alice', 'bob'})
    assert get(catalog, url, BOB) is get(catalog, url, ALICE)
    assert server.bytes_sent() < len(DATA) + BLOCK


def test_a_grant_ends(catalog, configure, server):
    """Also for what is here."""
    url = server.put('/image', DATA)
    server.require_token('/image', {'alice'})
    configure(grant_seconds=0.0)
    assert read(get(catalog, url, ALICE)) == DATA
    server.require_token('/image', set())
    assert catalog.find(asked(url, ALICE)) is None
    with pytest.raises(exceptions.AccessDenied):
        catalog.admit(asked(url, ALICE))


def test_one_who_makes_up_urls(make, server, monkeypatch):
    """Nobody has the proxy know more than it has memory for."""
    monkeypatch.setattr(_shelf, '_MOST_KNOWN', 3)
    url = server.put('/image', DATA)
    with make(idle_seconds=1.0) as catalog:
        assert read(get(catalog, url)) == DATA
        catalog.pin(only(catalog).id, True)
        for number in range(10):
            read(get(catalog, f'{url}?{number}'), 0, BLOCK)
        waiting.until(lambda: len(catalog.all()) <= 4)
        assert url in [each.where for each in catalog.all()]
        assert read(get(catalog, f'{url}?0')) == DATA


def test_the_origin_is_out_of_reach(catalog, configure, server):
    url = server.put('/image', DATA)
    configure(grant_seconds=0.0)
    image = get(catalog, url)
    assert read(image) == DATA
    server.close()
    assert get(catalog, url) is image and read(image) == DATA
    with pytest.raises(exceptions.Unavailable):
        get(catalog, server.url('/other'))
    configure(stale_seconds=0.0)
    with pytest.raises(exceptions.Unavailable):
        get(catalog, url, NEWS)


def test_another_version(catalog, configure, server):
    url = server.put('/image', DATA, etag='"1"')
    configure(grant_seconds=0.0)
    old = get(catalog, url)
    assert read(old, 0, BLOCK) == DATA[:BLOCK]
    server.put('/image', OTHER, etag='"2"')
    new = get(catalog, url)
    assert new.etag == '2' and read(new) == OTHER
    # Who reads the old one never gets a byte of the new one.
    assert read(old, 0, BLOCK) == DATA[:BLOCK]
    with pytest.raises(exceptions.SourceChanged):
        read(old, 15 * BLOCK, BLOCK)
    assert {each.etag for each in catalog.all()} == {'1', '2'}


@pytest.mark.parametrize('pinned', [False, True])
def test_who_mistrusts_it_has_it_fetched_again(catalog, server, pinned):
    """Once: many may find out together."""
    url = server.put('/image', OTHER, etag='"1"')
    assert read(get(catalog, url)) == OTHER
    if pinned:
        (opened,) = catalog.all()
        catalog.pin(opened.id, True)
    server.put('/image', DATA, etag='"1"')
    assert read(get(catalog, url)) == OTHER
    assert read(get(catalog, url, NEWS)) == DATA
    fetched = catalog.origins()[0].bytes_fetched
    assert read(get(catalog, url, NEWS)) == DATA
    assert catalog.origins()[0].bytes_fetched == fetched == 2 * len(DATA)


@pytest.mark.parametrize('pinned', [False, True])
def test_who_mistrusts_it_while_the_origin_is_away(make, pinned):
    """What is here is all that there is, and stays."""
    with contextlib.ExitStack() as stack:
        with http.ScriptedHTTPServer() as origin:
            url = origin.put('/image', DATA)
            catalog = stack.enter_context(make(origins=[origin.origin]))
            assert read(get(catalog, url)) == DATA
            catalog.pin(only(catalog).id, pinned)
        assert read(get(catalog, url, NEWS)) == DATA
        assert only(catalog).here == len(DATA)
        # But for what its checksum shows to be wrong.
        fd = only(catalog).image.reader().fd
        os.pwrite(fd, b'wrong', 3 * BLOCK)
        image = get(catalog, url, NEWS)
        assert read(image, 0, 3 * BLOCK) == DATA[: 3 * BLOCK]
        with pytest.raises(exceptions.TransferError):
            read(image, 3 * BLOCK, BLOCK)


def test_it_goes_around_in_a_circle(catalog, server):
    url = server.put('/image', DATA)
    get(catalog, url)
    via = server.seen('/image')[-1].headers['via']
    assert via.startswith('1.1 oslo-transfer-')
    for field in (via, f'1.1 other, {via}', '1.1 a, ' * 8, 'a' * 257):
        with pytest.raises(exceptions.InvalidEndpoint, match='circle'):
            get(catalog, url, {'via': field})
    get(catalog, url, {'via': '1.1 other', **ALICE})
    assert server.seen('/image')[-1].headers['via'] == f'1.1 other, {via}'


def test_refusals_are_counted(catalog, server):
    for target in ('http://other.example/', f'{server.origin}/../a'):
        with pytest.raises(exceptions.TransferError):
            get(catalog, target)
    assert catalog.refused == 1 and server.requests == []


def test_tokens(make, server, tmp_path):
    path = tmp_path / 'tokens'
    path.write_text('one\n')
    url = server.put('/image', DATA)
    one = {'proxy-authorization': 'Bearer one'}
    with make(tokens_file=str(path)) as catalog:
        assert catalog.needs_tokens
        with pytest.raises(exceptions.AccessDenied):
            get(catalog, url)
        image = get(catalog, url, one)
        assert catalog.find(asked(url, one)) is image
        assert catalog.find(asked(url)) is None
        assert 'proxy-authorization' not in server.requests[-1].headers
        # One that is taken away gets nothing any more.
        path.write_text('another\n')
        catalog.tick()
        assert catalog.find(asked(url, one)) is None
        with pytest.raises(exceptions.AccessDenied):
            catalog.admit(asked(url, one))


def test_what_is_allowed_changes(catalog, configure, server, caplog):
    url = server.put('/image', DATA)
    get(catalog, url)
    configure(origins=['nonsense'])
    catalog.tick()
    assert 'origins' in caplog.text and catalog.find(asked(url))
    configure(origins=['http://other.example/'])
    catalog.tick()
    with pytest.raises(exceptions.PolicyRefused):
        get(catalog, url)
    configure(names={'golden': url})
    catalog.tick()
    assert get(catalog, 'images://golden')


@pytest.mark.parametrize('status', [401, 403, 404])
def test_one_who_may_not_any_more_keeps_nobody_else_from_it(
    catalog, server, status
):
    """What is missing is asked for as another one who may."""
    url = server.put('/image', DATA)
    good = server._routes['/image']
    refused = set()

    def answer(request, conn):
        if request.headers.get('x-auth-token') in refused:
            conn.reply(status)
        else:
            good(request, conn)

    server.serve('/image', answer)
    image = get(catalog, url, ALICE)
    assert get(catalog, url, BOB) is image
    for gone in ('alice', 'bob'):
        refused = {gone}
        start = 15 * BLOCK if gone == 'alice' else 0
        assert read(image, start, BLOCK) == DATA[start:][:BLOCK]


def test_its_own_identity(make, server, tmp_path):
    path = tmp_path / 'headers'
    path.write_text('X-Auth-Token: own\n')
    url = server.put('/image', DATA)
    server.require_token('/image', {'own'})
    with make(origin_identity='own', origin_headers_file=str(path)) as catalog:
        image = get(catalog, url)
        assert read(image) == DATA and get(catalog, url, BOB) is image
        server.require_token('/image', {'new'})
        path.write_text('X-Auth-Token: new\n')
        catalog.tick()
        assert get(catalog, url, ALICE) is image


def test_a_name_or_a_url_is_enough_for_an_export(make, server):
    url = server.put('/image', DATA)
    with make(names={'golden': url}) as catalog:
        assert read(catalog.export('golden')) == DATA
        assert catalog.export(url) is catalog.export('golden')
        assert get(catalog, 'images://golden') is catalog.export(url)
        with pytest.raises(exceptions.NotFound):
            catalog.export('other')
        with pytest.raises(exceptions.PolicyRefused):
            catalog.export('http://other.example/')


def test_what_nobody_reads_is_closed(make, server):
    url = server.put('/image', DATA)
    with make(idle_seconds=1.0) as catalog:
        image = get(catalog, url)
        with image.reader() as reader:
            reader.read(memoryview(bytearray(BLOCK)), 0)
            found = only(catalog)
            assert found.statistics()['readers'] == 1
            assert not found.close_if_idle(0.0)
        waiting.until(lambda: found.shared is None)
        assert catalog.statistics()['objects_open'] == 0
        assert found.here == BLOCK and only(catalog) is found
        assert found.statistics()['bytes_served'] == BLOCK
        with pytest.raises(exceptions.Unavailable):
            image.reader()
        # It is opened again without asking the origin.
        requests = len(server.requests)
        again = get(catalog, url)
        assert again is not image and read(again, 0, BLOCK) == DATA[:BLOCK]
        assert len(server.requests) == requests
        assert read(again) == DATA
        assert found.statistics()['bytes_fetched'] == len(DATA)


def test_what_nobody_reads_needs_no_connection(make, server, monkeypatch):
    monkeypatch.setattr(_shelf, '_REST', 0.0)
    with make() as catalog:
        image = get(catalog, server.put('/image', DATA))
        read(image, 0, BLOCK)
        waiting.until(lambda: server.connections.open == 0)
        assert read(image) == DATA


def test_only_so_many_are_open(make, server, monkeypatch):
    monkeypatch.setattr(_shelf, '_MOST_OPEN', 1)
    with make() as catalog:
        get(catalog, server.put('/one', DATA))
        image = get(catalog, server.put('/two', DATA))
        one = catalog.all()[1]
        with image.reader():
            waiting.until(lambda: one.shared is None)
        assert catalog.find(asked(server.url('/two'))) is image


def test_who_uses_it_keeps_it_open(make, server):
    with make(idle_seconds=1.0) as catalog:
        found = catalog.open(server.put('/image', DATA))
        with catalog.using(found) as shared:
            assert found.shared is shared
            assert not found.close_if_idle(0.0)
        assert found.close_if_idle(0.0)
        with catalog.using(found) as shared:
            assert shared.here == 0


def signed(server, good, status=401):
    """The URL of an image that has to be signed by one of a live set."""
    image = resource.Resource(DATA, len(DATA))

    def answer(request, conn):
        if request.target.rpartition('temp_url_sig=')[2] in good:
            image(request, conn)
        else:
            conn.reply(status)

    url = server.serve('/image', answer)
    return lambda sig: f'{url}?temp_url_expires=1&temp_url_sig={sig}'


def test_signatures_share_an_image(make, server):
    """Each is shown to the origin, and what is here is fetched once."""
    good = {'a', 'b'}
    url = signed(server, good)
    with make(grant_seconds=0.0, idle_seconds=1.0) as catalog:
        assert read(get(catalog, url('a')), 0, BLOCK) == DATA[:BLOCK]
        # The first one has ended; what is missing comes by the second.
        good.remove('a')
        image = get(catalog, url('b'))
        assert read(image) == DATA
        assert only(catalog).here == len(DATA)
        assert only(catalog).statistics()['bytes_fetched'] == len(DATA)
        with pytest.raises(exceptions.AccessDenied):
            get(catalog, url('a'))
        # The next look at it is by what has worked last.
        assert only(catalog).close_if_idle(0.0)
        catalog.evict(only(catalog).id)
        assert catalog.all() == []
    with make(grant_seconds=3600.0) as catalog:
        read(get(catalog, url('b')), 0, BLOCK)
        found = only(catalog)
        assert found.close_if_idle(0.0)
        good.add('c')
        assert read(get(catalog, url('c')), 0, BLOCK) == DATA[:BLOCK]
        good.remove('b')
        assert found.url == url('c')
        assert found.close_if_idle(0.0)
        # A grant that holds, of a signature that does not any more.
        assert read(get(catalog, url('c'))) == DATA


@pytest.mark.parametrize('status', [400, 401, 403, 404])
def test_a_signature_that_has_ended_is_in_nobodys_way(make, server, status):
    """However its origin says so."""
    good = {'a', 'b'}
    url = signed(server, good, status)
    with make() as catalog:
        image = get(catalog, url('a'))
        assert read(image, 0, BLOCK) == DATA[:BLOCK]
        get(catalog, url('b'))
        good.remove('b')
        only(catalog).shared.image.release_origin()
        assert read(image) == DATA
        # Nor where it ends while it is used.
        get(catalog, url('a'))
        good |= {'c'}
        catalog.evict(only(catalog).id)
        get(catalog, url('c'))
        only(catalog).shared.image.release_origin()
        assert read(image, 0, BLOCK) == DATA[:BLOCK]
        good.remove('c')
        assert read(image) == DATA


def test_a_restart_knows_what_there_was(make, server, tmp_path):
    url = server.put('/image', DATA) + '?signature=geheim'
    with make() as catalog:
        read(get(catalog, url), 0, 3 * BLOCK)
        before = only(catalog)
    with make() as catalog:
        found = only(catalog)
        assert (found.id, found.url) == (before.id, before.url)
        waiting.until(lambda: found.here == before.here)
        assert found.used == before.used
        assert 'geheim' not in found.where
        assert read(get(catalog, url), 0, 3 * BLOCK) == DATA[: 3 * BLOCK]
        assert catalog.origins()[0].bytes_fetched == 0
        for name, _names, files in os.walk(tmp_path / 's'):
            for file in files:
                assert os.stat(os.path.join(name, file)).st_mode & 0o77 == 0


def test_what_is_not_here_is_forgotten_by_a_restart(make, server, tmp_path):
    with make() as catalog:
        read(get(catalog, server.put('/image', DATA)))
    with make(directory=str(tmp_path / 'elsewhere')) as catalog:
        assert catalog.all() == []


def test_a_directory_that_was_moved(make, server, tmp_path):
    url = server.put('/image', DATA)
    with make(directory=str(tmp_path / 'one')) as catalog:
        read(get(catalog, url))
    os.rename(tmp_path / 'one', tmp_path / 'two')
    server.close()
    with make(directory=str(tmp_path / 'two')) as catalog:
        found = only(catalog)
        waiting.until(lambda: found.here == len(DATA))
        with catalog.using(found) as shared:
            assert read(shared.image) == DATA


def test_a_damaged_record_is_left_out(make, server, tmp_path, caplog):
    with make() as catalog:
        read(get(catalog, server.put('/image', DATA)))
    (record,) = (tmp_path / 's/proxied').glob('*/record')
    fields = json.loads(record.read_text())
    for broken in ({**fields, 'size': -1}, {**fields, 'pinned': 1}, {}):
        record.write_text(json.dumps(broken))
        caplog.clear()
        with make() as catalog:
            assert catalog.all() == []
        assert 'cannot be used' in caplog.text


def test_blocks_are_let_go_of(make, server):
    one, two = server.put('/one', DATA), server.put('/two', DATA)
    with make(max_bytes=40 * BLOCK) as catalog:
        read(get(catalog, one))
        read(get(catalog, two))
        assert catalog.statistics()['blocks_evicted'] > 0
        assert read(get(catalog, one)) == DATA == read(get(catalog, two))


def test_pinned_blocks_stay(make, server):
    one, two = server.put('/one', DATA), server.put('/two', DATA)
    with make(max_bytes=40 * BLOCK) as catalog:
        image = get(catalog, one)
        read(image)
        found = only(catalog)
        catalog.pin(found.id, True)
        catalog.pin(found.id, True)
        assert found.pinned and image.stays
        read(get(catalog, two))
        assert found.here == len(DATA)
        with pytest.raises(exceptions.DetachError, match='pinned'):
            catalog.evict(found.id)
    # And after a restart, though nobody reads them.
    with make(max_bytes=40 * BLOCK) as catalog:
        found = next(each for each in catalog.all() if each.pinned)
        read(get(catalog, two))
        found.count()
        assert found.here == len(DATA)
        catalog.pin(found.id, False)
        catalog.evict(found.id)
        assert found not in catalog.all()
    with make() as catalog:
        assert found.id not in [each.id for each in catalog.all()]


def test_what_was_pinned_stays_until_it_is_closed(catalog, server):
    image = get(catalog, server.put('/image', DATA))
    read(image)
    found = only(catalog)
    catalog.pin(found.id, True)
    catalog.pin(found.id, False)
    with image.reader():
        with pytest.raises(exceptions.DetachError, match='was pinned'):
            catalog.evict(found.id)
    waiting.until(lambda: not found.statistics()['readers'])
    catalog.evict(found.id)
    assert catalog.all() == []


def test_evicting_what_is_read(catalog, server):
    """Those who read it read on."""
    url = server.put('/image', DATA)
    image = get(catalog, url)
    with image.reader() as reader:
        buffer = bytearray(BLOCK)
        reader.read(memoryview(buffer), 0)
        found = only(catalog)
        catalog.evict(found.id)
        assert found.here == 0
        reader.read(memoryview(buffer), 0)
        assert buffer == DATA[:BLOCK]
    assert catalog.all() == [found]
    with pytest.raises(exceptions.NotFound):
        catalog.evict('0' * 32)


def test_what_was_evicted_can_be_had_again(catalog, server):
    url = server.put('/image', DATA)
    read(get(catalog, url))
    found = only(catalog)
    assert found.close_if_idle(0.0)
    catalog.evict(found.id)
    assert catalog.all() == []
    assert read(get(catalog, url)) == DATA
    assert only(catalog).id == found.id


def test_users_are_let_go_of(catalog, server, monkeypatch):
    """The origin is opened as one of those who came last."""
    monkeypatch.setattr(_opened, '_MOST_USERS', 2)
    url = server.put('/image', DATA)
    for name in ('one', 'two', 'three'):
        get(catalog, url, {'x-auth-token': name})
    server.require_token('/image', {'three'})
    assert read(get(catalog, url, {'x-auth-token': 'one'})) == DATA


def test_a_copy_is_no_boot(make, server, monkeypatch):
    """What was read of a large image as a whole tells nothing."""
    monkeypatch.setattr('oslo_transfer.service.images._SMALL', 4 * BLOCK)
    url = server.put('/image', DATA)
    with make() as catalog:
        image = get(catalog, url)
        read(image, 0, 3 * BLOCK)
        shared = only(catalog).shared
        assert shared.hot().count(1) == 3
        (touch,) = shared.trace().touches
        read(image)
        assert shared.hot().count(1) == 3
        assert shared.trace().touches == (touch,)


def test_the_clock_of_the_host_jumps(make, server, monkeypatch):
    """A grant holds for as long as it should, and what is here stays."""
    url = server.put('/image', DATA)
    with make() as catalog:
        image = get(catalog, url)
        read(image)
        now = time.time
        for jump in (-1e9, 1e9):
            monkeypatch.setattr(time, 'time', lambda jump=jump: now() + jump)
            assert catalog.find(asked(url)) is image
            assert read(image) == DATA
        (found,) = catalog.all()
    monkeypatch.undo()
    with make() as catalog:
        waiting.until(lambda: only(catalog).here == len(DATA))


# Ways to an origin


def test_secrets_do_not_go_out_readable(make, server):
    """An upstream without TLS is not told what an https origin is."""
    origin = 'https://127.0.0.1:1'
    with make(origins=[origin], upstreams=[server.origin]) as catalog:
        server.put('/https/127.0.0.1:1/image', DATA)
        url = f'{origin}/image'
        for told, fields in ((url, ALICE), (f'{url}?signature=a', ())):
            with pytest.raises(exceptions.Unavailable):
                get(catalog, told, fields)
        assert server.requests == []
        assert read(get(catalog, url)) == DATA


def test_an_upstream_with_another_version(make, server):
    """What was begun is ended with the right one."""
    url = server.put('/image', DATA, etag='"1"')
    with http.ScriptedHTTPServer() as other:
        other.put(f'/{url.replace("://", "/")}', DATA, etag='"1"')
        with make(upstreams=[other.origin]) as catalog:
            image = get(catalog, url)
            read(image, 0, BLOCK)
            assert server.requests == []
            other.put(f'/{url.replace("://", "/")}', OTHER, etag='"2"')
            with contextlib.suppress(exceptions.SourceChanged):
                read(image, 15 * BLOCK, BLOCK)
            assert read(image) == DATA
            assert server.requests


def test_an_upstream_that_refuses_is_no_judge(make, server):
    """It may not be allowed to ask; the origin decides."""
    url = server.put('/image', DATA)
    with http.ScriptedHTTPServer() as other:
        with make(upstreams=[other.origin]) as catalog:
            assert read(get(catalog, url)) == DATA
        # Where one byte cannot be had, all is asked for.
        assert len(other.requests) == 2


def test_an_upstream_that_fails_is_passed_over(make, server):
    url = server.put('/image', DATA)

    def busy(_request, conn):
        conn.reply(503, b'busy')

    with http.ScriptedHTTPServer() as other:
        other.serve(f'/{url.replace("://", "/")}', busy)
        with make(upstreams=[other.origin], grant_seconds=0.0) as catalog:
            for _ in range(3):
                assert read(get(catalog, url)) == DATA
        # Where one byte cannot be had, all is asked for.
        assert len(other.requests) == 2


def test_where_an_origin_redirects_to(make, server):
    """That is no way to what may not be asked for."""
    with http.ScriptedHTTPServer() as other:
        there = other.put('/image', DATA)

        def redirect(_request, conn):
            conn.reply(302, b'', {'Location': there})

        url = server.serve('/image', redirect)
        with make() as catalog:
            with pytest.raises(exceptions.PolicyRefused):
                get(catalog, url, ALICE)
        assert other.requests == []


def test_everything_at_once(make, server):
    """Whoever reads gets right bytes, or is told to come again."""
    urls = [server.put(f'/{number}', DATA) for number in range(3)]
    with make(max_bytes=40 * BLOCK, grant_seconds=0.0) as catalog:

        def read_some(chance):
            for _ in range(15):
                fields = NEWS if chance.random() < 0.2 else ()
                with contextlib.suppress(exceptions.Unavailable):
                    image = get(catalog, chance.choice(urls), fields)
                    offset = chance.randrange(len(DATA))
                    length = chance.randrange(1, len(DATA) - offset + 1)
                    assert (
                        read(image, offset, length)
                        == (DATA[offset : offset + length])
                    )

        def meddle(chance):
            for _ in range(60):
                for each in catalog.all():
                    what = chance.choice(
                        [
                            functools.partial(catalog.evict, each.id),
                            functools.partial(catalog.pin, each.id, True),
                            functools.partial(catalog.pin, each.id, False),
                            functools.partial(each.close_if_idle, 0.0),
                            functools.partial(each.rest, 0.0),
                            each.presence,
                            each.statistics,
                            catalog.tick,
                        ]
                    )
                    with contextlib.suppress(
                        exceptions.DetachError,
                        exceptions.NotFound,
                        exceptions.Unavailable,
                    ):
                        what()

        with futures.ThreadPoolExecutor(8) as pool:
            started = [
                pool.submit(meddle if seed < 2 else read_some, rng)
                for seed, rng in enumerate(map(random.Random, range(8)))
            ]
            for each in started:
                each.result(60)


def test_limits(make, configure, server):
    url = server.put('/image', DATA)
    with make(origin_bytes_per_second=1 << 20) as catalog:
        opener = catalog._opener
        get(catalog, url)
        (account,) = opener.accounts
        assert account.limiter.rate == 1 << 20 and opener._limiter.rate is None
        configure(origin_bytes_per_second=0, fetch_bytes_per_second=7)
        catalog.tick()
        assert account.limiter.rate is None and opener._limiter.rate == 7


@pytest.mark.parametrize(
    'option', ['origin_bytes_per_second', 'fetch_bytes_per_second']
)
def test_limits_are_kept(make, server, option):
    """But for a burst of a tenth of a second, and the last piece."""
    with make(**{option: 2 * len(DATA)}) as catalog:
        image = get(catalog, server.put('/image', DATA))
        started = time.monotonic()
        assert read(image) == DATA
        assert 0.2 < time.monotonic() - started


def test_a_full_disk(catalog, server, monkeypatch):
    """Images are served on, and it says what is wrong."""
    url = server.put('/image', DATA)

    def refuse(*_args):
        raise exceptions.NoSpace('no space left')

    monkeypatch.setattr('oslo_transfer.cache.datafile.DataFile.write', refuse)
    assert read(get(catalog, url)) == DATA
    assert 'no space left' in catalog.problem
    monkeypatch.undo()


@pytest.mark.parametrize(
    'options',
    [
        {'origins': ['far.example']},
        {'upstreams': ['far.example']},
        {'upstreams': ['ftp://far.example/']},
        {'upstreams': ['http://me@far.example/']},
        {'upstream_token_file': '/nonexistent'},
        {'origin_identity': 'own'},
    ],
)
def test_malformed_options(make, options):
    with pytest.raises(exceptions.ConfigurationError):
        with make(**options):
            pytest.fail('it started')
