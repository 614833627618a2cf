# SPDX-License-Identifier: Apache-2.0
"""Jobs of children that use a cache directory until they are killed."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import struct
import threading
import time

from oslo_transfer.cache import flusher
from oslo_transfer.cache import image as _image
from oslo_transfer.cache import room
from oslo_transfer.cache import store as _store
from oslo_transfer import exceptions
from tests.functional import forkserver
from tests.servers import resource
from tests.unit import fakes

BLOCK = 16 * 1024
DATA = resource.pattern(4 << 20)
COUNT = len(DATA) // BLOCK
IDENTITY = bytes(range(32))
KEY = 'image'
_READERS = 4
_STREAMS = 4
# Seconds that each read of the origin takes.
_DELAY = 0.002


class Tally:
    """What a child has done, kept by the kernel when it is killed.

    :param path: a file that both have
    """

    _numbers = struct.Struct('<QQ')

    def __init__(self, path):
        with open(path, 'a+b') as file:
            file.truncate(mmap.PAGESIZE)
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def _get(self, number):
        return self._numbers.unpack_from(self._memory)[number]

    @property
    def served(self):
        """Reads that were right."""
        return self._get(0)

    @property
    def durable(self):
        """Blocks that were there, or flushed, and are not evicted."""
        return self._get(1)

    def tell(self, served, durable):
        self._numbers.pack_into(self._memory, 0, served, durable)


class Origin(fakes.MemorySource):
    """The image, a bit far away."""

    def __init__(self):
        super().__init__(DATA, step=64 * 1024)
        self.before_read = lambda *_args: time.sleep(_DELAY)


def cached(blocks):
    """An image that reads through blocks."""
    ctx = fakes.make_ctx(forkserver.make_conf({}))
    return _image.CachedImage(
        blocks, lambda _ctx: Origin(), ctx, streams=_STREAMS
    )


def read(reader, offset, length):
    """Read, and say whether it was right."""
    buffer = memoryview(bytearray(length))
    reader.read(buffer, offset)
    return buffer == DATA[offset : offset + length]


class Unreliable:
    """Stands for a function of the operating system that may fail.

    :param name: of the function
    :param errors: what it fails with, now and then
    """

    _odds = 0.02

    def __init__(self, name, errors, rng):
        self._real = getattr(os, name)
        self._errors = errors
        self._rng = rng
        setattr(os, name, self)

    def __call__(self, *args):
        if self._rng.random() < self._odds:
            error = self._rng.choice(self._errors)
            raise OSError(error, os.strerror(error))
        return self._real(*args)


def break_disk(seed):
    """Have writing, reading and flushing fail now and then."""
    rng = random.Random(seed)
    Unreliable('pwrite', [errno.EIO, errno.ENOSPC], rng)
    Unreliable('fdatasync', [errno.EIO, errno.ENOSPC], rng)
    Unreliable('preadv', [errno.EIO], rng)
    room._PAUSE = room._FULL = 0.005


def use(directory, tally_path, seed, quota=0, evicting=False, faults=False):
    """Read at random places until somebody kills this process.

    :param quota: as of the store
    :param evicting: let go of blocks at random
    :param faults: the disk fails now and then
    :returns: where something else was read; else it goes on
    """
    flusher._SECONDS = 0.01
    tally = Tally(tally_path)
    store = _store.Store(directory, quota_bytes=quota, block_bytes=BLOCK)
    blocks = store.open(KEY, len(DATA), IDENTITY)
    durable = blocks.present
    served, wrong = [0] * _READERS, []
    real_flush = blocks.flush

    def tell():
        tally.tell(sum(served), durable)

    def flush():
        nonlocal durable
        count = real_flush()
        durable += count
        tell()
        return count

    blocks.flush = flush
    if faults:
        break_disk(seed)
    tell()
    image = cached(blocks)

    def work(number):
        rng = random.Random(f'{seed}.{number}')
        reader = image.reader()
        while not wrong:
            offset = rng.randrange(len(DATA))
            length = rng.randrange(1, 8 * BLOCK)
            length = min(length, len(DATA) - offset)
            try:
                if not read(reader, offset, length):
                    wrong.append((offset, length))
            except Exception as exc:
                wrong.append((offset, length, repr(exc)))
            served[number] += 1
            if evicting and rng.random() < 0.2:
                with contextlib.suppress(exceptions.TransferError):
                    blocks.evict(rng.sample(range(COUNT), 40))
            tell()

    threads = [
        threading.Thread(target=work, args=(number,), daemon=True)
        for number in range(_READERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def own(directory, owner):
    """Have a directory until this process is killed."""
    with_it = _store.Store(directory, quota_bytes=0, owner=owner)
    threading.Event().wait(forkserver.END_SECONDS)
    with_it.close()


def recover(directory):
    """Open a directory with others; returns what was right and found.

    None where another one has it.
    """
    try:
        store = _store.Store(directory, quota_bytes=0, block_bytes=BLOCK)
    except exceptions.Unavailable:
        return None
    blocks = store.open(KEY, len(DATA), IDENTITY)
    with cached(blocks) as image:
        right = read(image.reader(), 0, len(DATA))
        fetched = image.statistics()['bytes_fetched']
    blocks.close()
    store.close()
    return right, fetched
