# SPDX-License-Identifier: Apache-2.0
"""A copy is whole or it is an error, whatever streams do meanwhile."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
import types

import pytest

from oslo_transfer import copier
from oslo_transfer import digest
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import growth
from oslo_transfer import journal
from oslo_transfer import progress
from oslo_transfer import ranges
from tests.unit import fakes

MIB = 1 << 20
DATA = random.Random(1).randbytes(12 * MIB)
pytestmark = pytest.mark.usefixtures('nothing_left')


@pytest.fixture
def setting(conf, tmp_path):
    conf.set_override('segment_bytes', MIB, group='oslo_transfer')
    conf.set_override('sync_bytes', MIB, group='oslo_transfer')
    conf.set_override('buffer_bytes', 64 << 10, group='oslo_transfer')
    return Setting(conf, tmp_path)


class Setting:
    def __init__(self, conf, tmp_path):
        self.conf = conf
        self.directory = tmp_path
        self.source = fakes.MemorySource(DATA, step=64 << 10)
        self.sink = fakes.MemorySink()
        self.ctx = fakes.make_ctx(conf)
        self.journal = journal.Journal(
            str(tmp_path / 'journal'),
            1,
            journal.Identity('s', '"v"', None, len(DATA)),
            None,
        )
        self.digester = None
        self.joinable = True
        self.progress = progress.Progress(None)

    def run(self, size=len(DATA), held=()):
        job = copier.Job(
            source=self.source,
            sink=self.sink,
            size=size,
            limit=1 << 30,
            held=ranges.RangeSet(held),
            digester=self.digester,
            taps=(),
            journal=self.journal,
            progress=self.progress,
            joinable=self.joinable,
        )
        self.copier = copier.Copier(job, self.ctx)
        try:
            return self.copier.run()
        finally:
            self.journal.close()


@pytest.fixture
def eager(monkeypatch):
    """All streams that are allowed, at once."""
    monkeypatch.setattr(
        growth.Growth,
        'wants_more',
        lambda self, streams, **_rest: streams < self._most,
    )


def slowly(stream, position, count):
    threading.Event().wait(0.002)


def test_many_streams_bring_all(setting, eager):
    setting.source.before_read = slowly
    assert setting.run() == len(DATA)
    assert setting.sink.content == DATA
    assert len(setting.source.streams) > 2


@pytest.fixture
def slow_ends(monkeypatch):
    """Threads that take their time to end when their work is done."""

    class Slow(threading.Thread):
        def run(self):
            super().run()
            threading.Event().wait(0.15)

    monkeypatch.setattr(copier.threading, 'Thread', Slow)


def fail_behind(place):
    def fail(stream, position, count):
        if position >= place:
            fakes.unavailable()

    return fail


def test_only_stream_that_fails_is_an_error(setting, slow_ends):
    """Its thread is no other stream that could do its part."""
    setting.source.before_read = fail_behind(MIB // 2)
    with pytest.raises(exceptions.Unavailable):
        setting.run()


def test_last_stream_that_fails_is_an_error(setting, eager, slow_ends):
    """The others have ended, and do not do its part any more."""

    def fail(stream, position, count):
        if position < MIB:
            slowly(stream, position, count)
            if len(setting.copier._ended) >= len(setting.copier._workers) - 1:
                fakes.unavailable()

    setting.source.before_read = fail
    with pytest.raises(exceptions.Unavailable):
        setting.run()


def test_what_a_stream_gives_back_late_is_done(setting, eager, monkeypatch):
    """The other had nothing to do, and was about to end."""
    setting.source.geometry = base.Geometry(max_streams=2)
    idle, failed = threading.Event(), threading.Event()
    take = copier.claims.WorkList.take

    def slow_take(self, split):
        claim = take(self, split)
        if claim is None:
            idle.set()
            failed.wait(10)
            threading.Event().wait(0.15)
        return claim

    def fail(stream, position, count):
        if position == 0 and not failed.is_set():
            assert idle.wait(10)
            failed.set()
            fakes.unavailable()
        slowly(stream, position, count)

    monkeypatch.setattr(copier.claims.WorkList, 'take', slow_take)
    setting.source.before_read = fail
    assert setting.run() == len(DATA)
    assert setting.sink.content == DATA


@pytest.fixture
def disk(setting, monkeypatch):
    """A source that is read in place, in strips of 1 MiB."""
    monkeypatch.setattr(copier, '_STRIP', MIB)
    setting.joinable = False
    setting.source.in_place = True
    setting.source.geometry = base.Geometry(first_streams=2, max_streams=2)
    return setting


def test_streams_of_a_disk_take_turns(disk):
    """Two from the start, never far apart, though nothing is pinned."""
    both = threading.Barrier(2)

    def meet(stream, position, count):
        if count and position in (0, MIB):
            both.wait(10)

    disk.source.before_read = meet
    assert disk.run() == len(DATA)
    assert disk.sink.content == DATA
    starts = [start for start, _length in disk.source.streams]
    # The one that is done first takes a part of the other's last strip.
    assert starts.count(0) == starts.count(MIB) == 1
    assert set(starts) >= set(range(0, len(DATA), MIB))
    assert len(starts) <= len(DATA) // MIB + 2


def test_small_disk_is_read_by_one(disk):
    both = []
    disk.source.before_read = lambda stream, *_rest: both.append(stream)
    assert disk.run(size=MIB) == MIB
    assert len(set(both)) == 1


def test_disk_that_breaks_is_not_patched(disk):
    """What comes behind a break may be another version's."""

    def fail(stream, position, count):
        slowly(stream, position, count)
        if position == MIB + MIB // 2:
            fakes.unavailable()

    disk.source.before_read = fail
    with pytest.raises(exceptions.Unavailable):
        disk.run()


