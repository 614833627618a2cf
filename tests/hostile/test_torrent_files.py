# SPDX-License-Identifier: Apache-2.0
"""What bad torrent files can do: nothing but be refused.

The numbers are those of the list of BitTorrent's hostile cases: B-01 to
B-09 names, B-10 more than one file, B-14 hashes of version 2 that do not
fit. Another info-hash (B-12) is with the other tests of reading.
"""

from __future__ import annotations

import dataclasses
import pickle
import time
import tracemalloc

import hypothesis
from hypothesis import strategies as st
import libtorrent
import pytest

import oslo_transfer
from oslo_transfer.drivers.bittorrent import create
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from tests.servers import resource
from tests.servers import torrents
from tests.unit import foreign

BLOCK = torrents.BLOCK
DATA = resource.pattern(9 * BLOCK + 5)
GOOD = torrents.make(DATA)
V1 = torrents.make(DATA, 'v1')
V2 = torrents.make(DATA, 'v2')
SMALL = torrents.make(b'x')
MANY = 500_000


@dataclasses.dataclass(frozen=True)
class Row:
    """One bad torrent file.

    :ivar data: its content
    :ivar error: what it is refused with
    :ivar text: what the error says
    """

    data: bytes
    error: type[exceptions.TransferError]
    text: str


def malformed(data: bytes, text: str) -> Row:
    """What is no canonical bencoding."""
    text = f'malformed bencoding at byte [0-9]+: .*({text})'
    return Row(data, exceptions.ProtocolError, text)


def protocol(data: bytes, text: str) -> Row:
    """What is no torrent."""
    return Row(data, exceptions.ProtocolError, text)


def unusable(data: bytes, text: str) -> Row:
    """What is a torrent of something else."""
    return Row(data, exceptions.CapabilityMissing, text)


def untrue(data: bytes, text: str) -> Row:
    """What contradicts itself."""
    return Row(data, exceptions.IntegrityError, text)


def top(good=GOOD, **content):
    """A torrent that differs outside of what the info-hash covers."""
    content = {key.replace('_', ' '): value for key, value in content.items()}
    return torrents.bencode({**good.content, **content})


def leaf(good=GOOD, **entry):
    """A torrent whose v2 file differs."""
    old = good.info['file tree'][good.name]['']
    entry = {key.replace('_', ' '): value for key, value in entry.items()}
    new = {**old, **entry}
    new = {key: value for key, value in new.items() if value is not None}
    return tree({good.name: {'': new}}, good)


def tree(value, good=GOOD):
    return good.changed(file_tree=value).encoded


def layers(change):
    ((root, layer),) = GOOD.content['piece layers'].items()
    return top(piece_layers=change(root, layer))


def flipped(data):
    return bytes([data[0] ^ 1]) + data[1:]


