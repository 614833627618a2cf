# SPDX-License-Identifier: Apache-2.0
"""A source whose streams go on where a connection broke."""

from __future__ import annotations

from collections.abc import Callable
import logging
import random
import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import slots
from oslo_transfer.wrappers import base as wrappers

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

LOG = logging.getLogger(__name__)

# A connection has to bring this much for the next failure to count as the
# first again: a peer that hangs up after each byte is no progress.
_PROGRESS = 4 * 1024
# Retries where others have the data, too.
_HURRIED = 1
# Read again and compared where a stream goes on.
OVERLAP = 16 * 1024


class NotResumable(exceptions.Unavailable):
    """A connection broke, and the source cannot be read on from there."""


class Elsewhere(exceptions.Unavailable):
    """One of several locations failed; another can go on at once."""


class Backoff:
    """Decides whether to try again, and waits before it.

    :param ctx: its configuration has the limits; interrupts the wait
    :param what: what is tried, for the log
    """

    def __init__(self, ctx: _context.Context, what: str) -> None:
        group = ctx.conf.oslo_transfer
        self._ctx = ctx
        self._what = what
        self._most = min(group.max_retries, _HURRIED if ctx.hurried else 1000)
        self._delay = group.retry_delay
        self._longest = group.max_retry_delay
        self._failures = 0
        self._bytes = 0

    def progress(self, count: int) -> None:
        """Bytes came; enough of them start the count of failures again."""
        if self._failures:
            self._bytes += count
            if self._bytes >= _PROGRESS:
                self._failures = 0

    def failed(self, error: exceptions.TransferError) -> None:
        """Wait before the next try, or raise the error for good."""
        self._bytes = 0
        self._failures += 1
        # A limit of ours was waited for already, and for long.
        if self._failures > self._most or isinstance(error, slots.Busy):
            raise error
        delay = min(
            self._longest, self._delay * 2 ** min(self._failures - 1, 30)
        )
        # Jitter spreads a herd that failed at the same moment.
        delay *= random.uniform(0.5, 1.0)  # noqa: S311
        if error.retry_after is not None:
            delay = max(delay, error.retry_after)
            if delay > self._longest:
                raise error
        # The first one tells why nothing happens now.
        LOG.log(
            logging.WARNING if self._failures == 1 else logging.INFO,
            '%s: %s; trying again in %.1f s (%d of %d)',
            self._what,
            str(error).removeprefix(f'{self._what}: '),
            delay,
            self._failures,
            self._most,
        )
        self._ctx.sleep(delay)


class RetryingSource(wrappers.SourceWrapper):
    """Wraps a source; a stream that breaks is taken up again.

    :param source: the open source; owned from now on
    :param ctx: interrupts waits
    :param what: the redacted endpoint, for messages
    :param joinable: bytes of several requests may be joined: there is a
        strong validator, or a digest decides in the end
    """

    def __init__(
        self,
        source: base.Source,
        ctx: _context.Context,
        what: str,
        joinable: bool,
    ) -> None:
        super().__init__(source)
        self._ctx = ctx
        self.what = what
        self.joinable = joinable
        self._lock = threading.Lock()
        self._known: dict[int, bytes] = {}
        #: Bytes fetched again to compare them.
        self.wasted = 0
        #: How many streams were opened.
        self.requests = 0
        #: Whether a stream has given anything.
        self.begun = False

    def stream(self, offset: int, length: int | None) -> RetryingStream:
        """Start to read; retries the start, too."""
        return RetryingStream(self, self._ctx, offset, length)

    def reopen(self, offset: int, length: int | None) -> base.Stream:
        """A stream of the wrapped source."""
        with self._lock:
            self.requests += 1
        return self._source.stream(offset, length)

    def expect_before(self, offset: int, data: bytes) -> None:
        """Compare these bytes when a stream starts at the offset."""
        self._known[offset] = data

    def known_before(self, offset: int) -> bytes:
        """The bytes to compare; asked once by the stream."""
        return self._known.pop(offset, b'')

    def waste(self, count: int) -> None:
        """Count bytes that were fetched again."""
        with self._lock:
            self.wasted += count


