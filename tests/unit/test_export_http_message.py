# SPDX-License-Identifier: Apache-2.0
"""Requests are taken for one thing only, or refused."""

from __future__ import annotations

import itertools

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.export import http_message


NAMES = itertools.repeat('made')


def take(text):
    """Take one request that is the only one."""
    received = bytearray(text.replace('\n', '\r\n').encode('latin-1'))
    request = http_message.take(received, NAMES)
    assert request is None or not received
    return request


def test_a_request():
    request = take(
        'GET /some%20image?with=query HTTP/1.1\nHost: here:80\n'
        'RANGE: \t bytes=0-9 \t\nX-Empty:\n\n'
    )
    assert request.head == (
        'GET',
        '/some%20image?with=query',
        '/some image',
        {'host': 'here:80', 'range': 'bytes=0-9', 'x-empty': ''},
        False,
        True,
        0,
        '',
    )
    assert request.range == 'bytes=0-9'
    assert request.id == 'made'


@pytest.mark.parametrize(
    ('text', 'path'),
    [
        ('GET http://there/a%2fb HTTP/1.1\nHost: here\n\n', '/a/b'),
        ('GET HTTPS://there:1 HTTP/1.1\nHost: here\n\n', '/'),
        ('GET http://there?query HTTP/1.1\nHost: here\n\n', '/'),
        ('GET /%C3%A4 HTTP/1.1\nHost: [::1]:80\n\n', '/\xe4'),
        # Nothing is tidied up: names are compared, not walked along.
        ('GET /../a//./b HTTP/1.1\nHost: here\n\n', '/../a//./b'),
        ('GET /%2e%2e/a HTTP/1.1\nHost: here\n\n', '/../a'),
        ('GET /%252e HTTP/1.1\nHost: here\n\n', '/%2e'),
        ('GET /a HTTP/1.1\nHost:\n\n', '/a'),
        ('GET /a HTTP/1.1\nHost: here\nContent-Length: 0\n\n', '/a'),
        ('GET /a HTTP/1.1\nHost: here\nExpect: 100-Continue\n\n', '/a'),
        ('GET /a HTTP/1.0\n\n', '/a'),
        ('\n\nGET /a HTTP/1.1\nHost: here\n\n', '/a'),
        ('GET /a HTTP/1.9\nHost: here\n\n', '/a'),
    ],
)
def test_paths(text, path):
    assert take(text).head.path == path


@pytest.mark.parametrize(
    ('version', 'connection', 'keep'),
    [
        ('1.1', None, True),
        ('1.1', 'keep-alive', True),
        ('1.1', 'Close', False),
        ('1.1', 'te , close', False),
        ('1.1', 'close, keep-alive', False),
        ('1.0', None, False),
        ('1.0', 'Keep-Alive', True),
        ('1.0', 'keep-alive, close', False),
    ],
)
def test_who_wants_to_go_on(version, connection, keep):
    line = f'Connection: {connection}\n' if connection else ''
    request = take(f'GET / HTTP/{version}\nHost: here\n{line}\n')
    assert request.head.keep is keep
    assert request.head.old is (version == '1.0')


def test_lists_in_several_lines():
    request = take(
        'GET / HTTP/1.1\nHost: here\nIf-Match: "a"\nIf-Match: "b"\n\n'
    )
    assert request.head.fields['if-match'] == '"a", "b"'


GET = 'GET / HTTP/1.1\nHost: here\n'


