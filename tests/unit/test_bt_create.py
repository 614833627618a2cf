# SPDX-License-Identifier: Apache-2.0
"""Torrent files that are made here: right, reproducible, read once."""

from __future__ import annotations

import subprocess
import threading

import hypothesis
from hypothesis import strategies as st
import libtorrent
import pytest

import oslo_transfer
from oslo_transfer.drivers.bittorrent import create
from oslo_transfer.drivers.bittorrent import hashing
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from tests.servers import resource
from tests.servers import torrents
from tests.unit import fakes
from tests.unit import foreign

BLOCK = torrents.BLOCK
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
URL = 'memory://images/image'
SIZES = (
    1,
    BLOCK,
    BLOCK + 1,
    4 * BLOCK,
    4 * BLOCK + 1,
    MIB,
    2 * MIB - 1,
    3 * MIB + 7,
)


def make(data, **options):
    source = fakes.MemorySource(data)
    return create.create(source, **{'name': 'image', **options})


@pytest.fixture
def transfer():
    with fixtures.Transfer(max_retries=0) as transfer:
        yield transfer


@pytest.fixture
def opened(transfer):
    """Opens what the store has under the URL."""
    sources = []

    def open_source(**options):
        sources.append(
            oslo_transfer.open_source(URL, conf=transfer.conf, **options)
        )
        return sources[-1]

    yield open_source
    for source in sources:
        source.close()


# What is in it


@pytest.mark.parametrize('kind', torrents.KINDS)
@pytest.mark.parametrize('size', SIZES)
def test_same_as_made_by_hand(kind, size, nothing_left):
    data = resource.pattern(size)
    made = make(data, version=kind, piece_length=4 * BLOCK)
    assert made == torrents.make(data, kind).encoded


@pytest.mark.parametrize('kind', torrents.KINDS)
def test_same_with_all_options(kind):
    data = resource.pattern(5 * BLOCK)
    seeds = ['https://a/x', 'http://b/y']
    trackers = ['http://c:6969/announce', 'udp://d:6969/announce']
    made = make(
        data,
        name='an image.raw',
        version=kind,
        piece_length=BLOCK,
        trackers=trackers,
        web_seeds=seeds,
        private=True,
    )
    assert made == (
        torrents.make(
            data,
            kind,
            name='an image.raw',
            piece_bytes=BLOCK,
            trackers=trackers,
            web_seeds=seeds,
            private=True,
        ).encoded
    )


def test_one_tracker_is_no_list():
    made = make(b'x', trackers=['http://a/'])
    assert b'announce-list' not in made
    assert metainfo.parse(made).trackers == (('http://a/',),)


def test_comment():
    assert metainfo.parse(make(b'x', comment='why')).comment == 'why'


@pytest.mark.parametrize(
    ('kind', 'flags'),
    [
        ('hybrid', 0),
        ('v1', libtorrent.create_torrent.v1_only),
        ('v2', libtorrent.create_torrent.v2_only),
    ],
)
@pytest.mark.parametrize('size', SIZES)
def test_same_info_hashes_as_libtorrent(kind, flags, size, tmp_path):
    data = resource.pattern(size)
    (tmp_path / 'image').write_bytes(data)
    files = [libtorrent.create_file_entry('image', size)]
    theirs = libtorrent.create_torrent(files, 2 * BLOCK, flags)
    libtorrent.set_piece_hashes(theirs, str(tmp_path))
    expected = metainfo.parse(libtorrent.bencode(theirs.generate()))
    found = metainfo.parse(make(data, version=kind, piece_length=2 * BLOCK))
    assert found.info_hash_v1 == expected.info_hash_v1
    assert found.info_hash_v2 == expected.info_hash_v2
    foreign.agree(found)


def test_old_clients_read_v1(tmp_path):
    """Hybrids came with Transmission 4.0 and aria2 1.37."""
    path = tmp_path / 'image.torrent'
    path.write_bytes(
        make(
            resource.pattern(3 * MIB),
            version='v1',
            trackers=['http://127.0.0.1:1/announce'],
            web_seeds=['http://127.0.0.1:1/image'],
        )
    )
    info_hash = metainfo.parse(path.read_bytes()).info_hash_v1
    for command in (['aria2c', '--no-conf', '-S'], ['transmission-show']):
        shown = subprocess.run(
            [*command, path], check=True, capture_output=True, text=True
        ).stdout
        assert info_hash in shown
        assert 'http://127.0.0.1:1/announce' in shown


