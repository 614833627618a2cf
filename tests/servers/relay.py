# SPDX-License-Identifier: Apache-2.0
"""A TCP relay that breaks connections when it is told to."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import typing

_STEP = 64 * 1024
# Seconds for a side that takes nothing.
_PATIENCE = 2.0


class _Pair:
    """A connection from a client, and ours to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.sockets = (client, server)
        # Bytes to the client, and from it.
        self.sent = 0
        self.taken = 0


class Relay:
    """Passes on what comes, while it is entered.

    :param port: of the server, on loopback
    :param stall_after: bytes to a client after which nothing more is passed
        on, in either direction
    :param stall_taken: the same with bytes from a client
    :param cut_after: bytes to clients, of all connections together, after
        which all connections are reset, and new ones refused
    :param cut_taken: the same with bytes from clients
    :param listen: the port to listen at; any free one by itself
    :param host: the address to listen at, and to be seen by the server with
    """

    def __init__(
        self,
        port: int,
        *,
        stall_after: int | None = None,
        stall_taken: int | None = None,
        cut_after: int | None = None,
        cut_taken: int | None = None,
        listen: int = 0,
        host: str = '127.0.0.1',
    ) -> None:
        self._port = port
        self.host = host
        self.stall_after = stall_after
        self.stall_taken = stall_taken
        self.cut_after = cut_after
        self.cut_taken = cut_taken
        #: Bytes to clients and from them, so far.
        self.sent = 0
        self.taken = 0
        #: Connections so far.
        self.accepted = 0
        self._listener = socket.create_server((host, listen))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[_Pair] = []
        self._wake, self._woken = socket.socketpair()
        self._ending = False
        self._cut = False
        self._thread = threading.Thread(
            target=self._run, name='relay', daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def cut(self) -> None:
        """Reset all connections now, and refuse new ones."""
        self._cut = True
        self._wake.send(b'x')

    def close(self) -> None:
        """End it."""
        self._ending = True
        with contextlib.suppress(OSError):
            self._wake.send(b'x')
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._ending:
                for key, _events in selector.select(1):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is self._woken:
                        self._woken.recv(100)
                    elif key.data in self._pairs:
                        self._pass_on(
                            typing.cast(socket.socket, key.fileobj), key.data
                        )
                if self._cut:
                    self._reset()
            self._reset()

    def _accept(self) -> None:
        client, _address = self._listener.accept()
        self.accepted += 1
        try:
            server = socket.create_connection(
                ('127.0.0.1', self._port), source_address=(self.host, 0)
            )
        except OSError:
            client.close()
            return
        for each in (client, server):
            each.settimeout(_PATIENCE)
        pair = _Pair(client, server)
        self._pairs.append(pair)
        for each in pair.sockets:
            self._selector.register(each, selectors.EVENT_READ, pair)

    def _pass_on(self, source: socket.socket, pair: _Pair) -> None:
        client, server = pair.sockets
        to_client = source is server
        cut, stall = (
            (self.cut_after, self.stall_after)
            if to_client
            else (self.cut_taken, self.stall_taken)
        )
        done = self.sent if to_client else self.taken
        if cut is not None and done >= cut:
            self._cut = True
            return
        room = _STEP if cut is None else min(_STEP, cut - done)
        if stall is not None:
            mine = pair.sent if to_client else pair.taken
            room = min(room, stall - mine)
        if room <= 0:
            self._forget(pair)
            return
        try:
            data = source.recv(room)
            (client if to_client else server).sendall(data)
        except OSError:
            data = b''
        if not data:
            self._end(pair)
        elif to_client:
            self.sent += len(data)
            pair.sent += len(data)
        else:
            self.taken += len(data)
            pair.taken += len(data)

    def _forget(self, pair: _Pair) -> None:
        """Look at a connection no more, and keep it."""
        for each in pair.sockets:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(each)

    def _end(self, pair: _Pair) -> None:
        if pair in self._pairs:
            self._pairs.remove(pair)
        self._forget(pair)
        for each in pair.sockets:
            each.close()

    def _reset(self) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(self._listener)
        self._listener.close()
        for pair in list(self._pairs):
            with contextlib.suppress(OSError):
                pair.sockets[0].setsockopt(
                    socket.SOL_SOCKET,
                    socket.SO_LINGER,
                    struct.pack('ii', 1, 0),
                )
            self._end(pair)
