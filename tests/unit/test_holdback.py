# SPDX-License-Identifier: Apache-2.0
"""What cannot be hidden is kept back until it is verified."""

from __future__ import annotations

import random

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer import exceptions
from oslo_transfer import holdback
from oslo_transfer import readback
from tests.unit import fakes

MIB = 1 << 20
OLD = bytes(range(1, 251))
KIB = 1 << 10


def old_device(size):
    return fakes.MemorySink((OLD * (size // len(OLD) + 1))[:size], size)


def put(sink, data, start, end):
    sink.pwrite(memoryview(data)[start:end], start)


def test_first_mib_reads_zero_until_commit():
    data = random.Random(1).randbytes(3 * MIB)
    device = old_device(4 * MIB)
    sink = holdback.HoldFirst(device, len(data))
    assert device.content[:MIB] == bytes(MIB)
    for start in range(0, len(data), 300 * KIB):
        put(sink, data, start, min(start + 300 * KIB, len(data)))
        assert device.content[:MIB] == bytes(MIB)
    sink.sync()
    assert device.content[:MIB] == bytes(MIB)
    sink.commit(len(data))
    assert device.content[: len(data)] == data


def test_order_is_rest_flush_first_flush():
    """The first MiB is written when the rest is durable, not before."""
    data = random.Random(2).randbytes(2 * MIB)
    device = old_device(2 * MIB)
    sink = holdback.HoldFirst(device, len(data))
    # The zeros are durable before any data: no old head, new tail.
    assert device.names() == ['pwrite', 'sync']
    put(sink, data, 0, len(data))
    device.calls.clear()
    sink.commit(len(data))
    assert device.calls == [
        ('sync', 0, 0),
        ('pwrite', 0, MIB),
        ('commit', 0, len(data)),
    ]


def test_given_up_before_the_end_leaves_no_head():
    data = random.Random(3).randbytes(2 * MIB)
    for written in (0, 10, MIB, 2 * MIB):
        device = old_device(2 * MIB)
        sink = holdback.HoldFirst(device, len(data))
        put(sink, data, 0, written)
        sink.abort(False)
        assert device.content[:MIB] == bytes(MIB)


def test_rest_that_cannot_be_flushed_leaves_no_head():
    data = random.Random(4).randbytes(2 * MIB)
    device = old_device(2 * MIB)
    sink = holdback.HoldFirst(device, len(data))
    put(sink, data, 0, len(data))

    def fail(name):
        if name == 'sync':
            raise exceptions.StorageError('the disk is broken')

    device.before = fail
    with pytest.raises(exceptions.StorageError):
        sink.commit(len(data))
    assert device.content[:MIB] == bytes(MIB)


@pytest.mark.parametrize('size', [0, 1, 1000, MIB - 1, MIB, MIB + 1])
@pytest.mark.parametrize('known', [True, False])
def test_sizes_around_the_border(size, known):
    data = random.Random(5).randbytes(size)
    device = old_device(size + 5000)
    sink = holdback.HoldFirst(device, size if known else None)
    put(sink, data, 0, size)
    sink.commit(size)
    assert device.content[:size] == data
    if known:
        # What is behind is the business of who clears the tail.
        assert device.content[size:] == old_device(size + 5000).content[size:]


def test_device_smaller_than_what_is_kept_back():
    device = old_device(1000)
    sink = holdback.HoldFirst(device, None)
    assert device.content == bytes(1000)
    put(sink, OLD * 4, 0, 1000)
    sink.commit(1000)
    assert device.content == OLD * 4


@hypothesis.given(
    st.lists(
        st.tuples(
            st.integers(0, 40), st.integers(0, 40), st.sampled_from('wz')
        ),
        max_size=12,
    )
)
@hypothesis.settings(deadline=None, max_examples=40)
def test_reads_as_what_was_written(steps):
    """Across the border, with zero runs, in any order."""
    unit = 64 * KIB
    size = 40 * unit
    rng = random.Random(6)
    device = fakes.MemorySink(bytes(size), size)
    sink = holdback.HoldFirst(device, size)
    model = bytearray(size)
    for a, b, kind in steps:
        start, end = min(a, b) * unit, max(a, b) * unit
        if kind == 'z':
            assert sink.zero(start, end - start)
            model[start:end] = bytes(end - start)
        else:
            data = rng.randbytes(end - start)
            sink.pwrite(memoryview(data), start)
            model[start:end] = data
    found, buffer = bytearray(), memoryview(bytearray(300 * KIB))
    while len(found) < size:
        count = sink.pread(buffer, len(found))
        assert count
        found += buffer[:count]
    assert found == model
    sink.commit(size)
    assert device.content == model


def test_zeros_that_the_device_cannot_make_are_told():
    device = old_device(3 * MIB)
    device.zero = lambda offset, length: False
    sink = holdback.HoldFirst(device, 3 * MIB)
    assert sink.zero(0, MIB)
    assert not sink.zero(MIB, MIB)
    assert not sink.zero(0, 2 * MIB)


def test_what_the_sink_says_of_itself():
    device = old_device(2 * MIB)
    device.form = 'device'
    sink = holdback.HoldFirst(device, MIB)
    assert sink.capacity == 2 * MIB
    assert sink.form == 'device'
    assert sink.free is None
    assert not sink.zeroed
    assert sink.fd is None, 'nothing may be spliced past us'


class Sequential(fakes.MemorySink):
    capabilities = fakes.Capability.WRITE


def test_last_piece_is_kept_back():
    receiver = Sequential()
    sink = holdback.HoldLast(receiver)
    for offset, data in ((0, b'one'), (3, b'two'), (6, b'three')):
        sink.pwrite(memoryview(data), offset)
    assert receiver.content == b'onetwo'
    sink.sync()
    assert receiver.content == b'onetwo'
    sink.commit(11)
    assert receiver.content == b'onetwothree'
    assert receiver.names()[-1] == 'commit'


def test_last_piece_is_dropped_with_the_rest():
    receiver = Sequential()
    sink = holdback.HoldLast(receiver)
    sink.pwrite(memoryview(b'all of it'), 0)
    sink.abort(False)
    assert receiver.content == b''


def test_what_is_kept_back_is_a_copy():
    """The buffer is the caller's again."""
    receiver = Sequential()
    sink = holdback.HoldLast(receiver)
    buffer = bytearray(b'right')
    sink.pwrite(memoryview(buffer), 0)
    buffer[:] = b'wrong'
    sink.commit(5)
    assert receiver.content == b'right'


def test_nothing_to_keep_back():
    receiver = Sequential()
    sink = holdback.HoldLast(receiver)
    sink.pwrite(memoryview(b''), 0)
    sink.commit(0)
    assert receiver.names() == ['commit']


def test_reading_back_goes_over_the_border():
    """What is held back and what is not are one run of bytes."""
    data = random.Random(1).randbytes(3 * MIB)
    sink = holdback.HoldFirst(old_device(4 * MIB), len(data))
    put(sink, data, 0, len(data))
    found = memoryview(bytearray(MIB))
    readback.fill(sink, found, MIB // 2)
    assert found == data[MIB // 2 : MIB // 2 + MIB]
    # Behind the end there are zeros.
    behind = memoryview(bytearray(b'x' * MIB))
    readback.fill(fakes.MemorySink(b'abc'), behind, 1)
    assert behind == b'bc' + bytes(MIB - 2)
