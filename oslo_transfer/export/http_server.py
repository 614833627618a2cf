# SPDX-License-Identifier: Apache-2.0
"""Serves images over HTTP/1.1, with ranges."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import socket
import ssl
import typing
import urllib.parse

from oslo_transfer.export import exported
from oslo_transfer.export import http_host
from oslo_transfer.export import http_loop

# Of those who come at once; the system may set a lower one.
_BACKLOG = 4096
#: Connections at once; each takes a descriptor.
MAX_CONNECTIONS = 1000
# Threads that fetch what is missing: they only wait.
_WORKERS = 64
# Seconds that those have when the server ends.
_LAST_WORDS = 0.5
# And when an image is taken away.
_PARTING = 5.0


class HttpServer:
    """Serves images by their names, as ``/NAME``. Thread-safe.

    :param exports: images by name; not owned
    :param listeners: sockets that listen, of TCP or unix ones; owned
    :param tls: a server's context; None for no TLS
    :param limits: seconds after which clients are given up
    :param max_connections: at once; a further one takes the place of an
        idle one
    """

    def __init__(
        self,
        exports: Mapping[str, exported.Exported],
        *listeners: socket.socket,
        tls: ssl.SSLContext | None = None,
        limits: http_host.Limits | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._exports = dict(exports)
        self._names = [sock.getsockname() for sock in listeners]
        self._scheme = 'http' if tls is None else 'https'
        for sock in listeners:
            sock.listen(_BACKLOG)
        self._loop = http_loop.Loop(
            listeners,
            tls,
            self._exports.get,
            limits or http_host.Limits(),
            max_connections,
            _WORKERS,
        )

    def start(self) -> None:
        """Begin to serve."""
        self._loop.start()

    def add(self, name: str, image: exported.Exported) -> None:
        """Serve another image."""
        self._exports[name] = image

    def remove(self, name: str) -> bool:
        """Serve an image no more; who reads it is cut off.

        Blocks until nobody uses it, but not for long.

        :returns: False where a thread still does; it ends with what it
            waits for
        """
        image = self._exports.pop(name, None)
        return image is None or self._loop.drop(image, _PARTING)

    def url(self, name: str = '') -> str:
        """The URL of an image at the first listener of TCP."""
        host, port = next(
            name[:2] for name in self._names if isinstance(name, tuple)
        )
        if ':' in host:
            host = f'[{host}]'
        return f'{self._scheme}://{host}:{port}/{urllib.parse.quote(name)}'

    def statistics(self) -> Mapping[str, int]:
        """Counts since the start, and how many clients there are."""
        return {
            'connections': len(self._loop),
            **dataclasses.asdict(self._loop.counts),
        }

    def stop(self) -> None:
        """End within a second, also in the midst of answers; idempotent."""
        self._loop.stop(_LAST_WORDS)

    def __enter__(self) -> typing.Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
