# SPDX-License-Identifier: Apache-2.0
"""A source that keeps a transfer's bandwidth limit."""

from __future__ import annotations

from collections.abc import Iterator
import typing

from oslo_transfer.drivers import base

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context


class ThrottledSource(base.Source):
    """Wraps a source; all its streams share the context's limiter.

    :param source: the open source; owned from now on
    :param ctx: has the limiter
    """

    def __init__(self, source: base.Source, ctx: _context.Context) -> None:
        self._source = source
        self._ctx = ctx
        self.size = source.size
        self.validator = source.validator
        self.geometry = source.geometry
        self.pieces = source.pieces
        self.origin = source.origin
        self.delimited = source.delimited

    @property
    def capabilities(self) -> base.Capability:  # type: ignore[override]
        """Those of the wrapped source."""
        return self._source.capabilities

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """A stream that waits its turn."""
        return _ThrottledStream(self._source.stream(offset, length), self._ctx)

    def extents(
        self, offset: int, length: int
    ) -> Iterator[base.Extent] | None:
        """Those of the wrapped source."""
        return self._source.extents(offset, length)

    def close(self) -> None:
        """Close the wrapped source."""
        self._source.close()


class _ThrottledStream(base.Stream):
    def __init__(self, stream: base.Stream, ctx: _context.Context) -> None:
        super().__init__()
        self._stream = stream
        self._ctx = ctx

    @property
    def waited(self) -> float:  # type: ignore[override]
        # More streams would not be faster: the limit is ours.
        return 0.0

    def readinto(self, buffer: typing.Any) -> int:
        view = memoryview(buffer).cast('B')
        count = self._stream.readinto(
            view[: self._ctx.limiter.chunk(len(view))]
        )
        self._ctx.sleep(self._ctx.limiter.moved(count))
        return count

    def splice(self, fd: int, offset: int, count: int) -> int | None:
        moved = self._stream.splice(fd, offset, self._ctx.limiter.chunk(count))
        if moved is not None:
            self._ctx.sleep(self._ctx.limiter.moved(moved))
        return moved

    def close(self) -> None:
        self._stream.close()
        super().close()
