# SPDX-License-Identifier: Apache-2.0
"""Attach, copy by dd(1), verify, detach."""

from __future__ import annotations

import dataclasses
import logging
import typing

from oslo_transfer import attempts as _attempts
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer.drivers import dd
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer.strategies import base
from oslo_transfer.strategies import in_turn

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import landing as _landing
    from oslo_transfer import request as _request

LOG = logging.getLogger(__name__)


class Dd(base.Strategy):
    """Turns what can be attached into a full copy, by dd(1).

    A location is attached, copied in slices that dd reads and writes past
    the page cache, verified, and detached, whatever happened. The next
    location is tried if one fails. It needs a driver that attaches, and a
    file or block device on this host as the destination.
    """

    name = 'dd'
    forms = frozenset({'file', 'device'})

    def plan(self, request: _request.Request) -> base.Plan:
        """Use each location that can be attached."""
        plan = base.plan_to_attach(
            self.name,
            request,
            'file or block device',
            f'have dd copy it to {request.destination}, verify it, detach',
        )
        sources = tuple(map(AttachedEnd.of, plan.sources))
        return dataclasses.replace(plan, sources=sources)

    def run(
        self,
        plan: base.Plan,
        request: _request.Request,
        landing: _landing.Landing,
        ctx: _context.Context,
    ) -> base.Outcome:
        """Use the first location that works."""
        failed = _attempts.Attempts(self.name, plan.passed_over)
        return in_turn.try_each(plan.sources, request, landing, ctx, failed)


class AttachedEnd(ends.LocationEnd):
    """A location that is attached for as long as it is open."""

    @classmethod
    def of(cls, end: ends.End) -> AttachedEnd:
        """The same location, attached when it is opened."""
        assert isinstance(end, ends.LocationEnd)  # Only these have ATTACH.
        return cls(end.location, end.endpoint, end.driver)

    @property
    def capabilities(self) -> drivers_base.Capability:
        """Those of dd."""
        return (
            drivers_base.Capability.READ
            | drivers_base.Capability.RANDOM_READ
            | drivers_base.Capability.EXTENTS
            | drivers_base.Capability.FILL
        )

    def open_source(self, ctx: _context.Context) -> drivers_base.Source:
        """Attach it, and read it in place."""
        attachment = self.attach(ctx)

        def check() -> None:
            self.driver.join(attachment, self.context(ctx))

        try:
            return dd.DdSource(attachment, ctx, attachment.detach, check)
        except BaseException:
            try:
                attachment.detach(force=True)
            except exceptions.TransferError as exc:
                # It is recorded. What was wrong before counts.
                LOG.warning('%s is still attached: %s', self, exc)
            raise
