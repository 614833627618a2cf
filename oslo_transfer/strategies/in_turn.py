# SPDX-License-Identifier: Apache-2.0
"""Uses one location, and tells what came of it."""

from __future__ import annotations

from collections.abc import Sequence
import typing

from oslo_transfer import attempts as _attempts
from oslo_transfer import exceptions
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

#: What another location cannot mend.
FINAL = (
    exceptions.TransferCancelled,
    exceptions.DeadlineExceeded,
    exceptions.NoSpace,
    exceptions.AlreadyExists,
)


def try_each(
    locations: Sequence[ends.End],
    request: _request.Request,
    landing: _landing.Landing,
    ctx: _context.Context,
    failed: _attempts.Attempts,
) -> base.Outcome:
    """Use the first location that works.

    :param failed: takes what is given up
    :raises TransferError: none works
    """
    for index, end in enumerate(locations):
        last = index == len(locations) - 1
        attempt = OneLocation(end, request, landing, ctx, last)
        received = try_one(attempt, failed)
        if received is not None:
            return outcome(received, failed)
    raise failed.error()


def try_one(
    attempt: OneLocation, failed: _attempts.Attempts
) -> receive.Received | None:
    """One location; None if the next one may do better."""
    try:
        return attempt.run()
    except FINAL as exc:
        failed.add(str(attempt.end), exc)
        exc.attempts = failed.all
        raise
    except exceptions.TransferError as exc:
        failed.add(str(attempt.end), exc)
        shared.current().locations.failed(attempt.end, exc)
        return None
    finally:
        failed.wasted += attempt.wasted
        for helper in attempt.helpers:
            if helper.error is not None:
                failed.add(helper.name, helper.error)


def outcome(
    received: receive.Received, failed: _attempts.Attempts
) -> base.Outcome:
    """What the strategy tells of a copy that worked."""
    shared.current().locations.succeeded(received.source)
    return base.Outcome(
        driver=received.source.driver_name,
        source=str(received.source),
        form=received.form,
        verified=received.verified,
        bytes_written=received.bytes_written,
        bytes_by_origin=received.bytes_by_origin,
        bytes_by_location=received.bytes_by_location,
        wasted=failed.wasted + received.wasted,
        digest=received.digest,
        method=received.method,
        seeding=received.seeding,
        attempts=failed.all,
    )


class OneLocation:
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
        """Copy from it.

        :raises TransferError: it does not work
        """
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
                # Joined bytes may be to blame: read it once in one go. So
                # may what a proxy keeps: have it fetch that anew.
                proxied = self.end.origin is not None
                if blamed or not (receiver.joined or proxied):
                    raise
                blamed, resume = True, False
                self._ctx = self._ctx.replace(anew=proxied)
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
