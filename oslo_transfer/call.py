# SPDX-License-Identifier: Apache-2.0
"""What one public call works with: its limits, drivers and strategies."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import time
import typing

from oslo_config import cfg

from oslo_transfer import _loader
from oslo_transfer import attachment_records
from oslo_transfer import attempts as _attempts
from oslo_transfer import connector
from oslo_transfer import context as _context
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import fileobj
from oslo_transfer import landing as _landing
from oslo_transfer import limiter
from oslo_transfer import location as _location
from oslo_transfer import opening
from oslo_transfer import opts
from oslo_transfer import progress as _progress
from oslo_transfer import proxied
from oslo_transfer import request as _request
from oslo_transfer import result as _result
from oslo_transfer import selector
from oslo_transfer import shared
from oslo_transfer.strategies import base as strategies_base
from oslo_transfer import urlpolicy

_FORMS = frozenset({'file', 'overlay', 'device', 'path'})

# What the next strategy cannot mend either.
_FINAL = (
    exceptions.TransferCancelled,
    exceptions.DeadlineExceeded,
    exceptions.NoSpace,
    exceptions.AlreadyExists,
    exceptions.ConfigurationError,
)


class Call:
    """What one public call works with."""

    def __init__(
        self,
        conf: cfg.ConfigOpts | None,
        cancel: _context.CancelEvent | None,
        deadline: float | None,
        rate_limit: int | None,
    ) -> None:
        self.conf = cfg.CONF if conf is None else conf
        opts.register_opts(self.conf)
        group = self.conf.oslo_transfer
        if rate_limit is not None and rate_limit <= 0:
            raise exceptions.ConfigurationError(
                'rate_limit must be a positive number of bytes per second'
            )
        rate = rate_limit or group.rate_limit_bytes_per_second or None
        self._drivers: dict[str, drivers_base.Driver] = {}
        self.ctx = _context.Context(
            conf=self.conf,
            connector=connector.Connector(urlpolicy.from_conf(self.conf)),
            stall=_context.StallRule(
                group.stall_timeout, group.stall_bytes_per_second
            ),
            connect_timeout=group.connect_timeout,
            deadline=None if deadline is None else time.monotonic() + deadline,
            cancel=cancel,
            limiter=limiter.Limiter(rate),
            opener=self._open,
            attacher=attachment_records.attach,
        )

    def _open(
        self, location: _location.Location, ctx: _context.Context
    ) -> drivers_base.Source:
        return opening.alone(ends.end_of(location, self.driver), ctx)

    def driver(self, scheme: str) -> drivers_base.Driver:
        """The driver of a scheme; one for the whole call."""
        if scheme not in self._drivers:
            self._drivers[scheme] = _loader.driver(scheme, self.conf)
        return self._drivers[scheme]

    def request(
        self,
        src: typing.Any,
        dst: typing.Any,
        *,
        accept: Iterable[str],
        progress: _progress.ProgressCallback | None,
        expected_size: int | None,
        observers: Sequence[_request.Observer],
        **rest: typing.Any,
    ) -> _request.Request:
        """Check the arguments and find the drivers."""
        forms = frozenset(accept)
        if not forms <= _FORMS:
            raise exceptions.ConfigurationError(
                f'accept= has unknown forms; known are: '
                f'{", ".join(sorted(_FORMS))}'
            )
        if expected_size is not None and expected_size < 0:
            raise exceptions.ConfigurationError(
                'expected_size must not be negative'
            )
        sources, unusable = self._sources(src)
        return _request.Request(
            sources=sources,
            unusable=unusable,
            destination=ends.FileObjectEnd(dst)
            if fileobj.is_writable(dst)
            else ends.end_of(dst, self.driver),
            accept=forms,
            expected_size=expected_size,
            observers=tuple(observers),
            progress=_progress.Progress(progress),
            **rest,
        )

    def _sources(
        self, src: typing.Any
    ) -> tuple[tuple[ends.End, ...], tuple[_result.Attempt, ...]]:
        """All usable sources; one that cannot be used is passed over."""
        given = src if isinstance(src, list | tuple) else [src]
        if not given:
            raise exceptions.InvalidEndpoint('the list of sources is empty')
        files: list[ends.End] = []
        locations: list[typing.Any] = []
        for each in given:
            if fileobj.is_readable(each):
                files.append(ends.FileObjectEnd(each))
            else:
                locations.append(_location.as_location(each))
        failed = _attempts.Attempts('')
        found: list[ends.End] = []
        for location in _location.unique(locations):
            try:
                found.append(ends.end_of(location, self.driver))
            except (
                exceptions.DriverNotFound,
                exceptions.DriverLoadError,
            ) as exc:
                failed.add(str(location), exc)
        if not found and not files:
            raise failed.error()
        return (*found, *files), failed.all

    def satisfy(
        self,
        request: _request.Request,
        landing: _landing.Landing,
        strategy: str | None,
    ) -> tuple[str, strategies_base.Outcome, tuple[_result.Attempt, ...]]:
        """Run the named strategy, or the first of the order that works.

        Waits its turn first, where only so many copies may run at once.
        """
        most = self.conf.oslo_transfer.max_concurrent_copies
        with shared.current().copies.turn(
            most, self.ctx, 'max_concurrent_copies'
        ):
            request, _places = self.locate(request)
            return self._satisfy(request, landing, strategy)

    def locate(
        self, request: _request.Request
    ) -> tuple[_request.Request, tuple[selector.Place, ...]]:
        """Put the locations in order, with the proxies that lead to them.

        :raises ConfigurationError: the map of datacenters cannot be used
        """
        sources, unusable = proxied.expand(
            request.sources, self.conf, self.driver
        )
        places = selector.choose(sources, self.ctx)
        return dataclasses.replace(
            request,
            sources=tuple(place.end for place in places),
            unusable=request.unusable + unusable,
        ), places

    def order(self, strategy: str | None) -> list[str]:
        """The strategies to try."""
        if strategy:
            return [strategy]
        order: list[str] = self.conf.oslo_transfer.strategy_order
        if not order:
            raise exceptions.ConfigurationError(
                '[oslo_transfer] strategy_order is empty'
            )
        return order

    def _satisfy(
        self,
        request: _request.Request,
        landing: _landing.Landing,
        strategy: str | None,
    ) -> tuple[str, strategies_base.Outcome, tuple[_result.Attempt, ...]]:
        failed = list(request.unusable)
        last: exceptions.TransferError | None = None
        for name in self.order(strategy):
            try:
                chosen, plan = self.plan(name, request, bool(strategy))
                outcome = chosen.run(plan, request, landing, self.ctx)
            except exceptions.TransferError as exc:
                if isinstance(exc, _FINAL) or strategy:
                    exc.attempts = (*failed, *exc.attempts)
                    raise
                failed.extend(
                    exc.attempts or [_attempts.attempt(name, '', exc)]
                )
                # What was only passed over is no answer to the caller.
                if not isinstance(exc, exceptions.CapabilityMissing) or (
                    last is None
                    or isinstance(last, exceptions.CapabilityMissing)
                ):
                    last = exc
                continue
            return name, outcome, tuple(failed)
        assert last is not None
        last.attempts = tuple(failed)
        raise last

    @staticmethod
    def plan(
        name: str, request: _request.Request, named: bool
    ) -> tuple[strategies_base.Strategy, strategies_base.Plan]:
        """Have a strategy plan.

        :param named: the call names it, so it need not be accepted
        :raises CapabilityMissing: it cannot serve the call
        :raises StrategyNotFound: there is no such strategy
        :raises DriverLoadError: it cannot be loaded
        """
        cls = _loader.strategy_class(name)
        if cls.attaching and not named and not cls.forms & request.accept:
            raise exceptions.CapabilityMissing(
                f'it gives {" or ".join(sorted(cls.forms))}, and the call '
                f'accepts {", ".join(sorted(request.accept))}'
            )
        chosen = cls()
        return chosen, chosen.plan(request)
