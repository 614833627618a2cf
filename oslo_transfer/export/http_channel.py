# SPDX-License-Identifier: Apache-2.0
"""Sockets that never block, plain and with TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl

from oslo_transfer import tls as _tls

# What is read in one go: a head is rarely longer than a few hundred bytes.
_READ = 16 * 1024
# TLS takes no more into one record.
_RECORD = 16 * 1024


class Channel:
    """A connected socket; used by one thread.

    :param sock: owned from now on
    """

    #: Whether :meth:`send_file` sends a copy.
    copies = False

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        #: There may be something to read. Whoever learns that there is
        #: again, sets it.
        self.readable = True
        #: The peer sends no more than what is to be read already.
        self.ended = False

    def recv(self) -> bytes | None:
        """What came; empty at the end, None where nothing is there yet.

        :raises OSError: the connection broke
        """
        try:
            data = self.sock.recv(_READ)
        except BlockingIOError:
            self.readable = False
            return None
        # epoll(7): a stream that gave less than was asked for is empty.
        self.readable = len(data) == _READ or self.ended
        return data

    def send(self, data: bytes | memoryview, more: bool) -> int | None:
        """Send some of it; None where nothing can be taken now.

        :param more: other bytes follow at once
        :raises OSError: the connection broke
        """
        try:
            return self.sock.send(data, socket.MSG_MORE if more else 0)
        except BlockingIOError:
            return None

    def send_file(self, fd: int, offset: int, count: int) -> int | None:
        """Send pages of a file; None where nothing can be taken now.

        :returns: how many bytes; 0 where the file is at its end
        :raises OSError: the connection broke, or reading the file failed
        """
        try:
            return os.sendfile(self.fd, fd, offset, count)
        except BlockingIOError:
            return None

    def send_copy(
        self,
        text: bytes | memoryview,
        fd: int,
        offset: int,
        count: int,
        room: memoryview,
    ) -> int | None:
        """Send text, and behind it a copy of some of a file.

        What is on its way is what the file had, whatever becomes of that.

        :param room: a buffer with more room than the text needs
        :returns: how much of both, and no more than the text where the file
            is at its end; None where nothing can be taken now
        :raises OSError: the connection broke, or reading the file failed
        """
        start = len(text)
        room[:start] = text
        part = room[start : start + count]
        end = start + os.preadv(fd, [part], offset)
        try:
            return self.sock.send(room[:end])
        except BlockingIOError:
            return None

    def finish(self) -> None:
        """Say that nothing more is sent."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def drain(self) -> int | None:
        """Drop what came; returns how much, 0 at the end, None for nothing.

        :raises OSError: the connection broke
        """
        try:
            return len(os.read(self.fd, 4 * _READ))
        except BlockingIOError:
            self.readable = False
            return None

    def close(self) -> None:
        """Close it."""
        self.sock.close()


class SecureChannel(Channel):
    """One with TLS.

    :param tls: the server's context
    :raises OSError: it cannot be begun; the socket is closed
    """

    copies = True

    def __init__(self, sock: socket.socket, tls: _tls.ServerContext) -> None:
        try:
            sock.setblocking(False)
            self._secured = tls.wrap_socket(
                sock, server_side=True, do_handshake_on_connect=False
            )
        except BaseException:
            sock.close()
            raise
        super().__init__(self._secured)
        # Bytes of a file that TLS began to send: OpenSSL wants the same.
        self._begun = b''

    def recv(self) -> bytes | None:
        """See :meth:`Channel.recv`; the handshake is part of the first."""
        try:
            return self._secured.recv(_READ)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self.readable = False
            return None
        except ssl.SSLEOFError:
            return b''

    def send(self, data: bytes | memoryview, more: bool) -> int | None:
        """See :meth:`Channel.send`."""
        try:
            sent = self._secured.send(data[:_RECORD])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        self._begun = b''
        return sent

    def send_file(self, fd: int, offset: int, count: int) -> int | None:
        """See :meth:`Channel.send_file`."""
        if not self._begun:
            self._begun = os.pread(fd, min(count, _RECORD), offset)
            if not self._begun:
                return 0
        return self.send(self._begun, False)

    def finish(self) -> None:
        """See :meth:`Channel.finish`: TLS has an end of its own."""
        with contextlib.suppress(OSError, ValueError):
            self._secured.unwrap()
        with contextlib.suppress(OSError):
            # Not SSLSocket's own: it would forget TLS.
            socket.socket.shutdown(self._secured, socket.SHUT_WR)
