# SPDX-License-Identifier: Apache-2.0
"""One SFTP session: requests in flight, and replies in any order."""

from __future__ import annotations

import collections
from collections.abc import Callable
import threading
import time
import typing


from oslo_transfer import context as _context
from oslo_transfer.drivers.sftp import protocol
from oslo_transfer import exceptions
from oslo_transfer import sockets

Type = protocol.Type
Status = protocol.Status

# What one request moves: OpenSSH's most, and less than any server's.
_MOST = 255 * 1024
_LEAST = 1024
# More than any server says of itself, and of what it can do.
_MAX_EXTENSIONS = 64


def _sensible(length: int) -> int:
    """A length for one request that a server allows."""
    return min(max(length, _LEAST), _MOST) if length else _MOST


class Link(typing.Protocol):
    """What carries a session; ``connect.SSHLink`` is the real one."""

    def send(self, data: memoryview) -> int:
        """Send at least one byte; TimeoutError after a tick."""

    def recv(self) -> memoryview:
        """What came next, empty at the end; TimeoutError after a tick."""

    def error(self) -> exceptions.TransferError:
        """Why it has ended."""

    def close(self) -> None:
        """End it, and the threads that it has."""


class Request:
    """A request and what came of it.

    :ivar asked: bytes that a READ may bring; for others 0
    :ivar cost: bytes that a reply stands for, for the stall rule
    :ivar parts: bytes that a READ has brought and nobody has taken
    :ivar received: bytes that a READ has brought in all
    :ivar reply: the whole reply; None before, and for DATA
    :ivar done: nothing more will come
    :ivar dropped: nobody wants it any more
    """

    __slots__ = (
        'asked',
        'cost',
        'done',
        'dropped',
        'parts',
        'received',
        'reply',
    )

    def __init__(self, asked: int = 0, cost: int = 0) -> None:
        self.asked = asked
        self.cost = cost
        self.parts: collections.deque[memoryview] = collections.deque()
        self.received = 0
        self.reply: protocol.Reply | None = None
        self.done = False
        self.dropped = False


#: The limits of who waits for a session.
Waiter = sockets.Waiter


