# SPDX-License-Identifier: Apache-2.0
"""The block cache, with nothing in it yet."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import typing

from bench import lab
from bench import measure
from bench import registry
from tests.servers import farline

# Bits per second.
_FAST, _SLOW = 1_000_000_000, 100_000_000
_FAR = 0.25
# Of the block that everybody wants.
_NEAR = 0.02
_READERS = 16
_ADDED = 0.010


@registry.benchmark('cor-miss')
def cor_miss(here: lab.Lab) -> Iterator[registry.Row]:
    """All of an image in order, beside a copy of it."""
    assert here.image
    url = here.nginx.url('/image')
    yield _beside_copy(here, 'cor-miss', url, 2.0)


@registry.benchmark('cor-miss-1g')
def cor_miss_1g(here: lab.Lab) -> Iterator[registry.Row]:
    """The same over a line of 1 Gbit/s."""
    size = here.size // 4
    with _far(here, size, 0.0005, _FAST) as url:
        yield _beside_copy(here, 'cor-miss-1g', url, 1.05)


def _beside_copy(
    here: lab.Lab, name: str, url: str, target: float
) -> registry.Row:
    result = here.memory / 'result'
    times = measure.alternate(
        [
            measure.Contestant(
                'read through an empty cache',
                _job(here, 'read', src=url),
                ours=True,
            ),
            measure.Contestant(
                'copy()',
                here.worker.job('copy', src=url, dst=str(result), options={}),
                result,
                ours=True,
            ),
        ],
        here.runs,
    )
    ours, peer = times.values()
    return registry.Row(name, ours, peer, 'copy()', target)


@registry.benchmark('rtt')
def rtt(here: lab.Lab) -> Iterator[registry.Row]:
    """The same over 250 ms, beside what the line could bring."""
    size = here.size // 8
    with _far(here, size, _FAR, _SLOW) as url:
        ours = measure.alternate(
            [
                measure.Contestant(
                    'read through an empty cache, 250 ms',
                    _job(here, 'read', src=url),
                    ours=True,
                )
            ],
            min(here.runs, 3),
        )
    (seconds,) = ours.values()
    yield registry.Row(
        'rtt', seconds, size * 8 / _SLOW, 'the line (computed)', 1.11
    )


@registry.benchmark('first-byte')
def first_byte(here: lab.Lab) -> Iterator[registry.Row]:
    """The first block of an image, beside all of it."""
    with _far(here, here.size, _NEAR, _SLOW) as url:
        ours = measure.alternate(
            [
                measure.Contestant(
                    'first block through an empty cache',
                    _job(here, 'read', src=url, length=4096),
                    ours=True,
                )
            ],
            here.runs,
        )
    (seconds,) = ours.values()
    yield registry.Row(
        'first-byte',
        seconds,
        here.size * 8 / _SLOW,
        'a copy at 100 Mbit/s (computed)',
        0.01,
    )


@registry.benchmark('collapse')
def collapse(here: lab.Lab) -> Iterator[registry.Row]:
    """Many who want one block: one request, and no longer a wait."""
    with _far(here, here.size, _NEAR, _SLOW) as url:
        added = measure.alternate(
            [
                measure.Contestant(
                    f'added wait of {_READERS} readers of one block',
                    _job(here, 'collapse', src=url, readers=_READERS),
                    ours=True,
                )
            ],
            here.runs,
        )
    (seconds,) = added.values()
    yield registry.Row('collapse', seconds, _ADDED, 'the bound', 1.0)


def _job(here: lab.Lab, job: str, **arguments: typing.Any) -> typing.Any:
    return here.worker.job(
        'cached', what=job, where=str(here.memory), **arguments
    )


@contextlib.contextmanager
def _far(
    here: lab.Lab, size: int, round_trip: float, rate: int
) -> Iterator[str]:
    """The image's start, behind a long line; yields its URL."""
    path = here.memory / 'far'
    if size == here.size:
        path.hardlink_to(here.image)
    else:
        here.random_file(path, size)
    try:
        with farline.Program(
            here.nginx.port, rate=rate, round_trip=round_trip
        ) as line:
            yield line.url('/far')
    finally:
        path.unlink()
