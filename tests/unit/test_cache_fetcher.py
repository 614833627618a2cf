# SPDX-License-Identifier: Apache-2.0
"""Each block is fetched once, whoever waits for it gets it, none is lost."""

from __future__ import annotations

import collections
import random
import threading
import time

import pytest

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import fetcher as _fetcher
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
        self.blocks = _blocks.Blocks(
            str(tmp_path / 'object'), len(DATA), BLOCK, bytes(32)
        )
        self.image = _image.CachedImage(
            self.blocks, lambda _ctx: self.source, self.ctx, streams=streams
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
    setting.fetcher.later(0, 200, _fetcher.SOMEDAY)
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
