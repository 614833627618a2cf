# SPDX-License-Identifier: Apache-2.0
"""Copies over SFTP, both ways."""

from __future__ import annotations

from collections.abc import Iterator
import os

from bench import lab
from bench import measure
from bench import registry

# What the library prefers; OpenSSH has chacha20 first.
_CIPHER = 'aes128-gcm@openssh.com'


@registry.benchmark('sftp')
def sftp(here: lab.Lab) -> Iterator[registry.Row]:
    """A quarter of the image, from and to OpenSSH's server."""
    sshd = here.sshd
    directory = here.directory(str(here.memory))
    image, result = directory / 'image', directory / 'result'
    here.random_file(image, here.size // 4)
    put = directory / 'put'
    put.write_text(f'put {image} {result}\n')

    def ours(name: str, **ends: str) -> measure.Contestant:
        job = here.worker.job('copy', options=sshd.options, **ends)
        return measure.Contestant(name, job, result, image, ours=True)

    def peer(
        name: str, *command: str | os.PathLike[str]
    ) -> measure.Contestant:
        run = measure.program(*command)
        return measure.Contestant(name, run, result, image)

    contestants = [
        ours('copy()', src=sshd.url(image), dst=str(result)),
        peer('sftp', *sshd.client(fetch=(image, result))),
        peer(
            f'sftp -c {_CIPHER}',
            *sshd.client('-c', _CIPHER, fetch=(image, result)),
        ),
        ours('copy(), upload', src=str(image), dst=sshd.url(result)),
        peer('sftp, upload', *sshd.client('-b', put)),
    ]
    found = measure.alternate(contestants, here.runs)

    def row(
        mine: str, other: str, target: float | None = None
    ) -> Iterator[registry.Row]:
        if other in found:
            yield registry.Row(
                'sftp', found[mine], found[other], other, target
            )

    yield from row('copy()', 'sftp', 1.2)
    yield from row('copy()', f'sftp -c {_CIPHER}')
    yield from row('copy(), upload', 'sftp, upload')
