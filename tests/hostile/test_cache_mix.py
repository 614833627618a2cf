# SPDX-License-Identifier: Apache-2.0
"""Readers, prefetch, hydration, eviction and failures at once, at random.

Whoever gets bytes gets the right ones, nobody waits for ever, and nothing is
left.
"""

from __future__ import annotations

import hashlib
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

BLOCK = 4096
pytestmark = pytest.mark.usefixtures('nothing_left')


@pytest.fixture
def small(conf, monkeypatch):
    """All that happens to gigabytes happens to a few hundred blocks."""
    for name, value in {
        'demand.RUN_BYTES': 64 * BLOCK,
        'demand.FULL_SECONDS': 0.02,
        'fetcher._AT_ONCE': (4 * BLOCK, 16 * BLOCK),
        'hydrate._SHORTEST': 0.02,
        'hydrate._LONGEST': 0.1,
        'origin._HOLD': 0.01,
        'reader._AFTER': 8 * BLOCK,
        'reader._NEAR': BLOCK,
        'reader._SURELY': 16 * BLOCK,
    }.items():
        monkeypatch.setattr(f'oslo_transfer.cache.{name}', value)
    conf.set_override('max_retries', 1, group='oslo_transfer')
    conf.set_override('retry_delay', 0.001, group='oslo_transfer')
    return conf


class Source(fakes.MemorySource):
    """Tells its holes, and sometimes a part of them only."""

    capabilities = fakes.MemorySource.capabilities | base.Capability.EXTENTS

    def __init__(self, data, step, holes):
        super().__init__(data, step)
        self.holes = holes

    def extents(self, offset, length):
        at, end = offset, offset + length
        for start, stop in self.holes:
            start, stop = max(start, at), min(stop, end)
            if start < stop:
                if at < start:
                    yield base.Extent(at, start - at, True)
                yield base.Extent(start, stop - start, False)
                at = stop
        if at < end:
            yield base.Extent(at, end - at, True)


class Mix:
    """What goes on in one run, by its seed."""

    def __init__(self, seed, conf, directory):
        self.seed = seed
        self.rng = rng = random.Random(seed)
        data = bytearray(rng.randbytes(rng.randrange(1, 600 * BLOCK)))
        self.size = len(data)
        places = sorted(rng.randrange(self.size) for _ in range(6))
        self.holes = [*zip(places[::2], places[1::2])] * rng.choice([0, 1])
        for start, stop in self.holes:
            data[start:stop] = bytes(stop - start)
        self.data = bytes(data)
        self.fails = rng.choice([0, 0, 0.002, 0.02])
        self.pause = rng.choice([0, 0, 0.0005])
        self.full = rng.choice([0, 0, 0, 0.05])
        self.step = rng.choice([100, BLOCK, 10_000, 1 << 20])
        self.chance = random.Random(seed + 1)
        self.blocks = _blocks.Blocks(
            str(directory / 'image'), self.size, BLOCK, bytes(32)
        )
        self._put, self.blocks.put = self.blocks.put, self.put
        self.image = _image.CachedImage(
            self.blocks,
            self.open,
            fakes.make_ctx(conf),
            streams=rng.choice([1, 2, 3, 8]),
        )
        self.wrong = []
        self.end = time.monotonic() + 0.6

    def open(self, _ctx):
        source = Source(self.data, self.step, self.holes)
        source.before_read = self.before
        return source

    def before(self, *_read):
        if self.pause:
            time.sleep(self.pause)
        if self.chance.random() < self.fails:
            fakes.unavailable()

    def put(self, first, data):
        if self.chance.random() < self.full:
            raise exceptions.NoSpace('the disk is full')
        self._put(first, data)

    def run(self):
        threads = [
            threading.Thread(target=self.work, args=(number,))
            for number in range(self.rng.choice([1, 4, 12]))
        ]
        hydration = None
        if self.rng.random() < 0.6:
            value = hashlib.sha256(self.data).hexdigest()
            hydration = self.image.hydrate(
                expected=digest.expected('sha256', value)
            )
        if self.rng.random() < 0.5:
            places = [self.rng.randrange(self.size) for _ in range(30)]
            self.image.prefetch(
                [(at, min(3 * BLOCK, self.size - at)) for at in places]
            )
        for thread in threads:
            thread.start()
        while time.monotonic() < self.end:
            if self.rng.random() < 0.5:
                count = self.blocks.count
                some = self.rng.sample(range(count), min(count, 20))
                self.blocks.evict(some)
            time.sleep(0.03)
        for thread in threads:
            thread.join(15)
        assert not any(thread.is_alive() for thread in threads)
        if hydration is not None and not self.full:
            assert hydration.wait(15), hydration.error
            assert hydration.state == _hydrate.VERIFIED
        started = time.monotonic()
        self.image.close()
        assert time.monotonic() - started < 2
        self.blocks.close()
        assert not self.wrong

    def work(self, number):
        rng = random.Random((self.seed << 8) + number)
        try:
            while time.monotonic() < self.end:
                self.read_some(rng)
        except Exception as exc:
            self.wrong.append(exc)

    def read_some(self, rng):
        cancel = threading.Event()
        ctx = self.image._ctx.replace(cancel=cancel)
        with self.image.reader(ctx if rng.random() < 0.2 else None) as reader:
            at = rng.randrange(self.size)
            for _turn in range(rng.choice([1, 1, 5, 50])):
                if at >= self.size:
                    return
                length = min(
                    self.size - at, rng.choice([1, BLOCK, 9000, 100_000])
                )
                if rng.random() < 0.02:
                    cancel.set()
                self.read(rng, reader, at, length)
                at += length
                if rng.random() < 0.2:
                    at = rng.randrange(self.size)

    def read(self, rng, reader, at, length):
        buffer = bytearray(length)
        try:
            if rng.random() < 0.3 and (
                reader.claim(at, length) or reader.bring(at, length)
            ):
                # What was brought may be gone again.
                assert reader.claim(at, length) <= length
                return
            reader.read(memoryview(buffer), at)
        except exceptions.TransferCancelled:
            return
        except exceptions.Unavailable:
            assert self.fails
            return
        if buffer != self.data[at : at + length]:
            self.wrong.append(at)


@pytest.mark.parametrize('seed', range(4))
def test_some(seed, small, tmp_path):
    Mix(seed, small, tmp_path).run()


@pytest.mark.campaign
@pytest.mark.parametrize('seed', range(100, 250))
def test_many(seed, small, tmp_path):
    Mix(seed, small, tmp_path).run()
