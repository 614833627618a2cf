# SPDX-License-Identifier: Apache-2.0
"""Many reads and writes of one file at once, within a bound of memory."""

from __future__ import annotations

import collections
import struct
import threading

from oslo_transfer.drivers.sftp import protocol
from oslo_transfer.drivers.sftp import remote
from oslo_transfer.drivers.sftp import session as _session
from oslo_transfer import exceptions

Type = protocol.Type
Status = protocol.Status

#: The most bytes that are asked for, or sent, and not done with. It takes
#: a round trip of 80 ms to hold 100 MiB/s back by it.
WINDOW = 8 << 20
# What is asked for at first: a stream may be closed after a few bytes.
_FIRST = 1 << 20


class Reads:
    """Reads a run of bytes in order, many requests ahead.

    :param files: the session and the limits
    :param handle: of the open file
    :param offset: the first byte
    :param length: how many; they MUST be there
    """

    def __init__(
        self, files: remote.Files, handle: bytes, offset: int, length: int
    ) -> None:
        self._files = files
        self._handle = protocol.string(handle)
        self._next = offset
        self._end = offset + length
        self._position = offset
        self._window = _FIRST
        # With the offset that each began at.
        self._queue: collections.deque[tuple[int, _session.Request]] = (
            collections.deque()
        )

    def fill(self) -> None:
        """Ask for as much as may be in flight."""
        files = self._files
        while (
            self._next < self._end
            and self._next - self._position < self._window
        ):
            count = min(files.session.max_read, self._end - self._next)
            self._queue.append((self._next, self.ask(self._next, count)))
            self._next += count

    @property
    def all_asked(self) -> bool:
        """Whether there is nothing more to ask for."""
        return self._next == self._end

    @property
    def finished(self) -> bool:
        """Whether all of the run was taken."""
        return self._position == self._end

    def ask(self, offset: int, count: int) -> _session.Request:
        """Send one READ."""
        return self._files.session.submit(
            self._files.waiter,
            Type.READ,
            self._handle + struct.pack('>QI', offset, count),
            asked=count,
        )

    def read_into(self, view: memoryview) -> int:
        """Copy what is there, at least one byte; 0 at the end of the run.

        :raises SourceChanged: the file ends before the run does
        """
        done = 0
        while self._queue and done < len(view):
            offset, request = self._queue[0]
            if not request.parts:
                if request.done:
                    self._queue.popleft()
                    self._after(offset, request)
                    continue
                if done:
                    break
                self._files.session.wait(request, self._files.waiter)
                continue
            part = request.parts.popleft()
            count = min(len(part), len(view) - done)
            view[done : done + count] = part[:count]
            if count < len(part):
                request.parts.appendleft(part[count:])
            done += count
        self._position += done
        self._window = min(WINDOW, self._window + done)
        self.fill()
        return done

    def _after(self, offset: int, request: _session.Request) -> None:
        """See whether a request brought all; ask for the rest if not."""
        if request.reply is not None:
            self._files.expect_data(request.reply)
        left = request.asked - request.received
        if left:
            offset += request.received
            self._queue.appendleft((offset, self.ask(offset, left)))

    def drop(self) -> None:
        """Let go of what was asked for."""
        while self._queue:
            self._files.session.drop(self._queue.popleft()[1])


class Writes:
    """Writes at any offset, many requests ahead; by several threads.

    :param files: the session and the limits
    :param handle: of the open file
    """

    def __init__(self, files: remote.Files, handle: bytes) -> None:
        self._files = files
        self._handle = protocol.string(handle)
        self._lock = threading.Lock()
        self._queue: collections.deque[_session.Request] = collections.deque()
        self._in_flight = 0
        self._error: exceptions.TransferError | None = None

    def write(self, view: memoryview, offset: int) -> None:
        """Send all of it; what becomes of it shows later.

        :raises TransferError: this or an earlier write failed
        """
        while view:
            part = view[: self._files.session.max_write]
            self._settle(WINDOW - len(part))
            request = self._files.session.submit(
                self._files.waiter,
                Type.WRITE,
                self._handle + struct.pack('>QI', offset, len(part)),
                data=part,
            )
            with self._lock:
                self._queue.append(request)
                self._in_flight += request.cost
            view = view[len(part) :]
            offset += len(part)

    def flush(self) -> None:
        """Wait until the server has taken all that was sent before.

        :raises TransferError: a write failed
        """
        self._settle(0)

    def _settle(self, most: int) -> None:
        """Wait until no more than so many bytes are in flight."""
        while True:
            with self._lock:
                if self._error is not None:
                    raise type(self._error)(*self._error.args)
                if self._in_flight <= most:
                    return
                request = self._queue[0]
            self._files.session.wait(request, self._files.waiter)
            self._take(request)

    def _take(self, request: _session.Request) -> None:
        """Count a write that the server has answered."""
        assert request.reply is not None
        try:
            self._files.expect(request.reply, Type.STATUS)
        except exceptions.TransferError as exc:
            with self._lock:
                self._error = self._error or exc
            return
        with self._lock:
            # Another thread may have waited for the same one.
            if self._queue and self._queue[0] is request:
                self._queue.popleft()
                self._in_flight -= request.cost
