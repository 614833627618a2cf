# SPDX-License-Identifier: Apache-2.0
"""What a process remembers of locations and hosts."""

from __future__ import annotations

import collections
from collections.abc import Hashable
import dataclasses
import threading
import time
import typing

from oslo_transfer import exceptions
from oslo_transfer import slots

if typing.TYPE_CHECKING:
    from oslo_transfer import ends

#: The most seconds that a location goes behind the others.
LONGEST_REST = 600.0
# Failures within so many seconds are one: a copy tries again by itself.
_AT_ONCE = 10.0
# How long a connect time says something, in seconds.
_FRESH = 600.0
# The weight of the newest connect time.
_NEWEST = 0.3
_MOST_ENTRIES = 4096
_LONGEST_REASON = 200

Address = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Failure:
    """What happened at a location, or at a host.

    :ivar count: failures in a row
    :ivar at: ``time.monotonic()`` of the last one that counted
    :ivar until: not to be asked before this; the host has said so
    :ivar reason: the last error
    """

    count: int
    at: float
    until: float
    reason: str

    def rest(self, backoff: float, now: float) -> float:
        """Seconds for which it still goes behind the others.

        :param backoff: the option ``location_backoff``
        :param now: ``time.monotonic()``
        """
        doubled = min(LONGEST_REST, backoff * 2.0 ** min(self.count - 1, 30))
        return max(0.0, self.at + doubled - now, self.until - now)


class Failures:
    """Locations and hosts that failed lately; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: collections.OrderedDict[Hashable, Failure] = (
            collections.OrderedDict()
        )

    def failed(self, end: ends.End, error: exceptions.TransferError) -> None:
        """A location was given up.

        Only what may pass counts, and wrong bytes. A Retry-After is what a
        host says of itself, whatever the path. A limit of our own is
        nobody's fault.
        """
        if isinstance(error, slots.Busy):
            return
        if end.identity and (
            error.retryable or isinstance(error, exceptions.IntegrityError)
        ):
            self._add(end.identity, error)
        if end.address is not None and error.retry_after:
            self._add(end.address, error)

    def succeeded(self, end: ends.End) -> None:
        """A location has given what it should."""
        with self._lock:
            self._entries.pop(end.identity, None)
            self._entries.pop(end.address, None)

    def unreachable(
        self, address: Address, error: exceptions.TransferError
    ) -> None:
        """A host does not take connections."""
        self._add(address, error)

    def reached(self, address: Address) -> None:
        """A host takes connections; that may be all that it does."""
        with self._lock:
            found = self._entries.get(address)
            if found is not None and not found.until:
                del self._entries[address]

    def last(self, end: ends.End, backoff: float) -> Failure | None:
        """The failure that a location or its host still rests for."""
        now = time.monotonic()
        with self._lock:
            found = [
                self._entries[key]
                for key in (end.identity, end.address)
                if key in self._entries
            ]
        resting = [each for each in found if each.rest(backoff, now) > 0]
        return max(
            resting, key=lambda each: each.rest(backoff, now), default=None
        )

    def rest(self, end: ends.End, backoff: float) -> float:
        """Seconds for which a location still goes behind the others."""
        found = self.last(end, backoff)
        return found.rest(backoff, time.monotonic()) if found else 0.0

    def _add(self, key: Hashable, error: exceptions.TransferError) -> None:
        now = time.monotonic()
        with self._lock:
            before = self._entries.pop(key, None)
            count, at, until = 1, now, 0.0
            if before is not None:
                again = now >= before.at + _AT_ONCE
                count = before.count + again
                at = now if again else before.at
                until = before.until
            if error.retry_after:
                until = max(until, now + error.retry_after)
            self._entries[key] = Failure(
                count, at, until, str(error)[:_LONGEST_REASON]
            )
            if len(self._entries) > _MOST_ENTRIES:
                self._entries.popitem(last=False)


class ConnectTimes:
    """How long hosts take to answer a connection; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: collections.OrderedDict[
            Address, tuple[float, float]
        ] = collections.OrderedDict()

    def add(self, address: Address, seconds: float) -> None:
        """One more connection was made."""
        before = self.get(address)
        if before is not None:
            seconds = before + _NEWEST * (seconds - before)
        with self._lock:
            self._entries[address] = (seconds, time.monotonic())
            self._entries.move_to_end(address)
            if len(self._entries) > _MOST_ENTRIES:
                self._entries.popitem(last=False)

    def get(self, address: Address) -> float | None:
        """Seconds, newer ones counting more; None if not known of late."""
        with self._lock:
            found = self._entries.get(address)
        if found is None or time.monotonic() > found[1] + _FRESH:
            return None
        return found[0]
