# SPDX-License-Identifier: Apache-2.0
"""Who gives images to peers: aria2c, or the service of the library."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import shutil
import socket

from demo import daemon
from demo import scene


def seed(here: scene.Scene, torrents: Sequence[pathlib.Path]) -> str:
    """Seed images at :attr:`Scene.seeder`, until the end.

    :param torrents: of files that stand beside them
    :returns: who does it
    """
    host, port = here.seeder.split(':')
    found = shutil.which('aria2c')
    if found is None:
        service = Service(here, host, int(port))
        for torrent in torrents:
            service.add(torrent, torrent.with_suffix(''))
        return 'oslo-transfer serve'
    aria2c = daemon.Daemon(
        [
            *(found, '--no-conf', f'--dir={here.served}'),
            *(f'--interface={host}', f'--listen-port={port}'),
            *('--bt-seed-unverified', '--seed-ratio=0.0'),
            *('--enable-dht=false', '--disable-ipv6'),
            *('--enable-peer-exchange=false', '--summary-interval=0'),
            *torrents,
        ],
        here.root / 'aria2c.log',
    )
    here.undo(aria2c.close)
    aria2c.wait_for(socket.AF_INET, (host, int(port)))
    return 'aria2c'


class Service(daemon.Service):
    """The service with the role ``seed``.

    :param address: where peers connect
    :param port: the same
    """

    def __init__(self, here: scene.Scene, address: str, port: int) -> None:
        super().__init__(
            here,
            f'service-{port}',
            'seed',
            f'[oslo_transfer_bittorrent]\n'
            f'peer_networks = 127.0.0.0/8\n'
            f'listen_address = {address}\n'
            f'port = {port}\n',
        )
        self._here = here

    def add(self, torrent: pathlib.Path, path: pathlib.Path) -> None:
        """Hand a file over, as an operator would."""
        self._here.command(
            *('--config-file', self.conf_file),
            *('seed', 'add', torrent, path),
        )
