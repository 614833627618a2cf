# SPDX-License-Identifier: Apache-2.0
"""A system call that fails is an error, or makes no difference.

Never a success with wrong bytes, never a destination that is half done,
never anything left but what a later copy goes on with.
"""

from __future__ import annotations

import hashlib
import os
import random

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer import flight
from oslo_transfer import journal as journals
from oslo_transfer import ranges
from tests.functional import forkserver
from tests.servers import resource

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group'),
]

MIB = 1 << 20
KIB = 1 << 10
SIZE = 4 * MIB
DATA = resource.pattern(2 * MIB) + bytes(MIB) + resource.pattern(MIB, seed=1)
OLD = b'what was there before'
VALUE = hashlib.sha256(DATA).hexdigest()
SHA256 = {'hash_algo': 'sha256', 'hash_value': VALUE}
HELD = 5 * MIB // 2
CONF = {
    'segment_bytes': MIB,
    'sync_bytes': MIB,
    'buffer_bytes': 256 * KIB,
}
SAMPLE = 16  # For each scenario in CI; all of them in a campaign.

ERRORS = ['EIO', 'ENOSPC', 'EDQUOT', 'EROFS', 'EMFILE', 'EINTR', 'ENOMEM']
DATA_CALLS = ['pwrite64', 'preadv2', 'ftruncate', 'fallocate', 'lseek']
FLUSHES = ['fsync', 'fdatasync']
NAMES = ['openat', 'linkat', 'rename', 'unlink', 'close', 'newfstatat']
OTHERS = ['flock', 'fchmod', 'fchown', 'fstatfs', 'ioctl']
CALLS = DATA_CALLS + FLUSHES + NAMES + OTHERS

# What a mount, a quota or a bad block would do to all of a kind of calls.
NUMBERS = ['1', '2', '3', '1+', '3+']

SCENARIOS = {
    'fresh': {},
    'digest': SHA256,
    'overwrite': {'overwrite': True, **SHA256},
    'resume': SHA256,
    'preallocate': {'conf': {**CONF, 'preallocate': True}},
    'file': SHA256,
    'clone': {},
}


class Place:
    """A destination, and the source of a scenario."""

    def __init__(self, scenario, directory, server):
        self.scenario = scenario
        self.directory = directory / 'there'
        self.directory.mkdir()
        self.dst = self.directory / 'image'
        self.src = server.put('/image', DATA)
        if scenario in ('file', 'clone'):
            path = directory / 'src'
            path.write_bytes(DATA)
            self.src = str(path)
        self.part = flight.part_path(str(self.dst))
        self.journal = flight.journal_path(self.part)
        self.options = {'conf': CONF, **SCENARIOS[scenario]}

    @property
    def paths(self):
        """Where calls fail: at the source if it is a file."""
        if self.scenario == 'file':
            return [self.src]
        return [self.dst, self.part, self.journal, self.directory]

    def renew(self):
        """As it was before a copy."""
        for name in os.listdir(self.directory):
            os.unlink(self.directory / name)
        if self.options.get('overwrite'):
            self.dst.write_bytes(OLD)
        if self.scenario == 'resume':
            self.hold()

    def hold(self):
        """Leave what a copy leaves that was killed."""
        with open(self.part, 'wb') as file:
            file.write(DATA[:HELD])
            file.truncate(SIZE)
        note = journals.Journal(
            self.journal,
            os.stat(self.part).st_ino,
            journals.Identity('any', None, f'sha256:{VALUE}', SIZE),
            None,
        )
        held = ranges.RangeSet([(0, HELD)])
        note.save(held, held)
        note.close()

    def content(self):
        return self.dst.read_bytes() if self.dst.exists() else None

    def assert_untouched(self, locked=True):
        """As it was, and beside it nothing but what can be gone on with.

        :param locked: False if the part file could not even be locked: then
            nobody may take it away, and it is left as it is
        """
        before = OLD if self.options.get('overwrite') else None
        assert self.content() == before
        left = {os.fspath(self.directory / n) for n in self.names()}
        left.discard(os.fspath(self.dst))
        if not locked:
            return
        # Nothing, or both: one is no use without the other.
        assert left in (set(), {self.part, self.journal})

    def names(self):
        return os.listdir(self.directory)

    def copy_again(self, conf):
        """The next copy is right, and leaves nothing."""
        for name, value in CONF.items():
            conf.set_override(name, value, group='oslo_transfer')
        result = oslo_transfer.copy(
            self.src, self.dst, conf=conf, overwrite=True, **SHA256
        )
        assert self.content() == DATA
        assert self.names() == ['image']
        return result


