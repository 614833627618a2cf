# SPDX-License-Identifier: Apache-2.0
"""What is read from the cache is what was put, or nothing."""

from __future__ import annotations

import collections
import os
import pathlib
import random
import shutil
import socket
import sys
import tempfile
import threading
import time

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st
import pytest

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer import exceptions
from tests.unit import small
from tests import waiting


BLOCK, SIZE = small.BLOCK, small.SIZE
content, length, open_image, read = (
    small.content,
    small.length,
    small.open_image,
    small.read,
)


class Cache(stateful.RuleBasedStateMachine):
    """Put, flush, evict, die, rot: never another byte than was put."""

    blocks = st.integers(0, SIZE // BLOCK)

    def __init__(self):
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.path = pathlib.Path(self.directory, 'object')
        self.image = open_image(self.path)
        self.put_ones = {}
        self.durable = set()

    def teardown(self):
        self.image.close()
        shutil.rmtree(self.directory)

    @stateful.rule(index=blocks, seed=st.integers(0, 3))
    def put(self, index, seed):
        if index in self.put_ones:
            return
        self.image.put(index, memoryview(content(seed, index)))
        self.put_ones[index] = content(seed, index)

    @stateful.rule(index=blocks)
    def read(self, index):
        assert read(self.image, index) == self.put_ones.get(index)

    @stateful.rule()
    def flush(self):
        self.image.flush()
        self.durable = set(self.put_ones)

    @stateful.rule(some=st.sets(blocks))
    def evict(self, some):
        held = some & self.put_ones.keys()
        # What was found damaged before dying is found again.
        assert self.image.evict(some) >= len(held)
        for index in held:
            del self.put_ones[index]
        self.durable -= held

    @stateful.rule()
    def die(self):
        """What was not flushed may be missing; the rest is there."""
        self.image.close()
        self.image = open_image(self.path)
        for index in [*self.put_ones]:
            found = read(self.image, index)
            if index in self.durable or found is not None:
                assert found == self.put_ones[index]
                self.durable.add(index)
            else:
                del self.put_ones[index]

    @stateful.precondition(lambda self: self.durable)
    @stateful.rule(data=st.data())
    def rot(self, data):
        """A bit flips on the disk while nobody has the file open."""
        self.die()
        if not self.durable:
            return
        index = data.draw(st.sampled_from(sorted(self.durable)))
        self.flip(
            'data',
            index * BLOCK + data.draw(st.integers(0, length(index) - 1)),
            data,
        )
        assert read(self.image, index) is None
        assert self.image.damaged == 1
        del self.put_ones[index]
        self.durable.discard(index)

    @stateful.rule(data=st.data())
    def rot_of_map(self, data):
        """A bit of the map flips: blocks may be missing, none is wrong."""
        self.die()
        last = (self.path / 'map').stat().st_size - 1
        self.flip('map', data.draw(st.integers(0, last)), data)
        for index in [*self.put_ones]:
            found = read(self.image, index)
            if found is None:
                del self.put_ones[index]
                self.durable.discard(index)
            else:
                assert found == self.put_ones[index]

    def flip(self, name, place, data):
        self.image.close()
        with open(self.path / name, 'r+b') as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << data.draw(st.integers(0, 7))]))
        self.image = open_image(self.path)


TestCache = Cache.TestCase
TestCache.settings = hypothesis.settings(
    max_examples=40, stateful_step_count=30, deadline=None
)


def test_another_version_begins_with_nothing(tmp_path):
    image = open_image(tmp_path / 'object')
    image.put(0, memoryview(content(1, 0)))
    image.flush()
    image.close()
    image = open_image(tmp_path / 'object', bytes(32))
    assert not any(image.has(index) for index in range(image.count))
    image.close()
    # Neither does going back bring anything back.
    image = open_image(tmp_path / 'object')
    assert not image.has(0)
    image.close()


def test_holes_take_no_space(tmp_path):
    image = open_image(tmp_path / 'object')
    image.put(1, memoryview(bytes(BLOCK)))
    assert read(image, 1) == bytes(BLOCK)
    assert os.stat(tmp_path / 'object' / 'data').st_blocks == 0
    image.close()


def test_evicting_leaves_what_is_pinned(tmp_path):
    image = open_image(tmp_path / 'object')
    image.put(1, memoryview(content(1, 1)))
    with image.pinned(BLOCK, BLOCK) as there:
        assert there == BLOCK
        assert image.evict([1]) == 0
        assert os.pread(image.fd, BLOCK, BLOCK) == content(1, 1)
    assert image.evict([1]) == 1
    assert os.stat(tmp_path / 'object' / 'data').st_blocks == 0
    image.close()


