# SPDX-License-Identifier: Apache-2.0
"""An image comes from one version of its origin, in time all of it."""

from __future__ import annotations

import collections
import hashlib
import os
import pathlib
import random
import threading
import time

import pytest

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import hydrate as _hydrate
from oslo_transfer.cache import image as _image
from oslo_transfer import digest
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from tests.unit import fakes
from tests import waiting

BLOCK = 4096
DATA = random.Random(4).randbytes(300 * BLOCK + 5)
RIGHT = digest.expected('sha256', hashlib.sha256(DATA).hexdigest())
WRONG = digest.expected('sha256', hashlib.sha256(b'else').hexdigest())
pytestmark = pytest.mark.usefixtures('nothing_left')


class Source(fakes.MemorySource):
    def __init__(self, data=DATA, version='1'):
        super().__init__(data, step=BLOCK)
        self.validator = base.Validator(version, True)
        self.closed = False

    def close(self):
        self.closed = True


class Setting:
    """An origin whose sources are made by what a test says."""

    def __init__(self, conf, tmp_path):
        self.ctx = fakes.make_ctx(conf)
        conf.set_override('max_retries', 1, group='oslo_transfer')
        self.sources = []
        self.make = Source
        self.blocks = _blocks.Blocks(
            str(tmp_path / 'object'), len(DATA), BLOCK, bytes(range(32))
        )
        self.image = self.of(None)

    def of(self, validator):
        return _image.CachedImage(
            self.blocks, self.open, self.ctx, streams=4, validator=validator
        )

    def open(self, _ctx):
        self.sources.append(self.make())
        return self.sources[-1]


@pytest.fixture
def setting(conf, tmp_path):
    made = Setting(conf, tmp_path)
    yield made
    made.image.close()
    made.blocks.close()
    assert all(source.closed for source in made.sources)


def read(image, offset, length):
    buffer = bytearray(length)
    with image.reader() as reader:
        reader.read(memoryview(buffer), offset)
    return bytes(buffer)


# The origin


