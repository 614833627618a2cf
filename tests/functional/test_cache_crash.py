# SPDX-License-Identifier: Apache-2.0
"""A cache directory after its process, or its machine, has died anywhere.

Every byte that is read from it is right, and what was flushed is there.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil

import pytest

from oslo_transfer.cache import store as _store
from oslo_transfer import exceptions
from tests.functional import cache_lab
from tests.functional import forkserver
from tests.servers import cutfs
from tests.servers import powercut
from tests import waiting

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group'),
]

MIB = 1 << 20
BLOCK, COUNT = cache_lab.BLOCK, cache_lab.COUNT
QUOTA = 2 * MIB
# Kills of each test in CI, and in a campaign.
KILLS, ALL_KILLS = 3, 50


def killed(children, directory, tally, seed, **mode):
    """Use a directory and be killed at any moment."""
    rng = random.Random(f'{seed} {mode}')
    # The next one may die while it repairs what this one has left.
    for life in range(rng.choice([1, 1, 2, 3])):
        tally.tell(0, 0)
        child = children.start(
            cache_lab.use,
            str(directory / 'cache'),
            str(directory / 'tally'),
            f'{seed}.{life}',
            **mode,
        )
        served, flushed = rng.randrange(40), 0
        if life == 0:
            flushed = rng.randrange(1, COUNT // 2)
        waiting.until(
            lambda: (
                child.wait(0.001)
                or (tally.served >= served and tally.durable >= flushed)
            ),
            forkserver.END_SECONDS,
        )
        # Not only just after something was told.
        child.wait(rng.random() * 0.02)
        child.kill()
        # Any byte that it found wrong would be its result.
        try:
            assert not child.result()
        except forkserver.Died:
            pass


def kill_and_read(children, directory, seed, **mode):
    quota = mode.get('quota', 0)
    directory.mkdir()
    tally = cache_lab.Tally(directory / 'tally')
    killed(children, directory, tally, seed, **mode)
    path = directory / 'cache'
    store = _store.Store(str(path), quota_bytes=quota, block_bytes=BLOCK)
    blocks = store.open(cache_lab.KEY, len(cache_lab.DATA), bytes(range(32)))
    if quota:
        assert used(path) <= quota
    with cache_lab.cached(blocks) as image:
        assert cache_lab.read(image.reader(), 0, len(cache_lab.DATA))
        fetched = image.statistics()['bytes_fetched']
    # Where a disk fails the map may say too much, but not for long.
    assert blocks.damaged == 0 or 'faults' in mode
    if not mode:
        assert fetched <= (COUNT - tally.durable) * BLOCK
    blocks.close()
    store.close()
    return tally.durable


def used(path):
    return sum(file.stat().st_blocks * 512 for file in path.glob('*/*'))


MODES = {
    'all-kept': {},
    'evicting': {'evicting': True},
    'limit': {'quota': QUOTA},
    'failing-disk': {'quota': QUOTA, 'evicting': True, 'faults': True},
}


@pytest.mark.parametrize('mode', MODES)
def test_killed(children, tmp_path, mode):
    durable = [
        kill_and_read(children, tmp_path / str(seed), seed, **MODES[mode])
        for seed in range(KILLS)
    ]
    # Where the disk is too small nothing need have lasted, now and then.
    assert any(durable)


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize('mode', MODES)
def test_killed_many_times(children, tmp_path, mode):
    for seed in range(ALL_KILLS):
        kill_and_read(children, tmp_path / str(seed), seed, **MODES[mode])
        shutil.rmtree(tmp_path / str(seed))


def test_two_processes_race_to_recover(children, tmp_path):
    """One has the directory, and repairs it; the others are refused."""
    tally = cache_lab.Tally(tmp_path / 'tally')
    killed(children, tmp_path, tally, 0)
    racing = [
        children.start(cache_lab.recover, str(tmp_path / 'cache'), wait=True)
        for _ in range(4)
    ]
    for child in racing:
        child.go()
    found = [child.result() for child in racing]
    assert [each for each in found if each is not None]
    for each in found:
        if each is not None:
            right, fetched = each
            assert right
            assert fetched <= (COUNT - tally.durable) * BLOCK


def test_second_process_is_told_the_socket_of_the_first(children, tmp_path):
    child = children.start(
        cache_lab.own, str(tmp_path / 'cache'), '/run/first.sock'
    )
    lock = tmp_path / 'cache' / 'lock'
    waiting.until(lambda: lock.exists() and b'.sock' in lock.read_bytes())
    with pytest.raises(exceptions.Unavailable) as caught:
        _store.Store(str(tmp_path / 'cache'), quota_bytes=0)
    assert f'{child.pid}, which listens at /run/first.sock' in str(
        caught.value
    )
    child.kill()
    child.wait()
    # It goes with its process, whatever happens.
    _store.Store(str(tmp_path / 'cache'), quota_bytes=0).close()


@pytest.fixture
def fuse(need):
    """Leave the test out where FUSE is missing."""
    need('fusermount3', 'setpriv', root=True)


# A power cut: of small objects, so that many states can be looked at.

SMALL = 8192
SMALL_COUNT = 20
SMALL_SIZE = SMALL_COUNT * SMALL - 100
# States looked at in CI, and in a campaign.
CUTS, ALL_CUTS = 60, 3000


def identity_of(version):
    return bytes([version]) * 32


def content(version, index):
    """A block of a version; some are zeros."""
    length = min(SMALL, SMALL_SIZE - index * SMALL)
    rng = random.Random(f'{version}.{index}')
    return bytes(length) if index % 5 == version else rng.randbytes(length)


class Work:
    """Something with each step of a cache, and what must be there then.

    :param directory: of the cache
    :param mark: is told what must be there whatever happens from now on:
        the version, the blocks, and the files that were given away
    """

    def __init__(self, directory, mark, seed):
        self._directory = directory
        self._mark = mark
        self._rng = random.Random(seed)
        self._version = 0
        self._there, self._durable = set(), set()
        self._taken = []
        self._open()

    def _open(self):
        self._store = _store.Store(
            self._directory, quota_bytes=0, block_bytes=SMALL
        )
        self._image = self._store.open(
            'image', SMALL_SIZE, identity_of(self._version)
        )

    def _tell(self):
        self._mark((self._version, sorted(self._durable), [*self._taken]))

    def run(self, steps):
        """Do some of what is possible, and close it."""
        for _ in range(steps):
            name = self._rng.choice(
                ['put', 'put', 'put', 'flush', 'flush', 'evict', 'reopen']
                + ['change'] * (self._rng.random() < 0.2)
                + ['take'] * (self._rng.random() < 0.2)
            )
            getattr(self, f'_{name}')()
        self._image.close()
        self._store.close()

    def _put(self):
        first = self._rng.randrange(SMALL_COUNT)
        end = min(SMALL_COUNT, first + self._rng.randrange(1, 4))
        data = b''.join(
            content(self._version, index) for index in range(first, end)
        )
        self._image.put(first, memoryview(data))
        self._there.update(range(first, end))

    def _flush(self):
        self._image.flush()
        self._durable |= self._there
        self._tell()

    def _evict(self):
        some = self._rng.sample(range(SMALL_COUNT), 4)
        self._durable.difference_update(some)
        self._tell()
        self._image.evict(some)
        self._there.difference_update(some)

    def _reopen(self):
        self._image.close()
        self._store.close()
        self._durable |= self._there
        self._tell()
        self._open()

    def _take(self):
        """It becomes somebody's file, whose name tells what is in it."""
        self._durable = set()
        self._tell()
        there = [each for each in range(SMALL_COUNT) if self._image.has(each)]
        name = '-'.join(map(str, [self._version, *there]))
        self._store.take('image', os.path.join(self._store.taken, name))
        self._taken.append(name)
        self._tell()
        self._image.close()
        self._there = set()
        self._image = self._store.open(
            'image', SMALL_SIZE, identity_of(self._version)
        )

    def _change(self):
        """The origin has another version."""
        self._image.close()
        self._durable, self._there = set(), set()
        self._tell()
        self._version += 1
        self._image = self._store.open(
            'image', SMALL_SIZE, identity_of(self._version)
        )


