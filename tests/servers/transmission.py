# SPDX-License-Identifier: Apache-2.0
"""Transmission as a foreign BitTorrent peer: a seed or a leech."""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any
import urllib.error
import urllib.request

from tests.servers import child
from tests.servers import torrents

_SEEDING = 6


class Transmission(child.Child):
    """Shares one torrent while it is entered.

    Whoever is to be a peer of it on loopback has to connect to it: it
    dials no address there.

    :param torrent: of one file; it knows nothing of version 2
    :param data: the file's content: it is a seed; None for a leech
    """

    program = 'transmission-daemon'

    def __init__(
        self,
        torrent: torrents.Torrent,
        data: bytes | None = None,
        *,
        host: str = '127.0.0.1',
        encryption: int = 1,
    ) -> None:
        super().__init__()
        self.host = host
        self.torrent = torrent
        self.data = data
        #: 0 tolerated, 1 preferred, 2 required.
        self.encryption = encryption
        self._rpc = 0
        self._session = ''

    def __enter__(self) -> Transmission:
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
        """Write the configuration; return the command."""
        if self.data is not None:
            self.path.write_bytes(self.data)
        self._rpc = child.free_port()
        settings = {
            'bind-address-ipv4': self.host,
            'bind-address-ipv6': '::1',
            'cache-size-mb': 4,
            'dht-enabled': False,
            'lpd-enabled': False,
            'pex-enabled': False,
            'utp-enabled': False,
            'port-forwarding-enabled': False,
            'peer-port': self.port,
            'peer-port-random-on-start': False,
            'encryption': self.encryption,
            'download-dir': str(self.directory),
            'preallocation': 0,
            'rename-partial-files': False,
            'rpc-bind-address': '127.0.0.1',
            'rpc-port': self._rpc,
            'rpc-authentication-required': False,
            'message-level': 2,
        }
        config = self.directory / 'settings.json'
        config.write_text(json.dumps(settings))
        log = str(self.directory / 'transmission.log')
        return [
            *(self.found() or self.program, '--foreground'),
            *('--config-dir', str(self.directory), '--logfile', log),
        ]

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call the daemon; {} if it does not answer yet."""
        body = json.dumps({'method': method, 'arguments': arguments})
        for _ in range(2):
            request = urllib.request.Request(  # noqa: S310
                f'http://127.0.0.1:{self._rpc}/transmission/rpc',
                body.encode(),
                {'X-Transmission-Session-Id': self._session},
            )
            try:
                with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310
                    found: dict[str, Any] = json.load(answer)['arguments']
                    return found
            except urllib.error.HTTPError as error:
                self._session = error.headers['X-Transmission-Session-Id']
            except OSError:
                break
        return {}

    def ready(self) -> bool:
        """Return whether it shares the torrent."""
        if not self.state():
            content = base64.b64encode(self.torrent.encoded).decode()
            self.call('torrent-add', metainfo=content)
        state = self.state()
        if self.data is None:
            return bool(state) and not state['recheckProgress']
        return state.get('status') == _SEEDING

    def state(self) -> dict[str, Any]:
        """Return some of what is known of the torrent."""
        fields = ['status', 'percentDone', 'recheckProgress', 'uploadedEver']
        found = self.call('torrent-get', fields=fields).get('torrents')
        return found[0] if found else {}

    @property
    def complete(self) -> bool:
        """Return whether it has all of the file."""
        return self.state().get('percentDone') == 1

    @property
    def uploaded(self) -> int:
        """Return the bytes that it has sent to peers."""
        return int(self.state().get('uploadedEver', 0))

    def _refused(self) -> bool:
        return super()._refused() or "Couldn't bind port" in self.log()
