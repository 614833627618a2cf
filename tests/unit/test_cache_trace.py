# SPDX-License-Identifier: Apache-2.0
"""Traces: recorded in order, kept as fio has them, and never trusted."""

from __future__ import annotations

import os
import threading
from unittest import mock

import hypothesis
from hypothesis import strategies
import pytest

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import iolog
from oslo_transfer.cache import reader as _reader
from oslo_transfer.cache import trace as _trace
from oslo_transfer import call as _call
from oslo_transfer import exceptions

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 64 * KIB
NAME = '/image'
Touch = _trace.Touch

V3 = b"""\
fio version 3 iolog
0 /image add
0 /image open
10 /image read 65536 4096
12 /image write 0 4096
900 /image read 0 512
901 /image sync 0 0
1000 /image close
"""
V2 = b"""\
fio version 2 iolog
/image add
/image open
/image read 65536 4096
/image wait 99 0
/image wait 500 0
/image wait 400 0
/image read 0 512
/image close
"""


def touches(*entries):
    return _trace.Trace(Touch(*entry) for entry in entries)


# The file


def test_reads_are_taken_from_both_versions():
    assert _trace.Trace.parse(V3) == touches((10, BLOCK, 4096), (900, 0, 512))
    assert _trace.Trace.parse(V2) == touches((0, BLOCK, 4096), (900, 0, 512))


MADE = touches((0, 0, 512), (250, 1 << 62, 4096), (1250, 7, 4294967295))


def test_what_is_written_is_read():
    assert _trace.Trace.parse(MADE.dump(NAME)) == MADE


def test_version_2_has_the_order():
    found = _trace.Trace.parse(MADE.dump(NAME, 2))
    assert found == touches(*((0, *touch[1:]) for touch in MADE.touches))


@pytest.mark.parametrize(
    'line, words',
    [
        (b'1 /image read 0', 'too few'),
        (b'1 /image read 0 1 2', 'too many'),
        (b'1 /image read -1 1', 'offset'),
        (b'1 /image read 0x10 1', 'offset'),
        (b'1 /image read 9223372036854775808 1', 'offset'),
        (b'1 /image read 9223372036854775807 1', 'ends behind'),
        (b'1 /image read 0 4294967296', 'length'),
        (b'1 /image read 0 ' + b'9' * 4000, 'length'),
        ('1 /image read \u0661 1'.encode(), 'offset'),
        (b'x /image read 0 1', 'time'),
        (b'1 /image wait 500 0', 'unknown in version 3'),
        (b'1 /image erase 0 1', 'unknown'),
        (b'1 /image unlink', 'cannot be done'),
        (b'1 /other read 0 1', 'not added'),
        (b'1 /im\0age read 0 1', 'binary'),
        (b'1 ' + b'n' * 256 + b' add', 'too long'),
        (b'1 /image read 0 1' + b' ' * 5000, 'too long'),
        (b'', 'empty'),
        (b'/image read 0 1', 'time'),
    ],
)
def test_a_bad_line_is_refused_with_its_number(line, words):
    data = V3.replace(b'901 /image sync 0 0', line)
    with pytest.raises(exceptions.ProtocolError) as caught:
        iolog.parse(data)
    assert words in str(caught.value)
    assert 'line 7' in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_file_must_be_open():
    data = V3.replace(b'901 /image sync 0 0', b'901 /image close')
    data += b'1001 /image read 0 1\n'
    with pytest.raises(exceptions.ProtocolError, match='not open'):
        iolog.parse(data)


@pytest.mark.parametrize(
    'data, error',
    [
        (b'', exceptions.ProtocolError),
        (b'fio version 1 iolog\n0, 0, 1\n', exceptions.CapabilityMissing),
        (b'fio version 4 iolog\n', exceptions.CapabilityMissing),
        (b'fio version 3', exceptions.ProtocolError),
        (b'\x7fELF' + bytes(1000), exceptions.ProtocolError),
        (b'\n' * (iolog.MAX_BYTES + 1), exceptions.ProtocolError),
        (
            b'fio version 2 iolog\n' + b'\n' * (iolog.MAX_LINES + 1),
            exceptions.ProtocolError,
        ),
    ],
)
def test_other_files_are_refused(data, error):
    with pytest.raises(error):
        iolog.parse(data)


