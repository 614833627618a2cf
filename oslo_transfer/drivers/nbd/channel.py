# SPDX-License-Identifier: Apache-2.0
"""The socket of a connection, and how it comes about."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from oslo_transfer import context as _context
from oslo_transfer.drivers.nbd import opts
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import nbd_uri
from oslo_transfer import nbd_wire as wire
from oslo_transfer import oserrors
from oslo_transfer import sockets
from oslo_transfer import tls

# How often to knock where a unix socket's queue is full, in seconds.
_KNOCK = 0.02


class Channel(sockets.WatchedSocket):
    """A socket that keeps the limits of whoever uses it just now."""

    def __init__(
        self,
        sock: socket.socket,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        waiter: sockets.Waiter,
    ) -> None:
        super().__init__(sock, ctx, str(endpoint))
        self._endpoint = endpoint
        self.waiter = waiter
        #: Somebody is about to close it.
        self.closing = False
        self._gathers = False

    def _count(self, started: float, count: int) -> None:
        if self._closed or (self.closing and not count):
            raise exceptions.TransferCancelled(
                f'{self.where}: closed by another thread'
            )
        waited = time.monotonic() - started
        if count:
            # Nothing may be lost that has come: others go on behind it.
            self.waiter.note(waited, count)
        else:
            self.waiter.count(waited, count)

    def gather(self) -> None:
        """Have the kernel collect what is asked for, for a tick at most.

        That is one wake-up for a buffer where there would be several.
        """
        if (
            type(self._sock) is not socket.socket
            or _context.threads_are_green()
        ):
            return
        tick = struct.pack('ll', 0, int(_context.TICK * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, tick)
        self._sock.settimeout(None)
        self._gathers = True

    def recv_into(self, buffer: memoryview) -> int:
        """Read at least one byte; 0 at the end of the connection."""
        if not self._gathers:
            return super().recv_into(buffer)
        return self._patiently(self._recv_all, buffer)

    def _recv_all(self, buffer: memoryview) -> int:
        try:
            return self._sock.recv_into(
                buffer, len(buffer), socket.MSG_WAITALL
            )
        except BlockingIOError:
            raise TimeoutError from None

    def send(self, data: memoryview) -> int:
        """Send at least one byte; returns how many were taken."""
        if not self._gathers:
            return super().send(data)
        return self._patiently(self._send_all, data)

    def _send_all(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            raise TimeoutError from None

    def fill(self, view: memoryview) -> int:
        """Read at least one byte.

        :raises Unavailable: the connection broke, or has ended
        """
        count = self.recv_into(view)
        if not count:
            raise exceptions.Unavailable(
                f'{self.where}: the server has ended the connection'
            )
        return count

    def take(self, count: int) -> bytes:
        """Read so many bytes."""
        found = bytearray(count)
        rest = memoryview(found)
        while rest:
            rest = rest[self.fill(rest) :]
        return bytes(found)

    def secure(self) -> None:
        """Turn it into a TLS connection."""
        options = self._ctx.conf[opts.GROUP]
        secured = tls.client_context(
            opts.GROUP, options.ca_file, options.cert_file, options.key_file
        )
        # A socket of this host has no other name.
        name = self._endpoint.host or 'localhost'
        self.handshake(secured, name, strict=True)

    @property
    def ended(self) -> bool:
        """Whether the peer has hung up, as far as can be seen."""
        if not self._gathers:
            return self._look() == b''
        try:
            return not self._sock.recv(
                1, socket.MSG_PEEK | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return False
        except OSError:
            return True

    def farewell(self) -> None:
        """Say goodbye, if the socket takes it at once."""
        with contextlib.suppress(OSError, ValueError):
            self._sock.settimeout(0)
            self._sock.send(wire.request(wire.Command.DISC, 0, 0, 0))


def connect(
    name: nbd_uri.Name, endpoint: _endpoint.Endpoint, ctx: _context.Context
) -> socket.socket:
    """Connect to what a URL names.

    Blocks for as long as the connector does.

    :raises AccessDenied: the socket is not ours to use
    :raises Unavailable: nobody answers
    """
    if name.socket is None:
        port = _endpoint.DEFAULT_PORTS[endpoint.scheme]
        return ctx.connect(endpoint, endpoint.port or port)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(0)
        end = time.monotonic() + ctx.connect_timeout
        while True:
            try:
                sock.connect(name.socket)
                return sock
            except BlockingIOError as exc:
                # Its queue is full (unix(7)).
                if time.monotonic() > end:
                    raise exceptions.Unavailable(
                        f'{endpoint}: the server takes no connection'
                    ) from exc
            ctx.sleep(_KNOCK)
    except OSError as exc:
        sock.close()
        text = f'cannot connect to {endpoint}'
        error = oserrors.translate(exc, text)
        if isinstance(error, exceptions.AccessDenied):
            raise error from exc
        raise exceptions.Unavailable(str(error)) from exc
    except BaseException:
        sock.close()
        raise