def test_evicting_leaves_what_is_claimed(tmp_path):
    image = open_image(tmp_path / 'object')
    for index in (1, 2):
        image.put(index, memoryview(content(1, index)))
    mine = image.claimer()
    assert mine.claim(BLOCK + 7, BLOCK) == BLOCK
    assert image.evict([1, 2]) == 0
    assert os.pread(image.fd, 2 * BLOCK, BLOCK) == content(1, 1) + content(
        1, 2
    )
    # What is behind a gap is not claimed.
    assert mine.claim(2 * BLOCK, 3 * BLOCK) == BLOCK
    assert mine.claim(0, 2 * BLOCK) == 0
    mine.release()
    assert image.evict([1, 2]) == 2
    assert mine.claim(BLOCK, BLOCK) == 0
    image.close()


class Look:
    """Stands for the bytes that tell what is there; others get between."""

    def __init__(self, checked, before, after):
        self._checked, self._before, self._after = checked, before, after

    def find(self, *args):
        self._before()
        found = self._checked.find(*args)
        self._after()
        return found


@pytest.mark.parametrize('before', [False, True])
def test_evicting_in_the_midst_of_a_claim(tmp_path, before):
    """Just before a claim looks, and just after: it gets what it claims."""
    image = open_image(tmp_path / 'object')
    image.put(1, memoryview(content(1, 1)))
    mine = image.claimer()

    def act():
        image.evict([1])

    def rest():
        pass

    mine._checked = Look(
        mine._checked, *((act, rest) if before else (rest, act))
    )
    assert mine.claim(BLOCK, BLOCK) == BLOCK
    assert os.pread(image.fd, BLOCK, BLOCK) == content(1, 1)
    mine.release()
    image.close()


def test_claiming_in_the_midst_of_evicting(tmp_path):
    """Just before evicting looks for claims: it is one, or gets nothing."""
    image = open_image(tmp_path / 'object')
    image.put(1, memoryview(content(1, 1)))
    mine = image.claimer()
    got = []

    class Late:
        @property
        def held(self):
            got.append(mine.claim(BLOCK, BLOCK))
            mine.release()

    late = Late()
    image._table._claimers.add(late)
    assert image.evict([1]) == 1
    assert set(got) == {0}
    image.close()


def test_putting_in_the_midst_of_evicting(tmp_path, monkeypatch):
    """What was just let go of comes again: it must not become a hole."""
    image = open_image(tmp_path / 'object')
    image.put(1, memoryview(content(1, 1)))
    written, evicted = threading.Event(), threading.Event()
    real_save, real_write = image._map.save, image._file.write

    def write(view, offset):
        real_write(view, offset)
        written.set()
        assert evicted.wait(10)

    def save(changes):
        real_save(changes)
        putting.start()
        assert written.wait(10)

    putting = threading.Thread(
        target=image.put, args=(1, memoryview(content(1, 1)))
    )
    monkeypatch.setattr(image._file, 'write', write)
    monkeypatch.setattr(image._map, 'save', save)
    assert image.evict([1]) == 1
    evicted.set()
    putting.join()
    assert read(image, 1) == content(1, 1)
    image.close()


def test_evicting_in_the_midst_of_comparing(tmp_path, monkeypatch):
    """A block that was right a moment ago, and is gone, is not there."""
    image = open_image(tmp_path / 'object')
    image.put(1, memoryview(content(1, 1)))
    real = image._file.read

    def read_then_lose(view, offset):
        count = real(view, offset)
        image.evict([1])
        return count

    monkeypatch.setattr(image._file, 'read', read_then_lose)
    assert not image.compare(1)
    assert image.claimer().claim(BLOCK, BLOCK) == 0
    assert image.damaged == 0
    image.close()


