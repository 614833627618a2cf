# SPDX-License-Identifier: Apache-2.0
"""Requests are answered as RFC 9110 says."""

from __future__ import annotations

import email.utils
import itertools
import re
import time
import types

import pytest

from oslo_transfer import exceptions
from oslo_transfer.export import exported
from oslo_transfer.export import gate
from oslo_transfer.export import http_answer
from oslo_transfer.export import http_asking
from oslo_transfer.export import http_message

IMAGE = types.SimpleNamespace(size=1000, etag='0a1b')
EMPTY = types.SimpleNamespace(size=0, etag='00')
EXPORTS = exported.Exports(
    {'image': IMAGE, 'empty': EMPTY, 'with/slash and \xe4': IMAGE}
)
TAG = '"0a1b"'


def parse(text):
    return http_message.parse(text, itertools.repeat('req-1'))


def answer(path='/image', method='GET', version='1.1', **fields):
    """The answer, its first line and its headers."""
    lines = [f'{method} {path} HTTP/{version}', 'Host: here']
    lines += [f'{k.replace("_", "-")}: {v}' for k, v in fields.items()]
    request = parse('\r\n'.join([*lines, '']))
    asking = http_asking.Asking(gate.Names(EXPORTS), 'peer')
    return told(asking.at_once(request))


def told(found):
    head, _, text = found.parts[0].text.decode().partition('\r\n\r\n')
    line, *lines = head.split('\r\n')
    assert line.startswith(f'HTTP/1.1 {found.status} ')
    headers = dict(each.split(': ', 1) for each in lines)
    assert len(headers) == len(lines)
    assert headers.pop('X-Request-Id', 'req-1') == 'req-1'
    sent = sum(len(text) + end - start for text, start, end in found.parts)
    sent -= len(head) + 4
    return found, headers, text, sent


def test_whole():
    found, headers, text, sent = answer()
    assert (found.status, found.image, text) == (200, IMAGE, '')
    assert found.parts[0][1:] == (0, 1000)
    date = email.utils.parsedate_to_datetime(headers.pop('Date'))
    assert abs(date.timestamp() - time.time()) < 5
    assert headers == {
        'Content-Length': '1000',
        'Content-Type': 'application/octet-stream',
        'ETag': TAG,
        'Accept-Ranges': 'bytes',
        'X-Content-Type-Options': 'nosniff',
    }
    assert sent == 1000


def test_head():
    """The same headers, and nothing else; ranges are for GET (14.2)."""
    for fields in ({}, {'range': 'bytes=0-9'}):
        found, headers, _, sent = answer(method='HEAD', **fields)
        assert (found.status, sent) == (200, 0)
        del headers['Date']
        expected = answer()[1]
        del expected['Date']
        assert headers == expected


@pytest.mark.parametrize(
    ('value', 'start', 'end'),
    [('bytes=5-9', 5, 10), ('bytes=-3', 997, 1000), ('bytes=1-', 1, 1000)],
)
def test_range(value, start, end):
    found, headers, _, sent = answer(range=value)
    assert found.status == 206
    assert found.parts[0][1:] == (start, end)
    assert headers['Content-Range'] == f'bytes {start}-{end - 1}/1000'
    assert headers['Content-Length'] == str(sent) == str(end - start)
    assert headers['ETag'] == TAG


@pytest.mark.parametrize('value', ['bytes=1000-', 'bytes=-0'])
def test_range_outside(value):
    found, headers, text, sent = answer(range=value)
    assert (found.status, found.image) == (416, None)
    assert headers['Content-Range'] == 'bytes */1000'
    assert headers['Content-Length'] == str(len(text)) == str(sent)


@pytest.mark.parametrize(
    'value', ['lines=0-9', 'bytes=9-0', 'bytes=0-,0-', 'bytes=x']
)
def test_range_ignored(value):
    assert answer(range=value)[0].status == 200


def test_several_ranges():
    found, headers, _, sent = answer(range='bytes=0-9,20-29,-1')
    assert found.status == 206
    kind, _, boundary = headers['Content-Type'].partition('; boundary=')
    assert kind == 'multipart/byteranges'
    assert headers['Content-Length'] == str(sent)
    assert 'Content-Range' not in headers
    assert [part[1:] for part in found.parts] == [
        *((0, 10), (20, 30), (999, 1000), (0, 0))
    ]
    texts = [part.text.decode() for part in found.parts]
    for text, told in zip(texts, ('0-9', '20-29', '999-999')):
        assert text.endswith(
            f'\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n'
            f'Content-Range: bytes {told}/1000\r\n\r\n'
        )
    assert texts[-1] == f'\r\n--{boundary}--\r\n'


