# SPDX-License-Identifier: Apache-2.0
"""Serves all exports of the cache by TCP, to other hosts."""

from __future__ import annotations

import contextlib
import typing

from oslo_transfer.cache import opts
from oslo_transfer.export import http_server
from oslo_transfer.export import listening
from oslo_transfer.export import nbd
from oslo_transfer import tls

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer.export import exported


class Outlets:
    """The servers that the configuration asks for. Thread-safe.

    :param conf: the configuration
    :raises ConfigurationError: the options do not fit together
    :raises TransferError: a server cannot be started
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        group = conf[opts.GROUP]
        context = tls.server_context(conf, opts.GROUP)
        self._nbd: nbd.NbdServer | None = None
        self._http: http_server.HttpServer | None = None
        with contextlib.ExitStack() as stack:
            if group.nbd_port:
                where = listening.Address(
                    host=group.listen_address, port=group.nbd_port
                )
                self._nbd = nbd.NbdServer({}, where, tls=context)
                stack.enter_context(self._nbd)
            if group.http_port:
                where = listening.Address(
                    host=group.listen_address, port=group.http_port
                )
                self._http = http_server.HttpServer({}, where, tls=context)
                stack.enter_context(self._http)
            self._stack = stack.pop_all()

    def add(self, name: str, image: exported.Exported) -> None:
        """Serve one more."""
        if self._nbd is not None:
            self._nbd.add(name, image)
        if self._http is not None:
            self._http.add(name, image)

    def remove(self, name: str) -> None:
        """Serve one less; who reads it is cut off. Idempotent."""
        if self._nbd is not None:
            self._nbd.remove(name)
        if self._http is not None:
            self._http.remove(name)

    def connections(self, name: str) -> int:
        """How many clients of one there are, as far as that is known."""
        return 0 if self._nbd is None else self._nbd.connections_of(name)

    def urls(self, name: str) -> list[str]:
        """Where one can be had."""
        found = []
        if self._nbd is not None:
            found.append(self._nbd.uri_of(name))
        if self._http is not None:
            found.append(self._http.url_of(name))
        return found

    def close(self) -> None:
        """End it all, within a second or two."""
        self._stack.close()