def check_taken(path):
    """A file that was given away has all that it had then."""
    version, *there = map(int, path.name.split('-'))
    data = path.read_bytes()
    assert len(data) == SMALL_SIZE
    for index in there:
        expected = content(version, index)
        assert data[index * SMALL :][: len(expected)] == expected


def check_state(directory, version, durable, taken):
    """Open what is left: all that is there is right, and all that must be.

    :returns: how many blocks are there
    """
    for path in directory.glob('cache/.taken/*'):
        check_taken(path)
    for name in taken:
        assert (directory / 'cache' / '.taken' / name).exists()
    store = _store.Store(
        str(directory / 'cache'), quota_bytes=0, block_bytes=SMALL
    )
    try:
        found = store.identity_of('image')
        if found is None:
            assert not durable
            return 0
        image = store.open('image', SMALL_SIZE, found)
        there = set()
        for index in range(SMALL_COUNT):
            expected = content(found[0], index)
            buffer = bytearray(len(expected))
            if image.read(memoryview(buffer), index * SMALL):
                assert buffer == expected
                there.add(index)
        # The map claims nothing that is not there.
        assert image.damaged == 0
        if durable:
            assert found == identity_of(version)
            assert there >= set(durable)
        return len(there)
    finally:
        store.close()


def marks(log):
    """Where each part of the log begins that has something to be there."""
    return [
        (number, pickle.loads(operation[1]))
        for number, operation in enumerate(log)
        if operation[0] == 'mark'
    ]


