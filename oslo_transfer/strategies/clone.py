# SPDX-License-Identifier: Apache-2.0
"""A full copy that moves no bytes: source and copy share their blocks."""

from __future__ import annotations

import os
import typing

from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import exceptions
from oslo_transfer import oserrors
from oslo_transfer.strategies import base

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import landing as _landing
    from oslo_transfer import request as _request


class Clone(base.Strategy):
    """Shares blocks with a source on the same file system (reflink).

    Needs XFS, btrfs or another file system with reflinks, and source and
    destination on the same one. With a digest the data is read once to be
    verified.
    """

    name = 'clone'
    forms = frozenset({'file'})

    def plan(self, request: _request.Request) -> base.Plan:
        """Use the first location that is cloned from."""
        if request.destination.local_path is None:
            raise exceptions.CapabilityMissing(
                f'{request.destination} is not a file on this host'
            )
        usable = tuple(
            end
            for end in request.sources
            if drivers_base.Capability.CLONE in end.capabilities
        )
        if not usable:
            raise exceptions.CapabilityMissing(
                'no location is a file on this host'
            )
        return base.Plan(
            strategy=self.name,
            sources=usable,
            steps=tuple(
                f'clone {end} to {request.destination}' for end in usable
            ),
        )

    def run(
        self,
        plan: base.Plan,
        request: _request.Request,
        landing: _landing.Landing,
        ctx: _context.Context,
    ) -> base.Outcome:
        """Clone the first location."""
        end = plan.sources[0]
        # What an earlier copy left is of use if this cannot be done.
        resume = (
            drivers_base.Capability.RESUME in request.destination.capabilities
        )
        sink = landing.open_sink(size=None, resume=resume)
        keep = True
        try:
            with landing.filling(landing.identity(end.identity, None, None)):
                method = end.fill(landing.part_path, ctx)
            keep = False
            with oserrors.os_errors(f'looking at {landing.part_path}'):
                size = os.stat(landing.part_path).st_size
            digest = landing.hash_sink(sink, size)
            verified = landing.verify(size, digest, str(end))
            ctx.call(sink.sync, 'flushing the destination')
            landing.show(sink, size)
            ctx.check()
            sink.commit(size)
        finally:
            sink.abort(keep)
        algorithm = request.digest
        return base.Outcome(
            driver=end.driver_name,
            source=str(end),
            form=sink.form,
            verified=verified,
            bytes_written=0,
            bytes_by_origin={'origin': size} if size else {},
            wasted=0,
            digest=f'{algorithm.algorithm}:{digest}' if algorithm else None,
            method=method,
        )
