# SPDX-License-Identifier: Apache-2.0
"""Secrets, from a file or from the environment, and never from argv."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import logging
import os
import stat
import typing

import oslo_transfer
from oslo_transfer import credentials
from oslo_transfer import endpoint
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer.cli import console

LOG = logging.getLogger(__name__)

TOKEN = 'OSLO_TRANSFER_TOKEN'  # noqa: S105 - the variable's name
TOKEN_URL = 'OSLO_TRANSFER_TOKEN_URL'  # noqa: S105 - likewise

_Origin = tuple[str, str, int | None]
_MAX_BYTES = 1 << 20


class Keyring:
    """Credentials by origin: each is sent to that origin only.

    :param path: the file of ``--auth-file``, or None
    :param environ: the environment
    :param output: told what it must not show
    :raises ConfigurationError: the file or the environment is unusable
    """

    def __init__(
        self,
        path: str | None,
        environ: Mapping[str, str],
        output: console.Console,
    ) -> None:
        self._path = path
        self._output = output
        self._found: dict[_Origin, credentials.Credentials] = {}
        self._from_environment(environ)
        if path is not None:
            lines, again = self._read(path)
            for origin, kind, secret in lines:
                self._found[origin] = self._credentials(
                    origin, kind, secret, again
                )

    def location(self, url: str) -> oslo_transfer.Location:
        """A URL with the credentials for its origin, if there are any."""
        found = None
        try:
            found = self._found.get(endpoint.parse(url).origin)
        except exceptions.InvalidEndpoint:
            pass  # The library says why, when it is used.
        return oslo_transfer.Location(url, credentials=found)

    def _from_environment(self, environ: Mapping[str, str]) -> None:
        token = environ.get(TOKEN)
        if not token:
            return
        self._output.hide([token])
        url = environ.get(TOKEN_URL)
        if not url:
            raise exceptions.ConfigurationError(
                f'{TOKEN} is set, but {TOKEN_URL} does not say to which '
                f'server it may be sent'
            )
        origin = _origin(url, TOKEN_URL)
        _check_text(token, TOKEN)
        self._found[origin] = credentials.TokenCredentials(token)

    def _credentials(
        self, origin: _Origin, kind: str, secret: str, again: bool
    ) -> credentials.Credentials:
        if kind == 'login':
            name, _colon, password = secret.partition(':')
            return credentials.LoginCredentials(name, password)
        renew = self._renewer(origin, secret) if again else None
        return credentials.TokenCredentials(secret, renew)

    def _renewer(self, origin: _Origin, token: str) -> Callable[[], str]:
        """Look into the file again when a server refuses the token.

        Tokens live shorter than large copies take; whoever writes the file
        can put a fresh one there meanwhile.
        """

        def renew() -> str:
            assert self._path is not None
            try:
                lines, _again = self._read(self._path)
            except exceptions.ConfigurationError as exc:
                LOG.warning('%s', exc)
                return token
            for found, kind, secret in lines:
                if found == origin and kind == 'token':
                    return secret
            return token

        return renew

    def _read(self, path: str) -> tuple[list[tuple[_Origin, str, str]], bool]:
        """Read the file; also tells whether it can be read again."""
        try:
            with open(path, 'rb') as file:
                info = os.fstat(file.fileno())
                if stat.S_IMODE(info.st_mode) & 0o077:
                    raise exceptions.ConfigurationError(
                        f'{path} can be read by others, so it is not used; '
                        f'chmod 600 it, and change the secrets in it'
                    )
                text = file.read(_MAX_BYTES + 1).decode()
        except OSError as exc:
            raise exceptions.ConfigurationError(
                f'{path} cannot be read: {exc.strerror}'
            ) from exc
        except UnicodeDecodeError:
            raise exceptions.ConfigurationError(
                f'{path} is not UTF-8 text'
            ) from None
        if len(text) > _MAX_BYTES:
            raise exceptions.ConfigurationError(
                f'{path} has more than {_MAX_BYTES} bytes'
            )
        found = {}
        for number, line in enumerate(text.split('\n'), 1):
            line = line.strip(' \t\r')
            if line and not line.startswith('#'):
                entry = self._entry(line, f'{path}, line {number}')
                if entry[0] in found:
                    raise exceptions.ConfigurationError(
                        f'{path}, line {number}: a second entry for the '
                        f'same server'
                    )
                found[entry[0]] = entry
        return [*found.values()], stat.S_ISREG(info.st_mode)

    def _entry(self, line: str, where: str) -> tuple[_Origin, str, str]:
        url, *rest = line.split(maxsplit=1)
        kind, _colon, secret = rest[0].partition(':') if rest else ('', '', '')
        name, colon, password = secret.partition(':')
        self._output.hide([secret, password])
        if (
            kind not in ('token', 'login')
            or not name
            or (kind == 'login' and not colon)
        ):
            raise exceptions.ConfigurationError(
                f'{where}: not "URL token:TOKEN" and not "URL '
                f'login:USER:PASSWORD"'
            )
        _check_text(secret, where)
        return _origin(url, where), kind, secret


def _origin(url: str, where: str) -> _Origin:
    try:
        found = endpoint.parse(url)
    except exceptions.InvalidEndpoint as exc:
        raise exceptions.ConfigurationError(f'{where}: {exc}') from exc
    # Whoever writes a path there may believe that it matters.
    if (
        found.scheme == 'file'
        or found.path not in ('', '/')
        or found.query is not None
        or found.username is not None
    ):
        raise exceptions.ConfigurationError(
            f'{where}: the URL has to be a scheme, a host and perhaps a '
            f'port, like https://glance.example:9292'
        )
    return found.origin


def _check_text(secret: str, where: str) -> None:
    if not secret.isprintable():
        raise exceptions.ConfigurationError(
            f'{where}: the secret holds a control character'
        )


def warn_of_passwords(urls: list[str]) -> None:
    """Warn of secrets that every user of the host can see."""
    for url in urls:
        try:
            found = endpoint.parse(url)
        except exceptions.InvalidEndpoint:
            continue
        if found.password is not None:
            LOG.warning(
                'the password in %s is visible in the list of processes; '
                'put it into an --auth-file',
                found,
            )