LEAF = GOOD.info['file tree'][GOOD.name]['']
URLS = [f'http://{number}/' for number in range(129)]
ROWS = {
    # Bencoding.
    'empty': malformed(b'', 'neither'),
    'html': malformed(b'<!DOCTYPE html>', 'neither'),
    'truncated': malformed(GOOD.encoded[:-7], 'missing|neither'),
    'truncated-by-one': malformed(GOOD.encoded[:-1], 'neither'),
    'trailing-newline': malformed(GOOD.encoded + b'\n', 'behind the end'),
    'twice': malformed(GOOD.encoded * 2, 'behind the end'),
    'nested-lists': malformed(b'l' * MANY, 'deeper'),
    'nested-dictionaries': malformed(b'd1:a' * MANY, 'deeper'),
    'many-numbers': malformed(b'l' + b'i0e' * MANY, 'more than'),
    'many-lists': malformed(b'l' + b'le' * MANY, 'more than'),
    'many-empty-strings': malformed(b'l' + b'0:' * MANY, 'more than'),
    'huge-number': malformed(b'd4:infoi' + b'9' * MANY + b'ee', 'number'),
    'number-of-20-digits': malformed(b'd4:infoi' + b'9' * 20, 'number'),
    'number-with-a-zero': malformed(b'd4:infoi01ee', 'number'),
    'negative-zero': malformed(b'd4:infoi-0ee', 'number'),
    'number-with-a-plus': malformed(b'd4:infoi+1ee', 'number'),
    'number-without-digits': malformed(b'd4:infoiee', 'number'),
    'number-with-a-space': malformed(b'd4:infoi 1ee', 'number'),
    'number-in-unicode': malformed('d4:infoi\u0661ee'.encode(), 'number'),
    'negative-length': malformed(b'd4:info-1:ee', 'neither'),
    'length-with-a-zero': malformed(b'd04:infodee', 'neither'),
    'huge-length': malformed(b'd4:info999999999999999999:x', 'missing'),
    'endless-length': malformed(b'd4:info' + b'9' * MANY + b':x', 'neither'),
    'key-that-is-a-number': malformed(b'di1ei2ee', 'neither'),
    'key-without-value': malformed(b'd4:infoe', 'neither'),
    'key-twice': malformed(
        GOOD.encoded.replace(b'4:infod', b'4:infode4:infod'), 'repeated'
    ),
    'keys-not-sorted': malformed(b'd4:infode1:ai1ee', 'not sorted'),
    'inner-keys-not-sorted': malformed(
        GOOD.encoded.replace(b'6:length', b'6:zzzzzz', 1), 'not sorted'
    ),
    # No torrent.
    'a-number': protocol(b'i1e', 'no torrent file'),
    'a-list': protocol(b'le', 'no torrent file'),
    'no-info': protocol(b'de', 'no "info"'),
    'magnet-only': protocol(
        torrents.bencode({'magnet-uri': f'magnet:?xt=urn:btih:{V1.v1}'}),
        'no "info"',
    ),
    'info-is-a-list': protocol(torrents.bencode({'info': []}), '"info" is no'),
    'no-name': protocol(GOOD.changed(name=None).encoded, 'no "name"'),
    'name-is-a-list': protocol(GOOD.changed(name=[]).encoded, '"name" is no'),
    'no-piece-length': protocol(
        GOOD.changed(piece_length=None).encoded, 'no "piece length"'
    ),
    'no-length': protocol(V1.changed(length=None).encoded, 'no "length"'),
    'length-is-a-string': protocol(
        V1.changed(length='5').encoded, '"length" is no'
    ),
    'no-pieces': protocol(V1.changed(pieces=None).encoded, 'no "pieces"'),
    'hybrid-without-length': protocol(
        GOOD.changed(length=None).encoded, 'no "length"'
    ),
    'hybrid-without-pieces': protocol(
        GOOD.changed(pieces=None).encoded, 'no "pieces"'
    ),
    'no-file-tree': protocol(
        V2.changed(file_tree=None).encoded, 'no "file tree"'
    ),
    'no-root': protocol(leaf(pieces_root=None), 'no "pieces root"'),
    'private-is-a-string': protocol(
        GOOD.changed(private='1').encoded, '"private" is no'
    ),
    'private-is-2': protocol(GOOD.changed(private=2).encoded, '"private"'),
    'private-is-negative': protocol(
        GOOD.changed(private=-1).encoded, '"private"'
    ),
    # Not one that can be used.
    'version-1': unusable(GOOD.changed(meta_version=1).encoded, 'version'),
    'version-3': unusable(GOOD.changed(meta_version=3).encoded, 'version'),
    'tree-without-version': unusable(
        GOOD.changed(meta_version=None).encoded, 'version'
    ),
    'ssl': unusable(V1.changed(**{'ssl-cert': 'x'}).encoded, 'certificates'),
    'size-0': unusable(V1.changed(length=0, pieces=b'').encoded, 'empty'),
    'size-0-v2': unusable(leaf(V2, length=0), 'empty'),
    'size-negative': unusable(V1.changed(length=-1).encoded, '-1'),
    'size-2**59': unusable(V1.changed(length=2**59).encoded, 'bytes'),
    'too-many-pieces': unusable(
        V1.changed(length=metainfo.MAX_SIZE).encoded, 'pieces'
    ),
    **{
        f'piece-length-{length}': unusable(
            GOOD.changed(piece_length=length).encoded, 'powers of two'
        )
        for length in (0, -BLOCK, 1, BLOCK // 2, BLOCK + 1, 3 * BLOCK, 2**40)
    },
    'B-09-symlink': unusable(
        V1.changed(attr='l', symlink_path=['etc', 'passwd']).encoded, 'link'
    ),
    'B-09-symlink-attribute-alone': unusable(
        V1.changed(attr='xl').encoded, 'link'
    ),
    'B-09-symlink-path-alone': unusable(
        V1.changed(symlink_path=['a']).encoded, 'link'
    ),
    'B-09-symlink-v2': unusable(
        leaf(attr='l', symlink_path=['..', 'x']), 'link'
    ),
    'B-10-two-files': unusable(
        V1.changed(
            length=None, files=[{'length': 5, 'path': [n]} for n in 'ab']
        ).encoded,
        'one file',
    ),
    'B-10-files-beside-length': unusable(
        V1.changed(files=[]).encoded, 'one file'
    ),
    'B-10-two-files-v2': unusable(
        tree({GOOD.name: {'': LEAF}, 'b': {'': LEAF}}, V2), 'one file'
    ),
    'B-10-a-directory-v2': unusable(
        tree({GOOD.name: {'a': {'': LEAF}}}, V2), 'one file'
    ),
    'B-10-file-and-directory-v2': unusable(
        tree({GOOD.name: {'': LEAF, 'a': {'': LEAF}}}, V2), 'one file'
    ),
    'B-10-no-files-v2': unusable(tree({}, V2), 'one file'),
    'B-10-padding': unusable(V1.changed(attr='p').encoded, 'padding'),
    'B-10-padding-v2': unusable(leaf(V2, attr='p'), 'padding'),
    'B-10-names-differ': unusable(tree({'other': {'': LEAF}}), 'one file'),
    'B-10-name-utf-8-differs': unusable(
        GOOD.changed(**{'name.utf-8': 'other'}).encoded, 'one file'
    ),
    # Hashes.
    'pieces-cut': untrue(GOOD.changed(pieces=bytes(59)).encoded, 'SHA-1'),
    'pieces-too-few': untrue(V1.changed(pieces=bytes(40)).encoded, 'SHA-1'),
    'pieces-too-many': untrue(V1.changed(pieces=bytes(80)).encoded, 'SHA-1'),
    'pieces-empty': untrue(GOOD.changed(pieces=b'').encoded, 'SHA-1'),
    'hybrid-sizes-differ': untrue(leaf(length=len(DATA) - 1), 'sizes'),
    'B-14-root-is-short': protocol(leaf(pieces_root=bytes(31)), 'root'),
    'B-14-root-is-long': protocol(leaf(pieces_root=bytes(33)), 'root'),
    'B-14-root-is-zeros': protocol(leaf(pieces_root=bytes(32)), 'root'),
    'B-14-root-is-another': untrue(leaf(pieces_root=b'r' * 32), 'missing'),
    'B-14-no-layers': untrue(torrents.bencode({'info': GOOD.info}), 'missing'),
    'B-14-layers-empty': untrue(top(piece_layers={}), 'missing'),
    'B-14-layers-are-a-list': protocol(top(piece_layers=[]), 'layers'),
    'B-14-layer-is-a-number': untrue(layers(lambda r, _: {r: 1}), 'missing'),
    'B-14-layer-of-another': untrue(
        layers(lambda r, each: {flipped(r): each}), 'missing'
    ),
    'B-14-layer-changed': untrue(
        layers(lambda r, each: {r: flipped(each)}), 'do not lead'
    ),
    'B-14-layer-swapped': untrue(
        layers(lambda r, each: {r: each[32:64] + each[:32] + each[64:]}),
        'do not lead',
    ),
    'B-14-layer-short': untrue(
        layers(lambda r, each: {r: each[:-32]}), 'bytes of hashes'
    ),
    'B-14-layer-long': untrue(
        layers(lambda r, each: {r: each + bytes(32)}), 'bytes of hashes'
    ),
    'B-14-layer-cut': untrue(
        layers(lambda r, each: {r: each[:-1]}), 'bytes of hashes'
    ),
    'B-14-layer-too-many': untrue(
        layers(lambda r, each: {r: each, b'x' * 32: each}), 'others'
    ),
    'B-14-layer-of-one-piece': untrue(
        top(SMALL, piece_layers={b'x' * 32: b'x' * 32}), 'one piece'
    ),
    # Names with nothing in them.
    'name-utf-8-empty': protocol(
        V1.changed(**{'name.utf-8': ''}).encoded, '"name"'
    ),
    **{
        f'name-{name!a}': protocol(
            torrents.make(b'x', kind, name=name).encoded, '"name"'
        )
        for kind, name in (
            ('v1', ''),
            ('v2', '.'),
            ('hybrid', '..'),
            ('v1', '/'),
            ('v1', '../..'),
            ('hybrid', '\\'),
            ('v1', '\0'),
            ('v1', '\u202e'),
            ('v1', '_____padding_file_1'),
            ('v1', '_____padding/_file_1'),
        )
    },
    # URLs.
    'trackers-129': protocol(top(**{'announce-list': [URLS]}), 'at most 128'),
    'trackers-129-in-tiers': protocol(
        top(**{'announce-list': [[url] for url in URLS]}), 'at most 128'
    ),
    'trackers-500000': malformed(
        b'd13:announce-listll' + b'1:a' * MANY + b'eee', 'more than'
    ),
    'tracker-is-a-list': protocol(top(announce=[]), '"announce" is no'),
    'tier-is-a-string': protocol(top(**{'announce-list': ['a']}), 'URLs'),
    'tracker-is-a-number': protocol(top(**{'announce-list': [[1]]}), 'URLs'),
    'tracker-of-5-kB': protocol(top(announce='http://' + 'a' * 5000), 'URLs'),
    'tracker-with-a-newline': protocol(top(announce='http://a\r\nb/'), 'URLs'),
    'tracker-with-an-escape': protocol(top(announce='http://\x1b[2J'), 'URLs'),
    'tracker-not-ascii': protocol(top(announce='http://\u202e/'), 'URLs'),
    'web-seeds-129': protocol(top(**{'url-list': URLS}), 'at most 128'),
    'web-seed-is-a-number': protocol(top(**{'url-list': 1}), 'URLs'),
    'web-seeds-are-numbers': protocol(top(**{'url-list': [1]}), 'URLs'),
    'web-seed-of-5-kB': protocol(top(**{'url-list': 'a' * 5000}), 'URLs'),
    'comment-is-a-number': protocol(top(comment=1), '"comment" is no'),
}


@pytest.mark.parametrize('key', ROWS)
def test_refused(key):
    row = ROWS[key]
    data = row.data
    started = time.monotonic()
    with pytest.raises(row.error, match=row.text) as caught:
        metainfo.parse(data)
    assert time.monotonic() - started < 5
    error = caught.value
    assert type(error) is row.error
    assert not error.retryable
    assert str(error).isprintable()
    assert len(str(error)) < 300
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize('key', torrents.WRONG)
def test_refused_too(key):
    with pytest.raises(exceptions.TransferError):
        metainfo.parse(torrents.WRONG[key](GOOD))


@pytest.mark.parametrize('key', ROWS)
def test_memory_is_bounded(key):
    """What is refused was not unpacked before."""
    data = ROWS[key].data
    tracemalloc.start()
    try:
        with pytest.raises(exceptions.TransferError):
            metainfo.parse(data)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A hundred thousand values, of a hundred bytes at most.
    assert peak < 12 << 20


# Names: for people, and never part of a path

NAMES = {
    'B-01-dots': '../../etc/passwd',
    'B-02-absolute': '/etc/passwd',
    'B-03-dots-inside': 'a/../../b',
    'B-04-backslash': '..\\..\\b',
    'B-05-nul': 'a\0b',
    'B-06-no-utf-8': b'a\xff\xfe',
    'B-07-5-kB': 'x' * 5000,
    'B-08-rtl-override': 'a\u202egmi.exe',
    'escape-sequence': 'a\x1b]0;title\x07\x1b[2Jb',
    'lines': 'a\nb\r\n',
    'half-a-character': b'x' * 1019 + '\u20ac'.encode(),
    'dots': '.../...x',
    'tilde': '~root',
    'device': 'CON',
    'spaces': ' a ',
    'markup': '<b>&amp;%s{0}',
}


@pytest.mark.parametrize('kind', torrents.KINDS)
@pytest.mark.parametrize('key', NAMES)
def test_names_are_harmless(key, kind):
    good = torrents.make(DATA, kind)
    info = {**good.info, 'name': NAMES[key]}
    if kind != 'v1':
        info['file tree'] = {NAMES[key]: {'': LEAF}}
    data = torrents.bencode({**good.content, 'info': info})
    found = metainfo.parse(data)
    assert found.name
    assert found.name.isprintable()
    assert len(found.name) <= 255
    # Libtorrent names the file where nobody renames it: to be looked at
    # after each of its releases (CVE-2009-1760).
    foreign.agree(found)
    layout = libtorrent.load_torrent_buffer(data).ti.layout()
    path = layout.file_path(0)
    assert path not in ('', '.', '..')
    assert '/' not in path
    assert '\\' not in path
    assert '\0' not in path
    assert len(path.encode()) <= 255


# Anything

values = st.recursive(
    st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, 2, BLOCK, 4 * BLOCK, len(DATA)])
    | st.binary(max_size=70)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.binary(max_size=33), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.sampled_from(
    [*GOOD.info, 'private', 'files', 'attr', 'name.utf-8', 'symlink path']
)
top_keys = st.sampled_from(
    [*GOOD.content, 'announce', 'announce-list', 'url-list', 'comment']
)


