# SPDX-License-Identifier: Apache-2.0
"""The digest is that of the bytes, in whatever order they came."""

from __future__ import annotations

import hashlib
import random
import threading
import time

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer import digest
from oslo_transfer import exceptions
from tests.unit import fakes

BLOCK = 4096
pytestmark = pytest.mark.usefixtures('nothing_left')


def make(sink=None, algorithm='sha256', queue=4, **changes):
    return digest.Digester(
        algorithm,
        fakes.make_ctx(**changes),
        buffer_bytes=BLOCK,
        queue_bytes=queue * BLOCK,
        read_back=sink.pread if sink else None,
    )


def arrive(digester, sink, data, start, end, kind):
    """Bytes come as they come in a copy: stored first."""
    if kind == 'zeros':
        digester.zeros(start, end - start)
    elif kind == 'held':
        digester.in_place(start, end - start)
    else:
        buffer = digester.buffer()
        count = end - start
        buffer[:count] = data[start:end]
        sink.pwrite(buffer[:count], start)
        digester.wrote(start, buffer, count)


@pytest.mark.parametrize('algorithm', ['md5', 'sha256', 'sha512', 'blake2b'])
def test_in_order(algorithm):
    data = random.Random(1).randbytes(50 * BLOCK + 17)
    sink = fakes.MemorySink()
    digester = make(sink, algorithm)
    for start in range(0, len(data), BLOCK):
        end = min(start + BLOCK, len(data))
        arrive(digester, sink, data, start, end, 'data')
    found = digester.finish(len(data))
    assert found == hashlib.new(algorithm, data).hexdigest()
    # From the buffers: nothing had to be read again.
    assert 'pread' not in sink.names()


def test_empty():
    assert make().finish(0) == hashlib.sha256().hexdigest()


pieces = st.lists(
    st.tuples(
        st.integers(1, BLOCK), st.sampled_from(['data', 'zeros', 'held'])
    ),
    max_size=12,
)


@hypothesis.given(pieces, st.randoms(use_true_random=False))
@hypothesis.settings(deadline=None)
def test_any_order_of_arrival(found, rng):
    """Data, zero runs and what an earlier copy left, mixed anyhow."""
    plan, data = [], bytearray()
    for count, kind in found:
        plan.append((len(data), len(data) + count, kind))
        data += bytes(count) if kind == 'zeros' else rng.randbytes(count)
    # What is held is there before the first byte arrives; so are holes.
    sink = fakes.MemorySink(bytes(len(data)))
    for start, end, kind in plan:
        if kind == 'held':
            sink.content[start:end] = data[start:end]
    rng.shuffle(plan)
    plan.sort(key=lambda piece: piece[2] != 'held')
    digester = make(sink)
    try:
        for start, end, kind in plan:
            arrive(digester, sink, data, start, end, kind)
        assert digester.finish(len(data)) == hashlib.sha256(data).hexdigest()
    finally:
        digester.stop()


