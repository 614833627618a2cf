# SPDX-License-Identifier: Apache-2.0
"""What a torrent file says, and whose bytes are those of a piece."""

from __future__ import annotations

import hashlib
import pickle
import random
import subprocess
import sys

import hypothesis
from hypothesis import strategies as st
import libtorrent
import pytest

from oslo_transfer.drivers.bittorrent import bencode
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer import exceptions
from tests.servers import resource
from tests.servers import torrents
from tests.unit import fakes
from tests.unit import foreign

BLOCK = torrents.BLOCK
SIZES = (
    1,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    4 * BLOCK,
    4 * BLOCK + 1,
    21 * BLOCK + 5,
    64 * BLOCK,
)


def spans(found):
    return [found.piece_span(i) for i in range(found.piece_count)]


def piece(data, span):
    offset, length = span
    return data[offset : offset + length]


# What is in it


@pytest.mark.parametrize('kind', torrents.KINDS)
@pytest.mark.parametrize('size', SIZES)
def test_all_that_it_says(kind, size):
    data = resource.pattern(size)
    made = torrents.make(data, kind)
    found = metainfo.parse(made.encoded)
    assert found.name == 'image'
    assert found.size == size
    assert found.piece_length == 4 * BLOCK
    assert found.piece_count == made.piece_count
    assert found.info_hash_v1 == (made.v1 if kind != 'v2' else None)
    assert found.info_hash_v2 == (made.v2 if kind != 'v1' else None)
    assert found.info_hash == (made.v1 if kind == 'v1' else made.v2)
    assert found.data == made.encoded
    assert not found.private
    assert found.trackers == found.web_seeds == ()
    assert found.comment is found.created_by is None


def test_urls():
    made = torrents.make(
        b'x',
        trackers=['http://a/announce', 'udp://b:1/'],
        web_seeds=['https://c/x', 'ftp://d/'],
        private=True,
    )
    found = metainfo.parse(made.encoded)
    assert found.trackers == (('http://a/announce',), ('udp://b:1/',))
    assert found.web_seeds == ('https://c/x', 'ftp://d/')
    assert found.private


@pytest.mark.parametrize(
    ('content', 'trackers'),
    [
        ({'announce': 'http://a/'}, (('http://a/',),)),
        ({'announce': ''}, ()),
        # The list comes first, unless there is nothing in it (BEP 12).
        (
            {'announce': 'http://a/', 'announce-list': [['http://b/'] * 2]},
            (('http://b/',),),
        ),
        (
            {'announce': 'http://a/', 'announce-list': [[], ['']]},
            (('http://a/',),),
        ),
        (
            {'announce-list': [['http://a/', 'http://b/'], ['http://c/']]},
            (('http://a/', 'http://b/'), ('http://c/',)),
        ),
    ],
)
def test_trackers(content, trackers):
    good = torrents.make(b'x')
    data = torrents.bencode({**good.content, **content})
    assert metainfo.parse(data).trackers == trackers


@pytest.mark.parametrize(
    ('value', 'seeds'),
    [('http://a/', ('http://a/',)), ('', ()), ([], ()), (['', 'b:'], ('b:',))],
)
def test_web_seeds_may_be_one_string(value, seeds):
    good = torrents.make(b'x')
    data = torrents.bencode({**good.content, 'url-list': value})
    assert metainfo.parse(data).web_seeds == seeds


def test_remarks_are_shown_safely():
    good = torrents.make(b'x')
    text = 'a\nb\x1b[2J\u202ec' + 'x' * 5000
    content = {**good.content, 'comment': text, 'created by': b'\xff'}
    found = metainfo.parse(torrents.bencode(content))
    assert found.comment.startswith('a\\nb\\x1b[2J\\u202ecxxx')
    assert len(found.comment) == 255
    assert found.created_by == '\\xff'


def test_no_secret_in_its_text():
    made = torrents.make(
        b'x', trackers=['http://a/CANARY'], web_seeds=['http://CANARY@b/']
    )
    found = metainfo.parse(made.encoded)
    assert 'CANARY' not in f'{found} {found!r}'


def test_validator():
    first = metainfo.parse(torrents.make(b'1').encoded).validator
    assert first.strong
    again = metainfo.parse(torrents.make(b'1').encoded).validator
    assert first == again
    other = metainfo.parse(torrents.make(b'2').encoded).validator
    assert first != other


def test_it_can_be_pickled():
    found = metainfo.parse(torrents.make(b'x').encoded)
    assert pickle.loads(pickle.dumps(found)) == found


