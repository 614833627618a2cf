# SPDX-License-Identifier: Apache-2.0
"""Web seeds: plain servers that a torrent names as having the data."""

from __future__ import annotations

import logging
import typing
import urllib.parse

from oslo_transfer.drivers import target
from oslo_transfer import exceptions
from oslo_transfer import location as _location

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers import base
    from oslo_transfer.drivers.bittorrent import metainfo

LOG = logging.getLogger(__name__)


class WebSeed(target.Helper):
    """A web seed, read by the driver of its URL.

    The URL comes with the torrent, so it is not trusted: the URL policy
    says what it may reach. It is asked as nobody.

    :param url: its URL
    :param name: of the file; goes behind a URL that ends in a slash (BEP 19)
    :raises InvalidEndpoint: it is no URL
    """

    def __init__(self, url: str, name: str) -> None:
        if url.endswith('/'):
            url += urllib.parse.quote(name)
        self._location = _location.as_location(
            _location.Location(url, trusted=False)
        )
        self.name = str(self._location)

    def open(self, ctx: _context.Context, start: int) -> base.Source:
        """Open it by its own driver, if the policy allows that."""
        return ctx.replace(start=start).open_source(self._location)

    def failed(self, error: exceptions.TransferError) -> None:
        """Tell the log; the caller did not name it."""
        LOG.warning('web seed %s: %s', self.name, error)


def of(meta: metainfo.Metainfo) -> list[target.Helper]:
    """The web seeds of a torrent that are URLs at all."""
    found: list[target.Helper] = []
    for url in meta.web_seeds:
        try:
            found.append(WebSeed(url, meta.name))
        except exceptions.InvalidEndpoint as exc:
            LOG.info('a web seed is left out: %s', exc)
    return found
