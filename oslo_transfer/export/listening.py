# SPDX-License-Identifier: Apache-2.0
"""Sockets that listen: unix ones with the owner and mode they should have."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import resource
import socket
import stat

from oslo_transfer import accounts
from oslo_transfer import exceptions
from oslo_transfer import oserrors

# Of those who come at once; the system may set a lower one.
_BACKLOG = 4096
# Descriptors that are for files and for origins, not for clients; of few, a
# part.
_RESERVE, _PART = 64, 4
# Bytes of a socket's name with the zero at its end; unix(7).
_MOST_NAME = 108


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens: on a unix socket, or with TCP.

    :ivar path: of the unix socket; None for TCP
    :ivar uid: number of the user whose it is; None for who runs this
    :ivar gid: number of its group
    :ivar mode: who may connect: it takes the right to write
    :ivar host: address or name for TCP
    :ivar port: 0 for a free one
    """

    path: str | None = None
    uid: int | None = None
    gid: int | None = None
    mode: int = 0o600
    host: str = '127.0.0.1'
    port: int = 0


class Listener:
    """A socket that listens at an address.

    :ivar sock: to accept clients from; whoever does that closes it
    :raises ConfigurationError: the address cannot be
    :raises Unavailable: somebody else has it
    :raises TransferError: the socket cannot be made
    """

    def __init__(self, address: Address) -> None:
        self._path, self._host = address.path, address.host
        self._identity: tuple[int, int] | None = None
        if address.path is None:
            self.sock = _tcp(address.host, address.port)
            self._port = self.sock.getsockname()[1]
        else:
            self.sock, self._identity = _unix(address, address.path)

    @property
    def authority(self) -> str:
        """Host and port as URLs have them (RFC 3986); for TCP."""
        host = f'[{self._host}]' if ':' in self._host else self._host
        return f'{host}:{self._port}'

    def unlink(self) -> None:
        """Remove its name, unless somebody has put another socket there."""
        identity, self._identity = self._identity, None
        if self._path is None or identity is None:
            return
        with contextlib.suppress(OSError):
            if _identity(self._path) == identity:
                os.unlink(self._path)


def is_one_too_many(sock: socket.socket) -> bool:
    """Whether a client has one of the descriptors that others need.

    The kernel gives the lowest one that is free: open(2).
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return False
    return sock.fileno() >= most - min(_RESERVE, most // _PART)


def _tcp(host: str, port: int) -> socket.socket:
    try:
        family, _kind, _protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(
            address[:2], family=family, backlog=_BACKLOG
        )
    except OSError as exc:
        raise exceptions.Unavailable(
            f'cannot listen on {host} port {port}: {exc.strerror or exc}'
        ) from exc


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _unix(
    address: Address, path: str
) -> tuple[socket.socket, tuple[int, int]]:
    """Listen on a unix socket; returns the identity of its name, too.

    A dead one is replaced. At no moment can anybody connect whom the mode
    does not let.
    """
    if not os.path.isabs(path) or len(os.fsencode(path)) >= _MOST_NAME:
        raise exceptions.ConfigurationError(
            f'the socket "{path}" is not an absolute path of fewer than '
            f'{_MOST_NAME} bytes'
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with oserrors.os_errors(f'making the socket {path}'):
            _refuse_living(path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            # The kernel names it so for ever: who is connected is found by
            # that name, so it is not bound under another one first.
            sock.bind(path)
            # Nobody can connect before listen(), so all this comes in time.
            accounts.give(path, address.uid, address.gid)
            os.chmod(path, address.mode)
            sock.listen(_BACKLOG)
            return sock, _identity(path)
    except BaseException:
        sock.close()
        raise


def _refuse_living(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise exceptions.ConfigurationError(
            f'{path} is no socket; remove it, or choose another path'
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError as exc:
            if exc.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return
    raise exceptions.Unavailable(f'somebody listens on {path} already')
