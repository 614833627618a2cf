# SPDX-License-Identifier: Apache-2.0
"""Where an image comes from: opened when it is needed, and again.

What is opened has to be the version whose blocks are kept; another one is
never read from.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import copy
import logging
import threading
import time

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.wrappers import retry

LOG = logging.getLogger(__name__)

# Seconds for which a failure to open is the answer to others, too: many who
# wait together are not to try one after another.
_HOLD = 1.0

Opener = Callable[[_context.Context], base.Source]


def is_refusal(error: exceptions.TransferError) -> bool:
    """Whether somebody else may have what this one cannot.

    Each origin has its own way to say that one may not, or that what he has
    shown has ended.
    """
    return not error.retryable and not isinstance(
        error, exceptions.SourceChanged | exceptions.TransferCancelled
    )


class _Opened:
    """An open source, closed when the last one who reads leaves it.

    :ivar streams: what is being read
    :ivar dropped: nobody is to begin to read from it any more
    """

    def __init__(self, source: base.Source) -> None:
        self.source = source
        self.streams: set[base.Stream] = set()
        self.users = 0
        self.dropped = False


class Origin:
    """Opens a source lazily, and anew after failures. Thread-safe.

    :param open_source: opens it; its streams retry and keep the limits
    :param ctx: interrupts waits
    :param size: of the image in bytes
    :param validator: of the version that is kept; None where it is that of
        the first source that is opened
    """

    def __init__(
        self,
        open_source: Opener,
        ctx: _context.Context,
        size: int,
        validator: base.Validator | None = None,
    ) -> None:
        self._open_source = open_source
        self._ctx = ctx
        self._size = size
        self._validator = validator
        self._known = validator is not None
        self._changed = threading.Condition()
        self._opened: _Opened | None = None
        self._opening = False
        self._closed = False
        self._refused: tuple[float, exceptions.TransferError] | None = None
        #: How often it was opened, and how many streams were.
        self.opened = 0
        self.requests = 0
        #: What went wrong last; None where it went well since.
        self.error: exceptions.TransferError | None = None

    @property
    def is_open(self) -> bool:
        """Whether a source is open now."""
        return self._opened is not None

    @contextlib.contextmanager
    def stream(self, offset: int, length: int) -> Iterator[base.Stream]:
        """Read a run; whatever fails has the source opened anew next time.

        Blocks until the origin has answered.

        :raises SourceChanged: it has another version now
        :raises TransferError: it cannot be opened or read
        """
        for last in (False, True):
            with self._using(offset) as opened:
                try:
                    stream = opened.source.stream(offset, length)
                except exceptions.TransferError as exc:
                    if last or not is_refusal(exc):
                        raise
                    # Others may still read it than who has opened it.
                    self._drop(opened)
                    continue
                with contextlib.closing(stream), self._noted(opened, stream):
                    yield stream
                return

    @contextlib.contextmanager
    def _noted(self, opened: _Opened, stream: base.Stream) -> Iterator[None]:
        """So that closing this ends the stream, too."""
        with self._changed:
            opened.streams.add(stream)
            self.requests += 1
            closed = self._closed
        try:
            if closed:
                raise _cancelled()
            yield
        finally:
            with self._changed:
                opened.streams.discard(stream)

    def extents(self, offset: int, length: int) -> list[base.Extent]:
        """Tell data from holes; nothing where it is not known.

        :raises TransferError: as for :meth:`stream`
        """
        with self._using(offset) as opened:
            if base.Capability.EXTENTS not in opened.source.capabilities:
                return []
            return list(opened.source.extents(offset, length) or ())

    @contextlib.contextmanager
    def _using(self, offset: int) -> Iterator[_Opened]:
        opened = self._enter(offset)
        try:
            yield opened
            self.error = None
        except exceptions.TransferError as exc:
            self.error = exc
            self._drop(opened)
            raise
        finally:
            self._leave(opened)

    def _enter(self, start: int) -> _Opened:
        with self._changed:
            while self._opened is None:
                if self._closed:
                    raise _cancelled()
                if self._refused and time.monotonic() < self._refused[0]:
                    raise copy.copy(self._refused[1])
                if not self._opening:
                    self._opening = True
                    break
                self._changed.wait(_context.TICK)
                self._ctx.check()
            else:
                self._opened.users += 1
                return self._opened
        opened = None
        try:
            opened = _Opened(self._open(start))
            opened.users = 1
            return opened
        except exceptions.TransferError as exc:
            self._refused = time.monotonic() + _HOLD, exc
            self.error = exc
            raise
        finally:
            with self._changed:
                self._opening = False
                self._opened = opened
                self._changed.notify_all()

    def _open(self, start: int) -> base.Source:
        backoff = retry.Backoff(self._ctx, 'the origin of a cached image')
        ctx = self._ctx.replace(start=start, piecemeal=True)
        while True:
            try:
                source = self._open_source(ctx)
                break
            except exceptions.TransferError as exc:
                if not exc.retryable:
                    raise
                backoff.failed(exc)
        try:
            self._check(source)
        except BaseException:
            source.close()
            raise
        self.opened += 1
        return source

    def _check(self, source: base.Source) -> None:
        if source.size != self._size:
            raise exceptions.SourceChanged(
                f'the origin has {source.size} bytes now, and had '
                f'{self._size}: only what is kept of it is served'
            )
        if not self._known:
            self._validator, self._known = source.validator, True
        elif source.validator != self._validator:
            raise exceptions.SourceChanged(
                'the origin has another version now: only what is kept of '
                'it is served'
            )

    def _drop(self, opened: _Opened) -> None:
        with self._changed:
            opened.dropped = True
            if self._opened is opened:
                self._opened = None

    def _leave(self, opened: _Opened) -> None:
        with self._changed:
            opened.users -= 1
            last = opened.dropped and not opened.users
        if last:
            opened.source.close()

    def release(self) -> None:
        """Close what is open once nobody reads; opened again if needed."""
        with self._changed:
            opened, self._opened = self._opened, None
            if opened is None:
                return
            opened.dropped = True
            opened.users += 1
        self._leave(opened)

    def close(self) -> None:
        """End all reading, within a second; idempotent."""
        with self._changed:
            self._closed = True
            streams = [*self._opened.streams] if self._opened else []
            self._changed.notify_all()
        for stream in streams:
            stream.close()
        self.release()


def _cancelled() -> exceptions.TransferCancelled:
    return exceptions.TransferCancelled('the cache was closed')