class RetryingStream(base.Stream):
    """A stream that reconnects."""

    def __init__(
        self,
        source: RetryingSource,
        ctx: _context.Context,
        offset: int,
        length: int | None,
    ) -> None:
        super().__init__()
        self._source = source
        self._ctx = ctx
        self._position = offset
        self._end = None if length is None else offset + length
        if self._end is None and source.size is not None:
            self._end = source.size
        self._backoff = Backoff(ctx, source.what)
        # The last bytes before the position, to compare on reopening.
        self._tail = source.known_before(offset)
        self._waited = 0.0
        self._stopped = False
        self._stream: base.Stream | None = None
        self._retry(lambda _stream: 0)

    @property
    def waited(self) -> float:  # type: ignore[override]
        """Seconds spent waiting for the peer, over all connections."""
        stream = self._stream
        return self._waited + (stream.waited if stream else 0.0)

    def readinto(self, buffer: typing.Any) -> int:
        """Read at least one byte, reconnecting as often as allowed."""
        view = memoryview(buffer).cast('B')
        count = self._retry(lambda stream: stream.readinto(view)) or 0
        if count:
            self._tail = bytes(view[max(0, count - OVERLAP) : count])
        return self._moved(count)

    def splice(self, fd: int, offset: int, count: int) -> int | None:
        """Splice, reconnecting as often as allowed."""
        moved = self._retry(lambda stream: stream.splice(fd, offset, count))
        if moved is None:
            return None
        self._tail = b''
        return self._moved(moved)

    def _moved(self, count: int) -> int:
        if count:
            self._source.begun = True
        self._position += count
        self._backoff.progress(count)
        return count

    def _retry(
        self, operation: Callable[[base.Stream], int | None]
    ) -> int | None:
        broken: exceptions.TransferError | None = None
        while True:
            try:
                if self._stream is None:
                    self._stream = self._open()
                return operation(self._stream)
            except exceptions.CapabilityMissing as exc:
                if broken is None:
                    raise
                raise NotResumable(f'{broken}; {exc}') from broken
            except exceptions.TransferError as exc:
                if (
                    not exc.retryable
                    or isinstance(exc, exceptions.SourceChanged | NotResumable)
                    or self._stopped
                ):
                    raise
                self._drop()
                broken = exc
                if isinstance(exc, Elsewhere):
                    LOG.info('%s; going on elsewhere', exc)
                    # Whether the two fit together shows in the end.
                    self._tail = b''
                else:
                    self._backoff.failed(exc)
                self._check_resumable(exc)

    def _check_resumable(self, error: exceptions.TransferError) -> None:
        if self._position == 0:
            return
        if base.Capability.RANDOM_READ not in self._source.capabilities:
            raise NotResumable(
                f'{error}; it cannot be read on from byte {self._position}'
            ) from error
        # Behind a hole, say, another stream has given what comes before.
        if self._source.begun and not self._source.joinable:
            raise NotResumable(
                f'{error}; without a strong validator or a digest it '
                f'cannot be read on from byte {self._position}'
            ) from error

    def _open(self) -> base.Stream:
        overlap = len(self._tail)
        start = self._position - overlap
        length = None if self._end is None else self._end - start
        stream = self._source.reopen(start, length)
        if not overlap:
            return stream
        try:
            again = memoryview(bytearray(overlap))
            done = 0
            while done < overlap:
                count = stream.readinto(again[done:])
                if not count:
                    break
                done += count
            self._source.waste(done)
            if again[:done] != self._tail:
                raise exceptions.SourceChanged(
                    f'other bytes before byte {self._position} than the '
                    f'last time'
                )
        except BaseException:
            stream.close()
            raise
        return stream

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._waited += stream.waited
            stream.close()

    def close(self) -> None:
        """Close the connection in use; ends a read in another thread."""
        self._stopped = True
        stream = self._stream
        if stream is not None:
            stream.close()
        super().close()
