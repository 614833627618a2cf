# SPDX-License-Identifier: Apache-2.0
"""TLS contexts that verify."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import typing

from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_config import cfg

LOG = logging.getLogger(__name__)


def client_context(
    group: str,
    ca_file: str | None,
    cert_file: str | None = None,
    key_file: str | None = None,
) -> ssl.SSLContext:
    """What a client needs to verify a server, and to show who it is.

    :param group: the configuration group of the options, for messages
    :param ca_file: CA certificates; None for those of the system
    :param cert_file: a client certificate, or None
    :param key_file: its key; None if it is in the same file
    :raises ConfigurationError: a file cannot be used
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
        # Some builds of Python take a cut-off connection for its end.
        context.options &= ~getattr(ssl, 'OP_IGNORE_UNEXPECTED_EOF', 0)
        if cert_file:
            context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as exc:
        raise exceptions.ConfigurationError(
            f'[{group}] ca_file, cert_file or key_file cannot be used: {exc}'
        ) from exc
    return context


class ServerContext:
    """What a server needs to show who it is, and to know its clients.

    Its files are read again when a client comes after they have changed.
    What cannot be used is complained of, and all stays as it was.
    Thread-safe.

    :param group: the configuration group of the options, for messages
    :param cert_file: its certificate, and those between it and the CA's
    :param key_file: the key; None if it is in the same file
    :param ca_file: CA certificates of clients: without one of theirs
        nobody gets in. None to take everybody
    :raises ConfigurationError: a file cannot be used
    """

    def __init__(
        self,
        group: str,
        cert_file: str,
        key_file: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        self._group = group
        self._cert_file, self._key_file = cert_file, key_file
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._seen = self._look()
        self._context = self._load()

    def wrap_socket(
        self,
        sock: socket.socket,
        *,
        server_side: bool = True,
        do_handshake_on_connect: bool = False,
    ) -> ssl.SSLSocket:
        """See :meth:`ssl.SSLContext.wrap_socket`.

        :raises OSError: so it does
        """
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._load_again()
            context = self._context
        return context.wrap_socket(
            sock,
            server_side=server_side,
            do_handshake_on_connect=do_handshake_on_connect,
        )

    def _look(self) -> list[tuple[int, ...] | None]:
        """What tells whether the files have changed."""
        found: list[tuple[int, ...] | None] = []
        for path in (self._cert_file, self._key_file, self._ca_file):
            try:
                info = os.stat(path) if path else None
            except OSError:
                info = None
            # The time of the last change of rights, too: they may come late.
            found.append(
                info
                and (
                    *(info.st_ino, info.st_size),
                    *(info.st_mtime_ns, info.st_ctime_ns),
                )
            )
        return found

    def _load(self) -> ssl.SSLContext:
        try:
            # A new one: nothing takes a CA out of an old one.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            # Without a password it would ask for one at the terminal.
            context.load_cert_chain(
                self._cert_file, self._key_file, password=''
            )
            if self._ca_file:
                context.load_verify_locations(self._ca_file)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as exc:
            raise exceptions.ConfigurationError(
                f'[{self._group}] cert_file, key_file or ca_file cannot be '
                f'used: {exc}'
            ) from exc
        return context

    def _load_again(self) -> None:
        try:
            self._context = self._load()
        except exceptions.ConfigurationError as exc:
            LOG.error('%s; those of before are used on', exc)
        else:
            LOG.info('[%s] the files of TLS were read again', self._group)


def server_context(conf: cfg.ConfigOpts, group: str) -> ServerContext | None:
    """What the options of a group say; None where they say nothing.

    They are ``cert_file``, ``key_file`` and ``ca_file``.

    :raises ConfigurationError: they do not fit together, or a file cannot
        be used
    """
    values = conf[group]
    if values.cert_file:
        return ServerContext(
            group, values.cert_file, values.key_file, values.ca_file
        )
    if values.key_file or values.ca_file:
        raise exceptions.ConfigurationError(
            f'[{group}] key_file and ca_file need cert_file'
        )
    return None
