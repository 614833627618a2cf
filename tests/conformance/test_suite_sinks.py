# SPDX-License-Identifier: Apache-2.0
"""The conformance suite notices what is wrong with sinks."""

from __future__ import annotations

import pytest

from oslo_transfer import exceptions
from oslo_transfer.testing import memory
from oslo_transfer.testing import memory_handles
from tests.conformance import mutants

MUTANTS: list[mutants.Mutant] = []
mutant = mutants.collector(MUTANTS)


# Sinks


pwrite = memory_handles.MemorySink, 'pwrite'


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


@mutant(memory_handles.MemorySink, 'zero', 'test_zero')
def zeroes_nothing(right, self, offset, length):
    return True


@mutant(memory_handles.MemorySink, 'zero', 'test_zero')
def zeroes_whole_blocks(right, self, offset, length):
    end = -(-(offset + length) // 4096) * 4096
    return right(self, offset // 4096 * 4096, end - offset // 4096 * 4096)


@mutant(memory_handles.MemorySink, 'pread', 'test_readback')
def reads_nothing_back(right, self, buffer, offset):
    return 0


@mutant(memory_handles.MemorySink, 'pread', 'test_readback')
def reads_beyond_the_end(right, self, buffer, offset):
    return len(buffer)


@mutant(memory_handles.MemorySink, 'commit', 'test_what_is_not_written')
def ignores_the_size(right, self, size):
    right(self, self._content.size)


@mutant(memory_handles.MemorySink, 'commit', 'test_existing')
def overwrites(right, self, size):
    self._overwrite = True
    right(self, size)


@mutant(memory_handles.MemorySink, 'commit', 'test_every_size_in_order')
def never_shows(right, self, size):
    self._content = None


@mutant(memory_handles.MemorySink, 'commit', 'test_taken_meanwhile')
def takes_the_name(right, self, size):
    self._overwrite = True
    right(self, size)


@mutant(memory_handles.MemorySink, 'abort', 'test_abort')
def shows_what_was_given_up(right, self, keep):
    if self._content is not None:
        self._store.commit(self._key, self._content, True)
    right(self, keep)


@mutant(memory_handles.MemorySink, 'abort', 'test_abort_again')
def takes_back_what_was_committed(right, self, keep):
    right(self, keep)
    self._store.delete(f'memory://{self._key}')


@mutant(memory_handles.MemorySink, 'abort', 'test_abort_again')
def is_aborted_once(right, self, keep):
    if self._content is None:
        raise exceptions.StorageError('not open')
    right(self, keep)


@pytest.mark.parametrize('mutant', MUTANTS, ids=mutants.name)
def test_notices(mutant, monkeypatch):
    mutant.check(monkeypatch)
