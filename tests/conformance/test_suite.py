# SPDX-License-Identifier: Apache-2.0
"""The conformance suite notices what drivers do wrong."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import threading
import typing
import unittest

import pytest

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.testing import harness
from oslo_transfer.testing import memory
from tests.conformance import test_memory

MUTANTS = []
# What takes away what mutants leave behind on purpose.
LEFT = []


@dataclasses.dataclass
class Mutant:
    """A method that does something wrong, and the test that tells."""

    owner: type
    method: str
    test: str
    wrong: typing.Callable
    case: type


def mutant(owner, method, test, case=test_memory.TestMemory):
    """Register what a method does instead."""

    def register(wrong):
        MUTANTS.append(Mutant(owner, method, test, wrong, case))
        return wrong

    return register


@pytest.mark.parametrize('each', MUTANTS, ids=lambda m: m.wrong.__name__)
def test_notices(each, monkeypatch):
    right = getattr(each.owner, each.method)

    def method(self, *args, **kwargs):
        return each.wrong(right, self, *args, **kwargs)

    result = unittest.TestResult()
    each.case(each.test).run(result)
    assert result.wasSuccessful(), result.failures + result.errors
    monkeypatch.setattr(each.owner, each.method, method)
    monkeypatch.setattr(harness, 'PATIENCE', 0.5)
    each.case(each.test).run(result)
    while LEFT:
        LEFT.pop()()
    assert not result.wasSuccessful()


# Streams


stream = memory.MemoryStream, 'readinto'


@mutant(*stream, 'test_every_size')
def loses_the_last_byte(right, self, buffer):
    return max(0, right(self, buffer) - 1)


@mutant(*stream, 'test_every_size')
def ends_in_the_middle(right, self, buffer):
    return 0 if self._position > self._end // 2 else right(self, buffer)


@mutant(*stream, 'test_every_size')
def begins_again_at_the_end(right, self, buffer):
    count = right(self, buffer)
    if not count:
        self._position = 0
    return count


@mutant(*stream, 'test_end_of_run')
def reads_beyond_the_run(right, self, buffer):
    self._end = self._source.content.size
    return right(self, buffer)


@mutant(*stream, 'test_far_offset')
def has_32_bits(right, self, buffer):
    self._position &= 0xFFFFFFFF
    return right(self, buffer)


@mutant(*stream, 'test_buffers')
def wants_bytes(right, self, buffer):
    buffer[:0] = b''
    return right(self, buffer)


@mutant(*stream, 'test_streams_interleaved')
def has_one_position(right, self, buffer):
    shared = vars(self._source)
    self._position = shared.get('position', self._position)
    count = right(self, buffer)
    shared['position'] = self._position
    return count


@mutant(*stream, 'test_streams_at_once')
def has_one_reader(right, self, buffer):
    lock = vars(self._source).setdefault('lock', threading.Lock())
    if not lock.acquire(blocking=False):
        raise exceptions.Unavailable('one at a time')
    threading.Event().wait(0.01)
    try:
        return right(self, buffer)
    finally:
        lock.release()


@mutant(*stream, 'test_limits_hold_without_a_stall')
def ignores_the_limits(right, self, buffer):
    self._source.ctx = self._source.ctx.replace(
        cancel=None, deadline=None, stop=threading.Event()
    )
    return right(self, buffer)


@mutant(*stream, 'test_read_after_close')
def ends_when_closed(right, self, buffer):
    return 0 if self.closed else right(self, buffer)


@mutant(*stream, 'test_read_after_close')
def breaks_when_closed(right, self, buffer):
    if self.closed:
        raise ValueError('closed')
    return right(self, buffer)


@mutant(*stream, 'test_stream_after_close')
def outlives_its_source(right, self, buffer):
    self._source.closed = False
    return right(self, buffer)


@mutant(
    memory.MemoryDriver, 'open_source', 'test_change_while_a_stream_is_read'
)
def gives_what_is_new(right, self, endpoint, ctx):
    source = right(self, endpoint, ctx)
    key = endpoint.host + endpoint.path
    store = self.store

    class Live(type(source)):
        @property
        def content(self):
            return store.find(key).content

        @content.setter
        def content(self, value):
            pass

    source.__class__ = Live
    return source


@mutant(base.Stream, 'splice', 'test_splice')
def splices_nothing(right, self, fd, offset, count):
    return 0


@mutant(base.Stream, 'splice', 'test_splice')
def splices_elsewhere(right, self, fd, offset, count):
    buffer = bytearray(count)
    moved = self.readinto(buffer)
    os.pwrite(fd, buffer[:moved], offset + 1)
    return moved


@mutant(memory.MemoryStream, 'close', 'test_close_is_idempotent')
def closes_once(right, self):
    if self.closed:
        raise exceptions.StorageError('closed already')
    base.Stream.close(self)


# Sources


source = memory.MemorySource, '__init__'


@mutant(memory.MemorySource, 'stream', 'test_any_run')
def ignores_the_offset(right, self, offset, length):
    return right(self, 0, length)


@mutant(
    memory.MemorySource, 'stream', 'test_any_run', test_memory.TestSequential
)
def claims_nothing_and_does_it(right, self, offset, length):
    self.capabilities |= base.Capability.RANDOM_READ
    return right(self, offset, length)


@mutant(memory.MemorySource, 'stream', 'test_beyond_the_end')
def cuts_the_run(right, self, offset, length):
    offset = min(offset, self.size)
    return right(self, offset, min(length or 1 << 60, self.size - offset))


@mutant(*source, 'test_source_describes_itself', test_memory.TestUnsized)
def says_0_for_unknown(right, self, *args):
    right(self, *args)
    self.size = self.size or 0


@mutant(*source, 'test_source_describes_itself')
def has_less_than_declared(right, self, *args):
    right(self, *args)
    self.capabilities &= ~base.Capability.EXTENTS


@mutant(*source, 'test_source_describes_itself')
def has_more_than_declared(right, self, *args):
    right(self, *args)
    self.capabilities |= base.Capability.POLICED


@mutant(*source, 'test_validator')
def never_changes(right, self, *args):
    right(self, *args)
    self.validator = base.Validator('1', True)


@mutant(*source, 'test_validator')
def always_changes(right, self, *args):
    right(self, *args)
    self.validator = base.Validator(str(id(self)), True)


@mutant(*source, 'test_pieces')
def has_wrong_pieces(right, self, *args):
    right(self, *args)
    self.pieces = dataclasses.replace(self.pieces, algorithm='sha512')


@mutant(*source, 'test_every_size')
def leaves_a_thread(right, self, *args):
    right(self, *args)
    timer = threading.Timer(7, int)
    timer.start()
    LEFT.append(timer.cancel)


@mutant(*source, 'test_every_size')
def leaves_a_descriptor(right, self, *args):
    right(self, *args)
    LEFT.append(functools.partial(os.close, os.dup(0)))


@mutant(memory.MemorySource, 'extents', 'test_extents')
def has_gaps(right, self, offset, length):
    return (each for each in right(self, offset, length) if each.data)


@mutant(memory.MemorySource, 'extents', 'test_extents')
def has_no_holes(right, self, offset, length):
    return iter([base.Extent(offset, length, True)])


@mutant(memory.MemorySource, 'extents', 'test_extents')
def has_only_holes(right, self, offset, length):
    return iter([base.Extent(offset, length, False)])


# Drivers


opening = memory.MemoryDriver, 'open_source'


@mutant(*opening, 'test_missing')
def has_no_such_key(right, self, endpoint, ctx):
    try:
        return right(self, endpoint, ctx)
    except exceptions.NotFound as exc:
        raise KeyError(str(endpoint)) from exc


@mutant(*opening, 'test_missing')
def has_another_error(right, self, endpoint, ctx):
    try:
        return right(self, endpoint, ctx)
    except exceptions.NotFound:
        raise exceptions.Unavailable('not now') from None


class Unpicklable(exceptions.NotFound):
    """Needs what pickle does not keep."""

    def __init__(self, a, b):
        super().__init__(f'{a}{b}')


@mutant(*opening, 'test_missing')
def cannot_be_pickled(right, self, endpoint, ctx):
    try:
        return right(self, endpoint, ctx)
    except exceptions.NotFound:
        raise Unpicklable('not', 'found') from None


@mutant(*opening, 'test_secrets')
def tells_in_an_error(right, self, endpoint, ctx):
    try:
        return right(self, endpoint, ctx)
    except exceptions.NotFound:
        raise exceptions.NotFound(endpoint.url()) from None


@mutant(*opening, 'test_secrets')
def tells_in_a_cause(right, self, endpoint, ctx):
    try:
        return right(self, endpoint, ctx)
    except exceptions.NotFound as exc:
        raise exc from ValueError(endpoint.password)


@mutant(*opening, 'test_secrets')
def tells_in_the_log(right, self, endpoint, ctx):
    logging.getLogger(__name__).debug('opening %s', endpoint.url())
    return right(self, endpoint, ctx)


@mutant(*opening, 'test_stateless')
def remembers(right, self, endpoint, ctx):
    self.last = endpoint
    return right(self, endpoint, ctx)


@mutant(memory.MemoryDriver, 'open_sink', 'test_sinks_at_once')
def has_one_sink(right, self, endpoint, ctx, **kwargs):
    if not hasattr(self, 'sink'):
        self.sink = right(self, endpoint, ctx, **kwargs)
    return self.sink


@mutant(base.Driver, 'attach', 'test_undeclared_methods_raise')
def is_not_implemented(right, self, *args):
    raise NotImplementedError


# Sinks


pwrite = memory.MemorySink, 'pwrite'


@mutant(*pwrite, 'test_any_order')
def appends(right, self, buffer, offset):
    return right(self, buffer, self._content.size)


@mutant(*pwrite, 'test_every_size_in_order')
def keeps_the_buffer(right, self, buffer, offset):
    kept = vars(self).setdefault('kept', [])
    kept.append((buffer, offset))
    self.sync = lambda: [right(self, *each) for each in kept]


@mutant(*pwrite, 'test_empty_writes')
def is_ended_by_nothing(right, self, buffer, offset):
    if not buffer:
        self._store.commit(self._key, self._content, True)
    return right(self, buffer, offset)


@mutant(*pwrite, 'test_hidden_before_commit')
def shows_at_once(right, self, buffer, offset):
    right(self, buffer, offset)
    self._store.commit(self._key, self._content, True)


@mutant(*pwrite, 'test_old_until_commit')
def drops_the_old_at_once(right, self, buffer, offset):
    right(self, buffer, offset)
    self._store.delete(f'memory://{self._key}')


@mutant(*pwrite, 'test_write_after_the_end')
def takes_what_is_late(right, self, buffer, offset):
    if self._content is not None:
        right(self, buffer, offset)


@mutant(*pwrite, 'test_write_after_the_end')
def breaks_when_late(right, self, buffer, offset):
    assert self._content is not None
    right(self, buffer, offset)


@mutant(memory.MemoryStore, 'check_space', 'test_no_space')
def has_no_limit(right, self, size):
    pass


@mutant(memory.MemoryStore, 'prepare', 'test_nowhere')
def makes_what_is_missing(right, self, key, size):
    return None


@mutant(memory.MemorySink, 'zero', 'test_zero')
def zeroes_nothing(right, self, offset, length):
    return True


@mutant(memory.MemorySink, 'zero', 'test_zero')
def zeroes_whole_blocks(right, self, offset, length):
    end = -(-(offset + length) // 4096) * 4096
    return right(self, offset // 4096 * 4096, end - offset // 4096 * 4096)


@mutant(memory.MemorySink, 'pread', 'test_readback')
def reads_nothing_back(right, self, buffer, offset):
    return 0


@mutant(memory.MemorySink, 'pread', 'test_readback')
def reads_beyond_the_end(right, self, buffer, offset):
    return len(buffer)


@mutant(memory.MemorySink, 'commit', 'test_what_is_not_written')
def ignores_the_size(right, self, size):
    right(self, self._content.size)


@mutant(memory.MemorySink, 'commit', 'test_existing')
def overwrites(right, self, size):
    self._overwrite = True
    right(self, size)


@mutant(memory.MemorySink, 'commit', 'test_every_size_in_order')
def never_shows(right, self, size):
    self._content = None


@mutant(memory.MemorySink, 'commit', 'test_taken_meanwhile')
def takes_the_name(right, self, size):
    self._overwrite = True
    right(self, size)


@mutant(memory.MemorySink, 'abort', 'test_abort')
def shows_what_was_given_up(right, self, keep):
    if self._content is not None:
        self._store.commit(self._key, self._content, True)
    right(self, keep)


@mutant(memory.MemorySink, 'abort', 'test_abort_again')
def takes_back_what_was_committed(right, self, keep):
    right(self, keep)
    self._store.delete(f'memory://{self._key}')


@mutant(memory.MemorySink, 'abort', 'test_abort_again')
def is_aborted_once(right, self, keep):
    if self._content is None:
        raise exceptions.StorageError('not open')
    right(self, keep)
