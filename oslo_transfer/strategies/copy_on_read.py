# SPDX-License-Identifier: Apache-2.0
"""Have the destination lead to an image that arrives as it is read."""

from __future__ import annotations

import dataclasses
import os
import typing

from oslo_transfer.cache import opts
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer.drivers import cache
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer.strategies import base
from oslo_transfer.strategies import leading

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import request as _request


class CopyOnRead(leading.Leading, base.Strategy):
    """Makes the destination usable at once, and complete in the end.

    The service of this host fetches what is read, keeps it, and fetches
    the rest in the background. When all of it has arrived and is verified,
    the destination does not need the location any more.
    """

    name = 'copy_on_read'
    forms = frozenset({'overlay', 'path'})

    def plan(self, request: _request.Request) -> base.Plan:
        """Use each location that can be read at any place."""
        if request.destination.local_path is None:
            raise exceptions.CapabilityMissing(
                f'{request.destination} is not a path on this host'
            )
        # The service asks the proxies, each time that it opens the origin.
        request = dataclasses.replace(
            request,
            sources=tuple(
                end for end in request.sources if end.origin is None
            ),
        )
        usable, passed_over = base.choose(
            self.name,
            request,
            drivers_base.Capability.RANDOM_READ,
            'no location can be read at any place',
        )
        return base.Plan(
            strategy=self.name,
            sources=tuple(usable),
            passed_over=passed_over,
            steps=tuple(
                f'have the service of this host cache {end}, and '
                f'{request.destination} lead to it'
                for end in usable
            ),
        )

    def attach(
        self, end: ends.End, request: _request.Request, ctx: _context.Context
    ) -> drivers_base.Attachment:
        """Have the service serve it from its cache."""
        assert isinstance(end, ends.LocationEnd)  # Others cannot be read so.
        path = request.destination.local_path
        assert path is not None
        expected = request.digest
        wanted = cache.Wanted(
            form=self.choose(self.usable(self.forms, request), ctx),
            destination=os.path.abspath(path),
            digest=str(expected)
            if expected is not None and expected.value is not None
            else None,
        )
        limits = end.context(ctx).replace(lasting=True)
        return limits.attach(
            cache.CacheDriver(ctx.conf, wanted), _cached(end.endpoint)
        )

    def choose(self, possible: frozenset[str], ctx: _context.Context) -> str:
        """What the deployer wants, where it can be."""
        wanted: str = ctx.conf[opts.GROUP].form
        return wanted if wanted in possible else min(possible)


def _cached(endpoint: _endpoint.Endpoint) -> _endpoint.Endpoint:
    """The same, through the cache."""
    inner = f'+{endpoint.carrier}' if endpoint.carrier else ''
    return dataclasses.replace(
        endpoint,
        scheme=cache.CacheDriver.name,
        carrier=f'{endpoint.scheme}{inner}',
    )
