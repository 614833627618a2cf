# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 server: images, read-only, whole or by ranges; and pages.

RFC 9110 and RFC 9112. One thread serves all connections.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import typing
import urllib.parse

from oslo_transfer.export import exported
from oslo_transfer.export import gate as _gate
from oslo_transfer.export import http_host
from oslo_transfer.export import http_loop
from oslo_transfer.export import listening
from oslo_transfer import tls as _tls

# Seconds for a thread that fetches, when the server or an image ends.
_PATIENCE = 0.6


class HttpServer:
    """Serves images to any number of clients. Thread-safe.

    :param exports: images by name, as ``/NAME``; not owned
    :param address: where
    :param tls: what shows clients who it is (:class:`.tls.ServerContext`);
        None for none
    :param most: connections at once; a further one takes the place of the
        one that was idle for the longest time, and is closed if none is
    :param limits: seconds after which clients are given up
    :param workers: threads that fetch what is missing, for all clients
    :param gate: who decides what is served and to whom, if it is not the
        exports by their names to everybody
    """

    def __init__(
        self,
        exports: Mapping[str, exported.Exported],
        address: listening.Address,
        *,
        tls: _tls.ServerContext | None = None,
        most: int = 1000,
        limits: http_host.Limits | None = None,
        workers: int = 64,
        gate: _gate.Gate | None = None,
    ) -> None:
        self._exports = exported.Exports(exports)
        self._gate = gate or _gate.Names(self._exports)
        self._address = address
        self._tls = tls
        self._most = most
        self._limits = limits or http_host.Limits()
        self._workers = workers
        self._listener: listening.Listener | None = None
        self._loop: http_loop.Loop | None = None

    def start(self) -> None:
        """Listen, and serve from now on.

        :raises ConfigurationError: the address cannot be
        :raises Unavailable: somebody else has it
        :raises TransferError: the socket cannot be made
        """
        self._listener = listening.Listener(self._address)
        self._loop = http_loop.Loop(
            self._listener.sock,
            self._tls,
            self._gate,
            self._limits,
            self._most,
            self._workers,
        )
        self._loop.start()

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
        assert self._listener is not None, 'it has to be started first'
        return f'{scheme}://{self._listener.authority}/'

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
        self._exports.add(name, image)

    def remove(self, name: str) -> None:
        """Export one less; see :meth:`drop`."""
        image = self._exports.remove(name)
        if image is not None:
            self.drop(image)

    def drop(self, image: exported.Exported) -> None:
        """End all connections that read an image, within a second.

        A thread that fetches from it then lets go of it when it has what
        it waits for.
        """
        if self._loop is not None:
            self._loop.drop(image, _PATIENCE)

    def stop(self) -> None:
        """End everything within a second, answers too; idempotent."""
        if self._listener is not None:
            self._listener.unlink()
        if self._loop is not None:
            self._loop.stop(_PATIENCE)
