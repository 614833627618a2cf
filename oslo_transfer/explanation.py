# SPDX-License-Identifier: Apache-2.0
"""What a copy would do, and why."""

from __future__ import annotations

import dataclasses
import os
import typing

from oslo_transfer import attempts as _attempts
from oslo_transfer import exceptions
from oslo_transfer import result as _result
from oslo_transfer import selector

if typing.TYPE_CHECKING:
    from oslo_transfer import call as _call
    from oslo_transfer import request as _request

#: What becomes of a strategy.
FIRST = 'first'
IF_THAT_FAILS = 'if that fails'
PASSED_OVER = 'passed over'


@dataclasses.dataclass(frozen=True)
class LocationChoice:
    """A location, and its place in the order.

    :ivar location: the redacted URL
    :ivar driver: its driver's name, None if there is none
    :ivar usable: whether it is tried at all
    :ivar reason: why it stands where it does, or why it is not tried
    """

    location: str
    driver: str | None
    usable: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class StrategyChoice:
    """A strategy, and what becomes of it.

    :ivar strategy: its name
    :ivar choice: ``first``, ``if that fails`` or ``passed over``
    :ivar reason: why it is passed over, else ''
    :ivar steps: what it does, in words
    :ivar passed_over: locations that it does not use, with why
    """

    strategy: str
    choice: str
    reason: str = ''
    steps: tuple[str, ...] = ()
    passed_over: tuple[_result.Attempt, ...] = ()


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a copy would do.

    :ivar destination: the redacted destination
    :ivar locations: in the order in which they are tried; those that
        cannot be used at the end
    :ivar strategies: in the order in which they are tried
    :ivar remarks: what else decides
    """

    destination: str
    locations: tuple[LocationChoice, ...]
    strategies: tuple[StrategyChoice, ...]
    remarks: tuple[str, ...] = ()

    @property
    def strategy(self) -> str | None:
        """The strategy that is tried first; None if there is none."""
        for each in self.strategies:
            if each.choice == FIRST:
                return each.strategy
        return None


def explain(
    call: _call.Call, request: _request.Request, strategy: str | None
) -> Explanation:
    """Say what a call would do.

    :param call: the call
    :param request: what it asks for
    :param strategy: the strategy that it names, or None
    :raises ConfigurationError: an option cannot work
    """
    ordered, places = call.locate(request)
    return Explanation(
        destination=str(request.destination),
        locations=(
            *(_usable(place, call) for place in places),
            *(
                LocationChoice(each.location, None, False, each.reason)
                for each in ordered.unusable
            ),
        ),
        strategies=tuple(_strategies(call, ordered, strategy)),
        remarks=tuple(_remarks(call, ordered, strategy)),
    )


def _usable(place: selector.Place, call: _call.Call) -> LocationChoice:
    end = place.end
    usable, reason = True, place.reason
    try:
        end.context(call.ctx)
    except exceptions.TransferError as exc:
        usable, reason = False, str(exc)
    return LocationChoice(str(end), end.driver_name, usable, reason)


def _strategies(
    call: _call.Call, request: _request.Request, strategy: str | None
) -> typing.Iterator[StrategyChoice]:
    choice = FIRST
    for name in call.order(strategy):
        try:
            _chosen, plan = call.plan(name, request, bool(strategy))
        except exceptions.TransferError as exc:
            yield StrategyChoice(
                name, PASSED_OVER, _attempts.attempt(name, '', exc).reason
            )
            continue
        yield StrategyChoice(name, choice, '', plan.steps, plan.passed_over)
        choice = IF_THAT_FAILS


def _remarks(
    call: _call.Call, request: _request.Request, strategy: str | None
) -> typing.Iterator[str]:
    group = call.conf.oslo_transfer
    yield (
        f'locations are ordered by location_selector = '
        f'{group.location_selector}, driver_order = '
        f'{", ".join(group.driver_order) or "none"}'
    )
    if not strategy:
        yield (
            f'strategies are tried as strategy_order says: '
            f'{", ".join(group.strategy_order)}'
        )
    path = request.destination.local_path
    if path is not None and os.path.isfile(path):
        if request.has_digest:
            yield (
                'the destination exists; if it has the digest, nothing is '
                'copied'
            )
        if not request.overwrite:
            yield (
                'the destination exists; it is not replaced unless the call '
                'asks for that'
            )
    for option, what in _LIMITS.items():
        if group[option]:
            yield f'{what}: {group[option]} ({option})'


_LIMITS = {
    'rate_limit_bytes_per_second': 'bytes per second of this copy',
    'process_rate_limit_bytes_per_second': (
        'bytes per second of all copies of this process'
    ),
    'host_rate_limit_bytes_per_second': (
        'bytes per second of this process from and to each host'
    ),
    'max_concurrent_copies': 'copies of this process at once',
    'max_connections_per_host': (
        'connections of this process to each port of a host'
    ),
}
