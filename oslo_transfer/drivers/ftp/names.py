# SPDX-License-Identifier: Apache-2.0
"""What an ftp URL names: a path, and who asks for it."""

from __future__ import annotations

import re
import secrets
import typing
import urllib.parse

from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint

# They end a command, or what a server written in C sees of it.
_FORBIDDEN = re.compile(r'[\x00\r\n]')
_TYPE = re.compile(r';type=([^/;]*)\Z', re.IGNORECASE)
# A file name has 255 bytes on most systems; ours adds some of its own.
_MOST_OF_NAME = 200


def path_of(endpoint: _endpoint.Endpoint) -> str:
    """The path as it is sent (RFC 1738, 3.2.2).

    It is relative to the directory of the login, and absolute if it begins
    with ``%2F``. The slash behind the host is no part of it.

    :raises InvalidEndpoint: it names no file, or cannot be sent
    """
    if endpoint.query is not None:
        raise exceptions.InvalidEndpoint(
            f'{endpoint}: an {endpoint.scheme} URL has no query; write "?" '
            f'in a name as %3F'
        )
    text = endpoint.path.removeprefix('/')
    suffix = _TYPE.search(text)
    if suffix is not None:
        if suffix.group(1).lower() != 'i':
            raise exceptions.InvalidEndpoint(
                f'{endpoint}: files are moved as they are; ";type=i" is the '
                f'only type there is'
            )
        text = text[: suffix.start()]
    path = urllib.parse.unquote(text, errors='surrogateescape')
    if not path or path.endswith('/'):
        raise exceptions.InvalidEndpoint(
            f'{endpoint}: the URL names a directory, and no file'
        )
    if _FORBIDDEN.search(path):
        raise exceptions.InvalidEndpoint(
            f'{endpoint.scheme}://{endpoint.netloc}: the path holds a line '
            f'end or a NUL, which cannot be sent'
        )
    return path


def login_of(
    endpoint: _endpoint.Endpoint, ctx: _context.Context
) -> tuple[str, str]:
    """User name and password: the location's, the URL's, or a guest's.

    :raises InvalidEndpoint: they cannot be sent
    """
    login = ctx.login(endpoint)
    if login is None:
        return 'anonymous', 'anonymous@'
    if any(_FORBIDDEN.search(part) for part in login):
        raise exceptions.InvalidEndpoint(
            f'{endpoint}: the user name or password holds a line end or a '
            f'NUL, which cannot be sent'
        )
    return login


def directory_of(path: str) -> str | None:
    """The directory of a path; None for that of the login."""
    head, slash, _name = path.rpartition('/')
    return (head or '/') if slash else None


def temporary_name(path: str) -> str:
    """A name in the same directory that nobody else uses or lists."""
    head, slash, name = path.rpartition('/')
    start = name.encode(errors='surrogateescape')[:_MOST_OF_NAME]
    return (
        f'{head}{slash}.{start.decode(errors="ignore")}'
        f'.oslo-part-{secrets.token_hex(8)}'
    )
