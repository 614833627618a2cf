# SPDX-License-Identifier: Apache-2.0
"""The order in which the locations of one call are tried, and why."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import contextlib
import dataclasses
import math
import threading
import time
import typing

from oslo_transfer import datacenters
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import health
from oslo_transfer import shared

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

#: The most seconds for measuring how long hosts take to answer.
PROBE_TIMEOUT = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about one location.

    :ivar scheme: its URL's scheme; None for a file object
    :ivar weight: what the caller said
    :ivar local: it is on this host
    :ivar datacenter: the name of the one that it is in, or None
    :ivar distance: how far that is; infinity if nobody knows
    :ivar seconds: how long its host takes to answer; None if not known
    :ivar tier: see :class:`~oslo_transfer.ends.LocationEnd`
    :ivar proxied: a proxy is asked for it
    :ivar failure: why it goes behind the others for now, or None
    :ivar rest: the seconds for which it does
    """

    scheme: str | None = None
    weight: int = 0
    local: bool = False
    datacenter: str | None = None
    distance: float = math.inf
    seconds: float | None = None
    tier: int = 0
    proxied: bool = False
    failure: health.Failure | None = None
    rest: float = 0.0


@dataclasses.dataclass(frozen=True)
class Place:
    """A location in the order.

    :ivar end: the location
    :ivar reason: why it stands where it does
    """

    end: ends.End
    reason: str


def order(
    found: Iterable[tuple[ends.End, Facts]],
    *,
    selector: str = 'order',
    driver_order: Sequence[str] = (),
) -> tuple[Place, ...]:
    """Put locations in order; pure. None is left out.

    What is equal in all that counts stays in the order that was given.

    :param found: the locations with what is known about them
    :param selector: the option ``location_selector``
    :param driver_order: the option of that name
    """
    preference = _PREFERENCES[selector]

    def key(item: tuple[ends.End, Facts]) -> tuple[typing.Any, ...]:
        facts = item[1]
        return (
            _unwell(facts),
            facts.tier,
            # It may be read only once, so the others come first.
            facts.scheme is None,
            _rank(facts, driver_order),
            preference(facts),
        )

    return tuple(
        Place(end, _reason(facts, selector, driver_order))
        for end, facts in sorted(found, key=key)
    )


def _unwell(facts: Facts) -> int:
    if facts.failure is None:
        return 0
    # Whoever asked to be left alone comes last of all.
    return 2 if facts.failure.until else 1


def _rank(facts: Facts, driver_order: Sequence[str]) -> int:
    if facts.scheme in driver_order:
        return driver_order.index(facts.scheme)
    return len(driver_order)


def _nearness(facts: Facts) -> tuple[bool, float, float]:
    seconds = math.inf if facts.seconds is None else facts.seconds
    return (not facts.local, facts.distance, seconds)


_PREFERENCES: dict[str, Callable[[Facts], typing.Any]] = {
    'order': lambda facts: 0,
    'weight': lambda facts: -facts.weight,
    'nearest': _nearness,
}


# In words


def _reason(facts: Facts, selector: str, driver_order: Sequence[str]) -> str:
    parts = []
    if facts.failure is not None:
        parts.append(_failure(facts.failure, facts.rest))
    if facts.proxied:
        parts.append('by a proxy of this datacenter')
    elif facts.tier:
        parts.append('if no proxy works')
    if facts.scheme is None:
        parts.append('a file object, which comes after all URLs')
    elif facts.scheme in driver_order:
        parts.append(
            f'"{facts.scheme}" is number '
            f'{driver_order.index(facts.scheme) + 1} of driver_order'
        )
    elif driver_order:
        parts.append(f'"{facts.scheme}" is not in driver_order')
    if facts.scheme is not None:
        parts.append(_WORDS[selector](facts))
    return '; '.join(parts)


def _failure(failure: health.Failure, rest: float) -> str:
    option = 'Retry-After' if failure.until else 'location_backoff'
    times = 'once' if failure.count == 1 else f'{failure.count} times'
    return (
        f'behind the others for {rest:.0f} s more ({option}), for it failed '
        f'{times} lately: {failure.reason}'
    )