@pytest.mark.parametrize(
    ('text', 'status'),
    [
        # What one program takes for a body, and another for a request.
        (f'{GET}Content-Length: 5\nTransfer-Encoding: chunked\n\n', 400),
        (f'{GET}Transfer-Encoding: chunked\nContent-Length: 5\n\n', 400),
        (f'{GET}Transfer-Encoding: chunked\n\n', 400),
        (f'{GET}Transfer-Encoding: xchunked\n\n', 400),
        (f'{GET}Transfer-Encoding:\tidentity\n\n', 400),
        (f'{GET}Transfer-Encoding : chunked\n\n', 400),
        (f'{GET}Content-Length: 5\nContent-Length: 6\n\n', 400),
        (f'{GET}Content-Length: 5\nContent-Length: 5\n\n', 400),
        (f'{GET}Content-Length: 0\nContent-Length: 0\n\n', 400),
        (f'{GET}Content-Length: 0, 0\n\n', 400),
        (f'{GET}Content-Length: +0\n\n', 400),
        (f'{GET}Content-Length: -1\n\n', 400),
        (f'{GET}Content-Length: 0x0\n\n', 400),
        (f'{GET}Content-Length: \xb2\n\n', 400),
        (f'{GET}Content-Length:\n\n', 400),
        (f'{GET}Content-Length: 5\n\n', 413),
        (f'{GET}Content-Length: {"9" * 9000}\n\n', 413),
        ('PUT / HTTP/1.1\nHost: here\nContent-Length: 1\n\n', 413),
        # Folded lines, lone CRs, other control characters.
        (f'{GET}X: a\n b\n\n', 400),
        (f'{GET} X: a\n\n', 400),
        (f'{GET}\tX: a\n\n', 400),
        (f'{GET}X: a\rb\n\n', 400),
        (f'{GET}X: a\r\r\nb\n\n', 400),
        (f'{GET}X: a\0b\n\n', 400),
        (f'{GET}X\0: a\n\n', 400),
        ('GET /\r HTTP/1.1\nHost: here\n\n', 400),
        (f'{GET}X a\n\n', 400),
        (f'{GET}: a\n\n', 400),
        (f'{GET}X\xe4: a\n\n', 400),
        (f'{GET}X : a\n\n', 400),
        # Whom it is for.
        ('GET / HTTP/1.1\n\n', 400),
        (f'{GET}Host: here\n\n', 400),
        (f'{GET}Host: there\n\n', 400),
        ('GET / HTTP/1.1\nHost: a b\n\n', 400),
        ('GET / HTTP/1.1\nHost: a/b\n\n', 400),
        ('GET / HTTP/1.1\nHost: a@b\n\n', 400),
        ('GET / HTTP/1.0\nHost: a@b\n\n', 400),
        # What could be taken for either.
        (f'{GET}Range: bytes=0-1\nRange: bytes=1-2\n\n', 400),
        (f'{GET}If-Range: "a"\nIf-Range: "b"\n\n', 400),
        (f'{GET}Authorization: a\nAuthorization: b\n\n', 400),
        (f'{GET}Proxy-Authorization: a\nProxy-Authorization: b\n\n', 400),
        # First lines.
        ('GET /\n\n', 400),
        ('GET  / HTTP/1.1\nHost: here\n\n', 400),
        ('GET / HTTP/1.1 \nHost: here\n\n', 400),
        (' GET / HTTP/1.1\nHost: here\n\n', 400),
        ('GET\t/ HTTP/1.1\nHost: here\n\n', 400),
        ('GET /a b HTTP/1.1\nHost: here\n\n', 400),
        ('GET /\xe4 HTTP/1.1\nHost: here\n\n', 400),
        ('GET / http/1.1\nHost: here\n\n', 400),
        ('GET / HTTP/1.10\nHost: here\n\n', 400),
        ('G\xcbT / HTTP/1.1\nHost: here\n\n', 400),
        ('GET / HTTP/2.0\nHost: here\n\n', 505),
        ('PRI * HTTP/2.0\n\n', 505),
        ('GET / HTTP/0.9\n\n', 505),
        # Targets.
        ('GET * HTTP/1.1\nHost: here\n\n', 400),
        ('GET image HTTP/1.1\nHost: here\n\n', 400),
        ('GET ftp://here/ HTTP/1.1\nHost: here\n\n', 400),
        ('GET http:///image HTTP/1.1\nHost: here\n\n', 400),
        ('GET /#a HTTP/1.1\nHost: here\n\n', 400),
        ('GET /%zz HTTP/1.1\nHost: here\n\n', 400),
        ('GET /% HTTP/1.1\nHost: here\n\n', 400),
        ('GET /%ff HTTP/1.1\nHost: here\n\n', 400),
        ('GET /%c0%ae HTTP/1.1\nHost: here\n\n', 400),
        # Too much.
        (f'{GET}Expect: a miracle\n\n', 417),
        (f'GET /{"a" * 9000} HTTP/1.1\nHost: here\n\n', 414),
        (f'GET /{"a" * 9000}', 414),
        (GET + 'X: a\n' * 100 + '\n', 431),
        (f'{GET}X: {"a" * 20_000}\n\n', 431),
        (f'{GET}X: {"a" * 20_000}', 431),
        ('a' * 9000, 414),
    ],
)
def test_refused(text, status):
    with pytest.raises(http_message.Refused) as caught:
        take(text)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ('lines', 'length'),
    [
        ('', 0),
        ('Content-Length: 5\n', 5),
        ('Content-Length: 005\nExpect: 100-continue\n', 5),
        (f'Content-Length: {http_message.MAX_BODY}\n', http_message.MAX_BODY),
    ],
)
@pytest.mark.parametrize('method', ['POST', 'DELETE'])
def test_bodies(method, lines, length):
    """How long it is is known when the head is: nothing else goes."""
    head = take(f'{method} /v1?x=1 HTTP/1.1\nHost: here\n{lines}\n').head
    assert (head.length, head.path, head.target) == (length, '/v1', '/v1?x=1')


