# SPDX-License-Identifier: Apache-2.0
"""Copies from file to file."""

from __future__ import annotations

from collections.abc import Iterator
import os
import statistics

from bench import lab
from bench import measure
from bench import registry


@registry.benchmark('file')
def file(here: lab.Lab) -> Iterator[registry.Row]:
    """A full file, where no reflink helps."""
    image, result = here.image, here.memory / 'result'

    def peer(
        name: str, *command: str | os.PathLike[str]
    ) -> measure.Contestant:
        return measure.Contestant(
            name, measure.program(*command), result, image
        )

    job = here.worker.job('copy', src=str(image), dst=str(result), options={})
    found = measure.alternate(
        [
            measure.Contestant('copy()', job, result, image, ours=True),
            peer('cp', 'cp', '--reflink=never', image, result),
            peer('dd', 'dd', f'if={image}', f'of={result}', 'bs=1M'),
            peer(
                'qemu-img convert',
                *('qemu-img', 'convert', '-f', 'raw', '-O', 'raw'),
                *(image, result),
            ),
            peer('nbdcopy', 'nbdcopy', image, result),
        ],
        here.runs,
    )
    mine = found.pop('copy()')
    for name, seconds in found.items():
        target = 1.1 if name == 'cp' else None
        yield registry.Row('file', mine, seconds, name, target)


@registry.benchmark('file-sparse')
def file_sparse(here: lab.Lab) -> Iterator[registry.Row]:
    """A file of 10 times the size with holes: those are not to be written."""
    directory = here.directory(str(here.memory))
    image, result = directory / 'image', directory / 'result'
    data = here.size * 200 // 1024 // lab.MIB * lab.MIB
    here.sparse_file(image, 10 * here.size, data)
    allocated: list[float] = []

    def ours() -> float:
        seconds = here.worker.ask(
            'copy', src=str(image), dst=str(result), options={}
        )['seconds']
        allocated.append(result.stat().st_blocks * 512)
        return float(seconds)

    found = measure.alternate(
        [
            measure.Contestant('copy()', ours, result, image, ours=True),
            measure.Contestant(
                'cp --sparse=auto',
                measure.program(
                    'cp', '--reflink=never', '--sparse=auto', image, result
                ),
                result,
                image,
            ),
        ],
        here.runs,
    )
    yield registry.Row(
        'file-sparse',
        statistics.median(allocated) / lab.MIB,
        data / lab.MIB,
        'bytes of data',
        1.05,
        'MiB',
    )
    if 'cp --sparse=auto' in found:
        yield registry.Row(
            'file-sparse',
            found['copy()'],
            found['cp --sparse=auto'],
            'cp --sparse=auto',
        )
