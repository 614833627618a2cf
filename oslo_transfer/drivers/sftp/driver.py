# SPDX-License-Identifier: Apache-2.0
"""SFTP."""

from __future__ import annotations

import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.sftp import opts
from oslo_transfer.drivers.sftp import sink
from oslo_transfer.drivers.sftp import source

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint


class SFTPDriver(base.Driver):
    """``sftp`` URLs: files of an SSH server.

    A server whose host key is not known is refused. Nothing is used to
    log in but what the URL, the location or the options give. A path is
    absolute; one that starts with ``/~/`` is under the home directory.
    """

    name = 'sftp'
    schemes = ('sftp',)
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.ATOMIC
        | base.Capability.READBACK
        | base.Capability.POLICED
    )
    OPTIONS = opts.OPTIONS

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> source.SFTPSource:
        """Connect, and open the file."""
        return source.SFTPSource(endpoint, ctx)

    def open_sink(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> sink.SFTPSink:
        """Connect, and create a temporary file beside the target."""
        return sink.SFTPSink(endpoint, ctx, size, overwrite)