def fail_and_repeat(place, strace, conf, call, error, number):
    """Make calls fail in a copy, look at what it did, and repeat it."""
    place.renew()
    outcome, calls = strace.run(
        f'{call}:error={error}:when={number}',
        place.paths,
        forkserver.copy,
        place.src,
        str(place.dst),
        **place.options,
    )
    injected = [each for each in calls if '(INJECTED)' in each.rest]
    if isinstance(outcome, oslo_transfer.TransferResult):
        assert place.content() == DATA
        left = set(place.names()) - {'image'}
        # What cannot be removed stays.
        assert not left or call in ('unlink', 'newfstatat'), left
    elif not isinstance(outcome, exceptions.TransferError):
        raise AssertionError(f'{outcome!r} is not typed') from outcome
    elif place.content() == DATA:
        # It is there, and whether it stays there is not known.
        assert is_after_the_name(injected), outcome
    elif call != 'unlink':
        place.assert_untouched(locked=call != 'flock')
    result = place.copy_again(conf)
    if (
        isinstance(outcome, exceptions.TransferError)
        and place.scenario not in ('file', 'clone')
        and any(each.name == 'fsync' for each in injected)
        and not result.reused
    ):
        assert 'resumed' not in result.bytes_by_origin
    return bool(injected)


def is_after_the_name(injected):
    """Whether what failed comes when the destination has its name."""
    return bool(injected) and injected[-1].name in (
        'openat',
        'fsync',
        'close',
        'newfstatat',
        'lstat',
    )


def all_faults():
    for call in CALLS:
        for error in ERRORS:
            # What is interrupted for ever is tried for ever.
            for number in NUMBERS[:3] if error == 'EINTR' else NUMBERS:
                yield call, error, number


def run_faults(scenario, faults, strace, conf, server, tmp_path):
    place = Place(scenario, tmp_path, server)
    injected = 0
    for call, error, number in faults:
        try:
            injected += fail_and_repeat(
                place, strace, conf, call, error, number
            )
        except AssertionError as exc:
            raise AssertionError(f'{call} {error} {number}') from exc
    return injected


@pytest.mark.parametrize('scenario', SCENARIOS)
def test_call_that_fails(scenario, strace, conf, server, tmp_path):
    rng = random.Random(scenario)
    faults = rng.sample(list(all_faults()), SAMPLE)
    run_faults(scenario, faults, strace, conf, server, tmp_path)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('calls', [DATA_CALLS, FLUSHES, NAMES, OTHERS])
@pytest.mark.parametrize('scenario', SCENARIOS)
def test_every_call_that_fails(
    scenario, calls, strace, conf, server, tmp_path
):
    faults = [fault for fault in all_faults() if fault[0] in calls]
    run_faults(scenario, faults, strace, conf, server, tmp_path)


@pytest.mark.parametrize('scenario', ['fresh', 'digest', 'resume'])
@pytest.mark.parametrize('error', ['EIO', 'ENOSPC', 'EDQUOT'])
def test_flush_that_fails_drops_the_part(
    error, scenario, strace, conf, server, tmp_path
):
    """The system tells it once, so what was written counts for nothing."""
    place = Place(scenario, tmp_path, server)
    place.renew()
    outcome, calls = strace.run(
        f'fsync:error={error}:when=1',
        [place.part],
        forkserver.copy,
        place.src,
        str(place.dst),
        **place.options,
    )
    assert any('(INJECTED)' in each.rest for each in calls)
    assert isinstance(outcome, exceptions.StorageError | exceptions.NoSpace)
    assert not outcome.retryable
    assert place.names() == []
    result = place.copy_again(conf)
    assert result.bytes_by_origin == {'origin': SIZE}


