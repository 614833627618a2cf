# SPDX-License-Identifier: Apache-2.0
"""All bytes, through this process, from the first location that works."""

from __future__ import annotations

import typing

from oslo_transfer import attempts as _attempts
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import exceptions
from oslo_transfer import receive
from oslo_transfer.strategies import base
from oslo_transfer.wrappers import retry

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import ends
    from oslo_transfer import landing as _landing
    from oslo_transfer import request as _request

# What another location cannot mend.
_FINAL = (
    exceptions.TransferCancelled,
    exceptions.DeadlineExceeded,
    exceptions.NoSpace,
    exceptions.AlreadyExists,
)


class FullCopy(base.Strategy):
    """Copies every byte, verifies the whole, then shows it.

    Locations are tried in order: the next one on an error or when the
    bytes are wrong. It works between all drivers that can read and write.
    """

    name = 'full_copy'
    forms = frozenset({'file', 'device'})

    def plan(self, request: _request.Request) -> base.Plan:
        """Use each location that can be read."""
        destination = request.destination
        if drivers_base.Capability.WRITE not in destination.capabilities:
            raise exceptions.CapabilityMissing(
                f'{destination} cannot be written to: the '
                f'{destination.driver_name} driver has no WRITE'
            )
        usable, passed_over = [], []
        for end in request.sources:
            if drivers_base.Capability.READ in end.capabilities:
                usable.append(end)
            else:
                error = exceptions.CapabilityMissing(
                    f'the {end.driver_name} driver has no READ'
                )
                passed_over.append(
                    _attempts.attempt(self.name, str(end), error)
                )
        if not usable:
            raise exceptions.CapabilityMissing('no location can be read')
        return base.Plan(
            strategy=self.name,
            sources=tuple(usable),
            passed_over=tuple(passed_over),
            steps=tuple(
                f'{"if that fails, " if index else ""}read {end} by '
                f'{end.driver_name}, write {destination} by '
                f'{destination.driver_name}'
                for index, end in enumerate(usable)
            ),
        )

    def run(
        self,
        plan: base.Plan,
        request: _request.Request,
        landing: _landing.Landing,
        ctx: _context.Context,
    ) -> base.Outcome:
        """Try the locations in order."""
        failed = _attempts.Attempts(self.name, plan.passed_over)
        wasted = 0
        for index, end in enumerate(plan.sources):
            last = index == len(plan.sources) - 1
            attempt = _OneLocation(end, request, landing, ctx, last)
            try:
                received = attempt.run()
            except _FINAL as exc:
                failed.add(str(end), exc)
                exc.attempts = failed.all
                raise
            except exceptions.TransferError as exc:
                failed.add(str(end), exc)
                wasted += attempt.wasted
                continue
            return base.Outcome(
                driver=end.driver_name,
                source=str(end),
                form=received.form,
                verified=received.verified,
                bytes_written=received.bytes_written,
                bytes_by_origin=received.bytes_by_origin,
                wasted=wasted + attempt.wasted + received.wasted,
                digest=received.digest,
                method=received.method,
                attempts=failed.all,
            )
        raise failed.error()


class _OneLocation:
    """One location, started over from zero where that may help."""

    def __init__(
        self,
        end: ends.End,
        request: _request.Request,
        landing: _landing.Landing,
        ctx: _context.Context,
        last: bool,
    ) -> None:
        self._end = end
        self._request = request
        self._landing = landing
        self._ctx = ctx
        self._last = last
        self.wasted = 0

    def run(self) -> receive.Received:
        restarts = self._ctx.conf.oslo_transfer.max_retries
        blamed = False
        resume = True
        earlier: exceptions.TransferError | None = None
        while True:
            receiver = receive.Receiver(
                self._end, self._request, self._landing, self._ctx
            )
            try:
                return receiver.run(patient=self._last, resume=resume)
            except exceptions.IntegrityError:
                # Joined bytes may be to blame: read it once in one go.
                if blamed or not receiver.joined:
                    raise
                blamed, resume = True, False
            except (
                exceptions.SourceChanged,
                exceptions.CapabilityMissing,
                retry.NotResumable,
            ) as exc:
                # Another version, or no way to read on: all over again.
                if not receiver.started and earlier is not None:
                    raise earlier from exc  # The destination cannot do it.
                if restarts <= 0 or not receiver.started:
                    raise
                restarts -= 1
                resume = False
                earlier = exc
            finally:
                self.wasted += receiver.wasted
