# SPDX-License-Identifier: Apache-2.0
"""What an nfs URL and Cinder's ``connection_info`` name: a file.

Pure: nothing here connects. The names of the dictionary's keys are Cinder's
(``cinder/volume/drivers/nfs.py``) and those that os-brick reads.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import re
import typing
import urllib.parse

from oslo_transfer.drivers import connection_info as _info
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint

# What mount(8), the kernel's table of mounts and a comma-separated list of
# options all take as it is.
_OPTIONS = re.compile(r'[\x21-\x7e]*')
_UNSAFE = re.compile(r'[\'"\\]')
_CONTROL = re.compile(r'[\x00-\x1f\x7f]')


@dataclasses.dataclass(frozen=True)
class Share:
    """A file of an export.

    :ivar where: the redacted URL, for messages
    :ivar export: ``server:/path``, as mount(8) takes it
    :ivar name: the file's name in it; no path
    :ivar options: for mount(8), with commas in between; '' for none
    """

    where: str
    export: str
    name: str
    options: str = ''


def from_endpoint(
    endpoint: _endpoint.Endpoint, ctx: _context.Context
) -> Share:
    """The file that a URL names, with what the context adds.

    :raises InvalidEndpoint: the URL or the dictionary makes no sense, or
        they name different files
    """
    where = str(endpoint)
    if endpoint.query is not None or endpoint.username is not None:
        raise exceptions.InvalidEndpoint(
            f'{where}: an nfs URL has no query and no login'
        )
    if not endpoint.host or endpoint.host.startswith('-'):
        raise exceptions.InvalidEndpoint(
            f'{where}: an nfs URL is nfs://SERVER/EXPORT/FILE'
        )
    path = urllib.parse.unquote(endpoint.path, errors='surrogateescape')
    directory, _slash, name = path.rpartition('/')
    _check_path(directory or '/', where)
    _check_name(name, where)
    host = f'[{endpoint.host}]' if ':' in endpoint.host else endpoint.host
    share = Share(where, f'{host}:{directory or "/"}', name)
    options = [f'port={endpoint.port}'] if endpoint.port else []
    data = _info.data(ctx.connection_info, 'nfs', where)
    if data:
        _check_same(share, data)
        options += _options(data, where)
    return dataclasses.replace(share, options=','.join(options))


def _check_same(share: Share, data: Mapping[str, typing.Any]) -> None:
    """The URL is what was allowed, so it says what is mounted."""
    host, _colon, path = str(data.get('export', share.export)).rpartition(':')
    path = '/' + path.strip('/')
    if (f'{host.lower()}:{path}', data.get('name', share.name)) != (
        share.export,
        share.name,
    ):
        raise exceptions.InvalidEndpoint(
            f'{share.where}: its connection_info names another file'
        )


def _options(data: Mapping[str, typing.Any], where: str) -> list[str]:
    """Of ``-o vers=4.1,sec=krb5``: mount(8) gets nothing else of it."""
    text = data.get('options') or ''
    if not isinstance(text, str):
        raise exceptions.InvalidEndpoint(
            f'{where}: the options in connection_info are no text'
        )
    words = text.split()
    found = []
    while words:
        word = words.pop(0)
        if word == '-o' and words:
            word = words.pop(0)
        elif word.startswith('-o') and len(word) > 2:
            word = word[2:]
        if (
            word.startswith('-')
            or not _OPTIONS.fullmatch(word)
            or _UNSAFE.search(word)
        ):
            raise exceptions.InvalidEndpoint(
                f'{where}: the options in connection_info are more than -o '
                f'with options of nfs'
            )
        found += [each for each in word.split(',') if each]
    return found


def _check_path(path: str, where: str) -> None:
    parts = path.split('/')[1:]
    if (
        not path.startswith('/')
        or (path != '/' and not all(parts))
        or {'.', '..'} & set(parts)
        or _CONTROL.search(path)
    ):
        raise exceptions.InvalidEndpoint(
            f'{where}: the export is no plain absolute path'
        )


def _check_name(name: str, where: str) -> None:
    if name in ('', '.', '..') or '/' in name or _CONTROL.search(name):
        raise exceptions.InvalidEndpoint(
            f'{where}: an nfs URL ends with the name of a file'
        )
