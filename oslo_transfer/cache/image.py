# SPDX-License-Identifier: Apache-2.0
"""One remote object that is read through its blocks on this host."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import threading
import time
import typing

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import fetcher as _fetcher
from oslo_transfer.cache import hydrate as _hydrate
from oslo_transfer.cache import origin as _origin
from oslo_transfer.cache import reader as _reader
from oslo_transfer import context as _context
from oslo_transfer import digest as _digest
from oslo_transfer.drivers import base
from oslo_transfer import limiter as _limiter

# Seconds for a thread to notice that it has to end.
_END = 5.0


class CachedImage:
    """An image that can be read, and so exported. Thread-safe.

    :param blocks: what is on this host; not owned
    :param open_source: opens the origin, with retries and limits; called
        when it is needed, and again after failures
    :param ctx: the limits of all that is read from the origin
    :param streams: how many streams to read it by, at most
    :param validator: of the version that the blocks are of; None where it is
        that of the source which is opened first
    :param on_touch: see :class:`oslo_transfer.cache.reader.Reader`
    """

    def __init__(
        self,
        blocks: _blocks.Blocks,
        open_source: _origin.Opener,
        ctx: _context.Context,
        *,
        streams: int,
        validator: base.Validator | None = None,
        on_touch: _reader.Touch | None = None,
    ) -> None:
        self.blocks = blocks
        #: In bytes.
        self.size = blocks.size
        #: Changes whenever the bytes could.
        self.etag = blocks.identity.hex()
        self._ctx = ctx.replace(stop=threading.Event())
        self._on_touch = on_touch
        self._origin = _origin.Origin(
            open_source, self._ctx, blocks.size, validator
        )
        self._fetcher = _fetcher.Fetcher(
            blocks, self._origin, self._ctx, streams
        )
        self._lock = threading.Lock()
        self._readers: set[_Reader] = set()
        self._background: list[_hydrate.Background] = []
        # Of readers that were closed.
        self._hits = self._misses = self._served = 0

    @property
    def stays(self) -> bool:
        """Whether nothing that is there is evicted any more."""
        return self.blocks.stays or not self.blocks.keeps

    def reader(self, ctx: _context.Context | None = None) -> _reader.Reader:
        """Begin to read.

        :param ctx: the limits of the one who reads; the image's by default
        """
        made = _Reader(self, ctx or self._ctx)
        with self._lock:
            self._readers.add(made)
        return made

    def forget(self, reader: _Reader) -> None:
        """A reader was closed."""
        with self._lock:
            if reader in self._readers:
                self._readers.discard(reader)
                self._hits += reader.hits
                self._misses += reader.misses
                self._served += reader.served

    def prefetch(
        self,
        ranges: Iterable[tuple[int, int]],
        rate: int | None = None,
    ) -> _hydrate.Prefetch:
        """Have what was foreseen brought, in this order. Does not block.

        :param ranges: offsets and lengths in bytes, inside of the image
        :param rate: bytes per second; None for no limit
        """
        made = _hydrate.Prefetch(
            self.blocks,
            self._fetcher,
            self._ctx,
            _limiter.Limiter(rate),
            ranges,
        )
        self._start(made)
        return made

    def hydrate(
        self,
        *,
        delay: float = 0.0,
        rate: int | None = None,
        expected: _digest.Expected | None = None,
        on_state: Callable[[_hydrate.Hydration], None] | None = None,
    ) -> _hydrate.Hydration:
        """Have the rest brought, and verify the whole. Does not block.

        What somebody waits for goes before it.

        :param delay: seconds before it begins
        :param rate: bytes per second; None for no limit. It may be changed
            later, by the ``limiter`` of what is returned
        :param expected: the digest of the whole; without it each block is
            compared with its checksum
        :param on_state: called with what is returned at each change of its
            state, in its thread
        """
        made = _hydrate.Hydration(
            self.blocks,
            self._fetcher,
            self._ctx,
            _limiter.Limiter(rate),
            delay=delay,
            expected=expected,
            on_state=on_state,
        )
        self._start(made)
        return made

    def _start(self, made: _hydrate.Background) -> None:
        with self._lock:
            self._background = [
                each for each in self._background if not each.wait(0)
            ]
            self._background.append(made)
            made.start()

    def under_way(self) -> list[int]:
        """The numbers of the blocks that are coming."""
        return self._fetcher.under_way()

    @property
    def error(self) -> Exception | None:
        """Why the origin cannot be read now, or blocks cannot be kept."""
        return self._origin.error or self._fetcher.bypassed

    def statistics(self) -> Mapping[str, int]:
        """Counts since it was opened.

        Hits and misses are of claims: what was missed is claimed again by
        the one who has brought it, and by the one who sends it.
        """
        with self._lock:
            readers = [*self._readers]
            hits, misses, served = self._hits, self._misses, self._served
        return {
            'readers': len(readers),
            'hits': hits + sum(each.hits for each in readers),
            'misses': misses + sum(each.misses for each in readers),
            'bytes_claimed': served + sum(each.served for each in readers),
            'waits': self._fetcher.waits,
            'bytes_fetched': self._fetcher.fetched,
            'requests': self._origin.requests,
            'failures': self._fetcher.failures,
            'opened': self._origin.opened,
            'damaged': self.blocks.damaged,
        }

    def release_origin(self) -> None:
        """Let go of the origin; it is opened again should it be needed."""
        self._origin.release()

    def close(self) -> None:
        """End all reading, within seconds; idempotent."""
        self._ctx.stop.set()
        self._fetcher.close()
        end = time.monotonic() + _END
        with self._lock:
            background, self._background = self._background, []
        for each in background:
            each.wait(max(0.0, end - time.monotonic()))

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class _Reader(_reader.Reader):
    def __init__(self, image: CachedImage, ctx: _context.Context) -> None:
        super().__init__(image.blocks, image._fetcher, ctx, image._on_touch)
        self._image = image

    def close(self) -> None:
        super().close()
        self._image.forget(self)
