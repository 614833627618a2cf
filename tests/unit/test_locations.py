# SPDX-License-Identifier: Apache-2.0
"""Several locations: the next one on an error, or if the bytes are wrong."""

from __future__ import annotations

import hashlib
import os

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from tests.servers import http
from tests.servers import resource

pytestmark = pytest.mark.usefixtures('nothing_left')

DATA = resource.pattern(4 << 20, seed=4)
OTHER = resource.pattern(4 << 20, seed=5)
HALF = len(DATA) // 2
DIGEST = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}


@pytest.fixture
def conf(conf):
    conf.set_override('max_retries', 1, group='oslo_transfer')
    # Bytes of one location come by one stream, so they can be counted.
    conf.set_override('max_streams', 1, group='oslo_transfer')
    return conf


@pytest.fixture
def second():
    with http.ScriptedHTTPServer() as running:
        yield running


@pytest.fixture
def dst(tmp_path):
    return tmp_path / 'image'


def status(server, code, path='/bad'):
    """A location that always answers with an error."""
    return server.serve(path, lambda request, conn: conn.reply(code))


def cut(server, position, path='/bad', data=DATA, times=None, **options):
    """A location whose answers break off at a byte."""
    well = resource.Resource(data, len(data), **options)

    def answer(request, conn):
        limit = position if times is None or request.nth < times else None
        if well.answer(request, conn, limit):
            conn.reset()

    return server.serve(path, answer)


def given_up(attempts):
    return [(each.location, each.error) for each in attempts if each.location]


@pytest.mark.parametrize(
    ('code', 'error'),
    [
        (401, 'AccessDenied'),
        (403, 'AccessDenied'),
        (404, 'NotFound'),
        (410, 'NotFound'),
        (418, 'ProtocolError'),
        (500, 'Unavailable'),
        (503, 'Unavailable'),
    ],
)
def test_next_location_on_an_error(conf, server, dst, code, error):
    bad = status(server, code)
    good = server.put('/good', DATA)
    result = oslo_transfer.copy([bad, good], dst, conf=conf)
    assert dst.read_bytes() == DATA
    assert result.source == good
    assert given_up(result.attempts) == [(bad, error)]
    assert result.bytes_by_origin == {'origin': len(DATA)}


def test_location_that_refuses_is_not_asked_again(conf, server, dst):
    conf.set_override('max_retries', 5, group='oslo_transfer')
    bad = status(server, 503)
    oslo_transfer.copy([bad, server.put('/good', DATA)], dst, conf=conf)
    # There are others; waiting pays only for the last one.
    assert len(server.seen('/bad')) == 1


def test_last_location_is_asked_again(conf, server, dst):
    whole = resource.Resource(DATA, len(DATA))

    def answer(request, conn):
        if request.nth:
            whole(request, conn)
        else:
            conn.reply(503)

    url = server.serve('/image', answer)
    oslo_transfer.copy([server.url('/none'), url], dst, conf=conf)
    assert dst.read_bytes() == DATA


def test_next_location_where_nobody_listens(conf, server, dst):
    with http.ScriptedHTTPServer() as gone:
        url = gone.url('/image')
    result = oslo_transfer.copy(
        [url, server.put('/good', DATA)], dst, conf=conf
    )
    assert given_up(result.attempts) == [(url, 'Unavailable')]


def test_next_location_if_the_bytes_are_wrong(conf, server, dst):
    bad = server.put('/bad', OTHER)
    good = server.put('/good', DATA)
    result = oslo_transfer.copy([bad, good], dst, conf=conf, **DIGEST)
    assert dst.read_bytes() == DATA
    assert result.verified
    assert given_up(result.attempts) == [(bad, 'IntegrityError')]
    assert result.bytes_by_origin == {'origin': len(DATA)}
    assert result.bytes_by_location == {good: len(DATA)}
    assert result.wasted == len(DATA)


def test_without_a_digest_the_first_that_works_is_believed(conf, server, dst):
    result = oslo_transfer.copy(
        [server.put('/bad', OTHER), server.put('/good', DATA)],
        dst,
        conf=conf,
    )
    assert dst.read_bytes() == OTHER
    assert not result.verified


def test_location_of_another_size_costs_no_byte(conf, server, dst):
    bad = server.put('/bad', bytes(32 << 20))  # No buffer holds it.
    good = server.put('/good', DATA)
    result = oslo_transfer.copy(
        [bad, good], dst, conf=conf, expected_size=len(DATA)
    )
    assert dst.read_bytes() == DATA
    assert given_up(result.attempts) == [(bad, 'SizeMismatch')]
    assert server.bytes_sent('/bad') < 32 << 20


