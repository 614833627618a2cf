# SPDX-License-Identifier: Apache-2.0
"""Rows of several locations at once, and of the plan for them."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import json
import re

from demo import images
from demo import scene

# Of the slow one, in bytes per second of each connection.
_RATE = 600_000
_CORRUPT = 'corrupt.raw'
_HEX = re.compile('(?<=[0-9a-f]{12})[0-9a-f]+')


def _locations(here: scene.Scene) -> dict[str, str]:
    """Names and URLs of one image in many places."""
    name = here.raw.path.name
    slow = here.serve('http', 'server', '--rate', str(_RATE))
    return {
        'a slow http': f'{slow}/{name}',
        'a corrupt ftp': f'{here.ftp}/{_CORRUPT}',
        'sftp': f'{here.sftp}/{name}',
        'file': str(here.raw.path),
    }


@scene.act('mirrors of different protocols')
def mirrors(here: scene.Scene) -> Iterator[scene.Row]:
    """Four locations: one is slow, one has wrong bytes, two are good."""
    image = here.raw
    bad = here.served / _CORRUPT
    images.make_corrupt(bad, image, everywhere=True)
    locations = _locations(here)
    names = {url: name for name, url in locations.items()}
    src = list(locations.values())
    yield _explained(here, src, names)
    dst = here.target(image)
    # One of them could be cloned on some file systems.
    row = here.copy(
        'all', 'mirrors, mixed', src, dst, image, strategy='full_copy'
    )
    bad.unlink()
    kept = ', '.join(
        f'{names[url]} {count / 1e6:.0f} MB'
        for url, count in row.result.bytes_by_location.items()
    )
    given_up = [
        f'given up: {names[each.location]}: '
        # Nobody reads whole digests.
        f'{_HEX.sub("...", each.reason)}'
        for each in row.result.attempts
        if each.location in names and each.strategy == 'full_copy'
    ]
    if not given_up:
        raise scene.Broken('neither bad location was given up')
    yield dataclasses.replace(row, notes=(f'kept: {kept}', *given_up))


def _explained(
    here: scene.Scene, src: list[str], names: dict[str, str]
) -> scene.Row:
    """Have the command say what will be done."""
    done = here.command(
        *('explain', '-f', 'json', '--hash', f'sha512:{here.raw.digest}'),
        *(*src, str(here.target(here.raw))),
    )
    plan = json.loads(done)
    steps = [
        f'{each["strategy"]}: {each["choice"]}'
        + (f' ({each["reason"]})' if each['reason'] else '')
        for each in plan['strategies']
    ]
    order = ', '.join(
        names.get(each['location'], each['location'])
        for each in plan['locations']
        if each['usable']
    )
    return scene.Row(
        'all', 'oslo-transfer explain', None, (*steps, f'order: {order}')
    )