@pytest.mark.parametrize(
    ('fields', 'status'),
    [
        ({'If-Range': TAG}, 206),
        ({'If-Range': '"other"'}, 200),
        ({'If-Range': f'W/{TAG}'}, 200),
        ({'If-Range': 'Mon, 23 Nov 2026 09:00:00 GMT'}, 200),
        ({'If-Range': ''}, 200),
        ({'If-Match': TAG}, 206),
        ({'If-Match': f'"other", {TAG}'}, 206),
        ({'If-Match': '*'}, 206),
        ({'If-Match': '"other"'}, 412),
        ({'If-Match': f'W/{TAG}'}, 412),
        ({'If-Match': ''}, 412),
        ({'If-None-Match': '"other"'}, 206),
        ({'If-None-Match': TAG}, 304),
        ({'If-None-Match': f'W/{TAG}'}, 304),
        ({'If-None-Match': f'"other",{TAG}'}, 304),
        ({'If-None-Match': '*'}, 304),
        # In the order of RFC 9110, 13.2.2.
        ({'If-Match': '"other"', 'If-None-Match': TAG}, 412),
        ({'If-Match': TAG, 'If-None-Match': TAG}, 304),
        # What knows no time is not asked for one.
        ({'If-Modified-Since': 'Mon, 23 Nov 2026 09:00:00 GMT'}, 206),
        ({'If-Unmodified-Since': 'Mon, 23 Nov 1970 09:00:00 GMT'}, 206),
    ],
)
def test_conditions(fields, status):
    found, headers, _, sent = answer(range='bytes=0-9', **fields)
    assert found.status == status
    if status == 304:
        assert headers['ETag'] == TAG
        assert 'Content-Length' not in headers
        assert not sent


def test_if_range_without_a_range():
    assert answer(if_range='"other"')[0].status == 200


@pytest.mark.parametrize('range_', ['bytes=0-', 'bytes=-1', 'bytes=0-9'])
def test_empty_image(range_):
    for fields in ({}, {'range': range_}):
        found, headers, _, sent = answer('/empty', **fields)
        assert (found.status, sent) == (200, 0)
        assert headers['Content-Length'] == '0'


@pytest.mark.parametrize(
    'path',
    [
        *('/', '/other', '//image', '/image/', '/./image', '/../image'),
        *('/x/../image', '/image%00', '/%2e/image', '/IMAGE', '/image%20'),
        *('/etc/passwd', '/../../etc/passwd', '/%2fetc/passwd'),
    ],
)
def test_names_are_compared_and_nothing_else(path):
    found, _, text, _ = answer(path)
    assert (found.status, found.image) == (404, None)
    assert 'image' in text


@pytest.mark.parametrize(
    'path', ['/with/slash%20and%20%C3%A4', '/with%2fslash%20and%20%c3%a4']
)
def test_names_with_anything_in_them(path):
    assert answer(path)[0].status == 200


@pytest.mark.parametrize('method', ['POST', 'PUT', 'DELETE', 'OPTIONS', 'x'])
def test_other_methods(method):
    found, headers, _, _ = answer(method=method)
    assert found.status == 405
    assert headers['Allow'] == 'GET, HEAD'
    assert found.keep


def test_head_of_nothing():
    found, headers, text, sent = answer('/other', method='HEAD')
    assert (found.status, text, sent) == (404, '', 0)
    assert int(headers['Content-Length']) > 0


@pytest.mark.parametrize(
    ('fields', 'keep', 'told'),
    [
        ({}, True, None),
        ({'connection': 'close'}, False, 'close'),
        ({'version': '1.0'}, False, 'close'),
        ({'version': '1.0', 'connection': 'keep-alive'}, True, 'keep-alive'),
    ],
)
@pytest.mark.parametrize('path', ['/image', '/other'])
def test_connection(path, fields, keep, told):
    found, headers, _, _ = answer(path, **fields)
    assert found.keep is keep
    assert headers.get('Connection') == told


def test_refused():
    """What is no request ends the connection."""
    found, headers, text, _ = told(http_answer.error(400, 'why', None))
    assert headers['Connection'] == 'close'
    assert text == 'why\n'
    assert not found.keep


@pytest.mark.parametrize(
    ('error', 'status'),
    [
        (exceptions.Unavailable('http://secret/'), 503),
        (exceptions.Stalled('http://secret/'), 503),
        (exceptions.AccessDenied('http://secret/'), 502),
        (exceptions.IntegrityError('http://secret/'), 502),
    ],
)
def test_what_cannot_be_had(error, status):
    """The client learns whether to try again, and nothing of the origin."""
    request = parse('GET /image HTTP/1.1\r\nHost: here\r\n')
    found, headers, text, _ = told(http_answer.failed(error, request))
    assert found.status == status
    assert found.keep
    assert ('Retry-After' in headers) is (status == 503)
    assert not re.search('secret', text + repr(headers))
