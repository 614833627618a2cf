# SPDX-License-Identifier: Apache-2.0
"""A source that keeps a transfer's bandwidth limit."""

from __future__ import annotations

import typing

from oslo_transfer.drivers import base
from oslo_transfer.wrappers import base as wrappers

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context


class ThrottledSource(wrappers.SourceWrapper):
    """Wraps a source; all its streams share the context's limiter.

    :param source: the open source; owned from now on
    :param ctx: has the limiter
    """

    def __init__(self, source: base.Source, ctx: _context.Context) -> None:
        super().__init__(source)
        self._ctx = ctx

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """A stream that waits its turn."""
        return _ThrottledStream(self._source.stream(offset, length), self._ctx)


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
