# SPDX-License-Identifier: Apache-2.0
"""Rows of BitTorrent: one peer that gives, and another one that takes."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools
import os

from demo import images
from demo import remote
from demo import scene
from demo import seeding


@functools.cache
def _published(here: scene.Scene) -> tuple[dict[str, str], str]:
    """The images' locations by their kinds, and who seeds them."""
    locations, torrents = {}, []
    for image in here.images:
        torrent = image.path.with_name(f'{image.path.name}.torrent')
        locations[image.kind] = create(here, image, torrent, 'v1')
        torrents.append(torrent)
    return locations, seeding.seed(here, torrents)


def create(
    here: scene.Scene,
    image: images.Image,
    torrent: str | os.PathLike[str],
    version: str,
) -> str:
    """Publish an image; returns the location to copy from.

    :param version: aria2 before 1.37 reads ``v1`` only
    """
    return here.command(
        *('torrent', 'create', image.path, '-o', torrent),
        *('--torrent-version', version, '-f', 'value', '-c', 'location'),
    ).strip()


def over_http(location: str, url: str) -> str:
    """The same torrent, from a web server."""
    path, _hash, pinned = location.partition('#')
    return f'torrent+{url}/{path.rpartition("/")[2]}#{pinned}'


@scene.act('downloads over torrent')
def downloads(here: scene.Scene) -> Iterator[scene.Row]:
    """The torrent file from a path, and from a web server."""
    locations, seeder = _published(here)
    for image, scheme in zip(here.images, ('file', 'http'), strict=True):
        src = locations[image.kind]
        if scheme == 'http':
            src = over_http(src, here.http)
        row = here.copy(
            f'torrent+{scheme}', image.kind, src, here.target(image), image
        )
        if not row.result.bytes_by_origin.get('peer'):
            raise scene.Broken('nothing came from the peer')
        yield dataclasses.replace(row, notes=(f'seeded by {seeder}',))


@scene.act('a copy that is killed over torrent')
def killed(here: scene.Scene) -> Iterator[scene.Row]:
    """What libtorrent has written is checked, and used."""
    locations, _seeder = _published(here)
    # The other image has zeros, which are there at once.
    src = over_http(locations[here.qcow2.kind], here.http)
    yield remote.killed_and_resumed('torrent+http', here, src, here.qcow2)