def test_others_do_the_part_of_a_stream_that_fails(setting, eager):
    """One stream too many for a server is no error."""
    failed = []
    lock = threading.Lock()

    def fail(stream, position, count):
        slowly(stream, position, count)
        with lock:
            if position > 6 * MIB and not failed:
                failed.append(position)
                fakes.unavailable()

    setting.source.before_read = fail
    assert setting.run() == len(DATA)
    assert setting.sink.content == DATA
    assert failed


@pytest.mark.parametrize(
    'error',
    [
        exceptions.NotFound('x'),
        exceptions.SourceChanged('x'),
        exceptions.NoSpace('x'),
        MemoryError(),
        KeyboardInterrupt(),
    ],
)
def test_what_others_cannot_mend_is_an_error(setting, eager, error):
    def fail(stream, position, count):
        slowly(stream, position, count)
        if position > 6 * MIB:
            raise error

    setting.source.before_read = fail
    with pytest.raises(type(error)):
        setting.run()


def test_source_that_ends_early_is_an_error(setting):
    setting.source.data = DATA[: 5 * MIB]
    whole = fakes.MemoryStream.readinto

    def short(stream, buffer):
        stream._end = min(stream._end, 5 * MIB)
        return whole(stream, buffer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes.MemoryStream, 'readinto', short)
        with pytest.raises(exceptions.Unavailable, match='ended at byte'):
            setting.run()


def test_source_that_sends_more_is_an_error(setting):
    whole = fakes.MemorySource.stream

    def longer(source, offset, length):
        return whole(source, offset, length + 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes.MemorySource, 'stream', longer)
        with pytest.raises(exceptions.ProtocolError, match='more than'):
            setting.run(size=5 * MIB)


def test_only_what_is_missing_is_read(setting):
    held = [(MIB, 3 * MIB), (10 * MIB, 12 * MIB)]
    for start, end in held:
        setting.sink.content.extend(bytes(end - len(setting.sink.content)))
        setting.sink.content[start:end] = DATA[start:end]
    assert setting.run(held=held) == len(DATA)
    assert setting.sink.content == DATA
    for offset, length in setting.source.streams:
        for start, end in held:
            assert offset + length <= start or offset >= end


def test_journal_that_cannot_be_written_is_an_error_or_none(setting):
    """Never a thread that dies of it, never a copy that is not whole."""
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) > 3:
            raise exceptions.NoSpace('the journal does not fit')

    setting.journal.save = fail
    try:
        setting.run()
    except exceptions.NoSpace:
        return
    assert setting.sink.content == DATA


