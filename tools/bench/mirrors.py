# SPDX-License-Identifier: Apache-2.0
"""Several locations at once, one of which is of little use."""

from __future__ import annotations

from collections.abc import Iterator
import hashlib

from bench import lab
from bench import measure
from bench import registry

_RATE = 40_000_000
_SLOW = _RATE // 100


@registry.benchmark('mirrors')
def mirrors(here: lab.Lab) -> Iterator[registry.Row]:
    """Half of the image from three mirrors, and from a slow one beside."""
    directory = here.directory(str(here.memory))
    image, result = directory / 'image', directory / 'result'
    here.random_file(image, here.size // 2)
    with open(image, 'rb', buffering=0) as file:
        value = hashlib.file_digest(file, 'sha512').hexdigest()
    fast = [here.paced(image, _RATE, ranges=True) for _server in range(3)]
    slow = here.paced(image, _SLOW, ranges=True)

    def ours(name: str, src: list[str]) -> measure.Contestant:
        job = here.worker.job(
            'copy',
            src=src,
            dst=str(result),
            hash_algo='sha512',
            hash_value=value,
            # Each run has to find out anew which one is slow.
            options={'location_backoff': 0.0},
        )
        return measure.Contestant(name, job, result, image, ours=True)

    found = measure.alternate(
        [
            ours('3 mirrors', fast),
            ours('3 mirrors, the slow one last', [*fast, slow]),
            ours('3 mirrors, the slow one first', [slow, *fast]),
            ours('1 mirror', fast[:1]),
        ],
        here.runs,
    )
    without = found['3 mirrors']
    for place in ('last', 'first'):
        yield registry.Row(
            'mirrors',
            found[f'3 mirrors, the slow one {place}'],
            without,
            f'without the slow one, which is {place}',
            1.15,
        )
    yield registry.Row(
        'mirrors', without, found['1 mirror'], 'one mirror alone'
    )
