# SPDX-License-Identifier: Apache-2.0
"""Attach, and have the destination lead to what is attached."""

from __future__ import annotations

import typing

from oslo_transfer.strategies import base
from oslo_transfer.strategies import leading

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers import base as drivers_base
    from oslo_transfer import ends
    from oslo_transfer import request as _request


class ZeroCopy(leading.Leading, base.Strategy):
    """Makes the destination usable at once, without moving an image byte.

    A location is attached read-only by its own driver.
    """

    name = 'zero_copy'
    forms = frozenset({'overlay', 'device', 'path'})

    def plan(self, request: _request.Request) -> base.Plan:
        """Use each location that can be attached."""
        return base.plan_to_attach(
            self.name,
            request,
            'path',
            f'have {request.destination} lead to it',
        )

    def attach(
        self, end: ends.End, request: _request.Request, ctx: _context.Context
    ) -> drivers_base.Attachment:
        """Attach it by its driver."""
        return end.attach(ctx.replace(lasting=True))

    def choose(self, possible: frozenset[str], ctx: _context.Context) -> str:
        """An overlay, unless the deployer wants links."""
        wanted = ctx.conf.oslo_transfer.zero_copy_form
        links = sorted(possible - {'overlay'})
        if links and not (wanted == 'overlay' and 'overlay' in possible):
            return links[0]
        return 'overlay'
