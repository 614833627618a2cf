# SPDX-License-Identifier: Apache-2.0
"""Commands of one session with a target.

Not thread-safe: whoever has a session has it for himself, see ``pool``. A
session that breaks, or on which an answer is still due, is closed and never
used again; so nothing writes to a caller's buffer once a call has ended.

Time limits are kept here, by the monotonic clock. Those of the library
(``iscsi_set_timeout``) are of the wall clock, which may jump.
"""

from __future__ import annotations

from collections.abc import Sequence
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import libiscsi
from oslo_transfer.drivers.iscsi import link as _link
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import waiting
from oslo_transfer import exceptions

# How often a command is given again after a unit attention: a target tells
# of a reset, a changed inventory and so on one by one (SAM-5, 5.14).
_MAX_ATTENTIONS = 16
# Seconds for a target that is busy.
_BUSY_DELAY = 0.1


class Command(typing.NamedTuple):
    """A command and its buffer.

    :ivar what: what it does, for messages, as in ``reading``
    :ivar cdb: command descriptor block
    :ivar into: writable buffer for what comes, or None
    :ivar data: buffer with what goes, or None
    """

    what: str
    cdb: bytes
    into: typing.Any = None
    data: typing.Any = None


class Session:
    """What can be done while logged in.

    :param link: logged in; owned from now on
    :param path: where that is
    :param where: the redacted endpoint, for messages
    :param timeout: seconds to wait for the answer to a command
    """

    def __init__(
        self, link: _link.Link, path: _lun.Path, where: str, timeout: float
    ) -> None:
        self.path = path
        #: Which unit this is was seen; from then on it has to stay so.
        self.known = False
        self._where = f'{where}: portal {path.portal}'
        self._link = link
        self._timeout = timeout
        self._broken = False

    @property
    def usable(self) -> bool:
        """Whether commands can be given."""
        return not self._broken and self._link.alive

    def run(
        self, commands: Sequence[Command], waiter: waiting.Waiter
    ) -> list[libiscsi.Outcome]:
        """Give commands at once, and wait until all are answered.

        Blocks for at most ``timeout`` seconds without any answer.

        :returns: what came of each, all of them good
        :raises SenseError: the target refused one; others may be done
        :raises News: the target says first that something has changed, and
            has not done one of them
        :raises Broken: the session is gone, whatever is done
        :raises Stalled: it is too slow by the context's rule
        """
        return self.finish(self.start(commands), waiter)

    def start(self, commands: Sequence[Command]) -> Batch:
        """Give commands at once, and do not wait.

        No answer is taken in, and so no buffer touched, before
        :meth:`finish`.

        :raises Broken: the session is gone
        """
        batch = Batch(commands)
        self._submit(batch)
        return batch

    def redirect(self, batch: Batch, buffers: Sequence[memoryview]) -> None:
        """Have what is read go to other buffers, of the same lengths."""
        for index, buffer in enumerate(buffers):
            self._link.handle.redirect(batch.tokens[index], buffer)
            batch.commands[index] = batch.commands[index]._replace(into=buffer)

    def finish(
        self, batch: Batch, waiter: waiting.Waiter
    ) -> list[libiscsi.Outcome]:
        """Wait for the answers; the second half of :meth:`run`."""
        attentions = 0
        busy_since = None
        while True:
            self._await(batch, waiter)
            attention, busy = self._judge(batch, waiter)
            if not batch.todo:
                return [
                    batch.outcomes[index]
                    for index in range(len(batch.commands))
                ]
            attentions += attention
            if attentions > _MAX_ATTENTIONS:
                raise exceptions.ProtocolError(
                    f'{waiter.where}: the target has one piece of news '
                    f'after another, and no answer'
                )
            if busy:
                now = time.monotonic()
                busy_since = busy_since or now
                if now > busy_since + self._timeout:
                    raise exceptions.Unavailable(
                        f'{waiter.where}: the target is busy for more than '
                        f'{self._timeout:g} seconds'
                    )
                waiter.ctx.sleep(_BUSY_DELAY)
            self._submit(batch)

    def ask(
        self, what: str, cdb: bytes, length: int, waiter: waiting.Waiter
    ) -> bytes:
        """Give one command; return what it answers."""
        buffer = bytearray(length)
        (outcome,) = self.run([Command(what, cdb, into=buffer)], waiter)
        return bytes(buffer[: outcome.moved])

    def _judge(
        self, batch: Batch, waiter: waiting.Waiter
    ) -> tuple[bool, bool]:
        """Note what has to be done again.

        :returns: whether for news of the target, and for it is busy
        """
        again: list[int] = []
        attention = busy = False
        for index in batch.todo:
            outcome = batch.outcomes[index]
            status, what = outcome.status, batch.commands[index].what
            if status == libiscsi.GOOD:
                continue
            if status in (libiscsi.BUSY, libiscsi.TASK_SET_FULL):
                busy = True
            elif status == libiscsi.RESERVATION_CONFLICT:
                raise exceptions.AccessDenied(
                    f'{waiter.where}: {what} failed: another host has '
                    f'reserved the LUN'
                )
            elif status != libiscsi.CHECK_CONDITION:
                self._broken = True
                raise self._gone(what)
            elif outcome.key in (scsi.NO_SENSE, scsi.RECOVERED):
                continue
            elif outcome.key != scsi.UNIT_ATTENTION:
                raise failures.SenseError(what, outcome.key, outcome.code)
            elif self.known:
                raise failures.News(what, outcome.code)
            else:
                attention = True
            again.append(index)
        batch.todo = again
        return attention, busy

    def _submit(self, batch: Batch) -> None:
        handle = self._link.handle
        for index in batch.todo:
            command = batch.commands[index]
            token = handle.submit(
                self.path.lun,
                command.cdb,
                batch.receiver(index),
                into=command.into,
                data=command.data,
            )
            if not token:
                self.close()
                raise self._gone(command.what)
            batch.tokens[index] = token
        handle.service(libiscsi.POLLOUT)

    def _await(self, batch: Batch, waiter: waiting.Waiter) -> None:
        whole = False
        try:
            self._collect(batch, waiter)
            whole = True
        finally:
            if not whole:
                self.close()

    def _collect(self, batch: Batch, waiter: waiting.Waiter) -> None:
        last = time.monotonic()
        end = last + self._timeout
        alive = True
        while True:
            moves = batch.moves
            due = len(batch.waiting)
            moved = batch.collect()
            now = time.monotonic()
            waiter.count(now - last, moved if moves else None)
            last = now
            if batch.lost is not None:
                raise self._gone(batch.commands[batch.lost].what)
            if not batch.waiting:
                return
            what = batch.commands[min(batch.waiting)].what
            if not alive:
                raise self._gone(what)
            if len(batch.waiting) < due:
                end = now + self._timeout
            if now >= end:
                raise failures.Broken(
                    f'{self._where}: {what}: no answer within '
                    f'{self._timeout:g} seconds'
                )
            alive = self._link.turn(min(_context.TICK, end - now))

    def _gone(self, what: str) -> failures.Broken:
        return failures.Broken(f'{self._where}: {what}: the connection broke')

    def interrupt(self) -> None:
        """Break the connection under another thread."""
        self._link.interrupt()

    def close(self) -> None:
        """Log out if possible, and close; idempotent.

        Blocks for a second at most.
        """
        self._broken = True
        self._link.close()


