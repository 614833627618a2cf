# SPDX-License-Identifier: Apache-2.0
"""The body of an HTTP answer as a stream."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.http import exchange
from oslo_transfer.drivers.http import message
from oslo_transfer import exceptions

_DRAIN = 64 * 1024  # The size of the connection's read buffer.
_CHUNK_LINE = re.compile(rb'([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n')


class BodyStream(base.Stream):
    """Reads a body and counts it.

    :param answer: owned from now on
    :param framing: how its end is known
    :param length: bytes to read of it; None for all
    :param where: the redacted endpoint, for messages
    """

    def __init__(
        self,
        answer: exchange.Answer,
        framing: message.Framing,
        length: int | None,
        where: str,
    ) -> None:
        super().__init__()
        self._answer = answer
        self._framing = framing
        self._where = where
        self._input = answer.response.buffered
        self._body_left = framing.length
        self._left = framing.length if length is None else length
        self._chunk_left: int | None = 0  # None behind the last chunk.
        self._line_end_due = False
        self._drained = False
        # Closing waits for a read that close() itself has woken up.
        self._reading = threading.Lock()

    @property
    def waited(self) -> float:  # type: ignore[override]
        """Seconds spent waiting for the server."""
        return self._answer.watched.waited

    def readinto(self, buffer: typing.Any) -> int:
        """Read at least one byte of the body."""
        view = memoryview(buffer).cast('B')
        with self._reading:
            self._check_open()
            if self._left is not None:
                view = view[: self._left]
            if not view:
                self._check_end()
                return 0
            if self._framing.chunked:
                count = self._read_chunked(view)
            elif self._drained:
                count = self._answer.watched.recv_into(view)
            else:
                count = self._read_buffered(view)
            if not count and not self._framing.chunked:
                self._check_early_end()
            return self._count(count)

    def splice(self, fd: int, offset: int, count: int) -> int | None:
        """Have the kernel move the body, where it is plain bytes."""
        watched = self._answer.watched
        if self._body_left is None or not watched.can_splice:
            return None
        with self._reading:
            self._check_open()
            assert self._left is not None
            count = min(count, self._left)
            if not count:
                self._check_end()
                return 0
            if self._drained:
                moved = watched.splice(fd, offset, count)
                if not moved:
                    self._check_early_end()
                return self._count(moved)
            # The first bytes came along with the headers.
            data = self._input.read1(min(count, _DRAIN))
            self._drained = count >= _DRAIN
            if not data:
                self._check_early_end()
            rest = memoryview(data)
            while rest:
                step = os.pwrite(fd, rest, offset)
                rest = rest[step:]
                offset += step
            return self._count(len(data))

    def _read_buffered(self, view: memoryview) -> int:
        """Read what came along with the headers, or some of what comes.

        Asked for more than it can hold, the buffer would wait for more
        even though it has something.
        """
        self._drained = len(view) >= _DRAIN
        return self._input.readinto1(view[:_DRAIN])

    def _count(self, count: int) -> int:
        if self._left is not None:
            self._left -= count
        if self._body_left is not None:
            self._body_left -= count
        return count

    def _check_open(self) -> None:
        if self.closed:
            raise exceptions.TransferCancelled(
                f'{self._where}: closed by another thread'
            )

    def _check_early_end(self) -> None:
        if self._left or self._body_left:
            missing = self._body_left or self._left
            raise exceptions.Unavailable(
                f'{self._where}: the connection ended {missing} bytes '
                f'before the end of the body'
            )

    def _check_end(self) -> None:
        """The asked run is read: see whether the body ends there, too."""
        if self._body_left == 0 and (
            self._answer.response.holds_more() or self._answer.watched.unread()
        ):
            raise exceptions.ProtocolError(
                f'{self._where}: the server sends more than the '
                f'Content-Length that it gave'
            )

    # Chunks (RFC 9112, 7.1)

    def _read_chunked(self, view: memoryview) -> int:
        if self._chunk_left == 0:
            self._chunk_left = self._next_chunk()
        if self._chunk_left is None:
            return 0
        count = self._read_buffered(view[: self._chunk_left])
        if not count:
            raise exceptions.Unavailable(
                f'{self._where}: the connection ended within a chunk'
            )
        self._chunk_left -= count
        # The line end behind it is read with the next chunk: it may be
        # late, and these bytes are there.
        self._line_end_due = self._chunk_left == 0
        return count

    def _next_chunk(self) -> int | None:
        if self._line_end_due and self._line(3) not in (b'\r\n', b'\n'):
            raise exceptions.ProtocolError(
                f'{self._where}: a chunk is longer than it said'
            )
        match = _CHUNK_LINE.fullmatch(self._line(4096))
        if match is None:
            raise exceptions.ProtocolError(
                f'{self._where}: a malformed chunk size'
            )
        size = int(match.group(1), 16)
        if size:
            return size
        # Trailers carry nothing that is wanted.
        for _line in range(100):
            if self._line(4096).strip() == b'':
                break
        return None

    def _line(self, most: int) -> bytes:
        line = self._input.readline(most)
        if not line.endswith(b'\n') and len(line) < most:
            raise exceptions.Unavailable(
                f'{self._where}: the connection ended between chunks'
            )
        return line

    def close(self) -> None:
        """Drop the connection, or leave it to the next request.

        Ends a read in another thread.
        """
        if self.closed:
            return
        if self._reading.acquire(blocking=False):
            try:
                if not self.closed and self._is_done():
                    super().close()
                    self._answer.done()
                    return
            finally:
                self._reading.release()
        self._answer.watched.shutdown()
        with self._reading:
            super().close()
            with contextlib.suppress(OSError):
                self._answer.close()

    def _is_done(self) -> bool:
        """Whether all was read, and nothing more has come."""
        return (
            self._answer.spare is not None
            and self._left == self._body_left == 0
            and not self._answer.response.holds_more()
            and not self._answer.watched.readable_within(0)
        )
