# SPDX-License-Identifier: Apache-2.0
"""At most so many at once, first come, first served."""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Hashable
import contextlib
import threading
import time
import typing
import weakref

from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    import socket

    from oslo_transfer import context as _context

# A socket that was closed tells nobody: those who wait look at it.
_LOOK = 0.1
# With more than this, what nobody asks for any more is looked for.
_MANY = 1024


class Busy(exceptions.Unavailable):
    """A limit of our own lets nothing more begin, for too long."""


class Slot:
    """One of a limited number.

    Free again when it is released, or when the socket that holds it is
    closed or forgotten, whoever has it by then.

    :param transfer: stands for the call that takes it
    :param writing: it is for the call's destination
    """

    def __init__(self, transfer: object, writing: bool) -> None:
        self.transfer = transfer
        self.writing = writing
        #: Closes the socket that holds it, unless that is in use again;
        #: None where it is in use for all that is known.
        self.end: Callable[[], bool] | None = None
        self._released = False
        self._socket: weakref.ref[socket.socket] | None = None

    def hold(self, sock: socket.socket) -> None:
        """It is free when this socket is closed."""
        self._socket = weakref.ref(sock)

    def held_by(self, sock: socket.socket) -> bool:
        """Whether this socket holds it."""
        return self._socket is not None and self._socket() is sock

    def release(self) -> None:
        """It is free."""
        self._released = True

    @property
    def taken(self) -> bool:
        """Whether it is still in use."""
        if self._released or self._socket is None:
            return not self._released
        sock = self._socket()
        return sock is not None and sock.fileno() >= 0


class Slots:
    """Slots by what they are for; thread-safe.

    One side of a copy, source or destination, does not wait while only the
    other side has a slot: it goes over the limit. Otherwise two copies
    could each wait for what the other one holds.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: dict[Hashable, list[Slot]] = {}
        self._queues: dict[Hashable, collections.deque[Slot]] = {}

    def take(
        self,
        key: Hashable,
        most: int,
        ctx: _context.Context,
        option: str,
    ) -> Slot:
        """Wait for a slot and take it.

        Blocks for at most ``queue_timeout`` seconds.

        :param key: what it is for
        :param most: how many there are; 0 for any number
        :param ctx: the call; interrupts the wait
        :param option: the option that says how many, for the message
        :raises Busy: none got free in time
        """
        timeout = ctx.conf.oslo_transfer.queue_timeout
        end = time.monotonic() + timeout
        slot = Slot(ctx.transfer, ctx.writing)
        with self._changed:
            queue = self._queues.setdefault(key, collections.deque())
            queue.append(slot)
            try:
                while not self._is_next(slot, key, most):
                    ctx.check()
                    if self._queues[key][0] is slot and self._end_one(key):
                        continue
                    left = end - time.monotonic()
                    if left <= 0:
                        raise Busy(
                            f'waited {timeout:g} seconds (queue_timeout) '
                            f'for one of the {most} that [oslo_transfer] '
                            f'{option} allows'
                        )
                    self._changed.wait(min(left, _LOOK))
                if len(self._taken) > _MANY:
                    for each in list(self._taken):
                        self._in_use(each)
                self._taken.setdefault(key, []).append(slot)
            finally:
                queue.remove(slot)
                if not queue:
                    del self._queues[key]
                self._changed.notify_all()
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back, and wake up who waits for it."""
        with self._changed:
            slot.release()
            self._changed.notify_all()

    @contextlib.contextmanager
    def turn(
        self, most: int, ctx: _context.Context, option: str
    ) -> typing.Iterator[None]:
        """Hold a slot for a while."""
        slot = self.take('', most, ctx, option)
        try:
            yield
        finally:
            self.release(slot)

    def moved(self, old: socket.socket, new: socket.socket) -> None:
        """A connection is another object from now on, as TLS does it."""
        with self._changed:
            for slots in self._taken.values():
                for slot in slots:
                    if slot.held_by(old):
                        slot.hold(new)

    def lend(self, sock: socket.socket, end: Callable[[], bool]) -> None:
        """A connection waits to be used again; others need not wait for it.

        :param end: closes it, and returns True, unless it is in use again;
            MUST NOT block
        """
        with self._changed:
            for slots in self._taken.values():
                for slot in slots:
                    if slot.held_by(sock):
                        slot.end = end
            self._changed.notify_all()

    def _end_one(self, key: Hashable) -> bool:
        """End a connection that nobody uses, if there is one."""
        for slot in self._taken.get(key, ()):
            end, slot.end = slot.end, None
            if end is not None and end():
                return True
        return False

    def count(self, key: Hashable) -> int:
        """How many are taken."""
        with self._changed:
            return len(self._in_use(key))

    def _is_next(self, slot: Slot, key: Hashable, most: int) -> bool:
        if not most:
            return True
        first = self._queues[key][0] is slot
        if first and len(self._in_use(key)) < most:
            return True
        return self._cannot_wait(slot)

    def _cannot_wait(self, slot: Slot) -> bool:
        """Whether only the other side of its copy has a slot."""
        held = [
            each.writing
            for key in list(self._taken)
            for each in self._in_use(key)
            if each.transfer is slot.transfer
        ]
        return bool(held) and slot.writing not in held

    def _in_use(self, key: Hashable) -> list[Slot]:
        found = [each for each in self._taken.get(key, ()) if each.taken]
        if found:
            self._taken[key] = found
        else:
            self._taken.pop(key, None)
        return found
