# SPDX-License-Identifier: Apache-2.0
"""Replies of NBD servers are read right, however they are cut up."""

from __future__ import annotations

import struct

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.drivers.nbd import replies
from oslo_transfer import exceptions
from oslo_transfer import nbd_wire as wire

READ = wire.Command.READ
DATA = bytes(range(256)) * 16
CONTEXT = 7


def chunk(kind, payload, cookie=1, last=True):
    head = (wire.STRUCTURED_MAGIC, int(last), kind, cookie, len(payload))
    return struct.pack('>IHHQI', *head) + payload


def data(start, end, cookie=1, last=True):
    payload = struct.pack('>Q', start) + DATA[start:end]
    return chunk(wire.Chunk.OFFSET_DATA, payload, cookie, last)


def hole(start, end, cookie=1, last=True):
    payload = struct.pack('>QI', start, end - start)
    return chunk(wire.Chunk.OFFSET_HOLE, payload, cookie, last)


def failure(cookie=1, last=True):
    return chunk(wire.Chunk.ERROR, b'\0\0\0\5\0\2no', cookie, last)


NOTHING_MORE = chunk(wire.Chunk.NONE, b'')


def feed(parser, stream, cuts=()):
    """Give the parser bytes, in pieces that end at the cuts at least."""
    position = 0
    ends = sorted({*cuts, len(stream)})
    for end in ends:
        while position < end:
            room = parser.room()
            assert len(room)
            count = min(len(room), end - position)
            room[:count] = stream[position : position + count]
            parser.advance(count)
            position += count


def take(parser, request):
    """All that a READ has brought, without a socket."""
    assert request.done
    assert request.final
    found = memoryview(bytearray(request.length))
    done = 0
    while done < request.length:
        done += parser.take(request, found[done:], request.length)
    return bytes(found)


def parser_with(*requests, structured=True):
    parser = replies.Replies(structured, CONTEXT)
    for cookie, request in enumerate(requests, 1):
        parser.pending[cookie] = request
    return parser


@st.composite
def replies_of(draw, cookie, start, end):
    """Chunks that bring a run, and what it holds then."""
    inner = draw(
        st.lists(st.integers(start + 1, end - 1), max_size=6, unique=True)
    )
    marks = [start, *sorted(inner), end]
    parts = draw(st.permutations(list(zip(marks, marks[1:]))))
    chunks, expected = [], bytearray(DATA[start:end])
    for first, last in parts:
        if draw(st.booleans()):
            chunks.append(data(first, last, cookie, last=False))
        else:
            chunks.append(hole(first, last, cookie, last=False))
            expected[first - start : last - start] = bytes(last - first)
    if draw(st.booleans()):
        chunks.append(chunk(wire.Chunk.NONE, b'', cookie))
    else:
        flags = slice(4, 6)
        chunks[-1] = b''.join(
            (chunks[-1][: flags.start], b'\0\1', chunks[-1][flags.stop :])
        )
    return chunks, bytes(expected)


@st.composite
def conversations(draw):
    """Replies to some reads, interleaved in any way."""
    runs = draw(
        st.lists(
            st.tuples(st.integers(0, 4000), st.integers(2, 96)),
            min_size=1,
            max_size=4,
        )
    )
    queues, expected = [], []
    for cookie, (start, length) in enumerate(runs, 1):
        chunks, found = draw(replies_of(cookie, start, start + length))
        queues.append(chunks)
        expected.append(found)
    order = [i for i, queue in enumerate(queues) for _ in queue]
    turns = draw(st.permutations(order))
    stream = b''.join(queues[i].pop(0) for i in turns)
    return runs, expected, stream


@hypothesis.given(conversations(), st.sets(st.integers(1, 2000), max_size=40))
def test_any_order_and_any_cut(conversation, cuts):
    """Chunks of several replies come in any order, bytes in any pieces."""
    runs, expected, stream = conversation
    requests = [replies.Request(READ, *run) for run in runs]
    parser = parser_with(*requests)
    feed(parser, stream, [cut for cut in cuts if cut < len(stream)])
    assert [take(parser, each) for each in requests] == expected
    assert not parser.pending


