# SPDX-License-Identifier: Apache-2.0
"""Rows of each protocol: both ways, and what becomes of a killed copy."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import pathlib
import signal
import subprocess
import sys

from demo import images
from demo import scene
from demo import show

_KILLED_AT = 0.45
_HOW = {
    'http': 'PUT',
    'https': 'PUT',
    'ftp': 'STOR',
    'ftps': 'STOR',
    'sftp': 'upload',
}


def downloads(protocol: str, here: scene.Scene) -> Iterator[scene.Row]:
    """Both images."""
    for image in here.images:
        src = f'{here.url(protocol)}/{image.path.name}'
        dst = here.target(image)
        yield here.copy(protocol, image.kind, src, dst, image)


def uploads(protocol: str, here: scene.Scene) -> Iterator[scene.Row]:
    """Both images, and the server's file looked at."""
    for image in here.images:
        name = f'uploaded.{image.kind}'
        dst = f'{here.url(protocol)}/{name}'
        row = here.copy(
            f'{protocol} {_HOW[protocol]}',
            image.kind,
            image.path,
            dst,
            image,
            overwrite=True,
        )
        arrived = images.describe(here.served / name)
        (here.served / name).unlink()
        if arrived.digest != image.digest:
            raise scene.Broken(f'{dst} has other bytes')
        yield row


def killed(protocol: str, here: scene.Scene) -> Iterator[scene.Row]:
    """Another process is killed in mid-copy; this one goes on."""
    src = f'{here.url(protocol)}/{here.raw.path.name}'
    yield killed_and_resumed(protocol, here, src, here.raw)


def killed_and_resumed(
    protocol: str, here: scene.Scene, src: str, image: images.Image
) -> scene.Row:
    """The same with any URL of an image."""
    dst = here.target(image)
    reached = _kill_a_copy(protocol, here, src, dst, image)
    if dst.exists():
        raise scene.Broken(f'{dst} shows before it is complete')
    row = here.copy(protocol, 'resumed after kill -9', src, dst, image)
    resumed = row.result.bytes_by_origin.get('resumed', 0)
    if not resumed:
        raise scene.Broken('nothing was resumed')
    note = (
        f'killed after {reached / 1e6:.0f} MB, nothing at the destination; '
        f'then {resumed / 1e6:.0f} MB were resumed'
    )
    return dataclasses.replace(row, notes=(note,))


def _kill_a_copy(
    protocol: str,
    here: scene.Scene,
    src: str,
    dst: pathlib.Path,
    image: images.Image,
) -> int:
    """Start a copy, kill it; returns how many bytes it told of."""
    bar = show.Bar(f'{protocol}, killed', image.size)
    # Slow enough to be seen, and to be hit.
    rate = image.size // 3
    process = subprocess.Popen(
        [
            *(sys.executable, '-m', 'demo.child'),
            *(src, str(dst), str(here.conf_file), image.digest, str(rate)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    total = 0
    try:
        assert process.stdout is not None
        for line in process.stdout:
            total = int(line)
            bar(0, total)
            if total > _KILLED_AT * image.size:
                break
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.communicate()
    if total <= _KILLED_AT * image.size:
        raise scene.Broken('the copy ended before it could be killed')
    bar.end(f'killed at {total / image.size:.0%}')
    return total


def _register(
    title: str, function: Callable[[str, scene.Scene], Iterator[scene.Row]]
) -> None:
    # One that fails does not keep the others from being shown.
    for protocol in scene.PROTOCOLS:
        scene.act(f'{title} over {protocol}')(
            functools.partial(function, protocol)
        )


_register('downloads', downloads)
_register('uploads', uploads)
_register('a copy that is killed', killed)