class Session:
    """Sends requests and matches the replies.

    Used by several threads at once: whoever waits for a reply reads for
    all, if nobody else does.

    :param link: owned from now on
    :param where: the redacted endpoint, for messages
    """

    def __init__(self, link: Link, where: str) -> None:
        self._link = link
        self.where = where
        self._replies = protocol.Replies()
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._reading = False
        self._next_id = 0
        self._pending: dict[int, Request] = {}
        self._progress = 0
        self._error: exceptions.TransferError | None = None
        self._closed = False
        self._version: protocol.Reply | None = None
        self.extensions: dict[bytes, bytes] = {}
        self.max_read = protocol.SAFE_LENGTH
        self.max_write = protocol.SAFE_LENGTH

    @property
    def alive(self) -> bool:
        """Whether requests can still be answered."""
        return self._error is None and not self._closed

    def start(self, waiter: Waiter) -> None:
        """Agree on the version, and learn what the server can do.

        :raises ProtocolError: it speaks another version
        """
        hello = protocol.packet(Type.INIT, protocol.VERSION, b'')
        self._send_all(memoryview(hello), waiter)
        self._wait(lambda: self._version is not None, waiter)
        assert self._version is not None
        if self._version.id != protocol.VERSION:
            raise exceptions.ProtocolError(
                f'{self.where}: the server speaks version '
                f'{self._version.id} of SFTP, and not {protocol.VERSION}'
            )
        fields = protocol.Reader(self._version.body)
        while fields.rest and len(self.extensions) < _MAX_EXTENSIONS:
            name = fields.string()
            self.extensions[name] = fields.string()
        if b'limits@openssh.com' in self.extensions:
            self._learn_limits(waiter)

    def _learn_limits(self, waiter: Waiter) -> None:
        reply = self.ask(
            waiter, Type.EXTENDED, protocol.string(b'limits@openssh.com')
        )
        if reply.type != Type.EXTENDED_REPLY:
            return
        fields = protocol.Reader(reply.body)
        _packet, read, write = (fields.uint64() for _ in range(3))
        # 0 stands for no limit.
        self.max_read = _sensible(read)
        self.max_write = _sensible(write)

    # Requests

    def ask(self, waiter: Waiter, kind: Type, body: bytes) -> protocol.Reply:
        """Send a request and wait for its reply."""
        request = self.submit(waiter, kind, body)
        return self.reply(request, waiter)

    def reply(self, request: Request, waiter: Waiter) -> protocol.Reply:
        """Wait for the reply of a request that brings no data."""
        self.wait(request, waiter)
        assert request.reply is not None
        return request.reply

    def submit(
        self,
        waiter: Waiter,
        kind: Type,
        body: bytes,
        *,
        asked: int = 0,
        data: memoryview | None = None,
    ) -> Request:
        """Send a request.

        Blocks until the channel has taken all of it.

        :param asked: bytes that it may bring
        :param data: sent behind the body, and not kept
        """
        size = len(data) if data is not None else 0
        request = Request(asked, size)
        with self._changed:
            self._raise_if_broken()
            self._next_id = (self._next_id + 1) & 0xFFFFFFFF
            number = self._next_id
            self._pending[number] = request
        head = protocol.packet(kind, number, body, size)
        self._send_all(
            memoryview(head if data is None else b''.join((head, data))),
            waiter,
        )
        return request

    def _send_all(self, data: memoryview, waiter: Waiter) -> None:
        while not self._sending.acquire(timeout=_context.TICK):
            waiter.check()
        try:
            self._raise_if_broken()
            while data:
                started = time.monotonic()
                try:
                    count = self._link.send(data)
                except TimeoutError:
                    waiter.count(time.monotonic() - started, 0)
                    continue
                data = data[count:]
                waiter.count(time.monotonic() - started, count)
        except exceptions.TransferError as exc:
            # Half a request makes the rest of the session useless.
            self._break(exc)
            raise
        except BaseException:
            self._break(
                exceptions.TransferCancelled(f'{self.where}: interrupted')
            )
            raise
        finally:
            self._sending.release()

    def drop(self, request: Request) -> None:
        """Nobody wants the reply."""
        with self._changed:
            request.dropped = True
            request.parts.clear()

    # Replies

    def wait(self, request: Request, waiter: Waiter) -> None:
        """Wait until a request has brought something."""
        self._wait(lambda: request.done or bool(request.parts), waiter)

    def _wait(self, ready: Callable[[], bool], waiter: Waiter) -> None:
        while not ready():
            waiter.check()
            started = time.monotonic()
            before = self._progress
            with self._changed:
                if ready():
                    return
                self._raise_if_broken()
                lead = not self._reading
                if lead:
                    self._reading = True
                else:
                    self._changed.wait(_context.TICK)
            if lead:
                self._lead()
            waiter.count(time.monotonic() - started, self._progress - before)

    def _lead(self) -> None:
        """Read once, for all who wait."""
        error: exceptions.TransferError | None = None
        try:
            chunk = self._link.recv()
            if not chunk:
                error = self._link.error()
            for event in self._replies.feed(chunk):
                self._dispatch(event)
        except TimeoutError:
            pass
        except exceptions.TransferError as exc:
            error = exc
        finally:
            with self._changed:
                self._reading = False
                self._changed.notify_all()
        if error is not None:
            self._break(error)

    def _dispatch(self, event: protocol.Reply | protocol.Data) -> None:
        if isinstance(event, protocol.Reply) and event.type == Type.VERSION:
            if self._version is not None:
                raise self._nonsense('a second version')
            self._version = event
            self._progress += 9 + len(event.body)
            return
        with self._changed:
            request = self._pending.get(event.id)
            if request is None:
                raise self._nonsense('a reply that nothing was asked for')
            if isinstance(event, protocol.Reply):
                del self._pending[event.id]
                request.reply = event
                request.done = True
                self._progress += 9 + len(event.body) + request.cost
                return
            if event.length > request.asked:
                raise self._nonsense(
                    f'{event.length} bytes where {request.asked} were '
                    f'asked for'
                )
            if not event.length:
                raise self._nonsense('data without a byte')
            self._progress += len(event.part)
            request.received += len(event.part)
            if not request.dropped:
                request.parts.append(event.part)
            if event.last:
                del self._pending[event.id]
                request.done = True

    def _nonsense(self, what: str) -> exceptions.ProtocolError:
        return exceptions.ProtocolError(
            f'{self.where}: the server sent {what}'
        )

    # The end

    def _raise_if_broken(self) -> None:
        if self._closed:
            raise exceptions.TransferCancelled(f'{self.where}: it was closed')
        if self._error is not None:
            # A new one each time: a traceback belongs to one thread.
            raise type(self._error)(*self._error.args)

    def _break(self, error: exceptions.TransferError) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """End the connection; idempotent, from any thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._link.close()
