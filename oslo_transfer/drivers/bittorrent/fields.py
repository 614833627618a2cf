# SPDX-License-Identifier: Apache-2.0
"""Takes values out of the dictionaries of a torrent file, checked."""

from __future__ import annotations

import re
import typing

from oslo_transfer.drivers.bittorrent import bencode
from oslo_transfer import exceptions

#: The most URLs of one kind.
MAX_URLS = 128
#: The most characters of one.
MAX_URL_LENGTH = 2048

_MAX_TEXT = 255

Table: typing.TypeAlias = dict[bytes, bencode.Value]
_T = typing.TypeVar('_T', int, bytes, list[bencode.Value], Table)
_KINDS = {
    int: 'number',
    bytes: 'string',
    list: 'list',
    dict: 'dictionary',
}


def get(table: Table, key: bytes, kind: type[_T]) -> _T | None:
    """A value, or None if there is none.

    :raises ProtocolError: it is of another kind
    """
    found = table.get(key)
    if found is None or isinstance(found, kind):
        return found
    raise exceptions.ProtocolError(
        f'the torrent\'s "{key.decode()}" is no {_KINDS[kind]}'
    )


def need(table: Table, key: bytes, kind: type[_T]) -> _T:
    """A value that has to be there.

    :raises ProtocolError: it is not, or is of another kind
    """
    found = get(table, key, kind)
    if found is None:
        raise exceptions.ProtocolError(f'the torrent has no "{key.decode()}"')
    return found


def note(table: Table, key: bytes) -> str | None:
    """Text for people, or None if there is none."""
    found = get(table, key, bytes)
    return shown(found) if found else None


def shown(text: bytes, escape: bool = True) -> str:
    """Text that can be shown: no control character, no change of direction.

    :param escape: write what cannot be shown as an escape, or leave it out
    """
    # Cut before decoding, for it may be very long.
    decoded = text[: 4 * _MAX_TEXT].decode('utf-8', 'backslashreplace')
    result = ''.join(
        each
        if each.isprintable()
        else each.encode('unicode_escape').decode('ascii')
        if escape
        else ''
        for each in decoded
    )
    if len(result) > _MAX_TEXT:
        result = f'{result[: _MAX_TEXT - 3]}...'
    return result


def urls(
    values: list[bencode.Value] | list[bytes], key: str
) -> tuple[str, ...]:
    """URLs without repetitions; whether they may be used is not said.

    :param key: where they were, for the error
    :raises ProtocolError: they are too many, too long or no URLs
    """
    found: dict[str, None] = {}
    for value in values:
        if not isinstance(value, bytes):
            raise wrong_urls(key)
        url = value.strip()
        if len(url) > MAX_URL_LENGTH or re.search(rb'[^\x21-\x7e]', url):
            raise wrong_urls(key)
        if url:
            found[url.decode('ascii')] = None
    if len(found) > MAX_URLS:
        raise wrong_urls(key)
    return tuple(found)


def wrong_urls(key: str) -> exceptions.ProtocolError:
    """The error for what is no list of URLs."""
    return exceptions.ProtocolError(
        f'the torrent\'s "{key}" is no list of at most {MAX_URLS} URLs of at '
        f'most {MAX_URL_LENGTH} characters'
    )
