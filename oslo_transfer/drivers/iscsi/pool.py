# SPDX-License-Identifier: Apache-2.0
"""Sessions with one LUN, over all its portals.

A session belongs to one call at a time; there are as many as calls at once,
up to the option ``sessions``. A portal that fails is tried last from then
on, and a command that a broken connection has taken along is given again by
another way, as multipathing does: reading and writing blocks can be
repeated, and each session sees first that it leads to the same unit.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import logging
import threading
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import identity
from oslo_transfer.drivers.iscsi import login
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import session as _session
from oslo_transfer.drivers.iscsi import unit as _unit
from oslo_transfer.drivers.iscsi import waiting
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer.drivers.iscsi import libiscsi

LOG = logging.getLogger(__name__)

# What the user-space engine can name (SAM-5, 4.7: flat space addressing).
_MAX_LUN = (1 << 14) - 1
# How many pieces of news are listened to for one answer.
_MAX_NEWS = 16

_T = typing.TypeVar('_T')


class Pool:
    """Gives commands to a LUN, over one of several sessions. Thread-safe.

    :param lun: what to log in to
    :param ctx: the limits
    """

    def __init__(self, lun: _lun.Lun, ctx: _context.Context) -> None:
        if any(path.lun > _MAX_LUN for path in lun.paths):
            raise exceptions.InvalidEndpoint(
                f'{lun.where}: libiscsi can name LUNs up to {_MAX_LUN}'
            )
        group = ctx.conf.oslo_transfer_iscsi
        self._lun = lun
        self._ctx = ctx
        self._who = login.identity(lun, ctx)
        self._timeout: int = group.command_timeout
        #: How many sessions there may be at most.
        self.most: int = group.sessions
        #: Set when the pool is closed.
        self.closed = threading.Event()
        self._changed = threading.Condition()
        self._idle: list[_session.Session] = []
        self._busy: set[_session.Session] = set()
        self._connecting = 0
        self._turn = 0
        self._spares = 0
        self._failed: dict[_lun.Path, float] = {}
        self._unit: _unit.Unit | None = None

    def waiter(self, closed: threading.Event | None = None) -> waiting.Waiter:
        """The limits of one thread.

        :param closed: ends its waits, as closing the pool does
        """
        return waiting.Waiter(
            self._ctx, self._lun.where, closed or self.closed
        )

    def open(self) -> _unit.Unit:
        """Log in, and see that it is the right unit.

        :raises IntegrityError: it is another
        :raises TransferError: it cannot be reached, or is no disk
        """
        waiter = self.waiter()
        with self._borrow(waiter):
            pass
        assert self._unit is not None
        return self._unit

    def run(
        self,
        commands: Sequence[_session.Command],
        waiter: waiting.Waiter,
    ) -> list[libiscsi.Outcome]:
        """Give commands at once, and wait for all answers.

        Blocks for the option ``command_timeout`` without an answer at most,
        for each portal.

        :raises SenseError: the target refused one
        :raises Unavailable: no portal takes them
        """
        return self.do(lambda each: each.run(commands, waiter), waiter)

    def do(
        self,
        work: Callable[[_session.Session], _T],
        waiter: waiting.Waiter,
    ) -> _T:
        """Do something that can be repeated with a session of one's own."""
        failed = 0
        while True:
            try:
                with self._borrow(waiter) as session:
                    return self._heed(session, work, waiter)
            except failures.Broken as exc:
                waiter.check()
                failed += 1
                # Once more than there are portals: what was idle may have
                # been dead for long.
                if failed > len(self._lun.paths):
                    raise
                LOG.info('%s; going on with another session', exc)

    def _heed(
        self,
        session: _session.Session,
        work: Callable[[_session.Session], _T],
        waiter: waiting.Waiter,
    ) -> _T:
        """Do something; after news, see first whether it is the same unit.

        A disk that was put in the place of another begins with news of a
        reset.
        """
        for _ in range(_MAX_NEWS):
            try:
                return work(session)
            except failures.News as exc:
                LOG.info('%s: looking at it again after %s', waiter.where, exc)
                session.known = False
                capacity, disk = _unit.look(session, waiter)
                assert self._unit is not None
                self._compare(disk, capacity, self._unit)
                session.known = True
        raise exceptions.ProtocolError(
            f'{waiter.where}: the target has one piece of news after another'
        )

    @contextlib.contextmanager
    def _borrow(self, waiter: waiting.Waiter) -> Iterator[_session.Session]:
        session = self._take(waiter)
        try:
            yield session
        except failures.Broken:
            self.note(session.path)
            raise
        finally:
            self.give_back(session)

    def spare(self, waiter: waiting.Waiter) -> _session.Session | None:
        """A session for what is not needed yet; None if there is none.

        One is always left for what is. To be given back as a spare one.
        """
        with self._changed:
            if self._spares >= self.most - 1 or (
                not self._idle
                and len(self._busy) + self._connecting >= self.most
            ):
                return None
            self._spares += 1
        try:
            return self._take(waiter)
        except BaseException as exc:
            with self._changed:
                self._spares -= 1
            if isinstance(exc, failures.Broken):
                return None
            raise

    def give_back_spare(self, session: _session.Session) -> None:
        """The end of :meth:`spare`."""
        with self._changed:
            self._spares -= 1
        self.give_back(session)

    def give_back(self, session: _session.Session) -> None:
        """Let others have a session; one that is broken is closed."""
        keep = session.usable
        with self._changed:
            self._busy.discard(session)
            keep &= not self.closed.is_set()
            if keep:
                self._idle.append(session)
            self._changed.notify()
        if not keep:
            session.close()

    def note(self, path: _lun.Path) -> None:
        """A portal has failed: it is tried last from now on."""
        with self._changed:
            self._failed[path] = time.monotonic()

    def _take(self, waiter: waiting.Waiter) -> _session.Session:
        """An idle session, or a new one, or the next that is given back."""
        while True:
            waiter.check()
            self._check_open()
            with self._changed:
                session = self._idle.pop() if self._idle else None
                if session is not None:
                    self._busy.add(session)
                elif len(self._busy) + self._connecting < self.most:
                    self._connecting += 1
                else:
                    self._changed.wait(_context.TICK)
                    continue
            if session is None:
                session = self._connect(waiter)
                if session is None:
                    continue
            if session.usable and not self.closed.is_set():
                return session
            self.give_back(session)

    def _connect(self, waiter: waiting.Waiter) -> _session.Session | None:
        """A new session; None where those that are there have to do."""
        try:
            session = self._log_in(waiter)
        except (exceptions.Unavailable, exceptions.AccessDenied) as exc:
            with self._changed:
                self._connecting -= 1
                self._changed.notify()
                count = len(self._busy) + len(self._idle)
                # Those that read ahead do not come back by themselves.
                if count <= self._spares:
                    raise
                # Some targets take only so many sessions of a host.
                self.most = min(self.most, count)
            LOG.info('%s; going on with %d sessions', exc, count)
            return None
        except BaseException:
            with self._changed:
                self._connecting -= 1
                self._changed.notify()
            raise
        with self._changed:
            self._connecting -= 1
            self._busy.add(session)
        return session

    def _log_in(self, waiter: waiting.Waiter) -> _session.Session:
        """Log in at the first portal that works.

        :raises AccessDenied: the first that answers does not let us in
        """
        reasons: list[exceptions.TransferError] = []
        for path in self._paths():
            try:
                return self._log_in_at(path, waiter)
            except (exceptions.Unavailable, exceptions.NotFound) as exc:
                self.note(path)
                reasons.append(exc)
        if len(reasons) == 1:
            raise reasons[0]
        text = '; '.join(
            dict.fromkeys(
                str(each).removeprefix(f'{waiter.where}: ') for each in reasons
            )
        )
        kind = (
            exceptions.NotFound
            if all(isinstance(each, exceptions.NotFound) for each in reasons)
            else exceptions.Unavailable
        )
        raise kind(f'{waiter.where}: {text}')

    def _paths(self) -> list[_lun.Path]:
        """By turns, those that have failed last."""
        paths = self._lun.paths
        with self._changed:
            turn = self._turn % len(paths)
            self._turn += 1
            return sorted(
                paths[turn:] + paths[:turn],
                key=lambda path: self._failed.get(path, 0.0),
            )

    def _log_in_at(
        self, path: _lun.Path, waiter: waiting.Waiter
    ) -> _session.Session:
        session = _session.Session(
            login.log_in(path, self._who, waiter),
            path,
            self._lun.where,
            self._timeout,
        )
        try:
            unit = self._unit
            if unit is None:
                # The first session; there are others only after it.
                unit = _unit.examine(session, waiter)
                capacity, disk = unit.capacity, unit.disk
            else:
                capacity, disk = _unit.greet(session, waiter)
            self._compare(disk, capacity, unit)
        except BaseException:
            session.close()
            raise
        session.known = True
        with self._changed:
            self._unit = unit
            self._failed.pop(path, None)
        return session

    def _compare(
        self,
        disk: identity.Disk,
        capacity: scsi.Capacity,
        unit: _unit.Unit,
    ) -> None:
        if capacity.size != unit.capacity.size:
            raise exceptions.SourceChanged(
                f'{self._lun.where}: the LUN had {unit.capacity.size} bytes '
                f'and has {capacity.size} now'
            )
        identity.check(self._lun, [unit.disk, disk])

    def check(self, waiter: waiting.Waiter) -> None:
        """See that the unit still is the one that was opened.

        Blocks for a round trip.

        :raises IntegrityError: it is another
        :raises SourceChanged: it has another size
        """
        unit = self._unit
        assert unit is not None

        try:
            capacity, disk = self.do(
                lambda session: _unit.look(session, waiter), waiter
            )
        except failures.SenseError as exc:
            raise exc.translated(self._lun.where) from exc
        self._compare(disk, capacity, unit)

    def _check_open(self) -> None:
        if self.closed.is_set():
            raise exceptions.TransferCancelled(f'{self._lun.where} was closed')

    def close(self) -> None:
        """End all sessions; those in use end within a tick. Idempotent.

        Blocks for a second at most.
        """
        self.closed.set()
        with self._changed:
            idle, self._idle = self._idle, []
            for session in self._busy:
                session.interrupt()
            self._changed.notify_all()
        for session in idle:
            session.close()