def test_many_threads():
    data = random.Random(2).randbytes(200 * BLOCK)
    sink = fakes.MemorySink(bytes(len(data)))
    digester = make(sink)
    starts = list(range(0, len(data), BLOCK))
    random.Random(3).shuffle(starts)

    def work(mine):
        for start in mine:
            arrive(digester, sink, data, start, start + BLOCK, 'data')

    threads = [
        threading.Thread(target=work, args=(starts[index::4],))
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert digester.finish(len(data)) == hashlib.sha256(data).hexdigest()


def test_short_read_back_is_read_on():
    data = random.Random(4).randbytes(3 * BLOCK)
    sink = fakes.MemorySink(data)
    whole = sink.pread
    sink.pread = lambda buffer, offset: whole(buffer[:100], offset)
    digester = make(sink)
    digester.in_place(0, len(data))
    assert digester.finish(len(data)) == hashlib.sha256(data).hexdigest()


def test_error_in_read_back_reaches_the_caller():
    sink = fakes.MemorySink(bytes(BLOCK))

    def fail(buffer, offset):
        raise exceptions.StorageError('the disk is broken')

    sink.pread = fail
    digester = make(sink)
    digester.in_place(0, BLOCK)
    with pytest.raises(exceptions.StorageError, match='broken'):
        digester.finish(BLOCK)
    digester.stop()


def test_error_in_read_back_ends_a_wait_for_a_buffer():
    sink = fakes.MemorySink(bytes(BLOCK))
    failing = threading.Event()

    def fail(buffer, offset):
        failing.wait(10)
        raise exceptions.StorageError('the disk is broken')

    sink.pread = fail
    digester = make(sink, queue=2)
    digester.in_place(0, BLOCK)
    for number in (1, 2):
        buffer = digester.buffer()
        digester.wrote(number * BLOCK, buffer, BLOCK)
        del buffer
    # Those came out of order, so both buffers are free again.
    held = [digester.buffer(), digester.buffer()]
    failing.set()
    with pytest.raises(exceptions.StorageError, match='broken'):
        digester.buffer()
    assert len(held) == 2
    digester.stop()


def test_part_file_that_ends_early_is_an_error():
    sink = fakes.MemorySink(bytes(BLOCK - 1))
    digester = make(sink)
    digester.in_place(0, BLOCK)
    with pytest.raises(exceptions.StorageError, match='ends at byte'):
        digester.finish(BLOCK)
    digester.stop()


def test_out_of_order_without_read_back_is_an_error():
    digester = make()
    buffer = digester.buffer()
    digester.wrote(BLOCK, buffer, BLOCK)
    digester.zeros(0, BLOCK)
    with pytest.raises(exceptions.CapabilityMissing):
        digester.finish(2 * BLOCK)
    digester.stop()


def test_memory_is_bounded():
    """No more buffers than asked for, however slow the hash."""
    digester = make(queue=3)
    buffers = [digester.buffer() for _ in range(3)]
    cancel = threading.Event()
    waiting = make(queue=2, cancel=cancel)
    kept = [waiting.buffer(), waiting.buffer()]
    cancel.set()
    with pytest.raises(exceptions.TransferCancelled):
        waiting.buffer()
    assert len({id(buffer.obj) for buffer in buffers + kept}) == 5
    digester.give_back(buffers[0])
    assert digester.buffer().obj is buffers[0].obj
    digester.stop()
    waiting.stop()


def test_wait_for_the_end_can_be_cancelled():
    cancel = threading.Event()
    digester = make(cancel=cancel)
    threading.Timer(0.05, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(exceptions.TransferCancelled):
        digester.finish(BLOCK)
    assert time.monotonic() < started + 1
    digester.stop()


def test_wait_for_the_end_keeps_the_deadline():
    digester = make(deadline=time.monotonic() + 0.05)
    with pytest.raises(exceptions.DeadlineExceeded):
        digester.finish(BLOCK)
    digester.stop()


def test_stop_is_repeatable():
    digester = make()
    digester.stop()
    digester.stop()


@pytest.mark.parametrize('value', [None, 'A' * 64, ' ' + 'a' * 64 + '\n'])
def test_what_may_be_expected(value):
    found = digest.expected('sha256', value)
    assert found.value in (None, 'a' * 64)


@pytest.mark.parametrize(
    ('algorithm', 'value'),
    [
        (None, 'a' * 64),
        ('sha256', 'a' * 63),
        ('sha256', 'a' * 128),
        ('sha256', 'g' * 64),
        ('sha256', ''),
        ('crc32', None),
        ('no such', None),
        ('sha\x00256', None),
        (256, None),
        ('shake_128', None),
    ],
)
def test_what_may_not_be_expected(algorithm, value):
    with pytest.raises(exceptions.ConfigurationError):
        digest.expected(algorithm, value)


def test_nothing_expected():
    assert digest.expected(None, None) is None
