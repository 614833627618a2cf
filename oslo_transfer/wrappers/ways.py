# SPDX-License-Identifier: Apache-2.0
"""Several ways to one version of something, as one source.

All streams use the first way that works. When it fails, the next one is
used from then on: a stream goes on there if it is taken up again
(:mod:`oslo_transfer.wrappers.retry`).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import logging
import threading
import time
import typing

from oslo_transfer.drivers import base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import shared
from oslo_transfer.wrappers import base as wrappers
from oslo_transfer.wrappers import retry

LOG = logging.getLogger(__name__)

# Seconds for which a way that failed is left alone, at least.
_AGAIN = 30.0

#: Opens one way, without retries.
Opener = Callable[[ends.LocationEnd], base.Source]


class _Open:
    """A way that is open, until nobody uses it who may go on with it."""

    def __init__(self, end: ends.LocationEnd, source: base.Source) -> None:
        self.end = end
        self.source = source
        self.users = 0
        self.failed = False


class WaysSource(wrappers.SourceWrapper):
    """Opens the first way that works; the last one is the origin itself.

    :param ways: in the order to try
    :param opener: opens one
    :param version: that it has to be; None for that of the first
    :param backoff: the option ``location_backoff``: when that is over for
        the first way it is used again
    :raises TransferError: none works; why the last one does not
    """

    def __init__(
        self,
        ways: Sequence[ends.LocationEnd],
        opener: Opener,
        version: base.Validator | None,
        backoff: float,
    ) -> None:
        self._backoff = backoff
        self._ways = ways
        self._opener = opener
        self._version = version
        self._known: tuple[int | None, base.Validator | None] | None = None
        # How many have failed since the origin was asked last.
        self._next = 0
        self._lock = threading.Lock()
        # When the first way failed last.
        self._tried = 0.0
        # A thread opens it again.
        self._goes_back = False
        self._closed = False
        self._current: _Open | None = None
        while True:
            try:
                opened = self._enter()
                break
            except retry.Elsewhere:
                continue
        self.leave(opened)
        super().__init__(opened.source)
        self._known = opened.source.size, opened.source.validator

    @property
    def capabilities(self) -> base.Capability:  # type: ignore[override]
        """Streams alone: what else one way can do another one cannot."""
        wanted = base.Capability.READ | base.Capability.RANDOM_READ
        return self._source.capabilities & wanted

    def _enter(self) -> _Open:
        """Use the way that works now; opens it if need be.

        :raises Elsewhere: it does not; the next one may
        """
        with self._lock:
            if self._closed:
                raise exceptions.TransferCancelled('the source was closed')
            if self._current is None:
                self._current = self._open(self._ways[self._next])
            elif self._may_go_back():
                # Nobody waits for it: that may take as long as it takes.
                thread = threading.Thread(
                    target=self._go_back, name='ways', daemon=True
                )
                with contextlib.suppress(RuntimeError):
                    # There may be too many; another time, then.
                    thread.start()
                    self._goes_back = True
            self._current.users += 1
            return self._current

    def _may_go_back(self) -> bool:
        """Whether the first way, which has failed, may work again."""
        first = self._ways[0]
        return (
            not self._goes_back
            and self._current is not None
            and self._current.end is not first
            and time.monotonic() >= self._tried + _AGAIN
            and not shared.current().locations.rest(first, self._backoff)
        )

    def _go_back(self) -> None:
        """Use the first way again, if it works."""
        first = self._ways[0]
        try:
            found = self._opened(first)
        except exceptions.TransferError as exc:
            LOG.info('%s; it is still left alone', exc)
            shared.current().locations.failed(first, exc)
            with self._lock:
                self._goes_back = False
                self._tried = time.monotonic()
            return
        with self._lock:
            self._goes_back = False
            retired: _Open | None = found
            if not self._closed:
                retired, self._current, self._next = self._current, found, 0
            if retired is not None:
                # Its last user closes it.
                retired.failed = True
                if retired.users:
                    retired = None
        if retired is not None:
            retired.source.close()

    def _opened(self, end: ends.LocationEnd) -> _Open:
        source = self._opener(end)
        try:
            self._check(end, source)
        except BaseException:
            source.close()
            raise
        return _Open(end, source)

    def _open(self, end: ends.LocationEnd) -> _Open:
        try:
            return self._opened(end)
        except exceptions.TransferError as exc:
            raise self._after(end, exc) from exc

    def _check(self, end: ends.LocationEnd, source: base.Source) -> None:
        wanted = self._version
        if self._known is not None:
            size, wanted = self._known
            if source.size != size:
                wanted = base.Validator('', False)
        elif wanted is None:
            return
        if source.validator != wanted:
            raise exceptions.SourceChanged(f'{end} has another version')

    def _after(
        self, end: ends.LocationEnd, error: exceptions.TransferError
    ) -> exceptions.TransferError:
        """A way has failed: what to raise for that."""
        if isinstance(error, exceptions.TransferCancelled):
            return error
        if not self._next:
            self._tried = time.monotonic()
        self._next += 1
        if self._next == len(self._ways):
            # All of them get another chance.
            self._next = 0
            return error
        LOG.warning('%s; another way is tried', error)
        shared.current().locations.failed(end, error)
        return retry.Elsewhere(str(error))

    def leave(self, opened: _Open) -> None:
        """One who has used a way does not need it any more."""
        with self._lock:
            opened.users -= 1
            last = opened.failed and not opened.users
        if last:
            opened.source.close()

    def lost(
        self, opened: _Open, error: exceptions.TransferError
    ) -> exceptions.TransferError:
        """A stream has failed: what to raise for that."""
        with self._lock:
            if opened.failed:
                # Another stream has told already.
                return retry.Elsewhere(str(error))
            opened.failed = True
            if self._current is opened:
                self._current = None
            return self._after(opened.end, error)

    def stream(self, offset: int, length: int | None) -> WayStream:
        """Read by the way that works now.

        :raises Elsewhere: it does not; the next one may
        """
        opened = self._enter()
        try:
            stream = opened.source.stream(offset, length)
        except BaseException as exc:
            if isinstance(exc, exceptions.TransferError):
                found = self.lost(opened, exc)
                self.leave(opened)
                raise found from exc
            self.leave(opened)
            raise
        return WayStream(self, opened, stream)

    def close(self) -> None:
        """Close what is open; streams end with their next read."""
        with self._lock:
            self._closed = True
            opened, self._current = self._current, None
        if opened is not None:
            opened.source.close()


class WayStream(base.Stream):
    """A stream of one way."""

    def __init__(
        self, source: WaysSource, opened: _Open, stream: base.Stream
    ) -> None:
        super().__init__()
        self._source = source
        self._opened = opened
        self._stream = stream
        self._left = False

    @property
    def waited(self) -> float:  # type: ignore[override]
        """That of the stream."""
        return self._stream.waited

    def readinto(self, buffer: typing.Any) -> int:
        """Read; what fails is this way's failure."""
        try:
            return self._stream.readinto(buffer)
        except exceptions.TransferError as exc:
            raise self._source.lost(self._opened, exc) from exc

    def splice(self, fd: int, offset: int, count: int) -> int | None:
        """Splice; what fails is this way's failure."""
        try:
            return self._stream.splice(fd, offset, count)
        except exceptions.TransferError as exc:
            raise self._source.lost(self._opened, exc) from exc

    def close(self) -> None:
        """End it; a read in another thread ends, too."""
        if not self._left:
            self._left = True
            self._stream.close()
            self._source.leave(self._opened)
        super().close()
