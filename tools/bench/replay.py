# SPDX-License-Identifier: Apache-2.0
"""Reads through the cache as a guest has read when it booted.

What it has read at once is read at once. Then it thought, and then came the
next. So the time is that of a boot, but for what the guest is quicker with.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import contextlib
import http.client
import pathlib
import tempfile
import time
import typing
import urllib.parse

from bench import worker
from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import image as _image
from oslo_transfer.cache import reader as _reader
from oslo_transfer.cache import trace as _trace
from oslo_transfer import call as _call
from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import ends
from oslo_transfer import location as _location
from oslo_transfer import opening
from oslo_transfer import ranges

#: The trace of a guest of the tests (tests/guest_boot), as nbdkit has seen
#: it below an overlay.
TRACE = pathlib.Path(__file__).with_name('boot.iolog')

# As long as the kernel takes to ask for all that it has in mind.
_TOGETHER_US = 500
# What a disk of a guest may have outstanding.
_DEPTH = 16


class Step(typing.NamedTuple):
    """Reads that are made at once.

    :ivar think: seconds since the end of the step before
    :ivar touches: what is read
    """

    think: float
    touches: Sequence[_trace.Touch]


def steps(trace: _trace.Trace, thinking: bool = True) -> Iterator[Step]:
    """What is read at once, one after another."""
    group: list[_trace.Touch] = []
    began = last = 0
    for touch in trace.touches:
        if group and (
            touch.time - last > _TOGETHER_US or len(group) == _DEPTH
        ):
            yield Step((group[0].time - began) / 1e6 * thinking, group)
            began, group = group[-1].time, []
        group.append(touch)
        last = touch.time
    yield Step((group[0].time - began) / 1e6 * thinking, group)


def bound(trace: _trace.Trace, rate: float, round_trip: float) -> float:
    """Seconds that no prefetch can do without.

    What is read has come over the line by then, and the guest has thought.

    :param rate: of the line, in bytes per second
    """
    now = 0.0
    come = 0
    seen = ranges.RangeSet()
    for think, touches in steps(trace):
        before = seen.total
        for touch in touches:
            seen.add(touch.offset, touch.offset + touch.length)
        come += seen.total - before
        now = max(now + think, round_trip + come / rate)
    return now


def replay(
    url: str, block_bytes: int, ahead: bool, thinking: bool
) -> dict[str, typing.Any]:
    """Boot with an empty cache.

    :param url: of the image
    :param block_bytes: of the cache
    :param ahead: the trace is brought ahead
    :param thinking: with the times between reads
    """
    trace = _trace.Trace.load(str(TRACE))
    call = _call.Call(worker.configuration({}), None, None, None)
    end = ends.end_of(_location.Location(url), call.driver)
    streams = call.conf.oslo_transfer_cache.streams
    ctx = call.ctx.replace(piecemeal=True)
    with (
        tempfile.TemporaryDirectory(prefix='oslo-transfer-bench-') as name,
        contextlib.ExitStack() as stack,
    ):
        started = time.perf_counter()
        first = [opening.alone(end, ctx)]
        size = first[0].size
        assert size is not None

        def open_source(ctx: _context.Context) -> base.Source:
            return first.pop() if first else opening.alone(end, ctx)

        blocks = _blocks.Blocks(name, size, block_bytes, bytes(32))
        stack.callback(blocks.close)
        image = stack.enter_context(
            _image.CachedImage(
                blocks,
                open_source,
                ctx,
                streams=streams,
            )
        )
        if ahead:
            image.prefetch(trace.plan(size, block_bytes))
        _boot(image, steps(trace, thinking))
        seconds = time.perf_counter() - started
        return {
            'seconds': seconds,
            'fetched': image.statistics()['bytes_fetched'],
            'requests': image.statistics()['requests'],
        }


def in_place(url: str) -> dict[str, typing.Any]:
    """Read the same over HTTP, as a guest whose disk that is.

    One read after the other, without thinking; nothing is kept.

    :param url: of the image
    :raises OSError: an answer is something else
    """
    split = urllib.parse.urlsplit(url)
    assert split.hostname
    started = time.perf_counter()
    with contextlib.closing(
        http.client.HTTPConnection(split.hostname, split.port)
    ) as conn:
        for touch in _trace.Trace.load(str(TRACE)).touches:
            span = f'bytes={touch.offset}-{touch.offset + touch.length - 1}'
            conn.request('GET', split.path, headers={'Range': span})
            with conn.getresponse() as answer:
                if len(answer.read()) != touch.length:
                    raise OSError(f'{answer.status} for {span}')
    return {'seconds': time.perf_counter() - started}


def _boot(image: _image.CachedImage, todo: Iterator[Step]) -> None:
    with (
        contextlib.ExitStack() as stack,
        futures.ThreadPoolExecutor(_DEPTH) as pool,
    ):
        # One that reads in order is one reader, as it is one connection.
        readers = [
            stack.enter_context(image.reader()) for _read in range(_DEPTH)
        ]
        for think, touches in todo:
            time.sleep(think)
            if len(touches) == 1:
                _read(readers[0], touches[0])
                continue
            reading = [
                pool.submit(_read, reader, touch)
                for reader, touch in zip(readers, touches)
            ]
            for each in reading:
                each.result()


def _read(reader: _reader.Reader, touch: _trace.Touch) -> None:
    reader.read(memoryview(bytearray(touch.length)), touch.offset)