def test_libtorrent_is_not_needed():
    code = (
        'import sys; sys.modules["libtorrent"] = None; '
        'from oslo_transfer.drivers.bittorrent import create, metainfo'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


# The info-hash that was asked for (B-12)


@pytest.mark.parametrize('kind', torrents.KINDS)
def test_pinned(kind):
    made = torrents.make(b'data', kind)
    hashes = {'v1': [made.v1], 'v2': [made.v2]}.get(kind, [made.v1, made.v2])
    for each in hashes:
        metainfo.parse(made.encoded, pinned=each)
        metainfo.parse(made.encoded, pinned=each.upper())
        wrong = each.translate(str.maketrans('0123456789abcdef', 'f' * 16))
        with pytest.raises(exceptions.DigestMismatch) as caught:
            metainfo.parse(made.encoded, pinned=wrong)
        assert wrong in str(caught.value)


def test_pinned_by_what_it_does_not_have():
    made = torrents.make(b'data', 'v1')
    with pytest.raises(exceptions.DigestMismatch, match='not there'):
        metainfo.parse(made.encoded, pinned=made.v2)


@pytest.mark.parametrize('pinned', ['', 'x' * 40, 'a' * 39, 'a' * 64 + '\n'])
def test_pinned_by_nonsense(pinned):
    with pytest.raises(exceptions.InvalidEndpoint, match='info-hash'):
        metainfo.parse(torrents.make(b'data').encoded, pinned=pinned)


# Pieces


@pytest.mark.parametrize('kind', torrents.KINDS)
@pytest.mark.parametrize('size', SIZES)
def test_pieces_cover_the_file(kind, size):
    found = metainfo.parse(torrents.make(bytes(size), kind).encoded)
    position = 0
    for offset, length in spans(found):
        assert offset == position
        assert 0 < length <= found.piece_length
        position += length
    assert position == size


@pytest.mark.parametrize('kind', torrents.KINDS)
@pytest.mark.parametrize('size', SIZES)
def test_pieces_are_checked(kind, size):
    data = resource.pattern(size)
    found = metainfo.parse(torrents.make(data, kind).encoded)
    for index, span in enumerate(spans(found)):
        right = piece(data, span)
        assert found.check_piece(index, right)
        assert found.check_piece(index, memoryview(bytearray(right)))
        assert not found.check_piece(index, right[:-1])
        assert not found.check_piece(index, right + b'\0')
        assert not found.check_piece(index + 1, right)
        assert not found.check_piece(index - found.piece_count, right)


@hypothesis.given(
    kind=st.sampled_from(torrents.KINDS),
    size=st.integers(1, 9 * BLOCK),
    spot=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_any_changed_byte_is_noticed(kind, size, spot, flip):
    data = bytearray(resource.pattern(size))
    found = metainfo.parse(torrents.make(bytes(data), kind).encoded)
    data[int(spot * size)] ^= flip
    wrong = int(spot * size) // found.piece_length
    for index, span in enumerate(spans(found)):
        checked = found.check_piece(index, piece(data, span))
        assert checked == (index != wrong)


def test_sha256_decides():
    """Data that only fits the SHA-1 hashes of a hybrid is refused."""
    data = resource.pattern(9 * BLOCK)
    good = torrents.make(data)
    other = torrents.make(resource.pattern(9 * BLOCK)[::-1], 'v1')
    found = metainfo.parse(good.changed(pieces=other.info['pieces']).encoded)
    assert found.check_piece(0, data[: 4 * BLOCK])
    assert not found.check_piece(0, data[::-1][: 4 * BLOCK])


@pytest.mark.parametrize('kind', torrents.KINDS)
@pytest.mark.parametrize('size', SIZES)
def test_zero_pieces(kind, size):
    chance = random.Random(size)
    data = bytearray(resource.pattern(size))
    for start in range(0, size, 4 * BLOCK):
        if chance.random() < 0.5 or start + 4 * BLOCK >= size:
            data[start : start + 4 * BLOCK] = bytes(
                len(data[start : start + 4 * BLOCK])
            )
    found = metainfo.parse(torrents.make(bytes(data), kind).encoded)
    assert found.zero_pieces() == {
        index
        for index, span in enumerate(spans(found))
        if not any(piece(data, span))
    }
    assert found.piece_count - 1 in found.zero_pieces()


@pytest.mark.parametrize('kind', torrents.KINDS)
def test_a_piece_with_one_byte_is_not_zero(kind):
    data = bytes(7 * BLOCK) + b'\1'
    found = metainfo.parse(torrents.make(data, kind).encoded)
    assert found.zero_pieces() == {0}


# What others make of it


@pytest.mark.parametrize(
    'flags',
    [0, libtorrent.create_torrent.v1_only, libtorrent.create_torrent.v2_only],
)
@pytest.mark.parametrize('size', SIZES)
def test_libtorrent_makes_what_is_read_here(size, flags, tmp_path):
    data = resource.pattern(size)
    (tmp_path / 'image').write_bytes(data)
    files = [libtorrent.create_file_entry('image', size)]
    made = libtorrent.create_torrent(files, 2 * BLOCK, flags)
    libtorrent.set_piece_hashes(made, str(tmp_path))
    found = metainfo.parse(libtorrent.bencode(made.generate()))
    foreign.agree(found)
    assert (found.size, found.piece_length) == (size, 2 * BLOCK)
    for index, span in enumerate(spans(found)):
        assert found.check_piece(index, piece(data, span))


def test_transmission_makes_what_is_read_here(tmp_path):
    data = resource.pattern(21 * BLOCK + 5)
    (tmp_path / 'image').write_bytes(data)
    made = tmp_path / 'image.torrent'
    subprocess.run(
        ['transmission-create', '-p', '-t', 'http://127.0.0.1:1/announce']
        + ['-c', 'remark', '-s', '32', '-o', made, tmp_path / 'image'],
        check=True,
        capture_output=True,
    )
    found = metainfo.parse(made.read_bytes())
    foreign.agree(found)
    assert found.private
    assert found.comment == 'remark'
    assert found.created_by.startswith('Transmission/')
    assert found.trackers == (('http://127.0.0.1:1/announce',),)
    for index, span in enumerate(spans(found)):
        assert found.check_piece(index, piece(data, span))


@hypothesis.given(
    kind=st.sampled_from(torrents.KINDS),
    spot=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    insert=st.booleans(),
)
@hypothesis.settings(max_examples=1000, deadline=None)
def test_libtorrent_takes_what_is_taken_here(kind, spot, value, insert):
    good = torrents.make(
        resource.pattern(5 * BLOCK), kind, private=True, web_seeds=['http://a']
    )
    data = bytearray(good.encoded)
    spot = int(spot * len(data))
    data[spot : spot if insert else spot + 1] = bytes([value])
    try:
        found = metainfo.parse(bytes(data))
    except exceptions.TransferError:
        return
    foreign.agree(found)


# Reading it


def test_read():
    data = resource.pattern(3_000_000)
    assert metainfo.read(fakes.MemorySource(data, step=77_777)) == data
    assert metainfo.read(fakes.MemorySource(b'')) == b''


@pytest.mark.parametrize('sized', [True, False])
def test_no_more_is_read_than_a_torrent_file_may_have(sized, monkeypatch):
    monkeypatch.setattr(metainfo, 'MAX_BYTES', 1_000_000)
    source = fakes.MemorySource(bytes(50_000_000), step=100_000)
    read = []
    source.before_read = lambda _stream, _at, count: read.append(count)
    if not sized:
        source.size = None
        source.stream = lambda offset, length: fakes.MemoryStream(
            source, 0, 50_000_000
        )
    with pytest.raises(exceptions.ProtocolError, match='more than'):
        metainfo.read(source)
    assert sum(read) <= (0 if sized else 1_100_000)
    with pytest.raises(exceptions.ProtocolError, match='more than'):
        metainfo.parse(bytes(1_000_001))


# Bencoding

values = st.recursive(
    st.integers(-(10**18) + 1, 10**18 - 1) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.binary(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@hypothesis.given(values)
def test_bencoding_round_trips(value):
    encoded = bencode.encode(value)
    assert encoded == torrents.bencode(value)
    assert bencode.decode(encoded) == value


@hypothesis.given(st.binary(max_size=50) | st.text('0123456789:dlei-a'))
@hypothesis.settings(max_examples=500)
def test_what_decodes_is_canonical(data):
    data = data.encode() if isinstance(data, str) else data
    try:
        value = bencode.decode(data)
    except exceptions.ProtocolError:
        return
    assert bencode.encode(value) == data


def test_info_hash_is_of_the_bytes_that_were_there():
    made = torrents.make(b'data', 'v1', web_seeds=['http://a/'])
    start = made.encoded.index(b'4:info') + 6
    end = made.encoded.index(b'8:url-list')
    digest = hashlib.sha1(made.encoded[start:end]).hexdigest()
    assert metainfo.parse(made.encoded).info_hash_v1 == digest
