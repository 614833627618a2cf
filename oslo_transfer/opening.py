# SPDX-License-Identifier: Apache-2.0
"""Opens what a copy reads from: one location, or several together."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import threading
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import ranges
from oslo_transfer import request as _request
from oslo_transfer.wrappers import mirrors as _mirrors
from oslo_transfer.wrappers import retry
from oslo_transfer.wrappers import throttle

if typing.TYPE_CHECKING:
    from oslo_transfer import filler


def alone(
    end: ends.End,
    ctx: _context.Context,
    *,
    hosts: Sequence[str] = (),
    checked: bool = False,
) -> retry.RetryingSource:
    """Open one location with all its wrappers, for any use but a copy.

    :param ctx: the limits
    :param hosts: further hosts whose limits apply
    :param checked: what is read is verified: it may be joined anyhow
    """
    source = throttle.limited(end.open_source(ctx), ctx, (end.host, *hosts))
    return retry.RetryingSource(
        source, ctx, str(end), joinable=checked or _is_strong(source)
    )


def _is_strong(source: base.Source) -> bool:
    return source.validator is not None and source.validator.strong


class Opening:
    """Opens the source of one copy, with all its wrappers.

    :param locations: one, or several of the same bytes
    :param request: what the caller asked for
    :param ctx: the copy's limits
    """

    def __init__(
        self,
        locations: Sequence[ends.End],
        request: _request.Request,
        ctx: _context.Context,
    ) -> None:
        self._locations = locations
        self._request = request
        self._ctx = ctx
        #: The locations, for messages.
        self.where = (
            str(locations[0])
            if len(locations) == 1
            else f'{len(locations)} locations'
        )
        #: The locations together; None where there is only one.
        self.mirrored: _mirrors.MirroredSource | None = None
        if len(locations) > 1:
            self.mirrored = _mirrors.MirroredSource(
                locations,
                self._open_location,
                ctx,
                size=request.expected_size,
                most=ctx.conf.oslo_transfer.max_locations,
            )

    def open(self, hint: int, patient: bool) -> retry.RetryingSource:
        """Open it.

        :param hint: where reading will probably begin
        :param patient: try again for a while
        """
        start = max(0, hint - retry.OVERLAP)
        backoff = retry.Backoff(self._ctx, self.where)
        while True:
            try:
                source = self._open_once(start)
                break
            except exceptions.TransferError as exc:
                try:
                    if not (exc.retryable and patient):
                        raise
                    backoff.failed(exc)
                except BaseException:
                    self.close()
                    raise
        return retry.RetryingSource(
            source,
            self._ctx,
            self.where,
            joinable=_is_strong(source)
            or self._request.has_digest
            or source.pieces is not None,
        )

    def _open_once(self, start: int) -> base.Source:
        if self.mirrored is None:
            return self._open_location(self._locations[0], start)
        self.mirrored.open(start)
        return self.mirrored

    def _open_location(
        self,
        end: ends.End,
        start: int,
        abandoned: threading.Event | None = None,
    ) -> base.Source:
        ctx = self._ctx.replace(start=start)
        if abandoned is not None:
            ctx = ctx.replace(cancel=_AnyOf(ctx.cancel, abandoned))
        hosts = (end.host, self._request.destination.host)
        return throttle.limited(end.open_source(ctx), self._ctx, hosts)

    def close(self) -> None:
        """Let go of what a failed opening has left."""
        if self.mirrored is not None:
            self.mirrored.close()

    def shared(self, shares: filler.Shares) -> dict[str, typing.Any]:
        """Who gave how many bytes to a file that the source has filled."""
        (end,) = self._locations
        own = shares.by_origin.total() - shares.by_helper.total()
        for free in ('resumed', 'zeros'):
            own -= shares.by_origin[free]
        return {
            'source': end,
            'bytes_by_origin': _some(shares.by_origin),
            'bytes_by_location': _some({str(end): own, **shares.by_helper}),
        }

    def accounts(
        self, origin: str, size: int, held: ranges.RangeSet
    ) -> dict[str, typing.Any]:
        """Who gave how many bytes, for the result.

        :param origin: of a single location
        :param size: of the whole
        :param held: what was there before
        """
        if self.mirrored is None:
            (end,) = self._locations
            mine = size - held.total
            return {
                'source': end,
                'bytes_by_origin': _some(
                    {origin: mine, 'resumed': held.total}
                ),
                'bytes_by_location': _some({str(end): mine}),
            }
        shares = self.mirrored.shares(size, held)
        by_origin = {'resumed': size - sum(shares.values())}
        for mirror, count in shares.items():
            by_origin[mirror.origin] = by_origin.get(mirror.origin, 0) + count
        return {
            # Not one with wrong bytes, though many of its may be right.
            'source': max(
                shares, key=lambda each: (not each.gone, shares[each])
            ).end,
            'bytes_by_origin': _some(by_origin),
            'bytes_by_location': _some(
                {each.name: count for each, count in shares.items()}
            ),
        }


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {key: count for key, count in counts.items() if count}


class _AnyOf:
    """Set when one of several events is."""

    def __init__(self, *events: _context.CancelEvent | None) -> None:
        self._events = [event for event in events if event is not None]

    def is_set(self) -> bool:
        return any(event.is_set() for event in self._events)