def test_nothing_is_visible_while_locations_are_tried(conf, server, dst):
    seen = []
    whole = resource.Resource(DATA, len(DATA))

    def answer(request, conn):
        seen.append(dst.exists())
        whole(request, conn)

    oslo_transfer.copy(
        [server.put('/bad', OTHER), server.serve('/good', answer)],
        dst,
        conf=conf,
        **DIGEST,
    )
    assert seen == [False]


# Deduplication


def test_location_that_is_named_twice_is_asked_once(conf, server, dst):
    bad = status(server, 404)
    good = server.put('/good', DATA)
    result = oslo_transfer.copy(
        [bad, oslo_transfer.Location(bad), bad, good, good], dst, conf=conf
    )
    assert len(server.seen('/bad')) == 1
    assert given_up(result.attempts) == [(bad, 'NotFound')]


# Bytes of several requests


def test_bytes_of_two_locations_are_joined_under_a_digest(
    conf, server, second, dst
):
    bad = cut(server, HALF)
    good = second.put('/good', DATA, etag='"another"')
    result = oslo_transfer.copy([bad, good], dst, conf=conf, **DIGEST)
    assert dst.read_bytes() == DATA
    assert result.verified
    assert result.bytes_by_location == {bad: HALF, good: len(DATA) - HALF}
    assert result.size == len(DATA)
    assert second.bytes_sent() < len(DATA)


def test_bytes_of_two_locations_are_never_joined_without_one(
    conf, server, second, dst
):
    bad = cut(server, HALF, data=OTHER)
    good = second.put('/good', DATA)  # It has even the same validator.
    result = oslo_transfer.copy([bad, good], dst, conf=conf)
    assert dst.read_bytes() == DATA
    assert second.bytes_sent() == len(DATA)
    assert result.bytes_by_origin == {'origin': len(DATA)}


def test_joined_bytes_that_are_wrong_are_replaced(conf, server, second, dst):
    """The second location is good; what the first left behind is not."""
    bad = cut(server, HALF, data=OTHER)
    good = second.put('/good', DATA)
    result = oslo_transfer.copy([bad, good], dst, conf=conf, **DIGEST)
    assert dst.read_bytes() == DATA
    assert result.source == good
    assert given_up(result.attempts) == [(bad, 'IntegrityError')]
    # What it gave is fetched again, and no more.
    assert second.bytes_sent('/good') <= len(DATA) + (64 << 10)
    assert result.wasted == HALF
    assert result.bytes_by_origin == {'origin': len(DATA)}


def test_location_whose_resumed_bytes_are_wrong_is_read_again(
    conf, server, dst
):
    """It breaks once and goes on with a byte too many; then it is good."""

    def answer(request, conn):
        if request.nth == 0:
            well = resource.Resource(DATA, len(DATA))
            well.answer(request, conn, HALF)
            conn.reset()
        elif request.nth == 1:
            # As long as it should be, and right up to where it broke.
            wrong = DATA[:HALF] + OTHER[HALF:]
            resource.Resource(wrong, len(wrong))(request, conn)
        else:
            resource.Resource(DATA, len(DATA))(request, conn)

    url = server.serve('/image', answer)
    result = oslo_transfer.copy(url, dst, conf=conf, **DIGEST)
    assert dst.read_bytes() == DATA
    assert result.verified
    assert [request.start > 0 for request in server.seen('/image')] == [
        False,
        True,
        False,
    ]
    assert result.wasted >= len(DATA) - HALF


def test_location_that_is_wrong_from_zero_is_blamed_at_once(conf, server, dst):
    url = server.put('/image', OTHER)
    with pytest.raises(exceptions.DigestMismatch):
        oslo_transfer.copy(url, dst, conf=conf, **DIGEST)
    assert len(server.seen('/image')) == 1


def test_location_that_is_wrong_twice_is_blamed(conf, server, dst):
    bad = cut(server, HALF, data=OTHER, times=1)
    with pytest.raises(exceptions.DigestMismatch) as caught:
        oslo_transfer.copy(bad, dst, conf=conf, **DIGEST)
    assert given_up(caught.value.attempts) == [(bad, 'DigestMismatch')]
    # Once with a joint, once in one go.
    assert [request.start > 0 for request in server.seen('/bad')] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize('etag', ['"v1"', 'W/"v1"', None])
def test_location_that_changes_is_read_from_zero(conf, server, dst, etag):
    """With a validator or without: halves of two versions never meet."""

    def answer(request, conn):
        if request.nth == 0:
            old = resource.Resource(OTHER, len(OTHER), etag=etag)
            old.answer(request, conn, HALF)
            conn.reset()
        tag = etag and etag.replace('1', '2')
        resource.Resource(DATA, len(DATA), etag=tag)(request, conn)

    url = server.serve('/image', answer)
    oslo_transfer.copy(url, dst, conf=conf)
    assert dst.read_bytes() == DATA