def _near(facts: Facts) -> str:
    if facts.local:
        return 'on this host'
    if facts.datacenter is None:
        place = 'in no known datacenter'
    elif not facts.distance:
        place = f'in this datacenter, {facts.datacenter}'
    elif math.isinf(facts.distance):
        place = f'in datacenter {facts.datacenter}, at no known distance'
    else:
        place = (
            f'in datacenter {facts.datacenter}, distance {facts.distance:g}'
        )
    if facts.seconds is None:
        return place
    if facts.seconds >= PROBE_TIMEOUT:
        return f'{place}, no answer in {PROBE_TIMEOUT:g} s'
    return f'{place}, answers in {facts.seconds * 1000:.1f} ms'


_WORDS: dict[str, Callable[[Facts], str]] = {
    'order': lambda facts: 'as given',
    'weight': lambda facts: f'weight {facts.weight}',
    'nearest': _near,
}


# What is known


def choose(
    sources: Sequence[ends.End], ctx: _context.Context
) -> tuple[Place, ...]:
    """Put the locations of a call in order.

    With the selector ``nearest``, and several locations equally near, it
    connects for a moment to hosts that are not known yet; that takes
    :data:`PROBE_TIMEOUT` at most.

    :raises ConfigurationError: the map of datacenters cannot be used
    """
    group = ctx.conf.oslo_transfer
    nearest = group.location_selector == 'nearest'
    if nearest:
        where = datacenters.from_conf(ctx.conf)
        _measure(sources, where, ctx)
    else:
        where = datacenters.Map()
    return order(
        [(end, _facts(end, where, group.location_backoff)) for end in sources],
        selector=group.location_selector,
        driver_order=group.driver_order,
    )


def _facts(end: ends.End, where: datacenters.Map, backoff: float) -> Facts:
    if not isinstance(end, ends.LocationEnd):
        return Facts()
    state = shared.current()
    failure = state.locations.last(end, backoff)
    # How far a proxy is counts no more than its tier does.
    origin = end.origin or end
    center = where.find(origin.host)
    address = origin.address
    return Facts(
        scheme=origin.endpoint.scheme,
        weight=origin.location.weight,
        local=not origin.host,
        datacenter=center,
        distance=where.distance(center),
        seconds=state.connect_times.get(address) if address else None,
        tier=end.tier,
        proxied=end.origin is not None,
        failure=failure,
        rest=failure.rest(backoff, time.monotonic()) if failure else 0.0,
    )


def _measure(
    sources: Sequence[ends.End], where: datacenters.Map, ctx: _context.Context
) -> None:
    """Find out about hosts whose connect time decides, all at once."""
    times = shared.current().connect_times
    by_distance: dict[float, dict[health.Address, ends.LocationEnd]] = {}
    for end in sources:
        # What a proxy is asked for is as far for all of them.
        if end.tier or end.origin is not None:
            continue
        if isinstance(end, ends.LocationEnd) and end.address is not None:
            distance = where.distance(where.find(end.host))
            by_distance.setdefault(distance, {})[end.address] = end
    unknown = [
        (end, address)
        for equals in by_distance.values()
        if len(equals) > 1
        for address, end in equals.items()
        if times.get(address) is None
    ]
    threads = [
        threading.Thread(
            target=_probe,
            args=(end, address, ctx),
            name='oslo-transfer-probe',
            daemon=True,
        )
        for end, address in unknown
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + PROBE_TIMEOUT
    for thread in threads:
        while thread.is_alive() and time.monotonic() < until:
            ctx.check()
            thread.join(0.05)
    # A probe that ends for this reason ends the wait above, too.
    ctx.check()
    for _end, address in unknown:
        if times.get(address) is None:
            # Not to be waited for again by the next copy.
            times.add(address, PROBE_TIMEOUT)


def _probe(
    end: ends.LocationEnd, address: health.Address, ctx: _context.Context
) -> None:
    until = time.monotonic() + PROBE_TIMEOUT
    if ctx.deadline is not None:
        until = min(until, ctx.deadline)
    with contextlib.suppress(exceptions.TransferError):
        ctx = end.context(ctx).replace(
            deadline=until, connect_timeout=PROBE_TIMEOUT
        )
        ctx.connector.probe(*address, ctx)