def recorded(directory, seed, steps, before=None):
    """The operations of some work, and where it begins.

    :param before: what was there before, durably
    """
    directory.mkdir()
    with cutfs.mounted(directory) as (mountpoint, read_log):

        def mark(what):
            with open(mountpoint / cutfs.MARK, 'wb') as file:
                file.write(pickle.dumps(what))

        if before is not None:
            copy_durably(before, mountpoint)
        mark((0, [], []))
        Work(str(mountpoint / 'cache'), mark, seed).run(steps)
        return read_log()


def copy_durably(source, target):
    """Copy files, and flush them."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    for path in [target, *target.rglob('*')]:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def cut_at_random(log, rng, directory):
    """A state after a cut, and what must be there."""
    said = marks(log)
    at = rng.randrange(said[0][0], len(log) + 1)
    where = [what for number, what in said if number < at] or [(0, [], [])]
    odds = rng.choice([0, 0.1, 0.5, 0.9, 1])
    directory.mkdir()
    powercut.Cut(log[:at], rng, odds).build(directory)
    return where[-1]


def look_at_cuts(tmp_path, log, seed, count):
    """Cut the power at random; returns how many blocks were found."""
    there = 0
    for number in range(count):
        rng = random.Random(f'{seed}.{number}')
        state = tmp_path / f'state{number}'
        known = cut_at_random(log, rng, state)
        try:
            there += check_state(state, *known)
        except AssertionError as exc:
            raise AssertionError(f'cut {seed}.{number}') from exc
        shutil.rmtree(state)
    return there


@pytest.mark.parametrize('seed', [1, 2])
def test_power_cut(fuse, tmp_path, seed):
    log = recorded(tmp_path / 'fs', seed, 25)
    assert len(log) > 80
    assert look_at_cuts(tmp_path, log, seed, CUTS) > CUTS


def test_power_cut_during_recovery(fuse, tmp_path):
    """What a cut has left is opened, and the power is cut again."""
    log = recorded(tmp_path / 'fs1', 3, 25)
    before = tmp_path / 'before'
    cut_at_random(log, random.Random(4), before)
    log = recorded(tmp_path / 'fs2', 5, 6, before)
    assert look_at_cuts(tmp_path, log, 6, CUTS)


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize('seed', range(10, 14))
def test_power_cut_at_every_operation(fuse, tmp_path, seed):
    log = recorded(tmp_path / 'fs', seed, 60)
    there = look_at_cuts(tmp_path, log, seed, ALL_CUTS // 4)
    assert there > ALL_CUTS // 4
    before = tmp_path / 'before'
    cut_at_random(log, random.Random(seed), before)
    log = recorded(tmp_path / 'again', seed, 20, before)
    assert look_at_cuts(tmp_path, log, -seed, ALL_CUTS // 4)
