# SPDX-License-Identifier: Apache-2.0
"""A source that keeps bandwidth limits."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import limiter
from oslo_transfer import shared
from oslo_transfer.wrappers import base as wrappers


def limited(
    source: base.Source, ctx: _context.Context, hosts: Iterable[str]
) -> base.Source:
    """The source, kept to all limits that apply to it.

    :param source: the open source; owned by what is returned
    :param ctx: has the limit of the transfer, and the configuration
    :param hosts: the hosts that its bytes come from and go to; '' is none
    :returns: the source itself if nothing limits it
    """
    found = limiters(ctx, hosts)
    return ThrottledSource(source, ctx, found) if found else source


def limiters(
    ctx: _context.Context, hosts: Iterable[str]
) -> list[limiter.Limiter]:
    """All limits that apply.

    :param ctx: has the limit of the transfer, and the configuration
    :param hosts: the hosts that bytes come from and go to; '' is none
    """
    group = ctx.conf.oslo_transfer
    known = shared.current().limiters
    found: list[limiter.Limiter] = []
    if ctx.limiter.rate is not None:
        found.append(ctx.limiter)
    rate = group.process_rate_limit_bytes_per_second
    if rate:
        found.append(known.process(rate))
    rate = group.host_rate_limit_bytes_per_second
    if rate:
        found += [known.host(host, rate) for host in {*hosts} - {''}]
    return found


class ThrottledSource(wrappers.SourceWrapper):
    """Wraps a source; all its streams together keep the limits.

    :param source: the open source; owned from now on
    :param ctx: interrupts waits
    :param limiters: all of them are kept
    """

    def __init__(
        self,
        source: base.Source,
        ctx: _context.Context,
        limiters: Sequence[limiter.Limiter],
    ) -> None:
        super().__init__(source)
        self._ctx = ctx
        self._limiters = limiters

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """A stream that waits its turn; first for what is owed already.

        Many short streams would otherwise never wait.
        """
        self._ctx.sleep(max(each.moved(0) for each in self._limiters))
        stream = self._source.stream(offset, length)
        return _ThrottledStream(
            stream,
            self._ctx,
            [each.share(self._ctx.transfer) for each in self._limiters],
        )


class _ThrottledStream(base.Stream):
    def __init__(
        self,
        stream: base.Stream,
        ctx: _context.Context,
        shares: Sequence[limiter.Share],
    ) -> None:
        super().__init__()
        self._stream = stream
        self._ctx = ctx
        self._shares = shares
        self._stopped = False

    @property
    def waited(self) -> float:  # type: ignore[override]
        # Where a limit counts, bytes arrive while we wait for our turn.
        return self._stream.waited

    def readinto(self, buffer: typing.Any) -> int:
        view = memoryview(buffer).cast('B')
        count = self._stream.readinto(view[: self._chunk(len(view))])
        self._moved(count)
        return count

    def splice(self, fd: int, offset: int, count: int) -> int | None:
        moved = self._stream.splice(fd, offset, self._chunk(count))
        if moved is not None:
            self._moved(moved)
        return moved

    def _chunk(self, size: int) -> int:
        return min(share.chunk(size) for share in self._shares)

    def _moved(self, count: int) -> None:
        wait = max(share.moved(count) for share in self._shares)
        end = time.monotonic() + wait
        # The wait may be long, and closing has to end it.
        while not self._stopped and (left := end - time.monotonic()) > 0:
            self._ctx.sleep(min(left, _context.TICK))

    def close(self) -> None:
        self._stopped = True
        self._stream.close()
        for share in self._shares:
            share.close()
        super().close()
