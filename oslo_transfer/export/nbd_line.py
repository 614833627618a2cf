# SPDX-License-Identifier: Apache-2.0
"""One client's connection while it negotiates: all of it has a deadline."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import socket
import time

from oslo_transfer import tls as _tls

# TCP notices after some minutes that a client is gone for good.
_KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 120),
    (socket.TCP_KEEPINTVL, 30),
    (socket.TCP_KEEPCNT, 6),
)


class Line:
    """Bytes to and from a client that has little time.

    :param sock: the connection; :attr:`sock` is to be closed instead
    :param tls: what :meth:`secure` needs
    :param seconds: until the negotiation has to be over
    """

    def __init__(
        self,
        sock: socket.socket,
        tls: _tls.ServerContext | None,
        seconds: float,
    ) -> None:
        self.sock = sock
        self._tls = tls
        self._end = time.monotonic() + seconds
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, name, value)

    def _hurry(self) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError('the negotiation takes too long')
        self.sock.settimeout(left)

    def take(self, count: int) -> bytes:
        """Read so many bytes, and no more.

        :raises EOFError: the client has gone
        :raises OSError: so it has, or it takes too long
        """
        found = bytearray(count)
        rest = memoryview(found)
        while rest:
            self._hurry()
            got = self.sock.recv_into(rest)
            if not got:
                raise EOFError
            rest = rest[got:]
        return bytes(found)

    def sendall(self, data: bytes) -> None:
        """Send all bytes.

        :raises OSError: the client has gone, or does not read
        """
        self._hurry()
        self.sock.sendall(data)

    def secure(self) -> None:
        """Turn it into a TLS connection.

        :raises OSError: the client does not want, or is not let in
        """
        assert self._tls is not None
        self._hurry()
        # The old one has no descriptor from then on, whatever happens.
        self.sock = self._tls.wrap_socket(
            self.sock, server_side=True, do_handshake_on_connect=False
        )
        self.sock.do_handshake()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What takes time meanwhile is not the client's fault."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._end += time.monotonic() - started

    def begin(self) -> None:
        """The negotiation is over: take as long as it takes."""
        self.sock.settimeout(None)
