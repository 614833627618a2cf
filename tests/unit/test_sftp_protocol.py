# SPDX-License-Identifier: Apache-2.0
"""The codec of SFTP takes what a server sends, however it is cut."""

from __future__ import annotations

import struct

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.drivers.sftp import protocol
from oslo_transfer.drivers.sftp import remote
from oslo_transfer import endpoint
from oslo_transfer import exceptions

Type = protocol.Type

number = st.integers(0, 0xFFFFFFFF)
data = st.tuples(st.just(Type.DATA), number, st.binary(max_size=50))
other = st.tuples(
    st.integers(0, 255).filter(lambda kind: kind != Type.DATA),
    number,
    st.binary(max_size=50),
)


def encode(kind, id_, content):
    body = protocol.string(content) if kind == Type.DATA else content
    return struct.pack('>IBI', 5 + len(body), kind, id_) + body


def cut(stream, places):
    """Give a stream to the codec in parts; returns what it makes of it."""
    replies = protocol.Replies()
    edges = [0, *sorted(place % (len(stream) + 1) for place in places)]
    for start, end in zip(edges, [*edges[1:], len(stream)]):
        yield from replies.feed(memoryview(stream)[start:end])


@hypothesis.given(st.lists(data | other), st.lists(st.integers(0, 1 << 16)))
def test_cuts_do_not_matter(packets, places):
    stream = b''.join(encode(*each) for each in packets)
    found = []
    parts = b''
    for event in cut(stream, places):
        if isinstance(event, protocol.Reply):
            found.append((event.type, event.id, event.body))
            continue
        parts += event.part
        if event.last:
            assert event.length == len(parts)
            found.append((Type.DATA, event.id, parts))
            parts = b''
    assert not parts
    assert found == packets


@hypothesis.given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_noise_is_a_protocol_error_or_nothing(stream, places):
    try:
        list(cut(stream, places))
    except exceptions.ProtocolError:
        pass


@hypothesis.given(st.binary(max_size=60))
def test_attributes_of_noise(body):
    try:
        found = protocol.Reader(body).attributes()
    except exceptions.ProtocolError:
        return
    assert found.size is None or 0 <= found.size < 1 << 64


@pytest.mark.parametrize(
    'head',
    [
        pytest.param((4, Type.STATUS, 1), id='shorter than its head'),
        pytest.param((0xFFFFFFFF, Type.STATUS, 1), id='longer than memory'),
        pytest.param((64 * 1024 + 1, Type.NAME, 1), id='longer than any'),
    ],
)
def test_lengths_are_refused_at_once(head):
    with pytest.raises(exceptions.ProtocolError):
        list(cut(struct.pack('>IBI', *head), []))


@pytest.mark.parametrize('inner', [0, 9, 11, 0xFFFFFFFF])
def test_lengths_of_data_agree(inner):
    stream = struct.pack('>IBII', 19, Type.DATA, 1, inner) + bytes(10)
    with pytest.raises(exceptions.ProtocolError):
        list(cut(stream, []))


def test_data_is_not_copied():
    chunk = bytearray(encode(Type.DATA, 1, b'abc'))
    (event,) = protocol.Replies().feed(memoryview(chunk))
    chunk[-1:] = b'x'
    assert event.part == b'abx'


def test_requests_are_as_the_draft_has_them():
    assert protocol.packet(Type.INIT, 3, b'') == b'\0\0\0\5\1\0\0\0\3'
    assert protocol.packet(Type.WRITE, 258, b'ab', 7) == (
        b'\0\0\0\x0e\6\0\0\1\2ab'
    )


@hypothesis.given(
    st.none() | st.integers(0, (1 << 64) - 1),
    st.none() | st.integers(0, 0o7777),
)
def test_attributes_come_back(size, mode):
    sent = protocol.Attributes(size=size, mode=mode)
    assert protocol.Reader(sent.encode()).attributes() == sent


def test_all_attributes():
    body = struct.pack('>IQIIIII', 15, 7, 1, 2, 0o100644, 3, 4)
    fields = protocol.Reader(body)
    assert fields.attributes() == protocol.Attributes(7, 0o100644, 4)
    assert not fields.rest


@pytest.mark.parametrize(
    ('url', 'path'),
    [
        ('sftp://h/a/b', b'/a/b'),
        ('sftp://h//a', b'//a'),
        ('sftp://h/~/a', b'a'),
        ('sftp://h/~/~/a', b'~/a'),
        ('sftp://h/~user/a', b'/~user/a'),
        ('sftp://h/a/../b', b'/a/../b'),
        ('sftp://h/a%20%2562', b'/a %62'),
        ('sftp://h/%C3%A9%FF%0A', b'/\xc3\xa9\xff\n'),
        ('sftp://h/a#b', b'/a'),
    ],
)
def test_paths_are_decoded_once(url, path):
    assert remote.path_of(endpoint.parse(url)) == path


@pytest.mark.parametrize(
    'url',
    [
        'sftp://h',
        'sftp://h/',
        'sftp://h/~/',
        'sftp://h/a/',
        'sftp://h/a%00b',
        'sftp://h/a?b',
    ],
)
def test_what_names_no_file(url):
    with pytest.raises(exceptions.InvalidEndpoint):
        remote.path_of(endpoint.parse(url))
