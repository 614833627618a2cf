# SPDX-License-Identifier: Apache-2.0
"""The strategy contract: a way to satisfy one call.

A strategy first *plans*: it decides from capabilities alone, without
touching anything, which driver calls it would make. Then it *runs* the
plan. It knows drivers by their capabilities only, never by name.
"""

from __future__ import annotations

import abc
import dataclasses
import typing

from oslo_transfer import attempts as _attempts
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import result as _result

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import landing as _landing
    from oslo_transfer import request as _request

#: What a completing strategy leaves at the destination.
COMPLETE = frozenset({'file', 'device'})
#: What an attaching strategy may leave there.
ATTACHED = frozenset({'overlay', 'device', 'path'})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a strategy would do, in order.

    :ivar strategy: its name
    :ivar sources: the locations that it would use, in order
    :ivar passed_over: those that it would not, with why
    :ivar steps: each driver call, in words
    """

    strategy: str
    sources: tuple[ends.End, ...]
    passed_over: tuple[_result.Attempt, ...] = ()
    steps: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a strategy has done; the fields are those of the result."""

    driver: str
    source: str
    form: str
    verified: bool
    bytes_written: int
    bytes_by_origin: dict[str, int]
    bytes_by_location: dict[str, int] = dataclasses.field(default_factory=dict)
    wasted: int
    digest: str | None
    method: str
    attachment: drivers_base.Attachment | None = None
    attempts: tuple[_result.Attempt, ...] = ()
    seeding: bool | None = None


def choose(
    strategy: str,
    request: _request.Request,
    flag: drivers_base.Capability,
    otherwise: str,
) -> tuple[list[ends.End], tuple[_result.Attempt, ...]]:
    """The locations that have a capability, and why not the others.

    :param otherwise: says that there is none
    :raises CapabilityMissing: there is none
    """
    usable, passed_over = [], []
    for end in request.sources:
        if flag in end.capabilities:
            usable.append(end)
        else:
            error = exceptions.CapabilityMissing(
                f'the {end.driver_name} driver has no {flag.name}'
            )
            passed_over.append(_attempts.attempt(strategy, str(end), error))
    if not usable:
        raise exceptions.CapabilityMissing(otherwise)
    return usable, tuple(passed_over)


def plan_to_attach(
    strategy: str, request: _request.Request, kind: str, rest: str
) -> Plan:
    """A plan that uses each location that can be attached.

    :param kind: what the destination has to be, on this host
    :param rest: what is done with what is attached, in words
    :raises CapabilityMissing: the destination is not on this host, or no
        location can be attached
    """
    if request.destination.local_path is None:
        raise exceptions.CapabilityMissing(
            f'{request.destination} is not a {kind} on this host'
        )
    usable, passed_over = choose(
        strategy,
        request,
        drivers_base.Capability.ATTACH,
        'no location can be attached',
    )
    return Plan(
        strategy=strategy,
        sources=tuple(usable),
        passed_over=passed_over,
        steps=tuple(
            f'attach {end} by {end.driver_name}, {rest}' for end in usable
        ),
    )


class Strategy(abc.ABC):
    """A way to satisfy one call.

    Registered as an entry point in ``oslo.transfer.strategies``. Created
    anew for each call; used by one thread.
    """

    #: Its name in ``strategy_order`` and in results.
    name: typing.ClassVar[str]

    #: True if it returns before the data is complete: such a strategy runs
    #: only if the call names it or accepts its form.
    attaching: typing.ClassVar[bool] = False

    #: The forms of destination that it can leave.
    forms: typing.ClassVar[frozenset[str]]

    def __init_subclass__(cls, **kwargs: typing.Any) -> None:
        super().__init_subclass__(**kwargs)
        for attribute in ('name', 'forms'):
            if not hasattr(cls, attribute):
                raise TypeError(f'{cls.__name__} declares no {attribute}')
        allowed = ATTACHED if cls.attaching else COMPLETE
        if not cls.forms or not cls.forms <= allowed:
            raise TypeError(
                f'{cls.__name__} declares the forms {sorted(cls.forms)}; '
                f'possible are {sorted(allowed)}'
            )

    @abc.abstractmethod
    def plan(self, request: _request.Request) -> Plan:
        """Decide what to do; pure, and quick.

        :raises CapabilityMissing: it cannot serve this call; says why
        """

    @abc.abstractmethod
    def run(
        self,
        plan: Plan,
        request: _request.Request,
        landing: _landing.Landing,
        ctx: _context.Context,
    ) -> Outcome:
        """Do what was planned.

        Blocks until it is done. What fails leaves nothing visible.

        :raises TransferError: with ``attempts`` for what was tried
        """
