# SPDX-License-Identifier: Apache-2.0
"""The BitTorrent driver keeps the contract."""

from __future__ import annotations

import itertools
import pathlib
import unittest
import urllib.parse

from oslo_transfer.drivers.bittorrent import driver
from oslo_transfer.testing import conformance
from tests.servers import bt_lab
from tests.servers import child
from tests.servers import evil_peer
from tests.servers import http
from tests.servers import torrents


class Hooks(conformance.Harness):
    """Torrents of which there is one seed each."""

    driver_class = driver.BitTorrentDriver
    smallest = 1
    # Joining a swarm is a part of it.
    open_seconds = 0.8
    kind = 'hybrid'

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.temporary()).parent
        self.names = itertools.count()
        self.set(peer_networks=[bt_lab.LOOPBACK], listen_address='127.0.0.1')

    def set(self, **options):
        for name, value in options.items():
            self.conf.set_override(name, value, group=bt_lab.GROUP)

    def url(self, name, content):
        """Publish a torrent file; return its URL."""
        path = self.directory / name
        path.write_bytes(content)
        return f'torrent+file://{path}'

    def serve(self, name, data, has=None):
        torrent = torrents.make(
            data, self.kind, name=name, piece_bytes=torrents.BLOCK
        )
        peer = self.enterContext(evil_peer.Peer(torrent, data, has=has))
        known = self.conf[bt_lab.GROUP].peers
        self.set(peers=[*known, peer.address])
        return self.url(name, torrent.encoded)

    def put(self, data):
        return self.serve(f'{next(self.names)}.torrent', data)

    def missing(self):
        return f'torrent+file://{self.directory}/missing'

    def change(self, url, data):
        self.serve(pathlib.Path(urllib.parse.urlsplit(url).path).name, data)

    def big_sparse(self, size, runs):
        if size > 16 << 20:
            return None
        return self.put(conformance.spread(size, runs))

    def stalled(self):
        name = f'{next(self.names)}.torrent'
        return self.serve(name, conformance.pattern(1 << 20), has={0})


class TestFile(
    Hooks,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.FillingConformance,
    unittest.TestCase,
):
    """The torrent file is on this host."""


class TestHTTP(Hooks, conformance.SourceConformance, unittest.TestCase):
    """The torrent file is on a web server."""

    kind = 'v2'

    def setUp(self):
        super().setUp()
        self.server = self.enterContext(http.ScriptedHTTPServer())

    def url(self, name, content):
        return f'torrent+{self.server.put(f"/{name}", content)}'

    def missing(self):
        return f'torrent+{self.server.url("/missing")}'

    def silent(self):
        url = self.server.serve('/silent', lambda _request, conn: conn.stall())
        return f'torrent+{url}'

    def unreachable(self):
        return f'torrent+http://127.0.0.1:{child.free_port()}/file'

    def denied(self):
        url = self.put(b'secret')
        path = urllib.parse.urlsplit(url).path
        self.server.require_token(path, {'token'})
        return url
