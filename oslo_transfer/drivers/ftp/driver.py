# SPDX-License-Identifier: Apache-2.0
"""FTP and FTPS."""

from __future__ import annotations

import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.ftp import opts
from oslo_transfer.drivers.ftp import sink
from oslo_transfer.drivers.ftp import source

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint


class FTPDriver(base.Driver):
    """``ftp`` and ``ftps`` URLs, read by RETR and written by STOR.

    ``ftps`` has TLS on all connections, begun by AUTH TLS, or at once on
    port 990; it never falls back to plain FTP. Data connections are
    passive always. A path is relative to the directory of the login; one
    that begins with ``%2F`` is absolute.
    """

    name = 'ftp'
    schemes = ('ftp', 'ftps')
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.WRITE
        | base.Capability.ATOMIC
        | base.Capability.POLICED
    )
    OPTIONS = opts.OPTIONS

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> source.FTPSource:
        """Log in, and send the first RETR."""
        return source.FTPSource(endpoint, ctx)

    def open_sink(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> sink.FTPSink:
        """Log in, and begin a STOR to a temporary name."""
        return sink.FTPSink(endpoint, ctx, overwrite)