def consistent(data):
    """Refused, or understood as libtorrent understands it."""
    try:
        found = metainfo.parse(data)
    except exceptions.TransferError as error:
        assert str(error).isprintable()
        return
    position = 0
    for index in range(found.piece_count):
        offset, length = found.piece_span(index)
        assert (offset, length > 0) == (position, True)
        position += length
    assert position == found.size
    assert found.name.isprintable()
    assert found.zero_pieces() <= set(range(found.piece_count))
    assert found.info_hash
    foreign.agree(found)


@hypothesis.given(st.binary(max_size=300))
@hypothesis.settings(max_examples=500, deadline=None)
def test_any_bytes(data):
    consistent(data)


@hypothesis.given(values)
@hypothesis.settings(max_examples=300, deadline=None)
def test_any_value(value):
    consistent(torrents.bencode(value))


@hypothesis.given(
    good=st.sampled_from([GOOD, V1, V2, SMALL]),
    info=st.dictionaries(keys, values, max_size=2),
    entry=st.dictionaries(
        st.sampled_from([*LEAF, 'attr']), values, max_size=1
    ),
    content=st.dictionaries(top_keys, values, max_size=2),
)
@hypothesis.settings(max_examples=400, deadline=None)
def test_any_value_in_a_good_one(good, info, entry, content):
    info = {**good.info, **info}
    if entry and 'file tree' in good.info:
        old = good.info['file tree'][good.name]['']
        info['file tree'] = {good.name: {'': {**old, **entry}}}
    content = {**good.content, 'info': info, **content}
    consistent(torrents.bencode(content))


@hypothesis.given(
    good=st.sampled_from([GOOD, V1, V2, SMALL]),
    changes=st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 40),
            st.binary(max_size=4)
            | st.sampled_from([b'e', b'd', b'l', b'i0e', b'0:', b'9:']),
        ),
        min_size=1,
        max_size=3,
    ),
)
@hypothesis.settings(max_examples=400, deadline=None)
def test_any_damage_to_a_good_one(good, changes):
    data = good.encoded
    for spot, length, new in changes:
        start = int(spot * len(data))
        data = data[:start] + new + data[start + length :]
    consistent(data)


def test_a_large_one_is_read_in_seconds():
    """The torrent file of 13 MiB of a large hole in small pieces."""
    count = 1 << 18
    with fixtures.Transfer() as transfer:
        url = transfer.store.put('memory://a/b', size=BLOCK * count)
        with oslo_transfer.open_source(url, conf=transfer.conf) as source:
            data = create.create(source, name='x', piece_length=BLOCK)
    started = time.monotonic()
    found = metainfo.parse(data)
    assert len(found.zero_pieces()) == found.piece_count == count
    assert time.monotonic() - started < 10
