# SPDX-License-Identifier: Apache-2.0
"""The records of images that the service exports from its cache.

In ``<state_path>/cached``; see :mod:`oslo_transfer.service.exports`. The
URL, which may be signed, and all that proves who asks are the secret.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import os
import typing

from oslo_transfer.cache import version as _version
from oslo_transfer import credentials as _credentials
from oslo_transfer import digest as _digest
from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import location as _location
from oslo_transfer.service import exports

SOCKET = 'nbd.sock'
#: The mount of the form ``path``.
FILE = 'image'
#: Of the process that has it mounted.
PID = 'pid'


class Proof(_credentials.Credentials):
    """What proved the identity of the one who asked, when he asked.

    :param headers: sent with each request
    :param login: user name and password, or None
    """

    def __init__(
        self, headers: Mapping[str, str], login: tuple[str, str] | None
    ) -> None:
        self._headers = dict(headers)
        self._login = login

    def headers(self) -> Mapping[str, str]:
        """The headers."""
        return self._headers

    def login(self) -> tuple[str, str] | None:
        """User name and password."""
        return self._login


@dataclasses.dataclass(frozen=True)
class Record:
    """One export.

    :ivar id: its name
    :ivar url: of the origin, with all its secrets
    :ivar headers: for the origin
    :ivar login: for the origin
    :ivar connection_info: of the origin's location
    :ivar trusted: whether the origin may be anything
    :ivar form: ``overlay``, ``path``, or ``nbd`` for the export alone
    :ivar destination: what leads to it; None for the export alone
    :ivar digest: that the image must have, as ALGORITHM:HEX, or None
    :ivar added: when it was asked for, in seconds of the Unix clock
    :ivar size: in bytes
    :ivar validator: of its version, or None
    :ivar strong: whether that is a strong one
    :ivar promoted: the file that it becomes, or has become, or None
    :ivar device: of the file system that this file is on
    :ivar inode: its number there
    :ivar boot: the boot in which it had these; another one may number file
        systems anew
    :ivar released: nobody needs the service for it any more
    """

    id: str
    url: str
    headers: Mapping[str, str]
    login: tuple[str, str] | None
    connection_info: Mapping[str, typing.Any] | None
    trusted: bool
    form: str
    destination: str | None
    digest: str | None
    added: float
    size: int = 0
    validator: str | None = None
    strong: bool = False
    promoted: str | None = None
    device: int = 0
    inode: int = 0
    boot: str = ''
    released: bool = False

    @property
    def where(self) -> str:
        """The origin, for people."""
        return str(_endpoint.parse(self.url))

    @property
    def identity(self) -> bytes:
        """Tells this version of the image from others; 32 bytes."""
        return _version.identity(self.size, self.version, self.digest, self.id)

    @property
    def version(self) -> base.Validator | None:
        """What the origin has to answer."""
        if self.validator is None:
            return None
        return base.Validator(self.validator, self.strong)

    @property
    def expected(self) -> _digest.Expected | None:
        """The digest that it must have."""
        if self.digest is None:
            return None
        algorithm, _, value = self.digest.partition(':')
        return _digest.expected(algorithm, value)

    @property
    def location(self) -> _location.Location:
        """The origin, to be opened."""
        return _location.Location(
            self.url,
            credentials=Proof(self.headers, self.login),
            trusted=self.trusted,
            connection_info=self.connection_info,
        )


# What is in the record itself, and what in the secret, with the types.
_OPEN: Mapping[str, typing.Any] = {
    'trusted': bool,
    'form': str,
    'destination': str | None,
    'digest': str | None,
    'added': float | int,
    'size': int,
    'validator': str | None,
    'strong': bool,
    'promoted': str | None,
    'device': int,
    'inode': int,
    'boot': str,
    'released': bool,
}
_SECRET: Mapping[str, typing.Any] = {
    'url': str,
    'headers': dict,
    'login': list | tuple | None,
    'connection_info': dict | None,
}
_FORMS = frozenset({'overlay', 'path', 'nbd'})


class Records(exports.Records[Record]):
    """The records of exports of the cache."""

    version = 1
    mode = 0o711
    files = (SOCKET, FILE, PID)

    def encode(self, record: Record) -> Mapping[str, typing.Any]:
        """All but the secrets."""
        return {name: getattr(record, name) for name in _OPEN}

    def secret(self, record: Record) -> str:
        """The secrets."""
        return json.dumps({name: getattr(record, name) for name in _SECRET})

    def decode(
        self, name: str, fields: Mapping[str, typing.Any], secret: str | None
    ) -> Record:
        """See that it makes sense."""
        if secret is None:
            raise ValueError('its secret is missing')
        hidden = json.loads(secret)
        if not isinstance(hidden, dict):
            raise ValueError('its secret is no JSON object')
        return make(name, {**fields, **hidden})


def make(name: str, fields: Mapping[str, typing.Any]) -> Record:
    """A record of its fields, whoever has sent them.

    :raises ValueError: they make no sense; also KeyError and TypeError
    """
    found = {}
    for key, kind in (*_OPEN.items(), *_SECRET.items()):
        if not isinstance(fields[key], kind):
            raise TypeError(f'"{key}" is of another kind')
        found[key] = fields[key]
    if found['form'] not in _FORMS:
        raise ValueError(f'"{found["form"]}" is no form')
    if (found['form'] == 'nbd') != (found['destination'] is None):
        raise ValueError('"form" and "destination" do not fit')
    if not all(
        isinstance(each, str)
        for item in found['headers'].items()
        for each in item
    ):
        raise TypeError('"headers" are no texts')
    if found['login'] is not None:
        user, password = found['login']
        if not (isinstance(user, str) and isinstance(password, str)):
            raise TypeError('"login" is no pair of texts')
        found['login'] = user, password
    record = Record(name, **found)
    for number in (record.size, record.device, record.inode):
        if not 0 <= number < 1 << 64:
            raise ValueError(f'{number} is no size or number of a file')
    for path in (record.destination, record.promoted):
        if path is not None and ('\0' in path or not os.path.isabs(path)):
            raise ValueError('a path is not absolute')
    _endpoint.parse(record.url)
    _ = record.expected
    return record
