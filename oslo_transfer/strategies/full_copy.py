# SPDX-License-Identifier: Apache-2.0
"""All bytes, through this process, from the locations that work."""

from __future__ import annotations

from collections.abc import Collection
import logging
import typing

from oslo_transfer import attempts as _attempts
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import exceptions
from oslo_transfer import receive
from oslo_transfer import shared
from oslo_transfer.strategies import base
from oslo_transfer.wrappers import retry

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import ends
    from oslo_transfer import landing as _landing
    from oslo_transfer import request as _request

LOG = logging.getLogger(__name__)

# What another location cannot mend.
_FINAL = (
    exceptions.TransferCancelled,
    exceptions.DeadlineExceeded,
    exceptions.NoSpace,
    exceptions.AlreadyExists,
)


class FullCopy(base.Strategy):
    """Copies every byte, verifies the whole, then shows it.

    With a digest to check the whole with, several locations are used
    together; otherwise they are tried in order: the next one on an error
    or when the bytes are wrong. It works between all drivers that can read
    and write.
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
        further = 'if that fails, '
        if request.has_digest:
            further = 'beside it if that is faster, or if it fails, '
        return base.Plan(
            strategy=self.name,
            sources=tuple(usable),
            passed_over=tuple(passed_over),
            steps=tuple(
                f'{further if index else ""}read {end} by '
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
        """Use all locations together, or try them in order."""
        failed = _attempts.Attempts(self.name, plan.passed_over)
        locations = plan.sources
        wasted = 0
        # Bytes of several locations can be joined if a digest decides.
        if len(locations) > 1 and request.has_digest:
            together = receive.Receiver(locations, request, landing, ctx)
            try:
                received = together.run(patient=True, resume=True)
            except _FINAL as exc:
                _add_mirrors(failed, together)
                exc.attempts = failed.all
                raise
            except exceptions.TransferError as exc:
                locations = _worth_a_try(together, exc, request)
                _add_mirrors(failed, together, but=locations)
                wasted = together.wasted
                if not locations:
                    raise failed.error() from exc
                LOG.warning('one location after the other now: %s', exc)
            else:
                _add_mirrors(failed, together)
                return _outcome(received, 0, failed)
        for index, end in enumerate(locations):
            last = index == len(locations) - 1
            attempt = _OneLocation(end, request, landing, ctx, last)
            try:
                received = attempt.run()
            except _FINAL as exc:
                failed.add(str(end), exc)
                exc.attempts = failed.all
                raise
            except exceptions.TransferError as exc:
                failed.add(str(end), exc)
                shared.current().locations.failed(end, exc)
                wasted += attempt.wasted
                continue
            return _outcome(received, wasted + attempt.wasted, failed)
        raise failed.error()


def _outcome(
    received: receive.Received, wasted: int, failed: _attempts.Attempts
) -> base.Outcome:
    shared.current().locations.succeeded(received.source)
    return base.Outcome(
        driver=received.source.driver_name,
        source=str(received.source),
        form=received.form,
        verified=received.verified,
        bytes_written=received.bytes_written,
        bytes_by_origin=received.bytes_by_origin,
        bytes_by_location=received.bytes_by_location,
        wasted=wasted + received.wasted,
        digest=received.digest,
        method=received.method,
        attempts=failed.all,
    )


def _add_mirrors(
    failed: _attempts.Attempts,
    together: receive.Receiver,
    but: Collection[ends.End] = (),
) -> None:
    for mirror in together.mirrors:
        if mirror.error is not None and mirror.end not in but:
            failed.add(mirror.name, mirror.error)
            shared.current().locations.failed(mirror.end, mirror.error)


def _worth_a_try(
    together: receive.Receiver,
    error: exceptions.TransferError,
    request: _request.Request,
) -> tuple[ends.End, ...]:
    """The locations that may do it alone, when they did not together."""
    mixed = isinstance(
        error,
        exceptions.IntegrityError
        | exceptions.SourceChanged
        | exceptions.CapabilityMissing
        | retry.NotResumable,
    )
    # They did not fit to the first one, which may be the wrong one.
    unfit = (
        exceptions.IntegrityError
        | exceptions.SourceChanged
        | exceptions.CapabilityMissing
    )

    def is_final(error: exceptions.TransferError | None) -> bool:
        return (
            isinstance(error, exceptions.SizeMismatch)
            and request.expected_size is not None
        )

    return tuple(
        mirror.end
        for mirror in together.mirrors
        if (mixed and not mirror.gone)
        or (isinstance(mirror.error, unfit) and not is_final(mirror.error))
    )


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
                [self._end], self._request, self._landing, self._ctx
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
