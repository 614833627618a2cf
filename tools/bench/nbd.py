# SPDX-License-Identifier: Apache-2.0
"""Copies from and to NBD exports."""

from __future__ import annotations

from collections.abc import Iterator
import os
import typing

from bench import lab
from bench import measure
from bench import registry
from tests.servers import nbdkit

# Names of contestants: ours, and the peers.
_FROM, _TO = 'copy(), from NBD', 'copy(), to NBD'


@registry.benchmark('nbd')
def nbd(here: lab.Lab) -> Iterator[registry.Row]:
    """A full file that nbdkit serves by a unix socket, and back again."""
    if nbdkit.Nbdkit.found() is None:
        raise registry.Unmeasurable('nbdkit is not installed')
    image, result = here.image, here.memory / 'result'
    back = here.memory / 'back'
    with (
        nbdkit.Nbdkit('file', image, unix=True) as readable,
        nbdkit.Nbdkit('memory', str(here.size), unix=True) as writable,
    ):
        src, dst = readable.url(), writable.url()

        def ours(name: str, **ends: str) -> measure.Contestant:
            job = here.worker.job('copy', options={}, **ends)
            made = ends['dst'] == str(result)
            return measure.Contestant(
                name,
                job,
                result if made else None,
                image if made else None,
                ours=True,
            )

        def peer(
            name: str, *command: str | os.PathLike[str], **options: typing.Any
        ) -> measure.Contestant:
            run = measure.program(*command)
            return measure.Contestant(name, run, **options)

        found = measure.alternate(
            [
                ours(_FROM, src=src, dst=str(result)),
                peer(
                    'nbdcopy',
                    *('nbdcopy', src, result),
                    result=result,
                    expected=image,
                ),
                peer(
                    'qemu-img convert -W -m 8',
                    *('qemu-img', 'convert', '-W', '-m', '8'),
                    *('-f', 'raw', '-O', 'raw', src, result),
                    result=result,
                    expected=image,
                ),
                ours(_TO, src=str(image), dst=dst),
                # Without --flush nothing would be made durable.
                peer('nbdcopy --flush', 'nbdcopy', '--flush', image, dst),
            ],
            here.runs,
        )
        # What was written last is what can be read.
        measure.Contestant(
            'reading back',
            measure.program('nbdcopy', dst, back),
            back,
            image,
            ours=True,
        ).warm_up()
        back.unlink()
    if 'nbdcopy' in found:
        yield registry.Row(
            'nbd', found[_FROM], found['nbdcopy'], 'nbdcopy', 1.2
        )
    if 'qemu-img convert -W -m 8' in found:
        name = 'qemu-img convert -W -m 8'
        yield registry.Row('nbd', found[_FROM], found[name], name)
    if 'nbdcopy --flush' in found:
        name = 'nbdcopy --flush'
        yield registry.Row('nbd', found[_TO], found[name], f'{name}, to NBD')
