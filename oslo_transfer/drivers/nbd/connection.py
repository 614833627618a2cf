# SPDX-License-Identifier: Apache-2.0
"""One connection to an export, used by several threads in turn."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import threading
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers.nbd import channel
from oslo_transfer.drivers.nbd import failures
from oslo_transfer.drivers.nbd import handshake
from oslo_transfer.drivers.nbd import replies
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import nbd_uri
from oslo_transfer import nbd_wire as wire
from oslo_transfer import sockets

Command = wire.Command

# Seconds for a thread to notice that its connection is to be closed, and
# for the server to answer what is in flight.
_PATIENCE = 0.4
# Flushing moves no bytes, however well it goes: it gets this many times
# the seconds of the stall rule.
_FLUSH_TIMES = 10


class Connection:
    """Sends requests and matches replies.

    Whoever has :meth:`use` may call the other methods; :meth:`close` may
    come from any thread.

    :param endpoint: where to
    :param ctx: the limits of connecting, and its end
    :param waiter: ends the wait for it
    :raises NotFound: there is no such export
    :raises AccessDenied: the server, or its certificate, is refused
    :raises Unavailable: it does not answer
    """

    def __init__(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        waiter: sockets.Waiter,
    ) -> None:
        self.where = str(endpoint)
        name = nbd_uri.name_of(endpoint)
        self._ctx = ctx
        self._channel = channel.Channel(
            channel.connect(name, endpoint, ctx), endpoint, ctx, waiter
        )
        self._lock = threading.Lock()
        self._broken: exceptions.TransferError | None = None
        self._cookie = 0
        try:
            #: What the server says of the export.
            self.export = handshake.negotiate(
                self._channel, name.export, name.tls, self.where
            )
        except BaseException:
            self._channel.close()
            raise
        self._channel.gather()
        self._replies = replies.Replies(
            self.export.structured, self.export.context
        )
        #: How many use it; its owner's to count.
        self.users = 0
        #: Whether somebody was told that it is broken.
        self.told = False
        #: Reads of what nobody reads yet, for who comes next.
        self.ahead: collections.deque[replies.Request] = collections.deque()

    @property
    def alive(self) -> bool:
        """Whether requests can be answered, as far as can be seen."""
        if self._broken is None and self._lock.acquire(blocking=False):
            try:
                if not self._replies.pending and self._channel.ended:
                    self._broken = exceptions.Unavailable(
                        f'{self.where}: the server has ended the connection'
                    )
            finally:
                self._lock.release()
        return self._broken is None

    def is_at(self, offset: int | None) -> bool:
        """Whether what begins there was asked for ahead."""
        for request in list(self.ahead)[:1]:
            return offset is not None and (
                request.offset <= offset < request.offset + request.length
            )
        return False

    @contextlib.contextmanager
    def use(self, waiter: sockets.Waiter) -> Iterator[typing.Self]:
        """Have it alone for a while.

        :param waiter: the limits that count meanwhile
        """
        while not self._lock.acquire(timeout=_context.TICK):
            waiter.check()
        try:
            waiter.check()
            if self._broken is not None:
                # A new one each time: a traceback belongs to one thread.
                raise type(self._broken)(*self._broken.args)
            self._channel.waiter = waiter
            yield self
        except (
            exceptions.Unavailable,
            exceptions.Stalled,
            exceptions.ProtocolError,
        ) as exc:
            self._broken = self._broken or exc
            self.told = True
            raise
        finally:
            self._lock.release()

    def submit(
        self,
        kind: wire.Command,
        offset: int,
        length: int,
        data: memoryview | None = None,
    ) -> replies.Request:
        """Send a request.

        Blocks until the socket has taken all of it.

        :param data: sent behind it, and not kept
        """
        request, message = self._request(kind, offset, length)
        self._send(message)
        if data is not None:
            self._send(data)
        return request

    def submit_reads(
        self, runs: Sequence[tuple[int, int]]
    ) -> list[replies.Request]:
        """Send several READs at once.

        :param runs: offsets and lengths
        """
        made = [self._request(Command.READ, *run) for run in runs]
        self._send(b''.join(message for _request, message in made))
        return [request for request, _message in made]

    def _request(
        self, kind: wire.Command, offset: int, length: int
    ) -> tuple[replies.Request, bytes]:
        request = replies.Request(kind, offset, length)
        self._cookie += 1
        self._replies.pending[self._cookie] = request
        return request, wire.request(kind, self._cookie, offset, length)

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._channel.sendall(data)
        except BaseException:
            # Half a request makes the rest useless.
            self._broken = self._broken or exceptions.Unavailable(
                f'{self.where}: the connection was given up'
            )
            raise

    def wait(self, request: replies.Request) -> None:
        """Wait until a request is settled.

        :raises TransferError: what the server says
        """
        while not request.done:
            self._step()
        # A reply of a few bytes stands for all that it is about.
        self._channel.waiter.count(0.0, request.length)
        self.expect(request)

    def flush(self) -> None:
        """Have what was written made durable, where the server can."""
        if wire.Flag.SEND_FLUSH not in self.export.flags:
            return
        rule = self._ctx.stall
        patient = self._ctx.replace(
            stall=_context.StallRule(
                rule.seconds * _FLUSH_TIMES, rule.bytes_per_second
            )
        )
        self._channel.waiter = sockets.Waiter(patient, self.where)
        self.wait(self.submit(Command.FLUSH, 0, 0))

    def read_into(self, request: replies.Request, view: memoryview) -> int:
        """Take what has come of a READ, at least one byte.

        Data that is known to be right goes from the socket to the view.

        :returns: 0 where all was taken
        :raises TransferError: what the server says
        """
        while request.taken < request.length:
            if not request.final:
                self.expect(request)
                self._step()
                continue
            payload = self._replies.payload
            if payload is not None and payload.request is request:
                end = payload.position
            else:
                end = request.length
            if request.taken < end:
                return self._replies.take(request, view, end)
            assert payload is not None
            # What is not wanted from its start on is parked.
            if payload.position < request.taken:
                self._step()
                continue
            count = self._channel.fill(view[: payload.left])
            request.taken += count
            self._advance(count)
            return count
        return 0

    def expect(self, request: replies.Request) -> None:
        """Raise if a request has failed, and all of its reply is here."""
        if request.done and request.failure is not None:
            raise failures.error_for(request, self.where)

    def _step(self) -> None:
        """Read once, whatever comes."""
        # A peer that sends a byte now and then must not hold anybody.
        self._channel.waiter.check()
        self._advance(self._channel.fill(self._replies.room()))

    def _advance(self, count: int) -> None:
        try:
            self._replies.advance(count)
        except exceptions.ProtocolError as exc:
            raise exceptions.ProtocolError(f'{self.where}: {exc}') from None

    def close(self) -> None:
        """End it; idempotent. A thread that uses it gets an error.

        Waits for what is in flight, but not for long: the protocol asks
        for it, and some servers crash where a client just leaves.
        """
        close_all([self])

    def announce_end(self) -> None:
        """Have whoever waits for it give up."""
        self._channel.closing = True

    def end(self, until: float) -> None:
        """The rest of closing it.

        :param until: ``time.monotonic()`` value to wait for what is in
            flight
        """
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            self._channel.shutdown()
            if not self._lock.acquire(timeout=_PATIENCE):
                return
        try:
            if self._broken is None:
                self._broken = exceptions.TransferCancelled(
                    f'{self.where}: it was closed'
                )
                self._leave(until)
            self._channel.close()
        finally:
            self._lock.release()

    def _leave(self, until: float) -> None:
        ctx = self._ctx.replace(
            cancel=None, stop=threading.Event(), deadline=until
        )
        self._channel.closing = False
        self._channel.waiter = sockets.Waiter(ctx, self.where)
        for request in self._replies.pending.values():
            request.drop()
        try:
            while self._replies.pending:
                self._step()
        except exceptions.TransferError:
            return
        self._channel.farewell()


def close_all(links: Sequence[Connection]) -> None:
    """Close connections; it takes no longer than it does with one."""
    until = time.monotonic() + _PATIENCE
    for link in links:
        link.announce_end()
    for link in links:
        link.end(until)
