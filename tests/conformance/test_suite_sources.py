# SPDX-License-Identifier: Apache-2.0
"""The conformance suite notices what is wrong with sources and drivers."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import threading

import pytest

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.testing import memory
from oslo_transfer.testing import memory_handles
from tests.conformance import mutants
from tests.conformance import test_memory

MUTANTS: list[mutants.Mutant] = []
mutant = mutants.collector(MUTANTS)


# Streams


stream = memory_handles.MemoryStream, 'readinto'


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
    opened = right(self, endpoint, ctx)
    key = endpoint.host + endpoint.path

    class Live:
        size = opened.size

        def read(_, buffer, offset):
            return self.store.find(key).content.read(buffer, offset)

    opened.content = Live()
    return opened


@mutant(base.Stream, 'splice', 'test_splice')
def splices_nothing(right, self, fd, offset, count):
    return 0


@mutant(base.Stream, 'splice', 'test_splice')
def splices_elsewhere(right, self, fd, offset, count):
    buffer = bytearray(count)
    moved = self.readinto(buffer)
    os.pwrite(fd, buffer[:moved], offset + 1)
    return moved


@mutant(memory_handles.MemoryStream, 'close', 'test_close_is_idempotent')
def closes_once(right, self):
    if self.closed:
        raise exceptions.StorageError('closed already')
    base.Stream.close(self)


# Sources


source = memory_handles.MemorySource, '__init__'


@mutant(memory_handles.MemorySource, 'stream', 'test_any_run')
def ignores_the_offset(right, self, offset, length):
    return right(self, 0, length)


@mutant(
    memory_handles.MemorySource,
    'stream',
    'test_any_run',
    test_memory.TestSequential,
)
def claims_nothing_and_does_it(right, self, offset, length):
    self.capabilities |= base.Capability.RANDOM_READ
    return right(self, offset, length)


@mutant(memory_handles.MemorySource, 'stream', 'test_beyond_the_end')
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
    mutants.LEFT.append(timer.cancel)


@mutant(*source, 'test_every_size')
def leaves_a_descriptor(right, self, *args):
    right(self, *args)
    mutants.LEFT.append(functools.partial(os.close, os.dup(0)))


@mutant(memory_handles.MemorySource, 'extents', 'test_extents')
def has_gaps(right, self, offset, length):
    return (each for each in right(self, offset, length) if each.data)


@mutant(memory_handles.MemorySource, 'extents', 'test_extents')
def has_no_holes(right, self, offset, length):
    return iter([base.Extent(offset, length, True)])


@mutant(memory_handles.MemorySource, 'extents', 'test_extents')
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


@pytest.mark.parametrize('mutant', MUTANTS, ids=mutants.name)
def test_notices(mutant, monkeypatch):
    mutant.check(monkeypatch)
