# SPDX-License-Identifier: Apache-2.0
"""What the proxy may be asked for, and how that is written."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import re
import urllib.parse

from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.service.proxy import opts

# /SCHEME/AUTHORITY/PATH?QUERY; the path of a file begins behind two slashes.
_TARGET = re.compile(r'/([A-Za-z][A-Za-z0-9+.-]*)/([^/?]*)(/[^?]*)?(\?.*)?')
#: In front of a name.
NAMES = '/images/'
# How often a path may be escaped: some servers take escapes away twice.
_MOST_ESCAPED = 4


class Policy:
    """Tells which origin is meant, and whether it may be. Thread-safe.

    :param origins: URLs, each with all below it
    :param names: URLs by name
    :raises ConfigurationError: one of them is malformed
    """

    def __init__(
        self, origins: Iterable[str], names: Mapping[str, str]
    ) -> None:
        self._prefixes = [_prefix(each) for each in origins]
        self._names = {
            name: _configured(url, f'names: {name}')
            for name, url in names.items()
        }

    def asked(self, target: str, path: str) -> _endpoint.Endpoint:
        """What a request for an image is about.

        :param target: as it came
        :param path: of it, without escapes
        :raises NotFound: it is no path of an image
        :raises InvalidEndpoint: it leads to no URL
        :raises PolicyRefused: it may not be asked for
        """
        if path.startswith(NAMES):
            return self._named(path.removeprefix(NAMES))
        match = _TARGET.fullmatch(target)
        if match is None:
            raise exceptions.NotFound(
                f'there is nothing here; images are at /SCHEME/HOST/PATH of '
                f'their origin, or at {NAMES}NAME'
            )
        scheme, authority, rest, query = match.groups(default='')
        return self._checked(f'{scheme}://{authority}{rest}{query}')

    def named(self, name: str) -> _endpoint.Endpoint:
        """What an export, or a prefetch, is about.

        :param name: one of the names, or a URL
        :raises NotFound: it is neither
        :raises InvalidEndpoint: the URL is malformed
        :raises PolicyRefused: it may not be asked for
        """
        if name in self._names or '://' not in name:
            return self._named(name)
        return self._checked(name)

    def _named(self, name: str) -> _endpoint.Endpoint:
        try:
            return self._names[name]
        except KeyError:
            raise exceptions.NotFound('no image has this name') from None

    def _checked(self, url: str) -> _endpoint.Endpoint:
        found = canonical(url)
        if any(_is_below(found, prefix) for prefix in self._prefixes):
            return found
        if not self._prefixes:
            raise exceptions.PolicyRefused(
                f'this proxy gives nothing but what has a name: '
                f'[{opts.GROUP}] origins is empty'
            )
        raise exceptions.PolicyRefused(
            f'this proxy may not be asked for {found}: it is not in '
            f'[{opts.GROUP}] origins'
        )


def canonical(url: str) -> _endpoint.Endpoint:
    """A URL in the one way to write it that grants and blocks go by.

    :raises InvalidEndpoint: it is malformed, has a login, or dots in its
        path: servers take these for other paths than they look like
    """
    found = _endpoint.parse(url)
    if found.username is not None:
        raise exceptions.InvalidEndpoint(
            'a URL for the proxy has no login; who asks is told by headers'
        )
    return _plain(found)


def _plain(found: _endpoint.Endpoint) -> _endpoint.Endpoint:
    path = found.path
    for _ in range(_MOST_ESCAPED):
        # Some servers drop what is behind a semicolon first.
        segments = {
            each.partition(';')[0].strip()
            for each in path.replace('\\', '/').split('/')
        }
        if not {'.', '..'}.isdisjoint(segments):
            break
        path, before = urllib.parse.unquote(path), path
        if path == before and '\0' not in path:
            return _without_port(found)
    raise exceptions.InvalidEndpoint(
        f'the path of a {found.scheme} URL has dots in it, or is escaped '
        f'again and again'
    )


def _without_port(found: _endpoint.Endpoint) -> _endpoint.Endpoint:
    scheme = found.carrier or found.scheme
    if found.scheme == 'file':
        return found
    return dataclasses.replace(
        found,
        path=found.path or '/',
        port=None
        if found.port == _endpoint.DEFAULT_PORTS.get(scheme)
        else found.port,
    )


def _configured(url: str, option: str) -> _endpoint.Endpoint:
    try:
        if '://' not in url:
            raise exceptions.InvalidEndpoint('it is no URL')
        return _plain(_endpoint.parse(url))
    except exceptions.InvalidEndpoint as exc:
        raise exceptions.ConfigurationError(
            f'[{opts.GROUP}] {option}: {exc}'
        ) from exc


def _prefix(url: str) -> _endpoint.Endpoint:
    found = _configured(url, 'origins')
    if found.username is not None or found.query is not None:
        raise exceptions.ConfigurationError(
            f'[{opts.GROUP}] origins: {found} has a login or a query; only '
            f'paths are compared'
        )
    return found


def _is_below(found: _endpoint.Endpoint, prefix: _endpoint.Endpoint) -> bool:
    """Whether a URL is one, or below it."""
    if (found.scheme, found.carrier, found.netloc) != (
        *(prefix.scheme, prefix.carrier),
        prefix.netloc,
    ):
        return False
    path, top = (urllib.parse.unquote(each.path) for each in (found, prefix))
    return path == top or path.startswith(top.rstrip('/') + '/')