class Batch:
    """Commands that are given at once, and what came of them.

    :param commands: all of them
    """

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = list(commands)
        self.outcomes: dict[int, libiscsi.Outcome] = {}
        #: What the handle knows each by.
        self.tokens: dict[int, int] = {}
        #: Those to give next.
        self.todo = list(range(len(self.commands)))
        #: Those without an answer.
        self.waiting: set[int] = set()
        #: One that the connection has taken along.
        self.lost: int | None = None
        self._fresh: list[int] = []

    def receiver(
        self, index: int
    ) -> typing.Callable[[libiscsi.Outcome], None]:
        """Takes the answer to a command."""
        self.waiting.add(index)

        def receive(outcome: libiscsi.Outcome) -> None:
            self.outcomes[index] = outcome
            self._fresh.append(index)

        return receive

    @property
    def moves(self) -> bool:
        """Whether bytes are to come or go."""
        return any(
            command.into is not None or command.data is not None
            for command in (self.commands[index] for index in self.waiting)
        )

    def collect(self) -> int:
        """Take in answers; returns the bytes that they stand for."""
        moved = 0
        while self._fresh:
            index = self._fresh.pop()
            self.waiting.discard(index)
            command, outcome = self.commands[index], self.outcomes[index]
            if outcome.status >= libiscsi.LOCAL:
                self.lost = index
            elif command.data is not None:
                moved += len(command.data)
            elif command.into is not None:
                moved += outcome.moved
        return moved
