# SPDX-License-Identifier: Apache-2.0
"""What an NBD URL names (doc/uri.md of the NBD project)."""

from __future__ import annotations

import dataclasses
import os
import typing
import urllib.parse

from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import endpoint as _endpoint

# Longer names are no strings of the protocol, longer paths no addresses
# (sun_path in unix(7), with the byte that ends it).
_MOST_NAME = 4096
_MOST_PATH = 107


@dataclasses.dataclass(frozen=True)
class Name:
    """An export and where it is.

    :ivar export: its name; empty for the server's default
    :ivar socket: the path of a unix socket; None for TCP
    :ivar tls: whether TLS is a must
    """

    export: bytes
    socket: str | None
    tls: bool


def name_of(endpoint: _endpoint.Endpoint) -> Name:
    """Take a URL apart; pure.

    :raises InvalidEndpoint: it names nothing, or has parts that nobody
        would look at
    """
    if endpoint.carrier not in (None, 'unix') or endpoint.fragment:
        raise exceptions.InvalidEndpoint(
            f'NBD is reached as {endpoint.scheme}://HOST/EXPORT '
            f'or {endpoint.scheme}+unix:///EXPORT?socket=PATH'
        )
    # Before anything is said that has the query in it.
    path = _socket(endpoint)
    if endpoint.username is not None:
        raise exceptions.InvalidEndpoint(
            f'{endpoint}: NBD knows no login; a client is told by its '
            f'certificate, see [oslo_transfer_nbd] cert_file'
        )
    export = urllib.parse.unquote_to_bytes(endpoint.path[1:])
    if len(export) > _MOST_NAME or b'\0' in export:
        raise exceptions.InvalidEndpoint(
            f'an NBD URL has an export name of {len(export)} bytes; it may '
            f'have {_MOST_NAME}, and no NUL in it'
        )
    return Name(export, path, endpoint.scheme == 'nbds')


def _socket(endpoint: _endpoint.Endpoint) -> str | None:
    if endpoint.carrier is None:
        if endpoint.query is not None:
            raise exceptions.InvalidEndpoint(
                f'{endpoint}: an NBD URL with a host has no query'
            )
        return None
    fields = urllib.parse.parse_qsl(
        endpoint.query or '', keep_blank_values=True, errors='surrogateescape'
    )
    if endpoint.host or [key for key, _value in fields] != ['socket']:
        raise exceptions.InvalidEndpoint(
            f'{endpoint.scheme}+unix URLs name no host, and have "socket" '
            f'in the query and nothing else: '
            f'{endpoint.scheme}+unix:///EXPORT?socket=PATH'
        )
    path = fields[0][1]
    if (
        not os.path.isabs(path)
        or '\0' in path
        or len(os.fsencode(path)) > _MOST_PATH
    ):
        raise exceptions.InvalidEndpoint(
            f'{endpoint}: the socket needs an absolute path of at most '
            f'{_MOST_PATH} bytes'
        )
    return path


def of_socket(path: str) -> str:
    """The URI of the default export behind a unix socket."""
    return f'nbd+unix:///?socket={urllib.parse.quote(path, safe="/")}'
