# SPDX-License-Identifier: Apache-2.0
"""One place where the data can be found, or should be put."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import os
import typing

from oslo_transfer import credentials as _credentials
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions


@dataclasses.dataclass(frozen=True, repr=False)
class Location:
    """A URL with what is needed to use it.

    :ivar url: a URL or a local path
    :ivar weight: a higher weight is preferred by the ``weight`` selector
    :ivar metadata: the caller's own; never interpreted
    :ivar credentials: proof of identity for the URL's origin
    :ivar trusted: False for a URL that comes from a tenant: the URL policy
        then decides about its scheme, host, port and addresses
    :ivar connection_info: Cinder's dictionary, for what does not fit a URL
    :ivar zeroed: as a destination, it is known to read as zeros all over:
        nothing but data has to be written to it
    """

    url: str
    weight: int = 0
    metadata: Mapping[str, typing.Any] = dataclasses.field(
        default_factory=dict
    )
    credentials: _credentials.Credentials | None = None
    trusted: bool = True
    connection_info: Mapping[str, typing.Any] | None = None
    zeroed: bool = False

    @property
    def endpoint(self) -> _endpoint.Endpoint:
        """The parsed URL.

        :raises InvalidEndpoint: the URL is malformed
        """
        return _endpoint.parse(self.url)

    def __str__(self) -> str:
        try:
            return str(self.endpoint)
        except exceptions.InvalidEndpoint:
            return '<malformed URL>'

    def __repr__(self) -> str:
        return f'<Location {self}>'


def as_location(value: typing.Any) -> Location:
    """Turn a URL, path or location into a location.

    :raises InvalidEndpoint: it is none of these, or malformed
    """
    if isinstance(value, Location):
        location = value
    elif isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if not isinstance(text, str):
            raise exceptions.InvalidEndpoint('a path must be str, not bytes')
        location = Location(text)
    else:
        raise exceptions.InvalidEndpoint(
            f'a URL, a path, a Location or a file object is needed, not '
            f'{type(value).__name__}'
        )
    _endpoint.parse(location.url)
    return location


def unique(locations: Iterable[Location]) -> tuple[Location, ...]:
    """Drop locations that came before, keeping the order.

    The same URL with other credentials is another one: they may be let in.
    So is one with other connection information.
    """
    first: dict[tuple[str, int, int], Location] = {}
    for location in locations:
        who, what = id(location.credentials), id(location.connection_info)
        first.setdefault((location.url, who, what), location)
    return tuple(first.values())
