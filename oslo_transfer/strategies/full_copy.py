# SPDX-License-Identifier: Apache-2.0
"""All bytes, through this process, from the locations that work."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import logging
import typing

from oslo_transfer import attempts as _attempts
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import exceptions
from oslo_transfer import flight as _flight
from oslo_transfer import receive
from oslo_transfer import shared
from oslo_transfer.strategies import base
from oslo_transfer.wrappers import retry

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import ends
    from oslo_transfer import filler
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
        filling = _filling(usable, request)
        # One that fills uses the others; none of these can use it.
        usable = [*filling, *(end for end in usable if end not in filling)]
        return base.Plan(
            strategy=self.name,
            sources=tuple(usable),
            passed_over=tuple(passed_over),
            steps=tuple(_steps(usable, filling, request)),
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
        for end in _filling(locations, request):
            others = tuple(each for each in locations if each is not end)
            attempt = _OneLocation(
                end, request, landing, ctx, not others, others
            )
            received = _try(attempt, failed)
            wasted += attempt.wasted
            if received is not None:
                return _outcome(received, wasted, failed)
            locations = others
        if not locations:
            raise failed.error()
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
            received = _try(attempt, failed)
            wasted += attempt.wasted
            if received is not None:
                return _outcome(received, wasted, failed)
        raise failed.error()


def _filling(
    locations: Iterable[ends.End], request: _request.Request
) -> list[ends.End]:
    """The locations that fill the destination by their own transport."""
    path = request.destination.local_path
    if path is None or _flight.is_device(path):
        return []
    return [
        end
        for end in locations
        if drivers_base.Capability.FILL in end.capabilities
    ]


def _steps(
    locations: Sequence[ends.End],
    filling: Collection[ends.End],
    request: _request.Request,
) -> Iterator[str]:
    destination = request.destination
    for index, end in enumerate(locations):
        further = ''
        if index and filling:
            further = 'a part of it at once, and all if that fails: '
        elif index and request.has_digest:
            further = 'beside it if that is faster, or if it fails, '
        elif index:
            further = 'if that fails, '
        if end in filling:
            yield f'have {end.driver_name} fill {destination} from {end}'
        else:
            yield (
                f'{further}read {end} by {end.driver_name}, write '
                f'{destination} by {destination.driver_name}'
            )


def _try(
    attempt: _OneLocation, failed: _attempts.Attempts
) -> receive.Received | None:
    """One location; None if the next one may do better."""
    try:
        return attempt.run()
    except _FINAL as exc:
        failed.add(str(attempt.end), exc)
        exc.attempts = failed.all
        raise
    except exceptions.TransferError as exc:
        failed.add(str(attempt.end), exc)
        shared.current().locations.failed(attempt.end, exc)
        return None
    finally:
        for helper in attempt.helpers:
            if helper.error is not None:
                failed.add(helper.name, helper.error)


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
        seeding=received.seeding,
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
        others: Sequence[ends.End] = (),
    ) -> None:
        self.end = end
        self._others = others
        self._request = request
        self._landing = landing
        self._ctx = ctx
        self._last = last
        self.wasted = 0
        #: What became of the others.
        self.helpers: Sequence[filler.Helper] = ()

    def run(self) -> receive.Received:
        restarts = self._ctx.conf.oslo_transfer.max_retries
        blamed = False
        resume = True
        earlier: exceptions.TransferError | None = None
        while True:
            receiver = receive.Receiver(
                [self.end],
                self._request,
                self._landing,
                self._ctx,
                self._others,
            )
            self.helpers = receiver.helpers
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