def test_claimed_blocks_stay_while_others_evict(tmp_path):
    """Whoever wins a race: what is claimed is what was put."""
    image = open_image(tmp_path / 'object')
    done = threading.Event()
    wrong = []
    claimed = collections.Counter()

    def claim(seed):
        rng = random.Random(seed)
        mine = image.claimer()
        while not done.is_set():
            first = rng.randrange(image.count)
            wanted = rng.randrange(1, 4) * BLOCK
            offset = first * BLOCK
            count = mine.claim(offset, min(wanted, SIZE - offset))
            if count:
                claimed[seed] += 1
                # Holding still while another evicts is the point of it.
                if os.pread(image.fd, count, offset) != whole[offset:][:count]:
                    wrong.append(first)

    def evict(seed):
        rng = random.Random(seed)
        while not done.is_set():
            image.evict(rng.sample(range(image.count), 3))

    whole = b''.join(content(1, index) for index in range(image.count))
    threads = [
        threading.Thread(target=work, args=(seed,))
        for seed, work in enumerate([claim, claim, claim, evict, evict])
    ]
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        end = time.monotonic() + 1
        while time.monotonic() < end and not wrong:
            for index in range(image.count):
                image.put(index, memoryview(content(1, index)))
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(switching)
    assert not wrong
    assert min(claimed[seed] for seed in range(3)) > 10
    image.close()


def test_extents_tell_zeros(tmp_path):
    image = open_image(tmp_path / 'object')
    for index in (1, 3, 4, 9):
        image.put(index, memoryview(content(index == 1, index)))
    expected = [(3 * BLOCK - 5, False), (2 * BLOCK, True)]
    expected += [(4 * BLOCK, False), (17, True)]
    assert [*image.extents(5, SIZE - 5)] == expected
    assert [*image.extents(4 * BLOCK + 1, 7)] == [(7, True)]
    image.flush()
    image.close()
    image = open_image(tmp_path / 'object')
    assert [*image.extents(5, SIZE - 5)] == expected
    image.close()


def sent(fd, offset, length):
    """Send a part of a file; returns what tells what comes out."""
    ours, peer = socket.socketpair()
    peer.settimeout(10)
    assert os.sendfile(ours.fileno(), fd, offset, length) == length
    ours.close()

    def received():
        with peer:
            return peer.recv(length, socket.MSG_WAITALL)

    return received


def test_hole_at_the_end_leaves_what_was_sent():
    """The last page goes as a whole; it is not written to."""
    image = _blocks.Blocks(None, SIZE, BLOCK, small.IDENTITY)
    last = SIZE // BLOCK
    image._file.write(memoryview(content(1, last)), last * BLOCK)
    received = sent(image.fd, last * BLOCK, length(last))
    image._file.punch(last * BLOCK, length(last))
    assert image._file.disk_bytes() == 0
    assert os.fstat(image.fd).st_size == SIZE
    assert received() == content(1, last)
    image.close()


def test_what_stays_becomes_no_hole(tmp_path, monkeypatch):
    """Not even where it is lost, and cannot be put again."""
    image = open_image(tmp_path / 'object')
    image.put(1, memoryview(content(1, 1)))
    image.stays = True

    def fail(*_args):
        raise exceptions.StorageError('no')

    monkeypatch.setattr(image._file, 'flush', fail)
    monkeypatch.setattr(image._file, 'write', fail)
    for act in (
        image.flush,
        lambda: image.put(1, memoryview(content(1, 1))),
    ):
        with pytest.raises(exceptions.StorageError):
            act()
    assert read(image, 1) is None
    assert os.pread(image.fd, BLOCK, BLOCK) == content(1, 1)
    image.close()


def test_what_was_to_be_given_away_stays(tmp_path):
    """Others may have sent it as it is, as nothing was to be evicted."""
    image = open_image(tmp_path / 'object')
    image.put(1, memoryview(content(1, 1)))
    with pytest.raises(exceptions.NotFound):
        image.give_away(str(tmp_path / 'nowhere' / 'mine'))
    assert image.evict([1]) == 0
    assert read(image, 1) == content(1, 1)
    image.close()


def test_closing_waits_for_claims(tmp_path):
    """Nobody reads another file that got the number of this one."""
    image = open_image(tmp_path / 'object')
    image.put(1, memoryview(content(1, 1)))
    mine, other = image.claimer(), image.claimer()
    assert mine.claim(BLOCK, BLOCK) == BLOCK
    # One who got nothing, and waits for it, uses nothing.
    assert other.claim(2 * BLOCK, BLOCK) == 0
    closing = threading.Thread(target=image.close)
    closing.start()
    waiting.until(lambda: other.claim(BLOCK, BLOCK) == 0)
    assert os.pread(image.fd, BLOCK, BLOCK) == content(1, 1)
    mine.release()
    closing.join()
    assert image.fd == -1
    assert mine.claim(BLOCK, BLOCK) == 0
    assert not image.has(1)
    assert not image.compare(1)
    assert read(image, 1) is None
    with pytest.raises(exceptions.TransferCancelled):
        image.claimer()
