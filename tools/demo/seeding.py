# SPDX-License-Identifier: Apache-2.0
"""Who gives images to peers: aria2c, or the service of the library."""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
import shutil
import socket
import subprocess
import time

from demo import scene

_READY_SECONDS = 15.0


class _Seeder:
    """A process that ends with the demonstration.

    :param command: what to run
    :param log: where it writes
    """

    def __init__(
        self, command: Sequence[str | os.PathLike[str]], log: pathlib.Path
    ) -> None:
        self._log = log
        with open(log, 'wb') as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def wait_for(self, family: int, address: object) -> None:
        """Wait until it listens.

        :raises Broken: it does not
        """
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with socket.socket(family) as sock:
                if not sock.connect_ex(address):  # type: ignore[arg-type]
                    return
            time.sleep(0.02)
        self.close()
        raise scene.Broken(f'no seeder: {self._log.read_text()}')

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


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
    aria2c = _Seeder(
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


class Service:
    """``oslo-transfer serve``, until the end.

    :param address: where peers connect
    :param port: the same
    """

    def __init__(self, here: scene.Scene, address: str, port: int) -> None:
        self._here = here
        directory = here.root / f'service-{port}'
        directory.mkdir()
        path = directory / 'control.sock'
        #: How to reach it, for a configuration.
        self.options = (
            f'[oslo_transfer_service]\ncontrol_socket = {path}\n'
            f'[oslo_transfer]\nstate_path = {directory}\n'
        )
        self._conf_file = directory / 'service.conf'
        self._conf_file.write_text(
            f'{self.options}'
            f'[oslo_transfer_bittorrent]\n'
            f'peer_networks = 127.0.0.0/8\n'
            f'listen_address = {address}\n'
            f'port = {port}\n'
        )
        process = _Seeder(
            [
                *(scene.TOOL, '--config-file', self._conf_file),
                *('serve', '--role', 'seed'),
            ],
            directory / 'log',
        )
        here.undo(process.close)
        process.wait_for(socket.AF_UNIX, str(path))

    def add(self, torrent: pathlib.Path, path: pathlib.Path) -> None:
        """Hand a file over, as an operator would."""
        self._here.command(
            *('--config-file', self._conf_file),
            *('seed', 'add', torrent, path),
        )
