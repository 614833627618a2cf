# SPDX-License-Identifier: Apache-2.0
"""Copies from iSCSI targets, in user space."""

from __future__ import annotations

from collections.abc import Iterator
import os
import pathlib

from bench import lab
from bench import measure
from bench import registry
from tests.servers import relay
from tests.servers import tgt

_OPTIONS = {'oslo_transfer_iscsi.engine': 'libiscsi'}
_OURS = 'copy()'
_QEMU = 'qemu-img convert -n -W -m 8'


def _target() -> tgt.Tgt:
    if tgt.Tgt.found() is None:
        raise registry.Unmeasurable('tgtd is not installed')
    return tgt.Tgt()


def _ours(
    here: lab.Lab, url: str, result: pathlib.Path, image: pathlib.Path
) -> measure.Contestant:
    job = here.worker.job('copy', src=url, dst=str(result), options=_OPTIONS)
    return measure.Contestant(_OURS, job, result, image, ours=True)


def _qemu(
    url: str, result: pathlib.Path, image: pathlib.Path
) -> measure.Contestant:
    convert = measure.program(
        *('qemu-img', 'convert', '-n', '-W', '-m', '8'),
        *('-f', 'raw', '-O', 'raw', url, result),
    )

    def run() -> float:
        # With -n it makes no file of its own.
        with open(result, 'xb') as file:
            file.truncate(image.stat().st_size)
        return convert()

    return measure.Contestant(_QEMU, run, result, image)


@registry.benchmark('iscsi')
def iscsi(here: lab.Lab) -> Iterator[registry.Row]:
    """A full LUN of tgt on loopback."""
    result = here.memory / 'result'
    with _target() as server:
        target = server.target()
        server.disk(target, here.image)
        url = server.url(target)
        found = measure.alternate(
            [
                _ours(here, url, result, here.image),
                _qemu(url, result, here.image),
            ],
            here.runs,
        )
    if _QEMU in found:
        yield registry.Row('iscsi', found[_OURS], found[_QEMU], _QEMU, 0.85)


@registry.benchmark('iscsi-sparse')
def iscsi_sparse(here: lab.Lab) -> Iterator[registry.Row]:
    """A LUN of 10 times the size with holes, which are not to be moved."""
    directory = here.directory(str(here.memory))
    image, result = directory / 'image', directory / 'result'
    data = here.size * 200 // 1024 // lab.MIB * lab.MIB
    here.sparse_file(image, 10 * here.size, data)
    with _target() as server:
        thin, thick = server.target(), server.target()
        server.disk(thin, image)
        server.disk(thick, image, thin=False)
        with relay.Relay(server.port) as way:
            ours = _ours(here, server.url(thin, 1, way.port), result, image)
            ours.warm_up()
            moved = way.sent
        url = server.url(thin)
        found = measure.alternate(
            [_ours(here, url, result, image), _qemu(url, result, image)],
            here.runs,
        )
        _ours(here, server.url(thick), result, image).warm_up()
        written = os.stat(result).st_blocks * 512
        result.unlink()
    for bytes_, what in (
        (moved, 'bytes of data'),
        (written, 'written, thick'),
    ):
        yield registry.Row(
            'iscsi-sparse',
            bytes_ / lab.MIB,
            data / lab.MIB,
            what,
            1.05,
            'MiB',
        )
    if _QEMU in found:
        yield registry.Row('iscsi-sparse', found[_OURS], found[_QEMU], _QEMU)
