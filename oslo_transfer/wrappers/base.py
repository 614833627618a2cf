# SPDX-License-Identifier: Apache-2.0
"""A source around another source."""

from __future__ import annotations

from collections.abc import Iterator
import typing

from oslo_transfer.drivers import base

if typing.TYPE_CHECKING:
    from oslo_transfer.drivers import target as _target


class SourceWrapper(base.Source):
    """Says of itself what the wrapped source says.

    :param source: the open source; owned from now on
    """

    def __init__(self, source: base.Source) -> None:
        self._source = source
        self.size = source.size
        self.pieces = source.pieces
        self.geometry = source.geometry
        self.validator = source.validator
        self.delimited = source.delimited
        self.doubt = source.doubt
        self.fills_devices = source.fills_devices
        self.in_place = source.in_place

    @property
    def origin(self) -> str:  # type: ignore[override]
        """That of the wrapped source; it may be known later only."""
        return self._source.origin

    @property
    def capabilities(self) -> base.Capability:  # type: ignore[override]
        """Those of the wrapped source; it may lose some."""
        return self._source.capabilities

    def extents(
        self, offset: int, length: int
    ) -> Iterator[base.Extent] | None:
        """Those of the wrapped source."""
        return self._source.extents(offset, length)

    def fill(self, target: _target.Target) -> None:
        """Have the wrapped source fill a file."""
        self._source.fill(target)

    def landed(self, path: str) -> bool | None:
        """Tell the wrapped source."""
        return self._source.landed(path)

    def close(self) -> None:
        """Close the wrapped source."""
        self._source.close()
