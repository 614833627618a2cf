# SPDX-License-Identifier: Apache-2.0
"""Rows of what the library makes of HTTP."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import re
import shutil

from demo import images
from demo import scene

# The server's rate for each connection, in bytes per second.
_RATE = 60_000_000
_HEX = re.compile('(?<=[0-9a-f]{12})[0-9a-f]+')


@scene.act('a server that limits each connection')
def limited(here: scene.Scene) -> Iterator[scene.Row]:
    """Streams are added while each makes the copy faster."""
    image = here.qcow2
    url = here.serve('http', 'server', '--rate', str(_RATE))
    src = f'{url}/{image.path.name}'
    row = here.copy('http', 'several streams', src, here.target(image), image)
    rate = image.size / row.result.seconds / 1e6
    note = (
        f'the server gives {_RATE / 1e6:.0f} MB/s to each connection; '
        f'the copy had {rate:.0f} MB/s'
    )
    yield dataclasses.replace(row, notes=(note,))


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
