# SPDX-License-Identifier: Apache-2.0
"""What tests of the BitTorrent driver run in: peers, torrents, options."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
from typing import Any

from oslo_config import cfg

import oslo_transfer
from oslo_transfer.testing import harness
from tests.servers import child
from tests.servers import evil_peer
from tests.servers import http
from tests.servers import torrents

GROUP = 'oslo_transfer_bittorrent'
LOOPBACK = '127.0.0.0/8'


class Lab:
    """A torrent, and whoever has it; all end with the test.

    :param conf: gets the options
    :param directory: for torrent files and copies
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        directory: pathlib.Path,
        *,
        size: int = (1 << 20) + 77,
        kind: str = 'hybrid',
        piece_bytes: int = 1 << 16,
        **options: Any,
    ) -> None:
        self.conf = conf
        self.directory = directory
        self.data = harness.pattern(size, 'torrent')
        self.torrent = torrents.make(
            self.data, kind, piece_bytes=piece_bytes, **options
        )
        self.stack = contextlib.ExitStack()
        self.dst = directory / 'there' / 'image'
        self.dst.parent.mkdir()
        self.digest = {
            'hash_algo': 'sha256',
            'hash_value': hashlib.sha256(self.data).hexdigest(),
        }
        self._server: http.ScriptedHTTPServer | None = None
        self.set(peer_networks=[LOOPBACK], listen_address='127.0.0.1')
        # libtorrent counts once in a second.
        self.core(stall_timeout=2.5)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.stack.__exit__(*exc)

    def set(self, **options: Any) -> None:
        """Set options of the driver."""
        for name, value in options.items():
            self.conf.set_override(name, value, group=GROUP)

    def core(self, **options: Any) -> None:
        """Set options of the core."""
        for name, value in options.items():
            self.conf.set_override(name, value, group='oslo_transfer')

    @property
    def url(self) -> str:
        """Return the URL of the torrent file, which is written."""
        path = self.torrent.write(self.directory / 'it.torrent')
        return f'torrent+file://{path}'

    @property
    def server(self) -> http.ScriptedHTTPServer:
        """Return the origin, which is started."""
        if self._server is None:
            self._server = self.stack.enter_context(http.ScriptedHTTPServer())
        return self._server

    def origin(self, data: bytes | None = None, **options: Any) -> str:
        """Serve the data, or other data, by HTTP; return the URL."""
        path = f'/image{len(self.server._routes)}'
        return self.server.put(
            path, self.data if data is None else data, **options
        )

    def peer(self, kind: Any = 'good', **options: Any) -> evil_peer.Peer:
        """Start a peer; the copy knows it."""
        peer = evil_peer.Peer(self.torrent, self.data, kind, **options)
        self.stack.enter_context(peer)
        self.know(peer.address)
        return peer

    def know(self, *addresses: str) -> None:
        """Have the copy know peers."""
        known = self.conf[GROUP].peers
        self.set(peers=[*known, *addresses])

    def port(self) -> int:
        """Have the copy listen on a port; return it."""
        port = child.free_port()
        self.set(port=port)
        return port

    def copy(
        self, *sources: Any, **arguments: Any
    ) -> oslo_transfer.TransferResult:
        """Copy; the file is right, or not there."""
        try:
            result = oslo_transfer.copy(
                list(sources) or self.url, self.dst, conf=self.conf,
                **arguments,
            )  # fmt: skip
        except oslo_transfer.TransferError:
            assert not self.dst.exists()
            raise
        assert self.dst.read_bytes() == self.data
        assert result.size == len(self.data)
        assert os.listdir(self.dst.parent) == [self.dst.name]
        return result