@hypothesis.given(
    strategies.sampled_from([V2, V3]),
    strategies.lists(
        strategies.tuples(
            strategies.integers(0, 200),
            strategies.integers(0, 10),
            strategies.binary(max_size=10),
        ),
        max_size=4,
    ),
)
@hypothesis.settings(deadline=None)
def test_damage_is_noticed_or_harmless(data, changes):
    damaged = bytearray(data)
    for start, length, new in changes:
        damaged[start : start + length] = new
    try:
        found = _trace.Trace.parse(bytes(damaged))
    except exceptions.TransferError:
        return
    size = 10 * BLOCK + 17
    for offset, length in found.plan(size, BLOCK):
        assert 0 <= offset < offset + length <= size


def test_a_lie_about_the_size_takes_no_memory():
    made = touches((0, 1 << 62, 4096))
    with pytest.raises(exceptions.ProtocolError, match='image of'):
        made.merged()
    assert made.plan(1 << 30, BLOCK) == []


def test_one_of_several_files():
    data = V3.replace(
        b'901', b'900 /other add\n900 /other open\n900 /other read 5 6\n901'
    )
    assert _trace.Trace.parse(data, '/other') == touches((900, 5, 6))
    with pytest.raises(exceptions.InvalidEndpoint, match='/image'):
        _trace.Trace.parse(data)
    with pytest.raises(exceptions.NotFound):
        _trace.Trace.parse(data, '/none')


@pytest.mark.parametrize('name', ['', 'a b', 'a\nb', 'n' * 256, 'a\0'])
def test_names_that_would_break_the_file(name):
    with pytest.raises(ValueError, match='no name'):
        touches((0, 0, 1)).dump(name)


def test_it_is_saved_whole(tmp_path):
    path = tmp_path / 'trace'
    made = touches((0, 0, BLOCK))
    made.save(str(path), NAME)
    assert _trace.Trace.load(str(path)) == made
    assert [each.name for each in tmp_path.iterdir()] == ['trace']
    os.mkdir(tmp_path / 'trace.new')
    with pytest.raises(exceptions.TransferError):
        touches((0, 1, 1)).save(str(path), NAME)
    assert _trace.Trace.load(str(path)) == made
    with pytest.raises(exceptions.NotFound):
        _trace.Trace.load(str(tmp_path / 'none'))


# Replay


def test_near_touches_become_one_request_in_the_order_of_the_disk():
    made = touches(
        (1, 3 * BLOCK, 512),
        (2, 0, 512),
        # A block between, that is read as well.
        (3, 2 * BLOCK - 1, 2),
        (4, 5 * BLOCK + 7, 100),
        # Again, and too far away.
        (5, 3 * BLOCK, 512),
        (6, 20 * BLOCK, 1),
    )
    assert made.plan(100 * BLOCK, BLOCK) == [
        (0, 6 * BLOCK),
        (20 * BLOCK, BLOCK),
    ]


def test_what_is_needed_first_comes_first():
    late = [(n, n * BLOCK, BLOCK) for n in range(1000, 2000)]
    soon = [(n, (3000 + n) * BLOCK, BLOCK) for n in range(64)]
    plan = touches(*late, *soon).plan(4000 * BLOCK, BLOCK)
    # In windows that are small at first.
    assert plan[:3] == [
        (3000 * BLOCK, 8 * BLOCK),
        (3008 * BLOCK, 16 * BLOCK),
        (3024 * BLOCK, 32 * BLOCK),
    ]
    assert max(length for _offset, length in plan) <= 8 * MIB
    assert sum(length for _offset, length in plan) == 1064 * BLOCK


