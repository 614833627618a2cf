# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 server: images, read-only, whole or by ranges.

RFC 9110 and RFC 9112. One thread serves all connections.
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import dataclasses
import os
import socket
import ssl
import threading
import typing
import urllib.parse

from oslo_transfer import exceptions
from oslo_transfer.export import exported
from oslo_transfer.export import http_host
from oslo_transfer.export import http_loop
from oslo_transfer.export import listening

# Of those who come at once; the system may set a lower one.
_BACKLOG = 4096
# Seconds for a thread that fetches, when the server or an image ends.
_PATIENCE = 0.6


class HttpServer:
    """Serves images to any number of clients, as ``/NAME``. Thread-safe.

    :param exports: images by name; not owned
    :param address: where
    :param tls: what shows clients who it is (:func:`tls.server_context`);
        None for none
    :param most: connections at once; a further one takes the place of the
        one that was idle for the longest time, and is closed if none is
    :param limits: seconds after which clients are given up
    :param workers: threads that fetch what is missing, for all clients
    """

    def __init__(
        self,
        exports: Mapping[str, exported.Exported],
        address: listening.Address,
        *,
        tls: ssl.SSLContext | None = None,
        most: int = 1000,
        limits: http_host.Limits | None = None,
        workers: int = 64,
    ) -> None:
        self._exports = dict(exports)
        self._address = address
        self._port = address.port
        self._tls = tls
        self._most = most
        self._limits = limits or http_host.Limits()
        self._workers = workers
        self._lock = threading.Lock()
        self._loop: http_loop.Loop | None = None
        self._identity: tuple[int, int] | None = None

    def start(self) -> None:
        """Listen, and serve from now on.

        :raises ConfigurationError: the address cannot be
        :raises Unavailable: somebody else has it
        :raises TransferError: the socket cannot be made
        """
        self._loop = http_loop.Loop(
            self._listen(),
            self._tls,
            lambda name: self._exports.get(name),
            self._limits,
            self._most,
            self._workers,
        )
        self._loop.start()

    def _listen(self) -> socket.socket:
        where = self._address
        if where.path is None:
            listener = listening.tcp(where.host, where.port)
            self._port = listener.getsockname()[1]
        else:
            listener = listening.unix(
                where.path, where.owner, where.group, where.mode
            )
            found = os.lstat(where.path)
            self._identity = found.st_dev, found.st_ino
        listener.listen(_BACKLOG)
        return listener

    def __enter__(self) -> typing.Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL that names of images are added to."""
        scheme = 'http' if self._tls is None else 'https'
        if self._address.path is not None:
            quoted = urllib.parse.quote(self._address.path, safe='')
            return f'{scheme}+unix://{quoted}/'
        host = self._address.host
        host = f'[{host}]' if ':' in host else host
        return f'{scheme}://{host}:{self._port}/'

    def url_of(self, name: str) -> str:
        """The URL of an image."""
        return self.url + urllib.parse.quote(name)

    def statistics(self) -> dict[str, int]:
        """What was done since the start."""
        if self._loop is None:
            return {}
        counts = dataclasses.asdict(self._loop.counts)
        return {'connections': len(self._loop), **counts}

    def add(self, name: str, image: exported.Exported) -> None:
        """Export one more.

        :raises AlreadyExists: the name is taken
        """
        with self._lock:
            if name in self._exports:
                raise exceptions.AlreadyExists(
                    f'there is an export "{name}" already'
                )
            self._exports[name] = image

    def remove(self, name: str) -> None:
        """Export one less; ends its connections, within a second.

        A thread that fetches from it then lets go of it when it has what
        it waits for.
        """
        with self._lock:
            image = self._exports.pop(name, None)
        if image is not None and self._loop is not None:
            self._loop.drop(image, _PATIENCE)

    def stop(self) -> None:
        """End everything within a second, answers too; idempotent."""
        if self._loop is not None:
            self._unlink()
            self._loop.stop(_PATIENCE)

    def _unlink(self) -> None:
        """Remove the socket, unless somebody has put another one there."""
        path, identity = self._address.path, self._identity
        self._identity = None
        if path is None or identity is None:
            return
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            if (found.st_dev, found.st_ino) == identity:
                os.unlink(path)
