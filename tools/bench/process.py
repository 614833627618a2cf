# SPDX-License-Identifier: Apache-2.0
"""What the library costs the process that uses it."""

from __future__ import annotations

from collections.abc import Iterator
import json
import statistics
import subprocess
import sys
import typing

from bench import child
from bench import lab
from bench import measure
from bench import registry

_MEMORY = 64


def _child(function: typing.Any, *arguments: str) -> dict[str, float]:
    """Call a function of the module ``child`` in a fresh process."""
    done = subprocess.run(
        [sys.executable, '-m', child.__name__, function.__name__, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


@registry.benchmark('memory')
def memory(here: lab.Lab) -> Iterator[registry.Row]:
    """The most memory that a verified download takes above the import."""
    directory = here.directory(str(here.memory))
    image = directory / 'image'
    url = here.nginx.url(f'/{directory.name}/image')
    peaks = []
    for size in (here.size // 4, 4 * here.size):
        # A tenth is data, for that goes another way than holes.
        here.sparse_file(image, size, size // 10)
        found = [
            _child(child.memory, url, str(directory / 'result'))
            for _run in range(here.runs)
        ]
        label = f'{size // lab.MIB} MiB'
        measure.report(label, [run['peak'] for run in found], 'MiB')
        # The worst, not the median: memory has a limit, and little noise.
        peaks.append(max(run['peak'] for run in found))
        yield registry.Row(
            'memory',
            peaks[-1],
            _MEMORY,
            f'{_MEMORY} MiB allowed, for {label}',
            1.0,
            'MiB',
        )
    yield registry.Row(
        'memory', peaks[1], peaks[0], 'an image 16 times smaller', None, 'MiB'
    )


@registry.benchmark('import')
def import_(here: lab.Lab) -> Iterator[registry.Row]:
    """What ``import oslo_transfer`` loads, and its time."""
    ours, theirs = [], []
    for _run in range(here.runs + 1):
        ours.append(_child(child.import_ours))
        theirs.append(_child(child.import_requests))
    # The first may have had to compile byte code.
    ours, theirs = ours[1:], theirs[1:]
    yield registry.Row(
        'import',
        statistics.median(run['early'] for run in ours),
        statistics.median(run['drivers'] for run in ours),
        'modules of drivers and requests',
        0.0,
        'modules',
    )
    yield registry.Row(
        'import',
        measure.report(
            'import oslo_transfer', [run['seconds'] for run in ours]
        ),
        measure.report('import requests', [run['seconds'] for run in theirs]),
        'import requests',
    )
