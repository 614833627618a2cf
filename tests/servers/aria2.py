# SPDX-License-Identifier: Apache-2.0
"""aria2 as a foreign BitTorrent peer: a seed or a leech."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any
import urllib.request

from tests.servers import child
from tests.servers import torrents


class Aria2(child.Child):
    """Shares one torrent while it is entered.

    It finds peers by trackers only; whoever else is to be a peer of it has
    to connect to it.

    :param torrent: of one file
    :param data: the file's content: it is a seed; None for a leech
    :param trackers: announce URLs, beside those of the torrent
    """

    program = 'aria2c'

    def __init__(
        self,
        torrent: torrents.Torrent,
        data: bytes | None = None,
        *,
        trackers: tuple[str, ...] = (),
        host: str = '127.0.0.1',
    ) -> None:
        super().__init__()
        self.host = host
        self.torrent = torrent
        self.data = data
        self.trackers = trackers
        self._rpc = 0

    def __enter__(self) -> Aria2:
        self.start()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Return HOST:PORT."""
        return f'{self.host}:{self.port}'

    @property
    def path(self) -> pathlib.Path:
        """Return the file that it shares."""
        return self.directory / self.torrent.name

    def command(self) -> list[str]:
        """Write the files; return the command."""
        torrent = self.torrent.write(self.directory / 'it.torrent')
        if self.data is not None:
            self.path.write_bytes(self.data)
        self._rpc = child.free_port()
        options: dict[str, Any] = {
            'no-conf': 'true',
            'dir': self.directory,
            'listen-port': self.port,
            'interface': self.host,
            'enable-dht': 'false',
            'enable-dht6': 'false',
            'bt-enable-lpd': 'false',
            'enable-peer-exchange': 'false',
            'disable-ipv6': 'true',
            'enable-rpc': 'true',
            'rpc-listen-port': self._rpc,
            'check-integrity': 'true',
            'seed-ratio': '0.0',
            'file-allocation': 'none',
            'summary-interval': '0',
            'bt-tracker': ','.join(self.trackers),
            'log': self.directory / 'aria2.log',
            'log-level': 'notice',
            'console-log-level': 'warn',
        }
        arguments = [f'--{key}={value}' for key, value in options.items()]
        return [self.found() or self.program, *arguments, str(torrent)]

    def ready(self) -> bool:
        """Return whether it has looked through its file."""
        state = self.state()
        if self.data is None:
            return state.get('status') == 'active'
        return state.get('seeder') == 'true'

    def state(self) -> dict[str, Any]:
        """Return what tellActive() says of the torrent."""
        call = {'jsonrpc': '2.0', 'id': 1, 'method': 'aria2.tellActive'}
        request = urllib.request.Request(  # noqa: S310
            f'http://127.0.0.1:{self._rpc}/jsonrpc', json.dumps(call).encode()
        )
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310
                found: list[dict[str, Any]] = json.load(answer)['result']
        except OSError:
            return {}
        # It opens its port when it has looked through the file.
        states = [each for each in found if 'bittorrent' in each]
        return states[0] if states else {}

    @property
    def complete(self) -> bool:
        """Return whether it has all of the file."""
        return self.state().get('seeder') == 'true'

    @property
    def uploaded(self) -> int:
        """Return the bytes that it has sent to peers."""
        return int(self.state().get('uploadLength', 0))

    def _refused(self) -> bool:
        return super()._refused() or bool(
            re.search(r'Failed to (bind|listen)|Errors occurred while binding',
                      self.log())
        )  # fmt: skip
