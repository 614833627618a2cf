# SPDX-License-Identifier: Apache-2.0
"""Secrets in files, which are read again when they change."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import threading
import typing

from oslo_transfer import exceptions
from oslo_transfer.service.proxy import opts

LOG = logging.getLogger(__name__)

_MOST_BYTES = 1 << 20
_TOKEN = re.compile(r'[\x21-\x7e]{1,4096}')
_BEARER = re.compile(r'bearer +([\x21-\x7e]{1,4096})', re.IGNORECASE)
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e]*)")
#: What says how a connection goes on, and what is for us; not who asks.
NOT_FOR_ORIGINS = frozenset(
    {
        *('proxy-authorization', 'cache-control'),
        *('connection', 'content-length', 'expect', 'host', 'range'),
        *('if-match', 'if-none-match', 'if-range', 'te', 'trailer'),
        *('transfer-encoding', 'upgrade', 'via'),
    }
)

_Value = typing.TypeVar('_Value')


class _File(typing.Generic[_Value]):
    """A file whose content is known, as it was when it was looked at last.

    :param path: of the file
    :param option: that names it, for messages
    :raises ConfigurationError: it cannot be used
    """

    def __init__(self, path: str, option: str) -> None:
        self._path = path
        self._where = f'[{opts.GROUP}] {option}: {path}'
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._value = self._load()

    def _load(self) -> _Value:
        try:
            with open(self._path, 'rb') as file:
                self._seen = _signature(os.fstat(file.fileno()))
                data = file.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise ValueError(f'it has more than {_MOST_BYTES} bytes')
            lines = (line.strip() for line in data.decode('ascii').split('\n'))
            return self._parse(
                [line for line in lines if line and line[0] != '#']
            )
        except UnicodeDecodeError:
            raise exceptions.ConfigurationError(
                f'{self._where}: it is not ASCII'
            ) from None
        except OSError as exc:
            raise exceptions.ConfigurationError(
                f'{self._where}: {exc.strerror}'
            ) from exc
        except ValueError as exc:
            raise exceptions.ConfigurationError(
                f'{self._where}: {exc}'
            ) from exc

    def _parse(self, lines: list[str]) -> _Value:
        """What lines say.

        :raises ValueError: nothing that can be used; it MUST NOT tell any
        """
        raise NotImplementedError

    def look(self) -> bool:
        """Read it again if it has changed; returns whether it has.

        What cannot be used is complained of, and all stays as it was.
        """
        with self._lock:
            try:
                found = _signature(os.stat(self._path))
            except OSError:
                found = None
            if found == self._seen:
                return False
            try:
                self._value = self._load()
            except exceptions.ConfigurationError as exc:
                self._seen = found
                LOG.error('%s; what it said before still holds', exc)
                return False
            LOG.info('%s was read again', self._where)
            return True


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Tokens(_File[list[bytes]]):
    """Tokens of those who may do something. Thread-safe."""

    def _parse(self, lines: list[str]) -> list[bytes]:
        for number, line in enumerate(lines, 1):
            if not _TOKEN.fullmatch(line):
                raise ValueError(f'token {number} has spaces, or is too long')
        return [_hash(line) for line in lines]

    def has(self, token: str) -> bool:
        """Whether it is one of them; takes as long for any."""
        asked, found = _hash(token), False
        for each in self._value:
            found |= hmac.compare_digest(each, asked)
        return found


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Token(_File[str]):
    """One token. Thread-safe."""

    def _parse(self, lines: list[str]) -> str:
        if len(lines) != 1 or not _TOKEN.fullmatch(lines[0]):
            raise ValueError('it is to have one line, with a token')
        return lines[0]

    @property
    def value(self) -> str:
        """The token."""
        return self._value


class Headers(_File[dict[str, str]]):
    """Headers that say who asks. Thread-safe."""

    def _parse(self, lines: list[str]) -> dict[str, str]:
        found = {}
        for number, line in enumerate(lines, 1):
            match = _HEADER.fullmatch(line)
            if match is None or match[1].lower() in NOT_FOR_ORIGINS:
                raise ValueError(
                    f'line {number} is no "Name: value" of a header that '
                    f'says who asks'
                )
            found[match[1]] = match[2].strip()
        return found

    @property
    def value(self) -> dict[str, str]:
        """The headers."""
        return self._value


def bearer(field: str | None) -> str | None:
    """The token in a header like ``Authorization``: RFC 6750, 2.1."""
    match = _BEARER.fullmatch(field or '')
    return match[1] if match else None
