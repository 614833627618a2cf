# SPDX-License-Identifier: Apache-2.0
"""How much of the disk a cache takes, and who gives some back."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
import threading
import time

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import clock
from oslo_transfer import context as _context
from oslo_transfer import exceptions

LOG = logging.getLogger(__name__)

# Seconds without an attempt to write to a disk that is full, or fails.
_PAUSE = 5.0
_FULL = 60.0
# A part of the limit: letting go costs a flush each time.
_AT_ONCE = 64
_MOST_AT_ONCE = 1 << 30
# Of the clock, while as much is put as the limit is.
_TICKS = 16
_LEAST_TURN = 1 << 30


class Room:
    """Keeps objects within a limit. Thread-safe.

    :param limit: in bytes of disk; None for no limit
    :param lock: held while blocks are let go of, and by whoever opens or
        closes objects
    :param spare: gives back so many bytes of what nobody has open, if it
        can; at last more than that, if it is told so
    """

    def __init__(
        self,
        limit: int | None,
        lock: threading.RLock,
        spare: Callable[[int, bool], object],
    ) -> None:
        self._limit = limit
        self._evicting = lock
        self._spare = spare
        # Of the numbers; held for moments only.
        self._lock = threading.Lock()
        self._images: list[_blocks.Blocks] = []
        self._sizes: dict[str, int] = {}
        self._reserved = 0
        #: See :class:`oslo_transfer.cache.clock.Clock`.
        self.now = clock.start()
        # Bytes that were put since it was as it is.
        self._put = 0
        #: Bytes of disk that all objects take.
        self.used = 0
        #: Blocks that were let go of.
        self.evicted = 0
        #: Bytes that could not be kept.
        self.refused = 0
        #: Why nothing is kept at present, or ''.
        self.problem = ''
        self._again = 0.0
        # What was there when the disk was full, and until when not to try
        # to have more: old blocks make room for new ones.
        self._full = 0
        self._full_until = 0.0

    # What there is

    def join(self, image: _blocks.Blocks) -> None:
        """An object was opened."""
        self._images.append(image)
        self.measure(image.path, image.disk_bytes)

    def leave(self, image: _blocks.Blocks) -> None:
        """An object is about to be closed, or given away."""
        with contextlib.suppress(ValueError):
            self._images.remove(image)

    def measure(self, path: str, size: int) -> None:
        """What an object takes now; 0 where there is none any more."""
        with self._lock:
            self.used += size - self._sizes.pop(path, 0)
            if size:
                self._sizes[path] = size

    # Putting

    @contextlib.contextmanager
    def taken(self, image: _blocks.Blocks, length: int) -> Iterator[None]:
        """Bytes are put into an object while a context lasts.

        Blocks while others are let go of.

        :raises NoSpace: there is no room for them
        :raises StorageError: the disk did not work a moment ago
        """
        if not length:
            yield
            return
        try:
            self._reserve(image, length)
        except exceptions.TransferError:
            self.refused += length
            raise
        try:
            yield
        except exceptions.TransferError as exc:
            self.refused += length
            self.failed(exc)
            raise
        else:
            self._worked()
        finally:
            with self._lock:
                self._reserved -= length
            self.measure(image.path, image.disk_bytes)

    def _reserve(self, image: _blocks.Blocks, length: int) -> None:
        problem = self.problem
        if problem and time.monotonic() < self._again:
            raise exceptions.NoSpace(problem)
        if self._has_reserved(length):
            return
        # One at a time lets go of blocks.
        while not self._evicting.acquire(timeout=_context.TICK):
            if image.closing or not image.keeps:
                raise exceptions.NoSpace(f'{image.path} is being closed')
        try:
            if self._has_reserved(length):
                return
            self._shrink(length)
            if self._has_reserved(length):
                return
        finally:
            self._evicting.release()
        raise exceptions.NoSpace(
            f'the cache may take {self._most} bytes of disk, and all that it '
            f'has is in use'
        )

    def _has_reserved(self, length: int) -> bool:
        with self._lock:
            most = self._most
            if most is not None:
                if self.used + self._reserved + length > most:
                    return False
            self._reserved += length
            self._put += length
            turn = most or max(self.used, _LEAST_TURN)
            if self._put > turn // _TICKS:
                clock.advance(self.now)
                self._put = 0
            return True

    @property
    def _most(self) -> int | None:
        """The limit; where the disk was full, what there was then."""
        if time.monotonic() < self._full_until:
            return min(self._full, self._limit or self._full)
        return self._limit

    def failed(self, error: exceptions.TransferError) -> None:
        """The disk is full, or does not work; try again later."""
        with self._lock:
            new = not self.problem
            self.problem = str(error)
            self._again = time.monotonic() + _PAUSE
            if isinstance(error, exceptions.NoSpace):
                self._full = self.used - _slack(self.used)
                self._full_until = self._again + _FULL
        if new:
            LOG.error(
                'the cache keeps nothing for now, images are served on: %s',
                error,
            )

    def _worked(self) -> None:
        # What was under way when the disk failed says nothing.
        if self.problem and time.monotonic() >= self._again:
            with self._lock:
                self.problem = ''
            LOG.info('the cache keeps blocks again')

    # Letting go

    def shrink(self) -> None:
        """Come back to the limit, as far as possible."""
        with self._evicting:
            self._shrink(0)

    def _shrink(self, length: int) -> None:
        limit = self._most
        if limit is None:
            return
        for let_go in (
            lambda excess: self._spare(excess, False),
            self._evict,
            lambda excess: self._spare(excess, True),
        ):
            excess = self.used + self._reserved + length - limit
            if excess <= 0:
                return
            let_go(excess + _slack(limit))

    def _evict(self, excess: int) -> None:
        """Let go of blocks of open objects, those long unused first."""
        found = [
            (age, number)
            for number, image in enumerate(self._images)
            for age in image.ages()
            if not image.fixed
        ]
        try:
            for age, number in sorted(found, reverse=True):
                if excess > 0:
                    excess -= self.evict_from(
                        self._images[number], excess, age
                    )
        except exceptions.TransferError as exc:
            self.failed(exc)

    def evict_from(
        self, image: _blocks.Blocks, excess: int, age: int = 0
    ) -> int:
        """Let go of some blocks; returns how many bytes that gave.

        :param age: for how long they were not used
        :raises TransferError: the disk does not work
        """
        before = image.disk_bytes
        try:
            for some in image.old(excess, age):
                self.evicted += image.evict(some)
                if before - image.disk_bytes >= excess:
                    break
        finally:
            after = image.disk_bytes
            self.measure(image.path, after)
        return before - after


def _slack(limit: int) -> int:
    return min(limit // _AT_ONCE, _MOST_AT_ONCE)