@pytest.mark.parametrize(
    ('lines', 'status'),
    [
        (f'Content-Length: {http_message.MAX_BODY + 1}', 413),
        (f'Content-Length: {"9" * 5000}', 413),
        (f'Content-Length: {"0" * 5000}1\nContent-Length: 1', 400),
        ('Content-Length: 1, 1', 400),
        ('Content-Length: -1', 400),
        ('Content-Length: 0x5', 400),
        ('Content-Length: \xb2', 400),
        ('Content-Length:', 400),
        ('Transfer-Encoding: chunked', 400),
        ('Content-Length: 5\nTransfer-Encoding: chunked', 400),
        ('Content-Length: 5\nExpect: a miracle', 417),
    ],
)
def test_bodies_that_are_refused(lines, status):
    with pytest.raises(http_message.Refused) as caught:
        take(f'POST /v1 HTTP/1.1\nHost: here\n{lines}\n\n')
    assert caught.value.status == status


@pytest.mark.parametrize(
    ('said', 'name'),
    [
        ('req-3e2a8a6e-0b6b-4a0e-9d65-aa9d0f1a4f11', None),
        ('a', None),
        ('x' * 128, None),
        # What would be another line of the log, or a column of it.
        ('x' * 129, 'made'),
        ('', 'made'),
        ('a b', 'made'),
        ('"a', 'made'),
        ('-a', 'made'),
        ('\xe4', 'made'),
        ('a\nX-Request-Id: b', 'made'),
    ],
)
def test_names_of_requests(said, name):
    request = take(f'GET /a HTTP/1.1\nHost: here\nX-Request-Id: {said}\n\n')
    assert request.id == (said if name is None else name)


@pytest.mark.parametrize(
    'received', [b'GET / HTTP/1.1\n', b'\n', b'GET / HTTP/1.1\r\nHost: a\n\n']
)
def test_a_lone_lf_is_refused_at_once(received):
    with pytest.raises(http_message.Refused) as caught:
        http_message.take(bytearray(received), NAMES)
    assert caught.value.status == 400


@pytest.mark.parametrize('received', [b'', b'\r', b'G', b'GET / HTTP/1.1\r'])
def test_what_has_only_begun(received):
    assert http_message.take(bytearray(received), NAMES) is None


@pytest.mark.parametrize('method', ['PUT', 'OPTIONS', 'CONNECT', 'x'])
def test_other_methods_have_other_targets(method):
    request = take(f'{method} here:80 HTTP/1.1\nHost: here\n\n')
    assert request.head.method == method