@hypothesis.given(conversations(), st.data())
def test_bytes_that_change_on_the_way(conversation, draw):
    """Nothing but ProtocolError, and never more than is there."""
    runs, _expected, stream = conversation
    at = draw.draw(st.integers(0, len(stream) - 1))
    value = draw.draw(st.integers(1, 255))
    stream = bytearray(stream)
    stream[at] ^= value
    requests = [replies.Request(READ, *run) for run in runs]
    parser = parser_with(*requests)
    try:
        feed(parser, stream)
    except exceptions.ProtocolError as exc:
        assert str(exc).isprintable()
    for each in requests:
        if each.final and each.done:
            assert each.complete


@hypothesis.given(st.binary(min_size=1, max_size=400), st.booleans())
def test_noise(noise, structured):
    """Whatever comes, it is nothing or a ProtocolError."""
    request = replies.Request(READ, 0, 64)
    parser = parser_with(request, structured=structured)
    magic = wire.STRUCTURED_MAGIC if structured else wire.SIMPLE_MAGIC
    stream = struct.pack('>I', magic) + noise
    try:
        feed(parser, stream)
    except exceptions.ProtocolError:
        assert not request.done or request.failure or not request.final


NONSENSE = {
    'less': data(0, 63),
    'more': data(0, 65),
    'overlap': data(0, 40, last=False) + data(39, 64),
    'gap': data(0, 32, last=False) + NOTHING_MORE,
    'large hole': hole(0, 65),
    'hole elsewhere': hole(64, 65),
    'nothing': NOTHING_MORE,
    'nothing, and more': chunk(wire.Chunk.NONE, b'', last=False),
    'extents': chunk(wire.Chunk.BLOCK_STATUS, bytes(12)),
    'other cookie': data(0, 64, cookie=2),
    'simple': struct.pack('>IIQ', wire.SIMPLE_MAGIC, 0, 1),
    'zeros': b'\0' * 16,
}


@pytest.mark.parametrize('key', NONSENSE)
def test_nonsense(key):
    request = replies.Request(READ, 0, 64)
    with pytest.raises(exceptions.ProtocolError):
        feed(parser_with(request), NONSENSE[key])
    assert not (request.done and request.final)


def test_a_reply_comes_once():
    request = replies.Request(READ, 0, 64)
    parser = parser_with(request)
    feed(parser, data(0, 64))
    with pytest.raises(exceptions.ProtocolError):
        feed(parser, data(0, 64))


@pytest.mark.parametrize('at', [0, 1, 2])
def test_nothing_counts_beside_an_error(at):
    """Before it or behind it: what comes may be padding."""
    request = replies.Request(READ, 0, 64)
    parts = [data(0, 32, last=False), data(32, 64, last=False)]
    parts.insert(at, failure(last=False))
    feed(parser_with(request), b''.join(parts) + NOTHING_MORE)
    assert request.done
    assert not request.final
    assert request.failure == (5, None, 'no')


def test_nothing_counts_before_it_is_vouched_for():
    request = replies.Request(READ, 0, 64)
    parser = parser_with(request)
    feed(parser, data(0, 64, last=False))
    assert not request.final
    feed(parser, NOTHING_MORE)
    assert take(parser, request) == DATA[:64]


def test_last_chunk_counts_as_it_comes():
    """No error can follow it, so that nothing has to be kept back."""
    request = replies.Request(READ, 0, 64)
    parser = parser_with(request)
    feed(parser, data(0, 64)[:40])
    assert request.final
    assert (parser.payload.position, parser.payload.left) == (12, 52)


def test_what_was_dropped_is_thrown_away():
    request = replies.Request(READ, 0, 64)
    parser = parser_with(request)
    feed(parser, data(0, 64)[:40])
    request.drop()
    feed(parser, data(0, 64)[40:] + b'')
    assert request.done
    assert request.parked is None


def test_parked_holes_are_zeros_in_used_buffers():
    first, second = (replies.Request(READ, 0, 64) for _ in range(2))
    parser = parser_with(first, second)
    feed(parser, data(0, 64))
    assert take(parser, first) == DATA[:64]
    feed(parser, hole(0, 64, cookie=2))
    assert take(parser, second) == bytes(64)