@hypothesis.given(
    data=st.integers(1, 40 * BLOCK).map(resource.pattern),
    kind=st.sampled_from(torrents.KINDS),
    length=st.sampled_from([BLOCK, 2 * BLOCK, 16 * BLOCK, None]),
    step=st.sampled_from([777, 99_999, MIB]),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_what_is_made_fits_the_data(data, kind, length, step):
    source = fakes.MemorySource(data, step=max(step, len(data) // 50))
    made = create.create(source, name='x', piece_length=length, version=kind)
    found = metainfo.parse(made)
    assert found.size == len(data)
    for index in range(found.piece_count):
        offset, length = found.piece_span(index)
        assert found.check_piece(index, data[offset : offset + length])


@pytest.mark.parametrize(
    ('size', 'length'),
    [
        (1, 64 * KIB),
        (256 * MIB, 64 * KIB),
        (512 * MIB, 64 * KIB),
        (512 * MIB + 1, 128 * KIB),
        (8 * GIB, MIB),
        (100 * GIB, 16 * MIB),
        (10_000 * GIB, 16 * MIB),
        (None, MIB),
    ],
)
def test_automatic_piece_length(size, length):
    assert create.automatic_piece_length(size) == length


@hypothesis.given(st.integers(256 * MIB, 128 * GIB))
def test_about_as_many_pieces_as_said(size):
    length = create.automatic_piece_length(size)
    assert 4096 <= -(-size // length) <= 8192


# How it is read


@pytest.mark.parametrize('cores', [1, 2, 16])
def test_same_with_any_number_of_threads(cores, monkeypatch, nothing_left):
    monkeypatch.setattr(
        hashing.os, 'sched_getaffinity', lambda _: range(cores)
    )
    data = resource.pattern(30 * MIB + 1)
    made = make(data, piece_length=4 * BLOCK)
    assert made == torrents.make(data).encoded


def test_each_byte_is_read_once_and_in_order():
    source = fakes.MemorySource(resource.pattern(5 * MIB + 1))
    reads = []
    source.before_read = lambda _stream, at, count: reads.append((at, count))
    create.create(source, name='x')
    assert source.streams == [(0, 5 * MIB + 1)]
    position = 0
    for at, count in reads:
        assert at == position
        position += count
    assert position == 5 * MIB + 1


def test_unknown_size(transfer, opened):
    data = resource.pattern(3 * MIB + 7)
    transfer.store.put(URL, data, sized=False)
    made = create.create(opened(), name='image')
    assert made == torrents.make(data, piece_bytes=MIB).encoded


def test_unknown_size_of_a_small_source(transfer, opened):
    transfer.store.put(URL, b'x', sized=False)
    made = create.create(opened(), name='image')
    assert made == torrents.make(b'x', piece_bytes=MIB).encoded


@pytest.mark.parametrize('kind', torrents.KINDS)
@pytest.mark.parametrize('ranges', [True, False])
def test_holes_change_nothing(kind, ranges, transfer, opened):
    # From the start, in the middle, and up to the end.
    runs = {
        5 * MIB: resource.pattern(MIB + 5),
        11 * MIB - 3: resource.pattern(17),
    }
    size = 20 * MIB + 9
    data = bytearray(size)
    for offset, run in runs.items():
        data[offset : offset + len(run)] = run
    transfer.store.put(URL, size=size, runs=runs, ranges=ranges)
    made = create.create(
        opened(), name='image', version=kind, piece_length=4 * BLOCK
    )
    assert made == torrents.make(bytes(data), kind).encoded


@pytest.mark.parametrize('kind', torrents.KINDS)
@pytest.mark.parametrize('size', [3 * MIB, 3 * MIB + 1])
def test_nothing_but_a_hole(kind, size, transfer, opened):
    transfer.store.put(URL, size=size)
    made = create.create(
        opened(), name='image', version=kind, piece_length=4 * BLOCK
    )
    assert made == torrents.make(bytes(size), kind).encoded


def test_a_hole_of_one_piece(transfer, opened):
    transfer.store.put(URL, size=MIB)
    made = create.create(opened(), name='image', piece_length=MIB)
    assert made == torrents.make(bytes(MIB), piece_bytes=MIB).encoded


def test_holes_cost_nothing(tmp_path, conf):
    """What would take minutes to read takes none."""
    path = tmp_path / 'image'
    with path.open('wb') as file:
        file.seek(200 * GIB)
        file.write(b'the end')
    with oslo_transfer.open_source(path, conf=conf) as source:
        found = metainfo.parse(create.create(source, name='image'))
    assert found.size == 200 * GIB + 7
    assert len(found.zero_pieces()) == found.piece_count - 1


def test_progress():
    told = []
    make(
        resource.pattern(3 * MIB + 1),
        progress=lambda count, total: told.append((count, total)),
    )
    total = 0
    for count, so_far in told:
        total += count
        assert so_far == total
    assert total == 3 * MIB + 1


def test_progress_over_holes(transfer, opened):
    transfer.store.put(URL, size=9 * MIB, runs={3 * MIB: b'x'})
    totals = []
    create.create(
        opened(), name='x', progress=lambda _count, total: totals.append(total)
    )
    assert totals == sorted(totals)
    assert totals[-1] == 9 * MIB


# What is refused


@pytest.mark.parametrize(
    'options',
    [
        {'version': 'v3'},
        {'piece_length': -1},
        {'piece_length': 8 * KIB},
        {'piece_length': 100_000},
        {'piece_length': 128 * MIB},
        *(
            {'name': name}
            for name in (
                '',
                '.',
                '..',
                'a/b',
                'a\\b',
                'a\nb',
                'a\0',
                'a\u202eb',
                '\udcff',
                'x' * 256,
                '\xe9' * 128,
                '_____padding_file_1',
            )
        ),
        *(
            {key: [url]}
            for key in ('trackers', 'web_seeds')
            for url in (
                '',
                'image',
                '/srv/image',
                'http:/a',
                'http://a b/',
                'http://a/\xe9',
                'http://user:secret@a/',
                'http://a/' + 'x' * 2048,
            )
        ),
        {'trackers': ['http://a/'] * 129},
        {'web_seeds': ['http://a/'] * 129},
    ],
)
def test_options_that_cannot_work(options):
    source = fakes.MemorySource(b'x')
    with pytest.raises(exceptions.ConfigurationError) as caught:
        create.create(source, **{'name': 'image', **options})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert 'secret' not in str(caught.value)
    # Before anything is read.
    assert source.streams == []


def test_an_empty_source(transfer, opened):
    with pytest.raises(exceptions.CapabilityMissing, match='empty'):
        make(b'')
    transfer.store.put(URL, b'', sized=False)
    with pytest.raises(exceptions.CapabilityMissing, match='empty'):
        create.create(opened(), name='x')


def test_more_pieces_than_a_torrent_file_has_room_for():
    source = fakes.MemorySource(b'')
    source.size = 17 * GIB
    with pytest.raises(exceptions.CapabilityMissing, match='larger pieces'):
        create.create(source, name='x', piece_length=BLOCK)
    assert source.streams == []


def test_an_endless_source_is_given_up(monkeypatch, nothing_left):
    monkeypatch.setattr(create, '_MOST_PIECES', 100)
    source = fakes.MemorySource(bytes(64 * MIB))
    source.stream = lambda *_run: fakes.MemoryStream(source, 0, 64 * MIB)
    source.size = None
    read = []
    source.before_read = lambda _stream, _at, count: read.append(count)
    with pytest.raises(exceptions.CapabilityMissing, match='larger pieces'):
        create.create(source, name='x', piece_length=BLOCK)
    assert sum(read) <= 2 * MIB


def test_a_source_without_an_end():
    source = fakes.MemorySource(b'x')
    source.size = None
    source.delimited = False
    with pytest.raises(exceptions.IntegrityError, match='where it ends'):
        create.create(source, name='x')


@pytest.mark.parametrize('size', [MIB, 5 * MIB, 2 * MIB + 1])
def test_a_source_of_another_size(size):
    source = fakes.MemorySource(bytes(size))
    source.stream = lambda *_run: fakes.MemoryStream(source, 0, size)
    source.size = 2 * MIB
    with pytest.raises(exceptions.SizeMismatch):
        create.create(source, name='x')


def test_a_file_that_changes(tmp_path, conf, nothing_left):
    path = tmp_path / 'image'
    path.write_bytes(bytes(3 * MIB))

    def change(_count, total):
        if total == 3 * MIB:
            path.write_bytes(bytes(3 * MIB - 1) + b'x')

    with oslo_transfer.open_source(path, conf=conf) as source:
        with pytest.raises(exceptions.SourceChanged):
            create.create(source, name='x', progress=change)


def test_a_source_that_breaks(nothing_left):
    source = fakes.MemorySource(bytes(8 * MIB))

    def broken(_stream, position, _count):
        if position > 5 * MIB:
            raise exceptions.Unavailable('gone')

    source.before_read = broken
    with pytest.raises(exceptions.Unavailable, match='gone'):
        create.create(source, name='x')


def test_cancel(nothing_left):
    cancel = threading.Event()
    read = []

    def progress(count, total):
        read.append(count)
        if total > 3 * MIB:
            cancel.set()

    source = fakes.MemorySource(bytes(64 * MIB))
    with pytest.raises(exceptions.TransferCancelled):
        create.create(source, name='x', progress=progress, cancel=cancel)
    assert sum(read) < 6 * MIB


def test_what_progress_raises_ends_it(nothing_left):
    def progress(_count, _total):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(bytes(8 * MIB), progress=progress)


@pytest.mark.parametrize('length', [BLOCK, MIB, 4 * MIB])
def test_memory_is_bounded(length, monkeypatch, nothing_left):
    """However many processors there are, and however large pieces are."""
    monkeypatch.setattr(hashing.os, 'sched_getaffinity', lambda _: range(64))
    monkeypatch.setattr(hashing, '_MAX_BUFFERS', 8 * MIB)
    buffers = {}
    with hashing.Hasher(length, sha1=True, sha256=True) as hasher:
        for _each in range(20):
            buffer = hasher.buffer()
            buffers[id(buffer)] = buffer
            hasher.add(buffer, len(buffer))
        hasher.finish()
    assert sum(map(len, buffers.values())) <= 8 * MIB