def test_requests_are_bounded():
    made = touches((0, 0, 1 << 30))
    for most in (256 * KIB, MIB, 8 * MIB):
        found = made.merged(1 << 30, BLOCK, most).touches
        assert {touch.length for touch in found} == {most}
        assert len(found) == (1 << 30) // most
    with pytest.raises(ValueError):
        made.merged(1 << 30, BLOCK, 8 * MIB + 1)
    with pytest.raises(ValueError):
        made.merged(1 << 30, BLOCK, 256 * KIB - 1)


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.integers(0, 10**9),
            strategies.integers(0, 40 * MIB),
            strategies.integers(1, 9 * MIB),
        ),
        max_size=60,
    ),
    strategies.integers(1, 30 * MIB),
    strategies.sampled_from([4 * KIB, BLOCK, 256 * KIB, MIB]),
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_a_plan_covers_each_block_once_and_nothing_else(entries, size, block):
    made = touches(*entries)
    plan = made.plan(size, block)
    asked = [0] * -(-size // block)
    for offset, length in plan:
        assert not offset % block
        assert 0 < length <= 8 * MIB
        assert offset + length <= size
        assert not (offset + length) % block or offset + length == size
        for index in range(offset // block, -(-(offset + length) // block)):
            asked[index] += 1
    assert set(asked) <= {0, 1}
    touched = [0] * len(asked)
    for touch in made.clipped(size).touches:
        end = -(-(touch.offset + touch.length) // block)
        for index in range(touch.offset // block, end):
            touched[index] = 1
            assert asked[index]
    # What is between two is at most a block of the usual size for each.
    assert sum(asked) <= sum(touched) * (1 + max(1, BLOCK // block))


def test_a_hostile_trace_takes_no_time():
    made = touches(*((0, 0, (1 << 32) - 1) for _ in range(50_000)))
    assert len(made.plan(1 << 40, BLOCK)) == 512


# Recording


def test_first_touches_are_noted_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(_trace.time, 'monotonic', lambda: now[0])
    recorder = _trace.Recorder(10 * BLOCK + 5, BLOCK, 30.0)
    for seconds, offset, length in [
        (0.0, 3 * BLOCK + 5, 10),
        (0.1, 3 * BLOCK, BLOCK),
        (0.25, 2 * BLOCK, 3 * BLOCK),
        (0.5, 10 * BLOCK, 5),
        # In order, and at once.
        (1.0, 6 * BLOCK, 10),
        (1 + 1 / 2048, 7 * BLOCK, 10),
        # What was paused counts ten seconds.
        (3601 + 1 / 2048, 9 * BLOCK, 1),
        (3610.0, BLOCK, 1),
        (3619.0, 5 * BLOCK, 1),
        (3650.0, 8 * BLOCK, 1),
        (3651.0, 0, 1),
    ]:
        now[0] = 100.0 + seconds
        recorder.touch(offset, length)
    assert recorder.over
    assert recorder.trace() == touches(
        (0, 3 * BLOCK, BLOCK),
        (250_000, 2 * BLOCK, BLOCK),
        (250_000, 4 * BLOCK, BLOCK),
        (500_000, 10 * BLOCK, 5),
        (1_000_000, 6 * BLOCK, 2 * BLOCK),
        (11_000_488, 9 * BLOCK, BLOCK),
        (20_000_000, BLOCK, BLOCK),
        (29_000_000, 5 * BLOCK, BLOCK),
    )


def test_nothing_is_noted_in_no_time():
    recorder = _trace.Recorder(BLOCK, BLOCK, 0.0)
    recorder.touch(0, 1)
    assert recorder.trace() == touches()


def test_a_recorder_has_bounds(monkeypatch):
    monkeypatch.setattr(_trace, '_MOST', 10)
    recorder = _trace.Recorder(100 * BLOCK, BLOCK, 60.0)
    for index in range(0, 100, 2):
        recorder.touch(index * BLOCK, 1)
    assert recorder.over
    assert len(recorder.trace().touches) == 10


def test_readers_touch_all_that_they_read(tmp_path, conf):
    blocks = _blocks.Blocks(str(tmp_path), 9 * BLOCK, BLOCK, bytes(32))
    recorder = _trace.Recorder(9 * BLOCK, BLOCK, 60.0)
    ctx = _call.Call(conf, None, None, None).ctx
    # Nothing is here, so nothing is given; but it was wanted.
    fetcher = mock.Mock(latency=0.0)
    with _reader.Reader(
        blocks, fetcher, ctx, on_touch=recorder.touch
    ) as reader:
        reader.claim(BLOCK, 512)
        reader.claim(BLOCK + 512, 512)
        # On from there, and beyond.
        reader.claim(BLOCK + 1024, 2 * BLOCK)
        reader.claim(7 * BLOCK - 1, 1)
    blocks.close()
    assert list(recorder.trace().ranges()) == [
        (BLOCK, 4 * BLOCK),
        (6 * BLOCK, 7 * BLOCK),
    ]


def test_many_may_touch_at_once():
    recorder = _trace.Recorder(500 * BLOCK, BLOCK, 60.0)

    def read(step):
        for index in range(500):
            recorder.touch(index * step % 500 * BLOCK, BLOCK)

    threads = [
        threading.Thread(target=read, args=(step,)) for step in (1, 3, 7, 499)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = recorder.trace()
    assert sum(touch.length for touch in found.touches) == 500 * BLOCK
    assert list(found.ranges()) == [(0, 500 * BLOCK)]
