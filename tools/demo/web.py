# SPDX-License-Identifier: Apache-2.0
"""Rows over HTTP and HTTPS."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
import re
import shutil
import signal
import subprocess
import sys

from demo import images
from demo import scene
from demo import show

# The server's rate for each connection, in bytes per second.
_RATE = 60_000_000
_KILLED_AT = 0.45
_HEX = re.compile('(?<=[0-9a-f]{12})[0-9a-f]+')


@scene.act('downloads')
def downloads(here: scene.Scene) -> Iterator[scene.Row]:
    """Both images by both protocols."""
    for protocol, url in (('http', here.http), ('https', here.https)):
        for image in here.images:
            src = f'{url}/{image.path.name}'
            dst = here.target(image)
            yield here.copy(protocol, image.kind, src, dst, image)


@scene.act('a server that limits each connection')
def limited(here: scene.Scene) -> Iterator[scene.Row]:
    """Streams are added while each makes the copy faster."""
    image = here.qcow2
    src = f'{here.start("--rate", str(_RATE))}/{image.path.name}'
    row = here.copy('http', 'several streams', src, here.target(image), image)
    rate = image.size / row.result.seconds / 1e6
    note = (
        f'the server gives {_RATE / 1e6:.0f} MB/s to each connection; '
        f'the copy had {rate:.0f} MB/s'
    )
    yield dataclasses.replace(row, notes=(note,))


@scene.act('uploads')
def uploads(here: scene.Scene) -> Iterator[scene.Row]:
    """Both images by PUT, and the server's file looked at."""
    for protocol, url in (('http', here.http), ('https', here.https)):
        for image in here.images:
            name = f'uploaded.{image.kind}'
            dst = f'{url}/{name}'
            row = here.copy(
                f'{protocol} PUT',
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


@scene.act('two locations')
def two_locations(here: scene.Scene) -> Iterator[scene.Row]:
    """The first has wrong bytes: the second is taken instead."""
    image = here.raw
    bad = here.served / 'corrupt.raw'
    images.make_corrupt(bad, image)
    src = [f'{here.http}/{path.name}' for path in (bad, image.path)]
    dst = here.target(image)
    row = here.copy('http', 'first of two corrupt', src, dst, image)
    bad.unlink()
    notes = tuple(
        # Nobody reads whole digests.
        f'given up: {_HEX.sub("...", str(attempt))}'
        for attempt in row.result.attempts
        if attempt.location
    )
    if not notes:
        raise scene.Broken('the corrupt location was taken')
    yield dataclasses.replace(row, notes=notes)


@scene.act('a copy that is killed')
def killed(here: scene.Scene) -> Iterator[scene.Row]:
    """Another process is killed in mid-copy; this one goes on."""
    image = here.raw
    src = f'{here.http}/{image.path.name}'
    dst = here.target(image)
    reached = _kill_a_copy(src, dst, image)
    if dst.exists():
        raise scene.Broken(f'{dst} shows before it is complete')
    row = here.copy('http', 'resumed after kill -9', src, dst, image)
    resumed = row.result.bytes_by_origin.get('resumed', 0)
    if not resumed:
        raise scene.Broken('nothing was resumed')
    note = (
        f'killed after {reached / 1e6:.0f} MB, nothing at the destination; '
        f'then {resumed / 1e6:.0f} MB were resumed'
    )
    yield dataclasses.replace(row, notes=(note,))


def _kill_a_copy(src: str, dst: pathlib.Path, image: images.Image) -> int:
    """Start a copy, kill it; returns how many bytes it told of."""
    bar = show.Bar('http, killed', image.size)
    # Slow enough to be seen, and to be hit.
    rate = image.size // 3
    process = subprocess.Popen(
        [
            *(sys.executable, '-m', 'demo.child'),
            *(src, str(dst), image.digest, str(rate)),
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


@scene.act('a copy of what is there')
def reused(here: scene.Scene) -> Iterator[scene.Row]:
    """A destination that has the digest already is left as it is."""
    image = here.qcow2
    src = f'{here.http}/{image.path.name}'
    dst = here.target(image)
    shutil.copyfile(image.path, dst)
    before = dst.stat().st_mtime_ns
    row = here.copy('http', 'is there already', src, dst, image)
    if not row.result.reused or dst.stat().st_mtime_ns != before:
        raise scene.Broken('it was copied again')
    yield row
