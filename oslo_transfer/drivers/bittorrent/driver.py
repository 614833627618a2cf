# SPDX-License-Identifier: Apache-2.0
"""BitTorrent, by libtorrent."""

from __future__ import annotations

import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.bittorrent import opts
from oslo_transfer.drivers.bittorrent import source

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint


class BitTorrentDriver(base.Driver):
    """``torrent+SCHEME`` URLs: a torrent file that another driver fetches.

    Pieces come from peers in the configured networks, and from the web
    seeds and further locations by their own drivers; each is checked. What
    stands behind ``#`` is the info-hash that the torrent must have.
    """

    name = 'bittorrent'
    schemes = ('torrent',)
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.EXTENTS
        | base.Capability.FILL
    )
    OPTIONS = opts.OPTIONS

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> source.TorrentSource:
        """Fetch the torrent file."""
        return source.TorrentSource(
            endpoint, self.conf.oslo_transfer_bittorrent, ctx
        )
