# SPDX-License-Identifier: Apache-2.0
"""One of several locations of the same bytes, and how well it does."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import threading
import time

from oslo_transfer.drivers import base
from oslo_transfer import ends
from oslo_transfer import exceptions

# A rate counts once it was measured over this long, or this many bytes. It
# is never taken for a shorter time: servers often begin with a burst.
_LONG_ENOUGH = 0.2
_ENOUGH = 1 << 20
# Seconds for which one that failed is left alone, doubled each time.
_REST = 5.0
_LONGEST_REST = 60.0
# What is longer ago than this counts half, a second time half of that.
_WINDOW = 0.5

#: Opens a location where reading will begin at a byte; the event ends all
#: waits for it.
Opener = Callable[[ends.End, int, threading.Event], base.Source]


class Mirror:
    """One location; opened when it is first needed.

    Its state is guarded by the lock of the source that it is part of.

    :param end: the location
    :param index: its place in the order
    :param rest: seconds for which it is better left alone
    """

    def __init__(self, end: ends.End, index: int, rest: float) -> None:
        self.end = end
        self.index = index
        self.name = str(end)
        self.source: base.Source | None = None
        #: Streams at work.
        self.active: set[Pace] = set()
        # Of the streams that have ended.
        self._past = Pace()
        self._failures = 0
        self._rests_until = time.monotonic() + rest
        #: Much slower than another one: used if nothing else is left.
        self.slow = False
        #: It is of no use any more.
        self.gone = False
        #: The last error.
        self.error: exceptions.TransferError | None = None
        self._opening = threading.Lock()
        self._abandoned = threading.Event()
        # When something was asked for that has not been answered.
        self._asked: dict[threading.Thread, float] = {}

    def opened(
        self, offset: int, opener: Opener, check: Callable[[base.Source], None]
    ) -> base.Source:
        """The open source; opens it if need be.

        :param offset: where reading will begin
        :param opener: opens it
        :param check: raises if it is not what it should be
        :raises Stalled: it was abandoned meanwhile
        """
        with self._opening, self._waiting():
            if self.source is None:
                source = opener(self.end, offset, self._abandoned)
                try:
                    check(source)
                except BaseException:
                    source.close()
                    raise
                self.source = source
            return self.source

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """A stream of the open source.

        :raises Stalled: it was abandoned meanwhile
        """
        assert self.source is not None
        with self._waiting():
            return self.source.stream(offset, length)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        me = threading.current_thread()
        self._asked[me] = time.monotonic()
        try:
            yield
        except exceptions.TransferCancelled as exc:
            if not self._abandoned.is_set():
                raise
            raise exceptions.Stalled(
                f'{self.name}: no answer, and others do answer'
            ) from exc
        finally:
            del self._asked[me]

    @property
    def unanswered(self) -> float:
        """Seconds since something was asked for that is not answered."""
        asked = list(self._asked.values())
        return time.monotonic() - min(asked) if asked else 0.0

    def abandon(self) -> None:
        """End all waits for it, from any thread; it has to be reopened."""
        self._abandoned.set()
        with self._opening:
            self._abandoned = threading.Event()
            source, self.source = self.source, None
        if source is not None:
            source.close()

    @property
    def origin(self) -> str:
        """Where its bytes come from, a key of ``bytes_by_origin``."""
        return 'origin' if self.source is None else self.source.origin

    @property
    def rest(self) -> float:
        """Seconds for which it is better left alone after a failure."""
        return max(0.0, self._rests_until - time.monotonic())

    @property
    def healthy(self) -> bool:
        """Whether nothing speaks against it."""
        return not (self.gone or self.slow or self.rest)

    @property
    def ranges(self) -> bool:
        """Whether it can, as far as is known, be read from any byte."""
        holder = self.end if self.source is None else self.source
        return base.Capability.RANDOM_READ in holder.capabilities

    @property
    def crowded(self) -> bool:
        """Whether one more stream brings nothing."""
        return (
            self.source is not None
            and len(self.active) >= self.source.geometry.max_streams
        )

    @property
    def rate(self) -> float | None:
        """Bytes per second of waiting, of one stream; None if not known."""
        paces = [*self.active, self._past]
        return next((pace.rate for pace in paces if pace.known), None)

    def failed(self, error: exceptions.TransferError) -> None:
        """It gave an error; it rests then, longer each time."""
        self.error = error
        rest = min(_LONGEST_REST, _REST * 2**self._failures)
        self._failures += 1
        self._rests_until = time.monotonic() + max(
            rest, error.retry_after or 0.0
        )
        if isinstance(error, exceptions.SourceChanged) or not (
            error.retryable
            # Good for a stream from the start only, which it has told.
            or (
                self.source is not None
                and isinstance(error, exceptions.CapabilityMissing)
            )
        ):
            self.gone = True

    def too_slow(self, how: str) -> None:
        """It is only used where no other is left."""
        self.slow = True
        self.error = exceptions.Stalled(f'{self.name}: {how}')

    def ended(self, pace: Pace) -> None:
        """A stream has ended."""
        self.active.discard(pace)
        self._past.add(pace)

    def close(self) -> None:
        """Close what is open."""
        if self.source is not None:
            self.source.close()


class Pace:
    """How fast one stream is of late. Time between reads does not count."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._bytes = 0.0
        self._since: float | None = None

    def reading(self) -> None:
        """A read begins."""
        self._since = time.monotonic()

    def read(self, count: int) -> None:
        """It has ended."""
        if self._since is not None:
            self._seconds += time.monotonic() - self._since
            self._since = None
        self._bytes += count
        self._fade()

    @property
    def seconds(self) -> float:
        """Time spent in reads, the current one included."""
        return self._seconds + self.silent

    @property
    def rate(self) -> float:
        """Bytes per second of reading, of late."""
        return self._bytes / max(self.seconds, _LONG_ENOUGH)

    def add(self, other: Pace) -> None:
        """What another one has read counts here, too."""
        self._seconds += other._seconds
        self._bytes += other._bytes
        self._fade()

    def _fade(self) -> None:
        while self._seconds > _WINDOW:
            self._seconds /= 2
            self._bytes /= 2

    @property
    def silent(self) -> float:
        """Seconds that the current read takes."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def known(self) -> bool:
        """Whether the rate says something."""
        return self.seconds >= _LONG_ENOUGH or self._bytes >= _ENOUGH
