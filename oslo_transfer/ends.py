# SPDX-License-Identifier: Apache-2.0
"""The two ends of a copy: what the caller named, and who serves it."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import fileobj
from oslo_transfer import location as _location
from oslo_transfer import signed_urls


@dataclasses.dataclass(frozen=True)
class LocationEnd:
    """A location with its driver.

    :ivar location: what the caller named, or what leads there by a proxy
    :ivar endpoint: its parsed URL
    :ivar driver: serves it
    :ivar tier: those of a higher one are used only if all of this one fail
    :ivar origin: what the caller named, where this leads by a proxy; else
        None
    """

    location: _location.Location
    endpoint: _endpoint.Endpoint
    driver: base.Driver
    tier: int = 0
    origin: LocationEnd | None = None

    @property
    def capabilities(self) -> base.Capability:
        """Those of the driver."""
        return self.driver.capabilities

    @property
    def driver_name(self) -> str:
        """The driver's name."""
        return self.driver.name

    @property
    def host(self) -> str:
        """The host's name or address; '' for this host."""
        return self.endpoint.host

    @property
    def address(self) -> tuple[str, int] | None:
        """The host and TCP port, or None where that says nothing."""
        _scheme, host, port = self.endpoint.origin
        return (host, port) if host and port else None

    @property
    def identity(self) -> str:
        """Tells this location from others without showing its secrets.

        A URL that is signed anew names the same.
        """
        url = signed_urls.unsigned(self.endpoint).url()
        found = hashlib.sha256(url.encode(errors='surrogateescape'))
        info = self.location.connection_info
        if info is not None:
            text = json.dumps(_without_logins(info), sort_keys=True)
            found.update(text.encode())
        return found.hexdigest()

    @property
    def local_path(self) -> str | None:
        """The path on this host that it names, or None."""
        if base.Capability.LOCAL_PATH not in self.capabilities:
            return None
        path = self.driver.local_path(self.endpoint)
        if os.path.islink(path):
            real = os.path.realpath(path)
            if os.path.exists(real) and not os.path.isfile(real):
                return real
        return path

    def context(self, ctx: _context.Context) -> _context.Context:
        """The context for this end: its identity, its trust.

        :raises PolicyRefused: the URL is untrusted and not allowed
        """
        if not self.location.trusted:
            ctx.connector.policy.check_endpoint(self.endpoint)
            if base.Capability.POLICED not in self.capabilities:
                raise exceptions.PolicyRefused(
                    f'{self.endpoint.scheme} URLs are refused when they are '
                    f'untrusted'
                )
        return ctx.replace(
            credentials=self.location.credentials,
            trusted=self.location.trusted,
            connection_info=self.location.connection_info,
        )

    def open_source(self, ctx: _context.Context) -> base.Source:
        """Open it for reading."""
        source = self.driver.open_source(self.endpoint, self.context(ctx))
        if self.origin is not None:
            source.origin = 'proxy'
        return source

    def open_sink(
        self,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool,
        overwrite: bool,
    ) -> base.Sink:
        """Open it for writing."""
        sink = self.driver.open_sink(
            self.endpoint,
            self.context(ctx).replace(writing=True),
            size=size,
            resume=resume,
            overwrite=overwrite,
        )
        if self.location.zeroed:
            sink.zeroed = True
        return sink

    def fill(self, part_path: str, ctx: _context.Context) -> str:
        """Have the driver fill a file by its own means."""
        return self.driver.fill(self.endpoint, part_path, self.context(ctx))

    def attach(self, ctx: _context.Context) -> base.Attachment:
        """Make it readable in place, with a record of that.

        :param ctx: says with ``lasting`` whether it is to stay
        """
        return self.context(ctx).attach(self.driver, self.endpoint)

    def __str__(self) -> str:
        return str(self.endpoint)


class FileObjectEnd:
    """A Python file object as one end of a copy.

    :param file: a readable or writable file object
    """

    capabilities = base.Capability.READ | base.Capability.WRITE
    driver_name = 'file-object'
    host = ''
    address = None
    identity = ''
    local_path = None
    tier = 0
    origin = None

    def __init__(self, file: typing.Any) -> None:
        self._file = file
        self._source: fileobj.FileObjectSource | None = None
        self._sink: fileobj.FileObjectSink | None = None

    @staticmethod
    def context(ctx: _context.Context) -> _context.Context:
        """The context for this end; it has no identity of its own."""
        return ctx

    def open_source(self, ctx: _context.Context) -> base.Source:
        """Read from where the object stood at first."""
        if self._source is None:
            self._source = fileobj.FileObjectSource(self._file)
        self._source.rewind()
        return self._source

    def open_sink(
        self,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool,
        overwrite: bool,
    ) -> base.Sink:
        """Write from where the object stood at first.

        :raises CapabilityMissing: it was written to, and cannot be rewound
        """
        if self._sink is None:
            self._sink = fileobj.FileObjectSink(self._file)
        self._sink.rewind()
        return self._sink

    def fill(self, part_path: str, ctx: _context.Context) -> str:
        """A file object has no means of its own.

        :raises CapabilityMissing: always
        """
        raise exceptions.CapabilityMissing('a file object cannot fill files')

    def attach(self, ctx: _context.Context) -> base.Attachment:
        """A file object is nothing that others could read.

        :raises CapabilityMissing: always
        """
        raise exceptions.CapabilityMissing('a file object cannot be attached')

    def __str__(self) -> str:
        return f'<{type(self._file).__name__}>'


End = LocationEnd | FileObjectEnd


def _without_logins(info: typing.Any) -> typing.Any:
    """Connection information without what proves an identity."""
    if isinstance(info, Mapping):
        return {
            str(key): _without_logins(value)
            for key, value in info.items()
            if not str(key).startswith(('auth_', 'discovery_auth_'))
        }
    if isinstance(info, list | tuple):
        return [_without_logins(each) for each in info]
    return info if isinstance(info, bool | int | float) else str(info)


def end_of(
    value: typing.Any,
    open_driver: typing.Callable[[str], base.Driver],
) -> LocationEnd:
    """A URL, path or location with its driver.

    :raises InvalidEndpoint: it is malformed
    :raises DriverNotFound: no driver serves its scheme
    :raises DriverLoadError: the driver cannot be loaded
    """
    location = _location.as_location(value)
    endpoint = location.endpoint
    return LocationEnd(location, endpoint, open_driver(endpoint.scheme))
