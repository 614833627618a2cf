# SPDX-License-Identifier: Apache-2.0
"""Asking a proxy that answers anything, or nothing."""

from __future__ import annotations

import json
import threading
import time

import pytest

from oslo_transfer import call
from oslo_transfer import exceptions
from oslo_transfer.service import proxy_client


@pytest.fixture
def make(conf, nothing_left):
    def make(base, token=None, cancel=None):
        conf.set_override('stall_timeout', 0.5, group='oslo_transfer')
        ctx = call.Call(conf, cancel, None, None).ctx
        return proxy_client.ProxyClient(base, ctx, token=token)

    return make


@pytest.fixture
def answering(make, server):
    """A client of a server that answers what it is told to."""

    def answering(status, data, path='/v1/proxy', **options):
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
        server.serve(path, lambda _, conn: conn.reply(status, data, **options))
        return make(server.origin, 'the-token')

    return answering


def test_what_is_sent(answering, server):
    asking = answering(200, {'id': 'x'}, '/v1/proxy/prefetches')
    assert asking.prefetch({'url': 'u'}) == ({'id': 'x'}, False)
    (request,) = server.requests
    assert request.method == 'POST'
    assert request.headers['authorization'] == 'Bearer the-token'
    assert request.headers['host'] == server.origin.partition('//')[2]
    assert 'the-token' not in repr(asking) + asking.where


def test_a_new_one_is_told_from_an_old_one(answering):
    asking = answering(202, {'id': 'x'}, '/v1/proxy/prefetches')
    assert asking.prefetch({'url': 'u'}) == ({'id': 'x'}, True)


def test_identifiers_stay_in_their_place(answering, server):
    asking = answering(200, {'iolog': 'x'}, '/v1/proxy/traces/a%2F..%3Fb')
    assert asking.trace('a/..?b') == b'x'


def test_a_path_before_it(make, server):
    server.serve('/base/v1/proxy', lambda _, conn: conn.reply(200, b'{}'))
    assert make(f'{server.origin}/base/').summary() == {}


@pytest.mark.parametrize(
    ('status', 'name'),
    [
        (401, 'AccessDenied'),
        (403, 'PolicyRefused'),
        (404, 'NotFound'),
        (409, 'DetachError'),
        (503, 'Unavailable'),
        (507, 'NoSpace'),
    ],
)
def test_errors_are_the_ones_that_it_met(answering, server, status, name):
    asking = answering(status, {'error': name, 'message': 'why'})
    with pytest.raises(getattr(exceptions, name)) as caught:
        asking.summary()
    assert str(caught.value) == f'{server.origin}: why'


@pytest.mark.parametrize(
    ('status', 'data'),
    [
        (200, b''),
        (200, b'<html>'),
        (200, b'[]'),
        (200, b'[' * 100_000),
        (200, b'\xff\xfe'),
        (404, b'not found'),
        (500, b''),
        (500, {'error': 5, 'message': None}),
        (302, b''),
    ],
)
def test_nonsense(answering, status, data):
    with pytest.raises(exceptions.ProtocolError):
        answering(status, data).summary()


@pytest.mark.parametrize(
    'data', [{}, {'images': {}}, {'images': [1]}, {'images': None}]
)
def test_no_list(answering, data):
    with pytest.raises(exceptions.ProtocolError, match='HTTP port'):
        answering(200, data, '/v1/proxy/images').images()


def test_no_text(answering):
    with pytest.raises(exceptions.ProtocolError):
        answering(200, {'iolog': 5}, '/v1/proxy/traces/a').trace('a')


def test_an_answer_without_end(make, server, monkeypatch):
    monkeypatch.setattr(proxy_client, '_MAX_ANSWER', 1000)
    server.serve('/v1/proxy', lambda _, conn: conn.reply(200, b' ' * 2000))
    with pytest.raises(exceptions.ProtocolError):
        make(server.origin).summary()


def test_an_answer_that_is_cut_off(make, server):
    def answer(_request, conn):
        conn.send_head(200, {'Content-Length': '100'})
        conn.send(b'{"a":')
        conn.close()

    server.serve('/v1/proxy', answer)
    with pytest.raises(exceptions.Unavailable):
        make(server.origin).summary()


@pytest.mark.parametrize('raw', [b'nonsense\r\n\r\n', b'\x16\x03\x01', b''])
def test_no_http(make, server, raw):
    def answer(_request, conn):
        conn.send(raw)
        conn.close()

    server.serve('/v1/proxy', answer)
    with pytest.raises((exceptions.ProtocolError, exceptions.Unavailable)):
        make(server.origin).summary()


def test_no_answer(make, server):
    go = threading.Event()
    server.serve('/v1/proxy', lambda _, conn: go.wait(20))
    try:
        with pytest.raises(exceptions.Stalled):
            make(server.origin).summary()
    finally:
        go.set()


def test_cancelled_while_it_waits(make, server, conf):
    go, cancel = threading.Event(), threading.Event()

    def answer(_request, _conn):
        cancel.set()
        go.wait(20)

    server.serve('/v1/proxy', answer)
    conf.set_override('stall_timeout', 30.0, group='oslo_transfer')
    started = time.monotonic()
    try:
        with pytest.raises(exceptions.TransferCancelled):
            make(server.origin, cancel=cancel).summary()
    finally:
        go.set()
    assert time.monotonic() < started + 5


@pytest.mark.parametrize(
    'base', ['ftp://a/', 'http://a/?x=geheim', 'nbd://a', '/srv/a']
)
def test_no_url_of_a_proxy(make, base):
    with pytest.raises(exceptions.InvalidEndpoint) as caught:
        make(base)
    assert 'geheim' not in str(caught.value)


@pytest.mark.parametrize('token', ['a b', 'a\r\nHost: b', 'ü', '\0'])
def test_no_token(make, token):
    with pytest.raises(exceptions.ConfigurationError) as caught:
        make('http://a', token)
    assert token not in str(caught.value)
