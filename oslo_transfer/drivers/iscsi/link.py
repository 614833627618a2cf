# SPDX-License-Identifier: Apache-2.0
"""A connection with a target: its socket, and whoever waits for it."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import time

from oslo_transfer import context as _context
from oslo_transfer.drivers.iscsi import libiscsi

_LOGOUT_SECONDS = 1.0
# Messages of the target that are taken in while nobody asks for anything.
_MAX_NEWS = 64


class Link:
    """A handle of the library with its socket; owned from now on.

    One thread at a time, but for :meth:`interrupt`.

    :param handle: just made
    """

    def __init__(self, handle: libiscsi.Handle) -> None:
        self.handle = handle
        #: Somebody is logged in.
        self.logged_in = False
        self._selector = selectors.DefaultSelector()
        self._fd = -1
        self._mask = 0
        # Another descriptor of the same connection: whenever it is used,
        # it cannot have become somebody else's.
        self._socket: socket.socket | None = None

    def adopt(self) -> bool:
        """Take note of the socket of a connection that was begun.

        :returns: whether there is one
        """
        if self._socket is not None:
            return True
        self._fd = self.handle.fd
        if self._fd < 0:
            return False
        # Child processes have no business with it.
        os.set_inheritable(self._fd, False)
        self._socket = socket.fromfd(
            self._fd, socket.AF_INET, socket.SOCK_STREAM
        )
        # Also for green sockets, which wait by themselves otherwise.
        self._socket.setblocking(False)
        return True

    def turn(self, seconds: float) -> bool:
        """Wait for the socket, and send and receive what it takes.

        Blocks for so many seconds at most.

        :returns: False where the connection is broken
        """
        wanted = self.handle.events
        mask = (selectors.EVENT_READ if wanted & libiscsi.POLLIN else 0) | (
            selectors.EVENT_WRITE if wanted & libiscsi.POLLOUT else 0
        )
        if mask != self._mask:
            if self._mask:
                self._selector.modify(self._fd, mask)
            else:
                self._selector.register(self._fd, mask)
            self._mask = mask
        ready = self._selector.select(seconds)
        if not ready:
            return True
        found = ready[0][1]
        return self.handle.service(
            (libiscsi.POLLIN if found & selectors.EVENT_READ else 0)
            | (libiscsi.POLLOUT if found & selectors.EVENT_WRITE else 0)
        )

    @property
    def alive(self) -> bool:
        """Whether the target still is there; does not block.

        Takes in what it sends by itself, as pings.
        """
        for _ in range(_MAX_NEWS):
            if self._socket is None:
                return False
            try:
                if not self._socket.recv(1, socket.MSG_PEEK):
                    return False
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not self.turn(0):
                return False
        return False

    def interrupt(self) -> None:
        """Break the connection under whoever waits for it; any thread."""
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Log out where nothing is due any more, and close; idempotent.

        Blocks for a second at most. What the target has not got yet is
        dropped, and must not arrive after what another session writes.
        """
        polite = self.logged_in and not self.handle.pending and self._log_out()
        self.logged_in = False
        self._selector.close()
        sock, self._socket = self._socket, None
        if sock is not None:
            if not polite:
                with contextlib.suppress(OSError):
                    sock.setsockopt(
                        socket.SOL_SOCKET,
                        socket.SO_LINGER,
                        struct.pack('ii', 1, 0),
                    )
            sock.close()
        self.handle.destroy()

    def _log_out(self) -> bool:
        outcomes: list[libiscsi.Outcome] = []
        end = time.monotonic() + _LOGOUT_SECONDS
        if not self.handle.logout(outcomes.append):
            return False
        with contextlib.suppress(OSError):
            while not outcomes and time.monotonic() < end:
                if not self.turn(_context.TICK):
                    break
        return bool(outcomes) and outcomes[0].status == libiscsi.GOOD
