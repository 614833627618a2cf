# SPDX-License-Identifier: Apache-2.0
"""Who may read what, as its origin has said, and for how long that holds."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from concurrent import futures
import copy
import dataclasses
import functools
import hashlib
import json
import logging
import threading
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.export import workers as _workers

if typing.TYPE_CHECKING:
    from oslo_transfer.service.proxy import opened as _opened

LOG = logging.getLogger(__name__)

# How many are kept.
_MOST = 10000
# Seconds for which an origin that cannot be reached is not asked again for
# the same one.
_STALE_STEP = 10.0
# Seconds that one who had it before waits for an origin that says nothing.
_PATIENCE = 5.0
# Threads that ask for those who had it before.
_LOOKERS = 64
_KEY_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Asking:
    """Somebody asks for an origin.

    :ivar endpoint: of the origin
    :ivar headers: for it, that prove who asks
    :ivar via: goes to the origin, too
    """

    endpoint: _endpoint.Endpoint
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    via: str = ''

    @property
    def key(self) -> str:
        """Tells this one, and this origin, from others; shows no secret."""
        told = [
            self.endpoint.text(),
            sorted((name.lower(), v) for name, v in self.headers.items()),
        ]
        return hashed(json.dumps(told))


def hashed(text: str) -> str:
    """What stands for a text with secrets: 32 hexadecimal digits."""
    data = text.encode(errors='surrogateescape')
    return hashlib.blake2b(data, digest_size=_KEY_BYTES).hexdigest()


class Grant:
    """One may read one version of an image.

    :param opened: what he may read
    :param user: stands for him there
    :param seconds: how long that holds
    """

    def __init__(
        self, opened: _opened.Opened, user: str, seconds: float
    ) -> None:
        self.opened = opened
        self.user = user
        #: When the origin has said so, by ``time.monotonic()``.
        self.said = time.monotonic()
        #: Until when nobody has to ask it again.
        self.until = self.said + seconds
        #: Whether the origin could not be reached since.
        self.stale = False

    @property
    def holds(self) -> bool:
        """Whether nobody has to be asked."""
        return time.monotonic() < self.until


def _step(seconds: float) -> float:
    return min(_STALE_STEP, max(seconds, 1.0))


class Grants:
    """All grants. Thread-safe.

    :param ask: asks the origin; blocks, and returns what was opened and the
        name of its user there
    :param ctx: interrupts those who wait
    :param limits: tells for how many seconds a grant holds, and for how
        many more while the origin cannot be reached
    """

    def __init__(
        self,
        ask: Callable[[Asking], tuple[_opened.Opened, str]],
        ctx: _context.Context,
        limits: Callable[[], tuple[float, float]],
    ) -> None:
        self._ask = ask
        self._ctx = ctx
        self._limits = limits
        self._lock = threading.Lock()
        self._grants: dict[str, Grant] = {}
        # Who is being asked for; many who ask at once ask once.
        self._flights: dict[str, futures.Future[Grant]] = {}
        # They go on asking when nobody waits any more. One origin that says
        # nothing does not take all of them.
        self._workers = _workers.Workers(_LOOKERS)

    def get(self, asking: Asking, *, again: bool = False) -> Grant:
        """Have a grant; blocks while the origin is asked.

        Who had it before waits for seconds only, however long that takes.

        :param again: also where there is one that holds
        :raises TransferError: the origin refuses, or cannot be reached
        """
        key = asking.key
        with self._lock:
            known = self._grants.get(key)
            if known is not None and not again and known.holds:
                return known
            # As it is now: what comes of this look is not to be taken for it.
            patience = 0.0 if known is not None and known.stale else _PATIENCE
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = futures.Future()
        if again or known is None or not self._may_go_on(known):
            if leads:
                return self._lead(asking, known, flight)
            return self._wait(flight)
        if leads:
            look = functools.partial(self._look, asking, known, flight)
            self._workers.do(look, asking.endpoint.origin)
        return self._wait_or_go_on(key, flight, known, patience)

    def _may_go_on(self, known: Grant) -> bool:
        """Whether it may hold for longer while nobody can be asked."""
        return time.monotonic() < known.said + sum(self._limits())

    def _wait_or_go_on(
        self,
        key: str,
        flight: futures.Future[Grant],
        known: Grant,
        patience: float,
    ) -> Grant:
        """Wait, but not for an origin that cannot be reached."""
        end = time.monotonic() + patience
        while not flight.done():
            if time.monotonic() >= end and self._goes_on(key, known):
                return known
            futures.wait([flight], _context.TICK)
            self._ctx.check()
        return self._wait(flight)

    def _goes_on(self, key: str, known: Grant) -> bool:
        """Have a grant hold for longer, where it may."""
        with self._lock:
            # It may just have been refused.
            if self._grants.get(key) is not known:
                return False
            if not self._may_go_on(known):
                return False
            if not known.stale:
                LOG.warning(
                    '%s: the origin says nothing; what is here of it is '
                    'served to those who had it',
                    known.opened.where,
                )
            known.stale = True
            known.until = time.monotonic() + _step(self._limits()[0])
            return True

    def _look(
        self, asking: Asking, known: Grant, flight: futures.Future[Grant]
    ) -> None:
        """See whether the origin can be reached again."""
        try:
            self._lead(asking, known, flight)
        except exceptions.TransferError as exc:
            LOG.info('%s', exc)
        except Exception:
            LOG.exception('%s', asking.endpoint)

    def _lead(
        self,
        asking: Asking,
        known: Grant | None,
        flight: futures.Future[Grant],
    ) -> Grant:
        """Ask the origin, for all who wait."""
        key = asking.key
        try:
            grant = self._renew(asking, known)
        except BaseException as exc:
            with self._lock:
                del self._flights[key]
                self._grants.pop(key, None)
                if known is not None:
                    known.until = 0.0
            flight.set_exception(exc)
            if known is not None:
                known.opened.leave(known.user)
            raise
        with self._lock:
            del self._flights[key]
            # Those renewed last are at the end.
            self._grants.pop(key, None)
            self._grants[key] = grant
        flight.set_result(grant)
        return grant

    def _wait(self, flight: futures.Future[Grant]) -> Grant:
        while True:
            try:
                return flight.result(_context.TICK)
            except exceptions.TransferError as exc:
                # Each has a traceback of his own.
                raise copy.copy(exc) from None
            except futures.TimeoutError:
                self._ctx.check()

    def _renew(self, asking: Asking, known: Grant | None) -> Grant:
        seconds, stale = self._limits()
        try:
            opened, user = self._ask(asking)
        except exceptions.TransferError as exc:
            if (
                known is None
                or not exc.retryable
                or isinstance(exc, exceptions.SourceChanged)
                or time.monotonic() >= known.said + seconds + stale
            ):
                raise
            LOG.warning(
                '%s; what is here of it is served to those who had it', exc
            )
            known.stale = True
            known.until = time.monotonic() + _step(seconds)
            return known
        return Grant(opened, user, seconds)

    def forget(self, opened: _opened.Opened) -> None:
        """Nobody may read an image any more without asking again."""
        with self._lock:
            for key, grant in list(self._grants.items()):
                if grant.opened is opened:
                    del self._grants[key]

    def sweep(self) -> None:
        """Drop those that are of no use any more."""
        seconds, stale = self._limits()
        over = time.monotonic() - seconds - stale
        with self._lock:
            rest = len(self._grants) - _MOST
            gone = []
            for number, (key, grant) in enumerate(self._grants.items()):
                if number < rest or (grant.said < over and not grant.holds):
                    gone.append((key, grant))
            for key, grant in gone:
                del self._grants[key]
        for _key, grant in gone:
            grant.opened.leave(grant.user)

    def close(self) -> None:
        """Ask no more; those under way are interrupted by the context."""
        self._workers.close(0.0)