def test_flush_that_fails_is_an_error(setting):
    setting.source.before_read = slowly

    def fail(name):
        if name == 'sync':
            raise exceptions.StorageError('the disk is broken')

    setting.sink.before = fail
    with pytest.raises(exceptions.StorageError):
        setting.run()
    assert setting.copier.damaged


@pytest.mark.parametrize('number', [1, 3])
def test_flush_that_fails_late_is_an_error(setting, number):
    """The system tells it once, so nobody may look away.

    All bytes have arrived when the flush fails; a further one would
    succeed, and mean nothing.
    """
    done = threading.Event()
    flushes = []

    def sync(name):
        if name == 'sync':
            flushes.append(name)
            if len(flushes) == number:
                done.wait(10)
                threading.Event().wait(0.1)
                raise exceptions.StorageError('the disk is broken')

    def before_read(stream, position, count):
        slowly(stream, position, count)
        if position + count == len(DATA):
            done.set()

    setting.sink.before = sync
    setting.source.before_read = before_read
    with pytest.raises(exceptions.StorageError):
        setting.run()
    assert setting.copier.damaged


def test_flush_that_fails_is_told_with_another_error(setting, eager):
    """An error that others can mend does not hide it."""
    failing = threading.Event()

    def sync(name):
        if name == 'sync':
            failing.wait(10)
            raise exceptions.StorageError('the disk is broken')

    def fail(stream, position, count):
        slowly(stream, position, count)
        if position > 6 * MIB and not failing.is_set():
            failing.set()
            fakes.unavailable()

    setting.sink.before = sync
    setting.source.before_read = fail
    with pytest.raises(exceptions.StorageError):
        setting.run()


def test_slow_flush_does_not_hold_up_a_cancel(setting):
    """Nor does it write to the journal when it ends at last."""
    cancel, over = threading.Event(), threading.Event()
    setting.ctx = setting.ctx.replace(cancel=cancel)

    def sync(name):
        if name == 'sync':
            cancel.set()
            over.wait(10)

    setting.sink.before = sync
    setting.source.before_read = slowly
    started = time.monotonic()
    with pytest.raises(exceptions.TransferCancelled):
        setting.run()
    assert time.monotonic() < started + 1
    os.unlink(setting.directory / 'journal')
    over.set()
    while any(
        thread.name == 'oslo-transfer-sync' for thread in threading.enumerate()
    ):
        threading.Event().wait(0.01)
    assert not os.listdir(setting.directory)


def test_pause_does_not_look_like_the_end(setting, monkeypatch):
    """A process that was stopped for a minute goes on, and reads all."""
    clock = [0.0]

    def monotonic():
        clock[0] += 60
        return clock[0]

    monkeypatch.setattr(
        copier, 'time', types.SimpleNamespace(monotonic=monotonic)
    )
    assert setting.run(size=None) == len(DATA)
    assert setting.sink.content == DATA


def test_nothing_is_noted_as_durable_before_the_flush(setting):
    """Data first, then the note that it is there."""
    setting.source.before_read = slowly
    sink, problems = setting.sink, []
    flushed = ranges.RangeSet()
    saved = setting.journal.save

    def save(written, synced, durable=False):
        problems.extend(
            span for span in synced if flushed.frontier(span[0]) < span[1]
        )
        saved(written, synced, durable)

    def sync():
        begun = setting.copier._checkpoint._in_place.copy()
        fakes.MemorySink.sync(sink)
        for span in begun:
            flushed.add(*span)

    sink.sync = sync
    setting.journal.save = save
    setting.run()
    assert not problems
    assert 'sync' in sink.names()


def test_tail_of_zeros_is_hashed_whatever_the_order(setting, eager, conf):
    """Zeros that are not written count for the digest all the same."""
    data = DATA[: 6 * MIB] + bytes(6 * MIB)
    setting.source.data = data
    setting.source.before_read = slowly
    setting.sink = fakes.MemorySink(bytes(len(data)), zeroed=True)
    setting.digester = digest.Digester(
        'sha256',
        setting.ctx,
        buffer_bytes=64 << 10,
        queue_bytes=MIB,
        read_back=setting.sink.pread,
    )
    setting.run()
    found = setting.digester.finish(len(data))
    assert found == hashlib.sha256(data).hexdigest()
    assert setting.sink.content == data
    assert setting.copier.bytes_written < 7 * MIB