# When all fail


def test_last_error_where_all_are_of_a_kind(conf, server, dst):
    urls = [status(server, 404, '/a'), status(server, 404, '/b')]
    with pytest.raises(exceptions.NotFound) as caught:
        oslo_transfer.copy(urls, dst, conf=conf)
    assert given_up(caught.value.attempts) == [
        (url, 'NotFound') for url in urls
    ]


def test_all_sources_failed_where_they_differ(conf, server, dst):
    urls = [
        status(server, 404, '/a'),
        status(server, 503, '/b'),
        server.put('/c', OTHER),
    ]
    with pytest.raises(exceptions.AllSourcesFailed) as caught:
        oslo_transfer.copy(urls, dst, conf=conf, **DIGEST)
    error = caught.value
    assert given_up(error.attempts) == [
        (urls[0], 'NotFound'),
        (urls[1], 'Unavailable'),
        (urls[2], 'DigestMismatch'),
    ]
    assert error.retryable  # One of them may be there again later.
    assert all(url in str(error) for url in urls)
    assert '404' in str(error)
    assert isinstance(error.__cause__, exceptions.DigestMismatch)
    assert not dst.exists()


def test_all_sources_failed_for_good(conf, server, dst):
    urls = [status(server, 404, '/a'), server.put('/c', OTHER)]
    with pytest.raises(exceptions.AllSourcesFailed) as caught:
        oslo_transfer.copy(urls, dst, conf=conf, **DIGEST)
    assert not caught.value.retryable


def test_secrets_of_locations_are_in_no_reason(conf, server, dst):
    urls = [
        f'http://user:s3cr3t@127.0.0.1:{server.port}/{path}?key=s3cr3t'
        for path in 'ab'
    ]
    status(server, 404, '/a')
    status(server, 403, '/b')
    with pytest.raises(exceptions.AllSourcesFailed) as caught:
        oslo_transfer.copy(urls, dst, conf=conf)
    assert 's3cr3t' not in f'{caught.value} {caught.value!r}'
    assert 's3cr3t' not in repr(caught.value.attempts)


def test_wrong_bytes_leave_nothing(conf, server, dst):
    url = server.put('/image', OTHER)
    with pytest.raises(exceptions.DigestMismatch):
        oslo_transfer.copy(url, dst, conf=conf, **DIGEST)
    assert os.listdir(dst.parent) == []


def test_what_another_location_cannot_mend_ends_it(conf, server, tmp_path):
    (tmp_path / 'image').touch()
    good = server.put('/good', DATA)
    with pytest.raises(exceptions.AlreadyExists):
        oslo_transfer.copy([good, good], tmp_path / 'image', conf=conf)
    assert server.requests == []


def test_empty_list(conf, dst):
    with pytest.raises(exceptions.InvalidEndpoint):
        oslo_transfer.copy([], dst, conf=conf)


def test_only_locations_without_a_driver(conf, dst):
    with pytest.raises(exceptions.DriverNotFound) as caught:
        oslo_transfer.copy(['rbd://a/b', 'gopher://c/'], dst, conf=conf)
    assert [each.location for each in caught.value.attempts] == [
        'rbd://a/b',
        'gopher://c/',
    ]


def test_malformed_location_is_the_callers_error(conf, server, dst):
    good = server.put('/good', DATA)
    with pytest.raises(exceptions.InvalidEndpoint):
        oslo_transfer.copy([good, 'http://a b/'], dst, conf=conf)
    assert server.requests == []


def test_tuple_of_mixed_kinds(conf, server, tmp_path, dst):
    local = tmp_path / 'local'
    local.write_bytes(DATA)
    found = oslo_transfer.copy(
        (server.url('/none'), oslo_transfer.Location(str(local))),
        dst,
        'full_copy',
        conf=conf,
    )
    assert found.source == str(local)
    assert found.driver == 'file'


def test_file_object_comes_after_the_locations(conf, server, dst):
    import io

    found = oslo_transfer.copy(
        [io.BytesIO(DATA), server.url('/none')], dst, conf=conf
    )
    assert dst.read_bytes() == DATA
    assert found.source == '<BytesIO>'
    assert given_up(found.attempts) == [(server.url('/none'), 'NotFound')]


def test_size_that_no_file_has(conf, dst):
    with fixtures.Transfer() as transfer:
        url = transfer.store.put('memory://a/b', size=1 << 63, runs={})
        with pytest.raises(exceptions.ProtocolError, match=str(1 << 63)):
            oslo_transfer.copy(url, dst, conf=transfer.conf)
    assert os.listdir(dst.parent) == []
