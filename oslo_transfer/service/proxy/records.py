# SPDX-License-Identifier: Apache-2.0
"""The records of images that the proxy has blocks of.

In ``<state_path>/proxied``; see :mod:`oslo_transfer.service.exports`. The
URL, which may be signed, is the secret; what proves who asks is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import time
import typing

from oslo_transfer import endpoint as _endpoint
from oslo_transfer.service import cached
from oslo_transfer.service import exports


@dataclasses.dataclass(frozen=True)
class Kept:
    """One version of an image.

    :ivar id: of it, see :class:`.catalog.Opened`
    :ivar url: of the origin, with all its secrets; signed ones as the last
        one who was granted it has had it
    :ivar size: in bytes
    :ivar validator: of the version, as an ETag
    :ivar pinned: its blocks are to stay
    :ivar used: when somebody last asked for it, by the Unix clock
    """

    id: str
    url: str
    size: int
    validator: str
    pinned: bool = False
    used: float = 0.0

    @property
    def where(self) -> str:
        """The origin, for people."""
        return str(_endpoint.parse(self.url))

    def asked(
        self,
        identifier: str,
        headers: Mapping[str, str],
        url: str | None = None,
    ) -> cached.Record:
        """The same, to be read by somebody.

        :param identifier: stands for him
        :param headers: for the origin
        :param url: as he has it; None means :attr:`url`
        """
        return dataclasses.replace(
            record_of(identifier, url or self.url, headers),
            size=self.size,
            validator=self.validator,
            strong=True,
        )


def record_of(
    identifier: str, url: str, headers: Mapping[str, str]
) -> cached.Record:
    """An origin, as somebody asks for it."""
    return cached.Record(
        id=identifier,
        url=url,
        headers=headers,
        login=None,
        connection_info=None,
        trusted=True,
        form='nbd',
        destination=None,
        digest=None,
        added=time.time(),
    )


_FIELDS: Mapping[str, typing.Any] = {
    'size': int,
    'validator': str,
    'pinned': bool,
    'used': float | int,
}


class Records(exports.Records[Kept]):
    """The records of images."""

    version = 1
    files = ()

    def encode(self, record: Kept) -> Mapping[str, typing.Any]:
        """All but the URL."""
        return {name: getattr(record, name) for name in _FIELDS}

    def secret(self, record: Kept) -> str:
        """The URL."""
        return record.url

    def decode(
        self, name: str, fields: Mapping[str, typing.Any], secret: str | None
    ) -> Kept:
        """See that it makes sense."""
        if secret is None:
            raise ValueError('its secret is missing')
        found = {}
        for key, kind in _FIELDS.items():
            if not isinstance(fields[key], kind):
                raise TypeError(f'"{key}" is of another kind')
            found[key] = fields[key]
        size, used = found['size'], found['used']
        if not (0 <= size < 1 << 63 and math.isfinite(used)):
            raise ValueError('"size" or "used" is none')
        _endpoint.parse(secret)
        return Kept(name, secret, **found)
