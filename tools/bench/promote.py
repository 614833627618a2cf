# SPDX-License-Identifier: Apache-2.0
"""From a far image to a file of its own, by the service of the host."""

from __future__ import annotations

from collections.abc import Iterator
import pathlib
import tempfile
import time

from bench import lab
from bench import registry
import oslo_transfer
from tests.servers import cache_service
from tests.servers import nginx as _nginx

# The first look at the image asks for one byte.
_LOOK = 1
_SECONDS = 300.0
_PAUSE = 0.1


@registry.benchmark('promote')
def promote(here: lab.Lab) -> Iterator[registry.Row]:
    """What is asked of the origin, until it is not needed any more."""
    size = here.image.stat().st_size
    server = here.nginx
    before = _sent(server)
    with tempfile.TemporaryDirectory(prefix='ot', dir=here.memory) as path:
        directory = pathlib.Path(path)
        with cache_service.CacheService(directory) as service:
            began = time.monotonic()
            made = oslo_transfer.copy(
                server.url(f'/{here.image.name}'),
                directory / 'disk',
                'copy_on_read',
                conf=service.conf(),
                accept=('overlay',),
            )
            usable = time.monotonic() - began
            _wait(service)
            seconds = time.monotonic() - began
            assert made.attachment is not None
            made.attachment.detach()
    print(f'usable after {usable:.2f} s, a file after {seconds:.2f} s')
    asked = _sent(server) - before - _LOOK
    yield registry.Row('promote', asked, size, 'the image', 1.0, 'B')


def _wait(service: cache_service.CacheService) -> None:
    limit = time.monotonic() + _SECONDS
    while service.client.cached()[0]['state'] != 'released':
        if time.monotonic() > limit:
            raise RuntimeError(service.log.read_text())
        time.sleep(_PAUSE)


def _sent(server: _nginx.Nginx) -> int:
    """Bytes of bodies that were sent."""
    log = (server.directory / 'access.log').read_text().splitlines()
    # Format "combined": the size stands behind request and status.
    return sum(int(line.split('" ')[1].split()[1]) for line in log)