def test_part_that_cannot_be_read_is_dropped(strace, conf, server, tmp_path):
    """Else its bad block would be in the way of each further copy."""
    place = Place('resume', tmp_path, server)
    place.renew()
    outcome, _calls = strace.run(
        'preadv2:error=EIO',
        [place.part],
        forkserver.copy,
        place.src,
        str(place.dst),
        **place.options,
    )
    assert isinstance(outcome, exceptions.StorageError)
    assert place.names() == []
    result = place.copy_again(conf)
    assert result.bytes_by_origin == {'origin': SIZE}


@pytest.mark.parametrize('error', ['EIO', 'ENOSPC', 'EROFS', 'EMFILE'])
@pytest.mark.parametrize('number', ['1', '4'])
def test_error_says_what_a_caller_can_do(
    number, error, strace, server, tmp_path
):
    place = Place('fresh', tmp_path, server)
    outcome, _calls = strace.run(
        f'pwrite64:error={error}:when={number}',
        [place.part],
        forkserver.copy,
        place.src,
        str(place.dst),
        **place.options,
    )
    kinds = {
        'EIO': exceptions.StorageError,
        'ENOSPC': exceptions.NoSpace,
        'EROFS': exceptions.AccessDenied,
        'EMFILE': exceptions.Unavailable,
    }
    assert type(outcome) is kinds[error]
    assert place.part in str(outcome)
    assert outcome.retryable == (error == 'EMFILE')


def test_destination_survives_what_fails_after_its_name_is_given(
    strace, conf, server, tmp_path
):
    """The part file has two names for a moment; it must not be cut."""
    place = Place('fresh', tmp_path, server)
    server.put('/image', DATA, etag=None)  # Nothing of it can be kept.
    outcome, _calls = strace.run(
        'unlink:error=EIO',
        place.paths,
        forkserver.copy,
        place.src,
        str(place.dst),
        **place.options,
    )
    assert isinstance(
        outcome, oslo_transfer.TransferResult | exceptions.TransferError
    )
    assert place.content() == DATA
    place.copy_again(conf)


def test_every_short_write_is_written_on(conf, tmp_path, monkeypatch):
    """Disks that take a little of each buffer."""
    src, dst = tmp_path / 'src', tmp_path / 'dst'
    src.write_bytes(DATA)
    pwrite = os.pwrite
    rng = random.Random(1)

    def short(fd, data, offset):
        if len(data) > 10_000:
            data = data[: rng.randrange(1, len(data))]
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, 'pwrite', short)
    oslo_transfer.copy(src, dst, 'full_copy', conf=conf)
    assert dst.read_bytes() == DATA


def test_every_short_read_is_read_on(conf, tmp_path, monkeypatch):
    src, dst = tmp_path / 'src', tmp_path / 'dst'
    src.write_bytes(DATA)
    preadv = os.preadv
    rng = random.Random(1)

    def short(fd, buffers, offset):
        (buffer,) = buffers
        if len(buffer) > 10_000:
            buffer = buffer[: rng.randrange(1, len(buffer))]
        return preadv(fd, [buffer], offset)

    monkeypatch.setattr(os, 'preadv', short)
    seen = Observer()
    oslo_transfer.copy(
        src, dst, 'full_copy', conf=conf, observers=[seen], **SHA256
    )
    assert dst.read_bytes() == DATA
    assert seen.state.hexdigest() == VALUE


class Observer:
    def __init__(self):
        self.state = hashlib.sha256()

    def update(self, data):
        self.state.update(data)


def test_no_descriptors_are_left_to_open(server, children, tmp_path):
    """An error, and none that looks like a broken disk (EMFILE)."""
    place = Place('digest', tmp_path, server)
    seen = set()
    for limit in range(4, 18):
        place.renew()
        child = children.start(
            forkserver.copy_with_limit,
            'RLIMIT_NOFILE',
            limit,
            place.src,
            str(place.dst),
            **place.options,
        )
        try:
            result = child.result()
        except exceptions.TransferError as exc:
            seen.add(type(exc).__name__)
            place.assert_untouched()
        else:
            assert result.verified
            assert place.content() == DATA
            seen.add('success')
    assert 'success' in seen
    assert len(seen) > 1
