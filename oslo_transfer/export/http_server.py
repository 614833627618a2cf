# SPDX-License-Identifier: Apache-2.0
"""Serves images over HTTP/1.1, with ranges."""

from __future__ import annotations

from collections.abc import Mapping
import socket
import ssl
import urllib.parse

from oslo_transfer.export import exported
from oslo_transfer.export import http_connection
from oslo_transfer.export import http_loop
from oslo_transfer import oserrors

_BACKLOG = 1024
#: Connections at once; each takes a descriptor.
MAX_CONNECTIONS = 1000
#: Threads that fetch what is missing.
MAX_WORKERS = 64
# Seconds that a thread which fetches has when the server ends.
_LAST_WORDS = 0.5


class HttpServer:
    """Serves images by their names, as ``/NAME``. Thread-safe.

    :param exports: images by name
    :param host: an address to listen on
    :param port: 0 for any
    :param path: of a unix socket to listen on instead
    :param tls: a server's context; None for no TLS
    :param limits: seconds after which clients are given up
    :param max_connections: at once; a further one takes the place of an
        idle one
    """

    def __init__(
        self,
        exports: Mapping[str, exported.Exported],
        host: str = '127.0.0.1',
        port: int = 0,
        *,
        path: str | None = None,
        tls: ssl.SSLContext | None = None,
        limits: http_connection.Limits | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._exports = dict(exports)
        self._address = host, port
        self._path = path
        self._tls = tls
        self._limits = limits or http_connection.Limits()
        self._most = max_connections
        self._loop: http_loop.Loop | None = None
        #: Where it listens, once it was started.
        self.port = port

    def start(self) -> None:
        """Begin to serve.

        :raises TransferError: it cannot listen there
        """
        where = self._path or f'{self._address[0]}, port {self._address[1]}'
        with oserrors.os_errors(f'listening on {where}'):
            listener = self._listen()
        self._loop = http_loop.Loop(
            [listener],
            self._tls,
            self._exports.get,
            self._limits,
            self._most,
            MAX_WORKERS,
        )
        self._loop.start()

    def _listen(self) -> socket.socket:
        if self._path is not None:
            sock = socket.socket(socket.AF_UNIX)
        else:
            family = (
                socket.AF_INET6 if ':' in self._address[0] else socket.AF_INET
            )
            sock = socket.socket(family)
        try:
            sock.setblocking(False)
            if self._path is not None:
                sock.bind(self._path)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(self._address)
                self.port = sock.getsockname()[1]
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock

    def url(self, name: str) -> str:
        """The URL of an image."""
        quoted = urllib.parse.quote(name, safe='/')
        host = self._address[0]
        if ':' in host:
            host = f'[{host}]'
        scheme = 'http' if self._tls is None else 'https'
        return f'{scheme}://{host}:{self.port}/{quoted}'

    def stop(self) -> None:
        """End within a second, in the midst of answers; idempotent."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop(_LAST_WORDS)

    def __enter__(self) -> HttpServer:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
