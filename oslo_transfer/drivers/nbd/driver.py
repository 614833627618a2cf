# SPDX-License-Identifier: Apache-2.0
"""Network block devices."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.nbd import connection
from oslo_transfer.drivers.nbd import opts
from oslo_transfer.drivers.nbd import sink
from oslo_transfer.drivers.nbd import source
from oslo_transfer import exceptions
from oslo_transfer import sockets

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint


class NBDDriver(base.Driver):
    """``nbd`` and ``nbds`` URLs: exports of qemu-nbd, nbdkit and others.

    ``nbd://HOST/EXPORT`` or ``nbd+unix:///EXPORT?socket=PATH``. ``nbds``
    has TLS from STARTTLS on and never falls back to plain NBD. What a
    server tells of holes is used. A destination is as a device: it keeps
    its size, and what was there is zeroed behind the data. There is
    nothing to attach: programs are given the URL.
    """

    name = 'nbd'
    schemes = ('nbd', 'nbds')
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.EXTENTS
        | base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.READBACK
        | base.Capability.ATTACH
    )
    OPTIONS = opts.OPTIONS

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> source.NBDSource:
        """Connect, and choose the export."""
        return source.NBDSource(endpoint, ctx)

    def open_sink(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> sink.NBDSink:
        """Connect, and choose the export; like a device it always exists."""
        return sink.NBDSink(endpoint, ctx, size)

    def attach(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        record: Callable[[Mapping[str, typing.Any]], None],
    ) -> base.Attachment:
        """See that the export is there; its URL is all that programs need."""
        waiter = sockets.Waiter(ctx, str(endpoint))
        link = connection.Connection(endpoint, ctx, waiter)
        link.close()
        if ctx.writing and link.export.read_only:
            raise exceptions.AccessDenied(f'{endpoint} is read-only')
        record({})
        return base.Attachment(
            id='',
            driver=self.name,
            source=str(endpoint),
            form='nbd',
            path=endpoint.url(),
            size=link.export.size,
            read_only=link.export.read_only,
        )

    def detach(
        self, attachment: base.Attachment, ctx: _context.Context, force: bool
    ) -> None:
        """Nothing: nothing was done."""
