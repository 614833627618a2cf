# SPDX-License-Identifier: Apache-2.0
"""HTTP and HTTPS."""

from __future__ import annotations

import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.http import opts
from oslo_transfer.drivers.http import sink
from oslo_transfer.drivers.http import source

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint


class HTTPDriver(base.Driver):
    """``http`` and ``https`` URLs, read by GET and written by PUT.

    Ranges are used where the server has them, each pinned to one version
    of the object. Nothing of the environment is used: no proxy, no netrc
    file, no CA bundle but the configured ones.
    """

    name = 'http'
    schemes = ('http', 'https')
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.WRITE
        | base.Capability.POLICED
    )
    OPTIONS = opts.OPTIONS

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> source.HTTPSource:
        """Send the first GET."""
        return source.HTTPSource(endpoint, ctx)

    def open_sink(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> sink.HTTPSink:
        """Begin a PUT."""
        return sink.HTTPSink(endpoint, ctx, size, overwrite)
