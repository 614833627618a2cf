# SPDX-License-Identifier: Apache-2.0
"""A socket whose every wait keeps the transfer's limits."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import socket
import ssl
import sys
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer import exceptions
from oslo_transfer import shared

_PIPE_BYTES = 1 << 20
_TLS_RECORD = 16 * 1024
# The most that the head of an answer may take, redirects and all.
_HEAD_BYTES = 256 * 1024


class StallWindow:
    """The stall rule: too few bytes in a window of waiting.

    Only time spent waiting for the peer counts: a slow disk or our own
    rate limit is not the peer's fault.
    """

    def __init__(self, rule: _context.StallRule, where: str) -> None:
        self._rule = rule
        self._where = where
        self._waited = 0.0
        self._bytes = 0

    def add(self, waited: float, count: int) -> None:
        self._waited += waited
        self._bytes += count
        if self._waited < self._rule.seconds:
            return
        # A new window begins in any case: what has arrived meanwhile can
        # still be read.
        waited, self._waited = self._waited, 0.0
        count, self._bytes = self._bytes, 0
        if count < waited * self._rule.bytes_per_second:
            raise exceptions.Stalled(
                f'{self._where}: {count} bytes in {waited:.1f} seconds of '
                f'waiting; at least {self._rule.bytes_per_second} bytes/s '
                f'are due'
            )


class Waiter:
    """The limits of one of those who wait for a connection they share.

    :param ctx: the limits
    :param where: the redacted endpoint, for messages
    """

    def __init__(self, ctx: _context.Context, where: str) -> None:
        self._ctx = ctx
        self._where = where
        self._window = StallWindow(ctx.stall, where)
        self._closed = False
        #: Seconds spent waiting.
        self.waited = 0.0

    def check(self) -> None:
        """Raise if there is no point in going on.

        :raises TransferCancelled: by the context, or closed
        """
        self._ctx.check()
        if self._closed:
            raise exceptions.TransferCancelled(
                f'{self._where}: closed by another thread'
            )

    def count(self, seconds: float, progress: int) -> None:
        """Note a wait and what it brought.

        :raises Stalled: too little
        """
        self.waited += seconds
        self.check()
        self._window.add(seconds, progress)

    def note(self, seconds: float, progress: int) -> None:
        """Note what came, even if there is no point in going on.

        :raises Stalled: too little
        """
        self.waited += seconds
        self._window.add(seconds, progress)

    def close(self) -> None:
        """End a wait of another thread."""
        self._closed = True


class WatchedSocket:
    """Wraps a connected socket; reads and writes raise instead of hanging.

    Fits where ``http.client`` expects a socket. One thread may read or
    write at a time; :meth:`close` may be called from any thread and ends
    a wait of another within :data:`context.TICK`.

    :param sock: a plain or TLS socket; owned from now on
    :param ctx: the limits to keep
    :param where: the redacted endpoint, for messages
    """

    def __init__(
        self, sock: socket.socket, ctx: _context.Context, where: str
    ) -> None:
        self._sock = sock
        self._ctx = ctx
        self.where = where
        self._window = StallWindow(ctx.stall, where)
        self._pipe: tuple[int, int] | None = None
        self._in_pipe = 0
        self._closed = False
        # A byte that looking for an answer has read.
        self._early = b''
        #: Seconds spent waiting for the peer.
        self.waited = 0.0
        sock.settimeout(_context.TICK)

    def recv_into(self, buffer: memoryview) -> int:
        """Read at least one byte; 0 at the end of the connection.

        :raises Stalled: the peer is too slow
        :raises Unavailable: the connection broke
        """
        if self._early and buffer:
            buffer[:1], self._early = self._early, b''
            return 1
        count = self._patiently(self._sock.recv_into, buffer)
        if (
            count
            and len(buffer) - count >= _TLS_RECORD
            and isinstance(self._sock, ssl.SSLSocket)
        ):
            count += self._recv_more(self._sock, buffer[count:])
        return count

    def _recv_more(self, secured: ssl.SSLSocket, buffer: memoryview) -> int:
        """Read what is there already: TLS gives no more than one record.

        A read that waits costs several times as much as one that does not.
        """
        started = time.monotonic()
        count = 0
        try:
            secured.settimeout(0)
            while count < len(buffer):
                view = buffer[count:]
                step = secured.read(len(view), typing.cast(typing.Any, view))
                if not step:
                    break
                count += typing.cast(int, step)
        except (OSError, ValueError):
            pass  # Whatever it is, the next read finds it again.
        finally:
            with contextlib.suppress(OSError):
                secured.settimeout(_context.TICK)
        self._count(started, count)
        return count

    def send(self, data: memoryview) -> int:
        """Send at least one byte; returns how many were taken.

        :raises Stalled: the peer takes too little
        :raises Unavailable: the connection broke
        """
        return self._patiently(self._sock.send, data)

    def sendall(self, data: typing.Any) -> None:
        """Send all bytes."""
        view = memoryview(data).cast('B')
        while view:
            view = view[self.send(view) :]

    def _patiently(
        self,
        operation: typing.Callable[[typing.Any], int],
        argument: typing.Any,
    ) -> int:
        while True:
            started = time.monotonic()
            try:
                count = operation(argument)
            except TimeoutError:
                self._count(started, 0)
                continue
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self._count(started, 0)
                continue
            except ssl.SSLEOFError as exc:
                raise exceptions.Unavailable(
                    f'{self.where}: the TLS connection was cut off'
                ) from exc
            except (OSError, ValueError) as exc:
                self._ctx.check()
                if self._closed:
                    raise exceptions.TransferCancelled(
                        f'{self.where}: closed by another thread'
                    ) from exc
                raise exceptions.Unavailable(
                    f'{self.where}: the connection broke '
                    f'({exc.strerror if isinstance(exc, OSError) else exc})'
                ) from exc
            self._count(started, count)
            return count

    def _count(self, started: float, count: int) -> None:
        waited = time.monotonic() - started
        self.waited += waited
        self._ctx.check()
        if self._closed:
            raise exceptions.TransferCancelled(
                f'{self.where}: closed by another thread'
            )
        self._window.add(waited, count)

    def handshake(
        self,
        tls: ssl.SSLContext,
        server_hostname: str,
        *,
        session: ssl.SSLSession | None = None,
        strict: bool = False,
    ) -> None:
        """Turn the connection into a TLS one.

        :param session: of another connection, to go on with
        :param strict: a connection that ends without the end of TLS is
            Unavailable, and not the end
        :raises AccessDenied: the certificate does not verify
        :raises Unavailable: the handshake fails otherwise
        """
        try:
            secured = tls.wrap_socket(
                self._sock,
                server_hostname=server_hostname,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=not strict,
                session=session,
            )
            shared.current().connections.moved(self._sock, secured)
            self._sock = secured
            secured.settimeout(_context.TICK)
        except OSError as exc:
            raise exceptions.Unavailable(
                f'TLS with {server_hostname} failed: {exc}'
            ) from exc
        end = time.monotonic() + self._ctx.connect_timeout
        while True:
            try:
                secured.do_handshake()
                return
            except (TimeoutError, ssl.SSLWantReadError):
                self._ctx.check()
                if time.monotonic() > end:
                    raise exceptions.Unavailable(
                        f'TLS with {server_hostname}: no answer in '
                        f'{self._ctx.connect_timeout:g} s'
                    ) from None
            except ssl.SSLCertVerificationError as exc:
                raise exceptions.AccessDenied(
                    f'the TLS certificate of {server_hostname} does not '
                    f'verify: {exc.verify_message}'
                ) from exc
            except (OSError, ValueError) as exc:
                self._ctx.check()
                raise exceptions.Unavailable(
                    f'TLS with {server_hostname} failed: {exc}'
                ) from exc

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session, to go on with on another connection.

        In TLS 1.3 it comes after the handshake, with what is read, and is
        replaced now and then: ask for it right before it is used.
        """
        if isinstance(self._sock, ssl.SSLSocket):
            return self._sock.session
        return None

    def end(self) -> None:
        """Say that no more is sent; what the peer sends can be read.

        :raises Stalled: the peer takes too little
        :raises Unavailable: the connection broke
        """
        if isinstance(self._sock, ssl.SSLSocket):
            self._patiently(self._close_notify, self._sock)
        with contextlib.suppress(OSError):
            # Not SSLSocket's own: it would forget TLS, and what is still
            # to come could not be read.
            socket.socket.shutdown(self._sock, socket.SHUT_WR)

    def _close_notify(self, secured: ssl.SSLSocket) -> int:
        try:
            secured.settimeout(0)
            secured.unwrap()
        except ssl.SSLWantReadError:
            pass  # It is sent; the peer's own is not waited for.
        except ssl.SSLWantWriteError:
            self._ctx.sleep(0.01)
            raise
        finally:
            secured.settimeout(_context.TICK)
        return 0

    def lend(self, end: typing.Callable[[], bool]) -> None:
        """Nobody uses it just now: see :meth:`.slots.Slots.lend`."""
        shared.current().connections.lend(self._sock, end)

    def renew(self, ctx: _context.Context | None = None) -> None:
        """Begin a new window of the stall rule.

        For a connection that carries short messages now and then: what it
        waited for earlier ones is no measure for the next.

        :param ctx: other limits to keep from now on
        """
        self._ctx = ctx or self._ctx
        self._window = StallWindow(self._ctx.stall, self.where)

    def beside(self, port: int) -> WatchedSocket:
        """Connect to another port of the same address.

        :raises Unavailable: it does not answer in time
        """
        return WatchedSocket(
            self._ctx.connector.connect_beside(
                self._sock, port, self.where, self._ctx
            ),
            self._ctx,
            self.where,
        )

    @property
    def can_splice(self) -> bool:
        """Whether the kernel can take the bytes from the socket itself."""
        return (
            sys.platform == 'linux'
            and hasattr(os, 'splice')
            and type(self._sock) is socket.socket
        )

    def splice(self, fd: int, offset: int, count: int) -> int:
        """Move at most ``count`` bytes into a file, at least one.

        :returns: the bytes moved; 0 at the end of the connection
        :raises Stalled: the peer is too slow
        :raises Unavailable: the connection broke
        :raises OSError: writing failed
        """
        read_end, write_end = self._pipe_ends()
        if not self._in_pipe:
            self._in_pipe = self._patiently(
                lambda most: self._fill_pipe(write_end, most),
                min(count, _PIPE_BYTES),
            )
        moved = 0
        while self._in_pipe:
            # A failure here leaves the rest in the pipe, uncounted: the
            # stream is closed then, and the bytes are asked for again.
            step = os.splice(
                read_end, fd, self._in_pipe, offset_dst=offset + moved
            )
            self._in_pipe -= step
            moved += step
        return moved

    def _fill_pipe(self, write_end: int, most: int) -> int:
        try:
            return os.splice(self._sock.fileno(), write_end, most)
        except BlockingIOError:
            # Waits a tick, then says by an exception that it timed out.
            self._sock.recv(1, socket.MSG_PEEK)
            return os.splice(self._sock.fileno(), write_end, most)

    def _pipe_ends(self) -> tuple[int, int]:
        if self._pipe is None:
            self._pipe = os.pipe()
            with contextlib.suppress(OSError):
                # The limit of a user may be lower; the default then stays.
                fcntl.fcntl(self._pipe[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return self._pipe

    def readable_within(self, seconds: float) -> bool:
        """Whether bytes, or the end, arrive in time."""
        end = time.monotonic() + seconds
        while self._look() is None:
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._ctx.sleep(min(left, 0.02))
        return True

    def unread(self) -> bool:
        """Whether at least one byte has arrived that nobody read."""
        return bool(self._look())

    def _look(self) -> bytes | None:
        """The next byte without waiting; empty at the end, None if none."""
        if self._early:
            return self._early
        try:
            # MSG_DONTWAIT is not enough: with a timeout Python waits first.
            self._sock.settimeout(0)
            if not isinstance(self._sock, ssl.SSLSocket):
                return self._sock.recv(1, socket.MSG_PEEK)
            # TLS has no peeking, so the byte is kept for the next read.
            self._early = self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (OSError, ValueError):
            return b''
        finally:
            with contextlib.suppress(OSError):
                self._sock.settimeout(_context.TICK)
        return self._early

    def makefile(self, mode: str, *_args: typing.Any) -> io.BufferedReader:
        """A buffered reader, as ``http.client`` asks for it."""
        if mode != 'rb':
            raise ValueError(f'mode {mode!r} is not supported')
        return io.BufferedReader(WatchedReader(self), 64 * 1024)

    def shutdown(self) -> None:
        """Wake up a thread that waits; safe from any thread."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection; idempotent."""
        self._closed = True
        self._sock.close()
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None


class WatchedReader(io.RawIOBase):
    """The raw end of a watched socket, with a limit for headers.

    :param watched: the socket; closed by its owner, not by this reader
    """

    def __init__(self, watched: WatchedSocket) -> None:
        super().__init__()
        self.watched = watched
        #: Bytes that may still be read; None for no limit.
        self.budget: int | None = _HEAD_BYTES
        #: Whether the end of the connection was seen.
        self.at_end = False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: typing.Any) -> int:
        """Read at least one byte; 0 at the end of the connection."""
        view = memoryview(buffer).cast('B')
        if self.budget is not None:
            if self.budget <= 0:
                raise exceptions.ProtocolError(
                    'the peer sends headers without end'
                )
            view = view[: self.budget]
        count = self.watched.recv_into(view)
        if self.budget is not None:
            self.budget -= count
        self.at_end = count == 0
        return count