# Text that is nearly a request.
PIECES = st.sampled_from(
    [
        *('GET', 'HEAD', ' ', '/', '/a', '%41', '%', 'HTTP/1.1', 'HTTP/1.0'),
        *('\r\n', '\r', '\n', '\t', '\0', ':', 'Host: a\r\n', '\r\n\r\n'),
        *('Content-Length: 0', 'Transfer-Encoding: chunked', 'Range', 'bytes'),
        *('POST', 'Content-Length: 5', 'POST /a HTTP/1.1\r\nHost: a\r\n'),
        *('GET /a HTTP/1.1\r\nHost: a\r\n', 'Connection: close', '\xff', 'a'),
    ]
)
TEXTS = st.one_of(
    st.binary(max_size=200),
    st.lists(PIECES, max_size=20).map(
        lambda all: ''.join(all).encode('latin-1')
    ),
    st.lists(PIECES, max_size=5).map(
        lambda all: (
            b'GET /a HTTP/1.1\r\nHost: a\r\n'
            + ''.join(all).encode('latin-1')
            + b'\r\n\r\n'
        )
    ),
    st.builds(
        lambda length, body: (
            b'POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s'
            % (length, body)
        ),
        st.integers(0, 40),
        st.binary(max_size=60),
    ),
)


def take_one(received):
    """A request with its body."""
    # The body is waited for by who reads.
    tried = bytearray(received)
    request = http_message.take(tried, NAMES)
    if request is None or len(tried) < request.head.length:
        return None
    body = bytes(tried[: request.head.length])
    received[:] = tried[request.head.length :]
    return request, body


def take_all(steps):
    """All requests of what comes in steps, and how it ended."""
    received, found = bytearray(), []
    for step in steps:
        received += step
        try:
            while (request := take_one(received)) is not None:
                found.append(request)
        except http_message.Refused:
            return found, 'refused'
    return found, 'open'


@hypothesis.given(TEXTS, st.lists(st.integers(0, 300), max_size=5))
def test_it_does_not_matter_how_it_comes(text, cuts):
    """What is found does not hang on how the network cuts it up."""
    places = [0, *sorted(cuts), len(text)]
    steps = [text[a:b] for a, b in zip(places, places[1:])]
    assert take_all(steps) == take_all([text])


@hypothesis.given(TEXTS)
def test_nothing_is_taken_that_could_be_another(text):
    """What is behind each request is where everybody sees its end."""
    found, _ = take_all([text])
    assert len(found) <= text.count(b'\r\n\r\n')
    for request, body in found:
        assert request.head.path.startswith('/')
        assert 'transfer-encoding' not in request.head.fields
        length = int(request.head.fields.get('content-length', '0'))
        assert length == request.head.length == len(body)
        assert not length or request.head.method in ('POST', 'DELETE')
        for name, value in request.head.fields.items():
            assert name == name.lower().strip()
            assert value.isprintable() or '\t' in value or '\x80' <= max(value)


HEADERS = st.lists(
    st.sampled_from(
        [
            *('Range: bytes=0-1', 'Range: bytes=5-', 'Range: lines=1-2'),
            *('Range : bytes=0-1', ' Range: bytes=0-1', 'Range: bytes=0-1\0'),
            *(
                'X: Range: bytes=0-1',
                ' folded',
                'Host: a',
                'Connection: close',
            ),
            *('Range: bytes=0-1\r', 'X: a\r', '', 'X', 'Content-Length: 0'),
        ]
    ),
    max_size=5,
)


@hypothesis.given(HEADERS)
def test_the_usual_range_is_read_as_any_other(lines):
    """A short cut that is taken by the way the name is written."""

    def taken(text):
        try:
            request = http_message.parse(text, NAMES)
        except http_message.Refused as why:
            return why.status
        fields = {**request.head.fields}
        fields.pop('range', None)
        return request.head._replace(fields=fields), request.range

    text = '\r\n'.join(['GET /a HTTP/1.1', 'Host: a', *lines, ''])
    assert taken(text) == taken(text.replace('\nRange', '\nrange'))
