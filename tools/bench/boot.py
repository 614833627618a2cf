# SPDX-License-Identifier: Apache-2.0
"""A guest boots from an image that is far away."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib

from bench import lab
from bench import measure
from bench import registry
from bench import replay
from oslo_transfer.cache import trace as _trace
from tests.servers import farline

# Of the line, in bits per second and seconds.
_RATE, _ROUND_TRIP = 100_000_000, 0.1
_DEMAND, _AHEAD = 'on demand', 'brought ahead, by the trace'
_SIZE = 200 * lab.MIB
# What the cache has by default, and the most that the comparison is for.
_BLOCK, _LARGE = 64 * 1024, 256 * 1024


@contextlib.contextmanager
def _line(
    here: lab.Lab, rate: int | None, round_trip: float
) -> Iterator[farline.Program]:
    """A line to an image of the size of the guest's."""
    image = here.memory / 'boot'
    if not image.exists():
        here.random_file(image, _SIZE)
    with farline.Program(
        here.nginx.port, rate=rate, round_trip=round_trip
    ) as line:
        yield line


@registry.benchmark('boot-set')
def boot_set(here: lab.Lab) -> Iterator[registry.Row]:
    """Bytes that are moved for those that a guest reads when it boots."""
    needed = _trace.Trace.load(str(replay.TRACE)).ranges().total
    for name, ahead in ((_DEMAND, False), (_AHEAD, True)):
        with _line(here, None, 0.0) as line:
            here.worker.ask(
                'replay',
                url=line.url('/boot'),
                block_bytes=_BLOCK,
                ahead=ahead,
                thinking=False,
            )
            moved = line.sent
        measure.report(f'moved, {name}', [moved / 1e6], 'MB')
        yield registry.Row(
            *('boot-set', moved / 1e6, needed / 1e6),
            *(f'bytes read, {name}', 1.3, 'MB'),
        )


@registry.benchmark('trace')
def trace(here: lab.Lab) -> Iterator[registry.Row]:
    """A boot at 100 Mbit/s and 100 ms, with and without its trace."""
    found = _trace.Trace.load(str(replay.TRACE))
    least = replay.bound(found, _RATE / 8, _ROUND_TRIP)
    print(
        f'  the guest reads {found.ranges().total / 1e6:.1f} MB and thinks '
        f'{found.seconds:.2f} s; no less than {least:.2f} s are possible'
    )
    for block_bytes in (_BLOCK, _LARGE):
        seconds = {}
        for name, ahead in ((_DEMAND, False), (_AHEAD, True)):
            with _line(here, _RATE, _ROUND_TRIP) as line:
                job = here.worker.job(
                    'replay',
                    url=line.url('/boot'),
                    block_bytes=block_bytes,
                    ahead=ahead,
                    thinking=True,
                )
                # On demand it takes long, and varies little.
                times = [job() for _run in range(1 + ahead)]
                seconds[name] = measure.report(
                    f'{name}, {block_bytes // 1024} KiB', times
                )
        yield registry.Row(
            *('trace', seconds[_AHEAD], seconds[_DEMAND]),
            *(f'{_DEMAND}, blocks of {block_bytes // 1024} KiB', 0.25),
        )
    yield registry.Row(
        *('trace', seconds[_AHEAD], least, 'lower bound of it'),
    )