def test_origin_is_opened_when_it_is_needed_and_once(setting):
    setting.blocks.put(0, memoryview(DATA[:BLOCK]))
    assert setting.image.etag == bytes(range(32)).hex()
    assert setting.image.size == len(DATA)
    assert read(setting.image, 0, BLOCK) == DATA[:BLOCK]
    assert not setting.sources
    threads = [
        threading.Thread(target=read, args=(setting.image, n * 9 * BLOCK, 1))
        for n in range(1, 20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(setting.sources) == 1


def test_origin_is_opened_again_after_a_failure(setting):
    def broken():
        source = Source()
        source.before_read = fakes.unavailable
        return source

    setting.make = broken
    with pytest.raises(exceptions.Unavailable):
        read(setting.image, 0, 10)
    assert isinstance(setting.image.error, exceptions.Unavailable)
    setting.make = Source
    assert read(setting.image, 0, 10) == DATA[:10]
    assert len(setting.sources) == 2
    assert setting.sources[0].closed
    assert setting.image.error is None


def test_opening_is_tried_again(setting):
    """As often as the configuration says, and by one for all."""

    def sometimes():
        setting.make = Source
        raise exceptions.Unavailable('not now')

    setting.make = sometimes
    assert read(setting.image, 0, 10) == DATA[:10]


def test_many_who_wait_do_not_try_one_after_another(setting):
    tried = []

    def never():
        tried.append(1)
        raise exceptions.Unavailable('never')

    setting.make = never
    failed = []

    def work(index):
        try:
            read(setting.image, index * BLOCK, 1)
        except exceptions.Unavailable as exc:
            failed.append(exc)

    threads = [
        threading.Thread(target=work, args=(20 * n,)) for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(failed) == 12
    # Tried twice each, by one at a time.
    assert len(tried) <= 4


@pytest.mark.parametrize(
    'other', [lambda: Source(version='2'), lambda: Source(DATA[:-1])]
)
def test_another_version_is_never_read(setting, other):
    """What is here is served on; what is not cannot be had."""
    assert read(setting.image, 0, BLOCK) == DATA[:BLOCK]
    setting.image.release_origin()
    setting.make = other
    assert read(setting.image, 0, BLOCK) == DATA[:BLOCK]
    with pytest.raises(exceptions.SourceChanged):
        read(setting.image, 5 * BLOCK, 1)
    assert not setting.sources[-1].streams
    assert read(setting.image, 0, BLOCK) == DATA[:BLOCK]


def test_version_that_blocks_are_of_may_be_known_before(setting):
    image = setting.of(base.Validator('0', True))
    with pytest.raises(exceptions.SourceChanged):
        read(image, 0, 1)
    image.close()


def test_closing_ends_an_opening(setting):
    """Within a second, though the origin does not answer."""
    begun = threading.Event()

    def slow():
        begun.set()
        while not setting.image._ctx.stop.wait(0.01):
            pass
        raise exceptions.TransferCancelled('stopped')

    setting.make = slow
    ended = []

    def work():
        with pytest.raises(exceptions.TransferCancelled):
            read(setting.image, 0, 1)
        ended.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    started = time.monotonic()
    setting.image.close()
    thread.join(10)
    assert ended[0] - started < 1


# What nobody waits for


def test_image_is_brought_verified_and_let_go(setting):
    states = []
    hydration = setting.image.hydrate(
        expected=RIGHT, on_state=lambda each: states.append(each.state)
    )
    assert hydration.wait(10)
    assert states == [_hydrate.COMPLETE, _hydrate.VERIFIED]
    assert hydration.digest == RIGHT.value
    assert hydration.error is None
    setting.image.release_origin()
    assert setting.sources[0].closed
    assert read(setting.image, 0, len(DATA)) == DATA
    assert len(setting.sources) == 1
    assert setting.image.statistics()['bytes_fetched'] == len(DATA)


def test_each_block_comes_once_though_others_read(setting):
    """Hydration and readers bring the image together."""
    hydration = setting.image.hydrate()
    assert read(setting.image, 0, len(DATA)) == DATA
    assert hydration.wait(10)
    assert hydration.state == _hydrate.VERIFIED
    assert setting.image.statistics()['bytes_fetched'] == len(DATA)


def test_wrong_digest_is_found(setting):
    hydration = setting.image.hydrate(expected=WRONG)
    assert hydration.wait(10)
    assert hydration.state == _hydrate.DAMAGED
    assert isinstance(hydration.error, exceptions.IntegrityError)


def test_rotten_block_is_found_and_comes_again(setting):
    """It is read from the data file, and not from what was fetched."""
    assert read(setting.image, 0, len(DATA)) == DATA
    setting.blocks.flush()
    setting.image.close()
    setting.blocks.close()
    with open(setting.blocks.path, 'r+b') as file:
        file.seek(77 * BLOCK)
        file.write(b'rotten')
    setting.__init__(
        setting.ctx.conf, pathlib.Path(setting.blocks.path).parents[1]
    )
    hydration = setting.image.hydrate(expected=RIGHT)
    assert hydration.wait(10)
    assert hydration.state == _hydrate.VERIFIED
    assert setting.image.statistics()['bytes_fetched'] == BLOCK


def test_begins_after_its_delay_and_ends_when_closed(setting):
    hydration = setting.image.hydrate(delay=3600)
    assert not hydration.wait(0.05)
    assert not setting.sources
    started = time.monotonic()
    setting.image.close()
    assert hydration.wait(0)
    assert time.monotonic() - started < 1


def test_goes_no_faster_than_it_may(setting):
    rate = 2 * len(DATA)
    started = time.monotonic()
    hydration = setting.image.hydrate(rate=rate)
    assert hydration.wait(10)
    # A burst is free.
    assert time.monotonic() - started > 0.35


def test_goes_on_when_the_origin_is_back(setting, monkeypatch):
    monkeypatch.setattr(_hydrate, '_SHORTEST', 0.05)
    left = [60]

    def dies(_stream, _position, _count):
        left[0] -= 1
        if left[0] < 0:
            fakes.unavailable()

    def make():
        source = Source()
        source.before_read = dies
        return source

    setting.make = make
    hydration = setting.image.hydrate(expected=RIGHT)
    assert not hydration.wait(0.5)
    assert isinstance(hydration.error, exceptions.Unavailable)
    assert hydration.state == _hydrate.HYDRATING
    setting.make = Source
    assert hydration.wait(10)
    assert hydration.state == _hydrate.VERIFIED
    assert hydration.error is None


def test_goes_on_when_there_is_room_again(setting, monkeypatch):
    monkeypatch.setattr(_hydrate, '_SHORTEST', 0.05)
    monkeypatch.setattr('oslo_transfer.cache.demand.FULL_SECONDS', 0.05)
    full = threading.Event()
    full.set()
    put = setting.blocks.put

    def sometimes(first, data):
        if full.is_set():
            raise exceptions.NoSpace('the disk is full')
        put(first, data)

    monkeypatch.setattr(setting.blocks, 'put', sometimes)
    hydration = setting.image.hydrate()
    assert not hydration.wait(0.3)
    assert isinstance(hydration.error, exceptions.NoSpace)
    full.clear()
    assert hydration.wait(10)
    assert hydration.state == _hydrate.VERIFIED


def test_what_a_trace_foresees_comes_in_its_order(setting):
    ranges = [(200 * BLOCK, 2 * BLOCK), (5, BLOCK), (len(DATA) - 1, 1)]
    assert setting.image.prefetch(ranges).wait(10)
    assert [
        index
        for index in range(setting.blocks.count)
        if setting.blocks.has(index)
    ] == [0, 1, 200, 201, 300]
    assert len(setting.sources[0].streams) == 3


def test_trace_is_kept_to_its_rate(setting):
    started = time.monotonic()
    ranges = [(n * BLOCK, BLOCK) for n in range(50)]
    assert setting.image.prefetch(ranges, 100 * BLOCK).wait(10)
    assert time.monotonic() - started > 0.3


@pytest.mark.parametrize('index', [290, 60])
def test_who_waits_goes_before_all_that(setting, monkeypatch, index):
    """A demand read does not queue behind hydration (XCache's trap).

    Not even for a block of a run that is being read.
    """
    monkeypatch.setattr(
        'oslo_transfer.cache.fetcher._AT_ONCE', (4 * BLOCK, 8 * BLOCK)
    )
    setting.image = setting.of(None)
    order = []
    waits = fakes.who_waits(monkeypatch)

    def make():
        source = Source()

        def note(_stream, position, _count):
            order.append(position // BLOCK)
            assert len(order) < 10 or waits.wait(10)

        source.before_read = note
        return source

    setting.make = make
    setting.image.hydrate()
    setting.image.prefetch([(0, 100 * BLOCK)])
    waiting.until(lambda: len(order) >= 10)
    before = len(order)
    assert read(setting.image, index * BLOCK, 1) == DATA[index * BLOCK :][:1]
    # Each of those who give way has a read on its way.
    assert order.index(index) - before < 8
    setting.image.close()
    assert max(collections.Counter(order).values()) == 1


class Sparse(Source):
    """Tells holes that do not begin and end where blocks do."""

    capabilities = Source.capabilities | base.Capability.EXTENTS

    def extents(self, offset, length):
        end = offset + length
        for start, stop, data in (
            (0, 50 * BLOCK + 9, True),
            (50 * BLOCK + 9, 200 * BLOCK + 9, False),
            (200 * BLOCK + 9, 250 * BLOCK, True),
            (250 * BLOCK, len(DATA), False),
        ):
            start, stop = max(start, offset), min(stop, end)
            if start < stop:
                yield base.Extent(start, stop - start, data)


@pytest.mark.parametrize('run', [32 << 20, 7 * BLOCK])
def test_holes_are_not_fetched(setting, monkeypatch, run):
    """Neither do they take space here."""
    monkeypatch.setattr('oslo_transfer.cache.demand.RUN_BYTES', run)
    sparse = bytearray(len(DATA))
    sparse[: 50 * BLOCK + 9] = DATA[: 50 * BLOCK + 9]
    sparse[200 * BLOCK + 9 : 250 * BLOCK] = DATA[200 * BLOCK + 9 : 250 * BLOCK]
    setting.make = lambda: Sparse(bytes(sparse))
    value = hashlib.sha256(sparse).hexdigest()
    hydration = setting.image.hydrate(
        expected=digest.expected('sha256', value)
    )
    assert hydration.wait(10)
    assert hydration.state == _hydrate.VERIFIED
    fetched = setting.image.statistics()['bytes_fetched']
    assert fetched == (51 + 50) * BLOCK
    assert os.stat(setting.blocks.path).st_blocks * 512 <= 110 * BLOCK
    assert read(setting.image, 0, len(DATA)) == sparse
