# SPDX-License-Identifier: Apache-2.0
"""Each block is fetched once, whoever waits for it gets it, none is lost."""

from __future__ import annotations

import collections
import os
import random
import threading
import time

import pytest

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import demand as _demand
from oslo_transfer.cache import image as _image
from oslo_transfer import exceptions
from tests.unit import fakes

BLOCK = 4096
DATA = random.Random(3).randbytes(300 * BLOCK + 5)
pytestmark = pytest.mark.usefixtures('nothing_left')


class Setting:
    def __init__(self, conf, tmp_path, streams=4):
        self.ctx = fakes.make_ctx(conf)
        self.source = fakes.MemorySource(DATA, step=BLOCK)
        self.directory = str(tmp_path / 'object')
        self.streams = streams
        self.open()

    def open(self):
        self.blocks = _blocks.Blocks(
            self.directory, len(DATA), BLOCK, bytes(32)
        )
        self.image = _image.CachedImage(
            self.blocks,
            lambda _ctx: self.source,
            self.ctx,
            streams=self.streams,
        )
        self.fetcher = self.image._fetcher

    def reader(self):
        return self.image.reader()

    def fetched(self):
        """How often each block was asked for."""
        asked = collections.Counter()
        for offset, length in self.source.streams:
            asked.update(
                range(offset // BLOCK, -(-(offset + length) // BLOCK))
            )
        return asked


@pytest.fixture
def setting(conf, tmp_path):
    made = Setting(conf, tmp_path)
    yield made
    made.image.close()
    made.blocks.close()


def read(reader, offset, length):
    buffer = bytearray(length)
    reader.read(memoryview(buffer), offset)
    return bytes(buffer)


def test_all_is_read_and_each_block_once(setting):
    """Many readers at random places, at once."""
    wrong = []

    def work(seed):
        rng = random.Random(seed)
        reader = setting.reader()
        for _ in range(60):
            offset = rng.randrange(len(DATA))
            length = rng.randrange(1, min(9 * BLOCK, len(DATA) - offset + 1))
            if read(reader, offset, length) != DATA[offset : offset + length]:
                wrong.append(offset)

    threads = [
        threading.Thread(target=work, args=(seed,)) for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert read(setting.reader(), 0, len(DATA)) == DATA
    assert set(setting.fetched().values()) == {1}
    assert setting.fetcher.fetched == len(DATA)


def test_sixteen_wait_for_one_request(setting):
    """One cold block, one request, however many want it."""
    everybody = threading.Barrier(17)
    go = threading.Event()
    setting.source.before_read = lambda *_rest: go.wait(10)
    found = []

    def work():
        reader = setting.reader()
        everybody.wait(10)
        found.append(read(reader, 7 * BLOCK + 3, 100))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    everybody.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert found == [DATA[7 * BLOCK + 3 : 7 * BLOCK + 103]] * 16
    assert setting.fetched() == {7: 1}


def test_reader_in_order_finds_blocks_there(setting):
    """Those ahead come in long runs, while he looks at what he has."""
    reader = setting.reader()
    for offset in range(0, len(DATA), BLOCK):
        count = min(BLOCK, len(DATA) - offset)
        assert read(reader, offset, count) == DATA[offset : offset + count]
    assert set(setting.fetched().values()) == {1}
    assert len(setting.source.streams) < 50


def test_who_waits_goes_before_what_comes_later(setting):
    """Prefetch leaves a thread, and the line, to whoever waits."""
    slow = threading.Event()
    seen = []

    def note(_stream, position, _count):
        seen.append(position // BLOCK)
        slow.wait(0.002)

    setting.source.before_read = note
    setting.fetcher.later(0, 200, _demand.SOMEDAY)
    reader = setting.reader()
    assert read(reader, 290 * BLOCK, 10) == DATA[290 * BLOCK :][:10]
    assert len([index for index in seen if index < 200]) < 100


def test_failure_reaches_all_who_wait_and_is_not_kept(setting):
    setting.source.before_read = fakes.unavailable
    reader = setting.reader()
    with pytest.raises(exceptions.Unavailable):
        read(reader, 0, 3 * BLOCK)
    setting.source.before_read = lambda *_rest: None
    assert read(reader, 0, 3 * BLOCK) == DATA[: 3 * BLOCK]


def test_full_disk_is_gone_around(setting, monkeypatch):
    """What cannot be stored is still read, and that is said."""

    def full(*_args):
        raise exceptions.NoSpace('the disk is full')

    monkeypatch.setattr(setting.blocks, 'put', full)
    assert read(setting.reader(), 5, 40 * BLOCK) == DATA[5 : 5 + 40 * BLOCK]
    assert isinstance(setting.fetcher.bypassed, exceptions.NoSpace)


def test_closing_ends_who_waits_within_a_second(setting):
    stuck = threading.Event()
    begun = threading.Event()

    def hang(stream, *_rest):
        begun.set()
        while not stream.closed and not stuck.wait(0.01):
            pass
        fakes.unavailable()

    setting.source.before_read = hang
    ended = []

    def work():
        with pytest.raises(exceptions.TransferError):
            read(setting.reader(), 0, 10)
        ended.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    started = time.monotonic()
    setting.fetcher.close()
    thread.join(10)
    assert ended[0] - started < 1.5


def test_evicted_blocks_come_again(setting):
    reader = setting.reader()
    assert read(reader, 0, len(DATA)) == DATA
    setting.blocks.evict(range(0, setting.blocks.count, 3))
    assert read(reader, 0, len(DATA)) == DATA
    assert sum(setting.fetched().values()) == setting.blocks.count + len(
        range(0, setting.blocks.count, 3)
    )


@pytest.fixture
def narrow(conf, tmp_path):
    """One stream for everything."""
    made = Setting(conf, tmp_path, streams=1)
    yield made
    made.image.close()
    made.blocks.close()


def test_one_stream_leaves_prefetch_for_who_waits_and_goes_on(
    narrow, monkeypatch
):
    """The rest of what was foreseen is put back, and brought afterwards."""
    begun, waits = threading.Event(), fakes.who_waits(monkeypatch)

    def slow(_stream, position, _count):
        begun.set()
        assert waits.wait(10)

    narrow.source.before_read = slow
    narrow.fetcher.later(0, 280, _demand.SOMEDAY)
    assert begun.wait(10)
    assert read(narrow.reader(), 290 * BLOCK, 10) == DATA[290 * BLOCK :][:10]
    narrow.fetcher.wait_until_owed(_demand.SOMEDAY, 0, narrow.ctx)
    assert all(narrow.blocks.has(index) for index in range(280))
    assert set(narrow.fetched().values()) <= {1, 2}


def test_what_was_foreseen_is_brought_with_what_is_asked_for(narrow):
    """A reader who catches up with the queue gets a run, and no block."""
    begun, hold = threading.Event(), threading.Event()

    def held(*_rest):
        begun.set()
        hold.wait(10)

    narrow.source.before_read = held
    narrow.fetcher.later(200, 201, _demand.SOON)
    assert begun.wait(10)
    narrow.fetcher.later(0, 100, _demand.SOON)
    threading.Timer(0.05, hold.set).start()
    assert read(narrow.reader(), 10 * BLOCK, 10) == DATA[10 * BLOCK :][:10]
    narrow.fetcher.wait_until_owed(_demand.SOON, 0, narrow.ctx)
    assert [
        (offset // BLOCK, length // BLOCK)
        for offset, length in narrow.source.streams
    ] == [(200, 1), (10, 90), (0, 10)]


def test_reader_who_leaves_takes_along_what_he_has_foreseen(narrow):
    """Nothing is fetched that nobody will read."""
    hold = threading.Event()
    reader = narrow.reader()
    for offset in range(0, 40 * BLOCK, BLOCK):
        read(reader, offset, BLOCK)
    narrow.fetcher.wait_until_owed(_demand.SOON, 0, narrow.ctx)
    narrow.source.before_read = lambda *_rest: hold.wait(10)
    narrow.fetcher.later(299, 300, _demand.SOON)
    count = len(narrow.source.streams)
    narrow.fetcher.later(100, 200, _demand.SOON, reader)
    reader.close()
    hold.set()
    narrow.fetcher.wait_until_owed(_demand.SOON, 0, narrow.ctx)
    assert len(narrow.source.streams) <= count + 1
    assert not narrow.blocks.has(150)


def test_random_reads_bring_nothing_ahead(setting):
    """Only the blocks that are asked for."""
    rng = random.Random(5)
    reader = setting.reader()
    asked = set()
    for turn in range(50):
        # Far enough from each other.
        index = rng.choice(range(turn % 2 * 150 + 20, turn % 2 * 150 + 150))
        asked.add(index)
        assert read(reader, index * BLOCK, 9) == DATA[index * BLOCK :][:9]
    assert setting.fetcher.fetched == len(asked) * BLOCK


def test_queue_has_a_limit(setting, monkeypatch):
    """What does not fit is not taken; who reads asks again."""
    monkeypatch.setattr(_demand, '_QUEUE_BYTES', 20 * BLOCK)
    hold = threading.Event()
    setting.source.before_read = lambda *_rest: hold.wait(10)
    taken = [
        setting.fetcher.later(first, first + 10, _demand.SOON)
        for first in range(0, 200, 10)
    ]
    hold.set()
    assert not all(taken)
    assert read(setting.reader(), 0, len(DATA)) == DATA


def test_waiting_ends_with_the_reader_and_not_the_block(setting):
    """One who is cancelled goes within a second; the others get it."""
    hold = threading.Event()
    setting.source.before_read = lambda *_rest: hold.wait(10)
    cancel = threading.Event()
    impatient = setting.image.reader(setting.ctx.replace(cancel=cancel))
    found = []
    other = threading.Thread(
        target=lambda: found.append(read(setting.reader(), 0, 10))
    )
    other.start()
    threading.Timer(0.1, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(exceptions.TransferCancelled):
        read(impatient, 0, 10)
    assert time.monotonic() - started < 1
    hold.set()
    other.join(10)
    assert found == [DATA[:10]]
    assert setting.fetched() == {0: 1}


def test_what_was_found_damaged_comes_again(setting):
    reader = setting.reader()
    assert read(reader, 0, 3 * BLOCK) == DATA[: 3 * BLOCK]
    setting.blocks.flush()
    setting.image.close()
    setting.blocks.close()
    with open(setting.blocks.path, 'r+b') as file:
        file.seek(BLOCK + 7)
        file.write(b'rotten')
    setting.open()
    assert read(setting.reader(), 0, 3 * BLOCK) == DATA[: 3 * BLOCK]
    assert setting.image.statistics()['damaged'] == 1
    assert setting.fetched()[1] == 2


def test_disk_that_cannot_be_read_is_gone_around(setting, monkeypatch):
    """The origin has the bytes, too."""
    assert read(setting.reader(), 0, 3 * BLOCK) == DATA[: 3 * BLOCK]

    def broken(*_args):
        raise OSError(5, 'Input/output error')

    monkeypatch.setattr('os.preadv', broken)
    assert read(setting.reader(), 5, 2 * BLOCK) == DATA[5 : 5 + 2 * BLOCK]


def test_statistics_say_what_was_done(setting):
    reader = setting.reader()
    read(reader, 0, BLOCK)
    read(reader, 0, BLOCK)
    found = setting.image.statistics()
    assert found['readers'] == 1
    assert found['bytes_claimed'] == 2 * BLOCK
    assert found['bytes_fetched'] == BLOCK
    assert (found['hits'], found['misses']) == (2, 1)
    reader.close()
    assert setting.image.statistics() == {**found, 'readers': 0}


def test_export_takes_it_out_of_the_file(setting):
    """As NBD and HTTP do: claim, or bring and claim."""
    with setting.reader() as reader:
        assert reader.claim(BLOCK, 100) == 0
        assert reader.bring(BLOCK, 2 * BLOCK)
        assert reader.claim(BLOCK + 1, 100) == 100
        found = os.pread(reader.fd, 100, BLOCK + 1)
        assert found == DATA[BLOCK + 1 : BLOCK + 101]
        assert setting.blocks.evict([1]) == 0
        reader.release()
        assert setting.blocks.evict([1]) == 1
        assert reader.claim(BLOCK, 100) == 0


def test_export_reads_what_cannot_be_kept_once(setting, monkeypatch):
    """What was brought and could not be stored is what it reads then."""

    def full(*_args):
        raise exceptions.NoSpace('the disk is full')

    monkeypatch.setattr(setting.blocks, 'put', full)
    reader = setting.reader()
    assert not reader.bring(BLOCK, 100)
    assert reader.claim(BLOCK, 100) == 0
    assert read(reader, BLOCK, 100) == DATA[BLOCK : BLOCK + 100]
    assert setting.fetched() == {1: 1}
    assert setting.image.error is setting.fetcher.bypassed
