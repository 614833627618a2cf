# SPDX-License-Identifier: Apache-2.0
"""Sockets that listen: unix ones with the owner and mode they should have."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import grp
import os
import pwd
import socket
import stat

from oslo_transfer import exceptions
from oslo_transfer import oserrors

# Of those who come at once; the system may set a lower one.
_BACKLOG = 4096
# Bytes of a socket's name with the zero at its end; unix(7).
_MOST_NAME = 108


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens: on a unix socket, or with TCP.

    :ivar path: of the unix socket; None for TCP
    :ivar owner: name or number of the user whose it is
    :ivar group: name or number of its group
    :ivar mode: who may connect: it takes the right to write
    :ivar host: address or name for TCP
    :ivar port: 0 for a free one
    """

    path: str | None = None
    owner: str | None = None
    group: str | None = None
    mode: int = 0o600
    host: str = '127.0.0.1'
    port: int = 0


def tcp(host: str, port: int) -> socket.socket:
    """Listen on an address.

    :param port: 0 for a free one
    :raises Unavailable: it is taken, or not of this host
    """
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


def unix(
    path: str, owner: str | None, group: str | None, mode: int
) -> socket.socket:
    """Listen on a unix socket.

    A dead one is replaced. At no moment can anybody connect whom the mode
    does not let.

    :param owner: name or number of a user; None for who runs this
    :param group: name or number
    :param mode: who may connect: it takes the right to write
    :raises ConfigurationError: the path, the owner or the group is not fit
    :raises Unavailable: somebody listens there
    :raises TransferError: it cannot be made
    """
    if not os.path.isabs(path) or len(os.fsencode(path)) >= _MOST_NAME:
        raise exceptions.ConfigurationError(
            f'the socket "{path}" is not an absolute path of fewer than '
            f'{_MOST_NAME} bytes'
        )
    ids = uid_of(owner), gid_of(group)
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
            if ids != (-1, -1):
                os.chown(path, *ids)
            os.chmod(path, mode)
            sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


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


def uid_of(owner: str | None) -> int:
    """The number of a user; -1 for none, as for chown(2)."""
    if not owner:
        return -1
    if owner.isascii() and owner.isdigit():
        return int(owner)
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise exceptions.ConfigurationError(
            f'there is no user "{owner}" to own the socket'
        ) from None


def gid_of(group: str | None) -> int:
    """The number of a group; -1 for none, as for chown(2)."""
    if not group:
        return -1
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise exceptions.ConfigurationError(
            f'there is no group "{group}" for the socket'
        ) from None
