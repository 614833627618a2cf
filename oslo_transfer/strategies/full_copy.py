# SPDX-License-Identifier: Apache-2.0
"""All bytes, through this process, from the locations that work."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import itertools
import logging
import typing

from oslo_transfer import attempts as _attempts
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import exceptions
from oslo_transfer import flight as _flight
from oslo_transfer import receive
from oslo_transfer import shared
from oslo_transfer.strategies import base
from oslo_transfer.strategies import in_turn
from oslo_transfer.wrappers import retry

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import ends
    from oslo_transfer import landing as _landing
    from oslo_transfer import request as _request

LOG = logging.getLogger(__name__)


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
        usable, passed_over = base.choose(
            self.name,
            request,
            drivers_base.Capability.READ,
            'no location can be read',
        )
        filling = _filling(usable, request)
        # One that fills uses the others; none of these can use it.
        usable = [*filling, *(end for end in usable if end not in filling)]
        return base.Plan(
            strategy=self.name,
            sources=tuple(usable),
            passed_over=passed_over,
            steps=tuple(_steps(usable, filling, request)),
        )

    def run(
        self,
        plan: base.Plan,
        request: _request.Request,
        landing: _landing.Landing,
        ctx: _context.Context,
    ) -> base.Outcome:
        """Use all locations of a tier, then those of the next one."""
        failed = _attempts.Attempts(self.name, plan.passed_over)
        *tiers, last = (
            tuple(tier)
            for _, tier in itertools.groupby(
                plan.sources, lambda end: end.tier
            )
        )
        hurried = ctx.replace(hurried=True)
        for tier in tiers:
            try:
                return self._use(tier, request, landing, hurried, failed)
            except in_turn.FINAL:
                raise
            except exceptions.TransferError as exc:
                LOG.warning('others are asked now, for %s', exc)
        return self._use(last, request, landing, ctx, failed)

    @staticmethod
    def _use(
        locations: tuple[ends.End, ...],
        request: _request.Request,
        landing: _landing.Landing,
        ctx: _context.Context,
        failed: _attempts.Attempts,
    ) -> base.Outcome:
        """Use all locations together, or try them in order."""
        for end in _filling(locations, request):
            others = tuple(each for each in locations if each is not end)
            attempt = in_turn.OneLocation(
                end, request, landing, ctx, not others, others
            )
            received = in_turn.try_one(attempt, failed)
            if received is not None:
                return in_turn.outcome(received, failed)
            locations = others
        if not locations:
            raise failed.error()
        # Bytes of several locations can be joined if a digest decides.
        if len(locations) > 1 and request.has_digest:
            together = receive.Receiver(locations, request, landing, ctx)
            try:
                received = together.run(patient=True, resume=True)
            except in_turn.FINAL as exc:
                _add_mirrors(failed, together)
                exc.attempts = failed.all
                raise
            except exceptions.TransferError as exc:
                locations = _worth_a_try(together, exc, request)
                _add_mirrors(failed, together, but=locations)
                failed.wasted += together.wasted
                if not locations:
                    raise failed.error() from exc
                LOG.warning('one location after the other now: %s', exc)
            else:
                _add_mirrors(failed, together)
                return in_turn.outcome(received, failed)
        return in_turn.try_each(locations, request, landing, ctx, failed)


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
