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
    image, result = directory / 'image', directory / 'result'

    def peak(
        words: str, size: int, url: str, options: dict[str, str], runs: int
    ) -> float:
        # A tenth is data, for that goes another way than holes.
        here.sparse_file(image, size, size // 10)
        found = [
            _child(child.memory, url, str(result), json.dumps(options))['peak']
            for _run in range(runs)
        ]
        measure.report(f'{words}, {size // lab.MIB} MiB', found, 'MiB')
        # The worst, not the median: memory has a limit, and little noise.
        return max(found)

    def allowed(words: str, size: int, found: float) -> registry.Row:
        return registry.Row(
            'memory',
            found,
            _MEMORY,
            f'{_MEMORY} MiB allowed, for {size // lab.MIB} MiB{words}',
            1.0,
            'MiB',
        )

    path = f'/{directory.name}/image'
    small, large = here.size // 4, 4 * here.size
    peaks = []
    for size in (small, large):
        url = here.nginx.url(path)
        peaks.append(peak('http', size, url, {}, here.runs))
        yield allowed('', size, peaks[-1])
    yield registry.Row(
        'memory', peaks[1], peaks[0], 'an image 16 times smaller', None, 'MiB'
    )
    for name in ('ftp', 'sftp'):
        try:
            url, options = (
                (here.vsftpd.url(path), {})
                if name == 'ftp'
                else (here.sshd.url(image), here.sshd.options)
            )
        except registry.Unmeasurable as why:
            print(f'  left out: {name}: {why}')
            continue
        # They move holes, too, and take their time.
        found = peak(name, large, url, options, 1)
        yield allowed(f' over {name}', large, found)


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
