# SPDX-License-Identifier: Apache-2.0
"""How much of the disk a cache takes, and who gives some back."""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
import threading
import time

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer import context as _context
from oslo_transfer import exceptions

LOG = logging.getLogger(__name__)

# Seconds without an attempt to write to a disk that is full, or fails.
_PAUSE = 5.0
# Of the limit: letting go costs a flush each time.
_AT_ONCE = 1 / 64
_MOST_AT_ONCE = 64 << 20


class Room:
    """Keeps objects within a limit. Thread-safe.

    :param limit: in bytes of disk; None for no limit
    :param lock: held while blocks are let go of, and by whoever opens or
        closes objects
    :param spare: gives back so many bytes of what nobody has open, if it
        can; returns how many it gave
    """

    def __init__(
        self,
        limit: int | None,
        lock: threading.RLock,
        spare: Callable[[int], int],
    ) -> None:
        self._limit = limit
        self._evicting = lock
        self._spare = spare
        # Of the numbers; held for moments only.
        self._lock = threading.Lock()
        self._ring: collections.deque[_blocks.Blocks] = collections.deque()
        self._sizes: dict[str, int] = {}
        self._reserved = 0
        #: Bytes of disk that all objects take.
        self.used = 0
        #: Blocks that were let go of.
        self.evicted = 0
        #: Bytes that could not be kept.
        self.refused = 0
        #: Why nothing is kept at present, or ''.
        self.problem = ''
        self._again = 0.0

    # What there is

    def join(self, image: _blocks.Blocks) -> None:
        """An object was opened."""
        self._ring.append(image)
        self.measure(image.path, image.disk_bytes)

    def leave(self, image: _blocks.Blocks) -> None:
        """An object is about to be closed, or given away."""
        with contextlib.suppress(ValueError):
            self._ring.remove(image)

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
            if not image.keeps:
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
            f'the cache may take {self._limit} bytes, and all that it has is '
            f'in use'
        )

    def _has_reserved(self, length: int) -> bool:
        with self._lock:
            if self._limit is not None:
                if self.used + self._reserved + length > self._limit:
                    return False
            self._reserved += length
            return True

    def failed(self, error: exceptions.TransferError) -> None:
        """The disk is full, or does not work; try again later."""
        with self._lock:
            new = not self.problem
            self.problem = str(error)
            self._again = time.monotonic() + _PAUSE
        if new:
            LOG.error(
                'the cache keeps nothing for now, images are served on: %s',
                error,
            )

    def _worked(self) -> None:
        if self.problem:
            with self._lock:
                self.problem = ''
            LOG.info('the cache keeps blocks again')

    # Letting go

    def shrink(self) -> None:
        """Come back to the limit, as far as possible."""
        with self._evicting:
            self._shrink(0)

    def _shrink(self, length: int) -> None:
        if self._limit is None:
            return
        most = self._limit - self._reserved - length
        if self.used > most:
            most -= min(int(self._limit * _AT_ONCE), _MOST_AT_ONCE)
            excess = self.used - most
            excess -= self._spare(excess)
            if excess > 0:
                self._evict(excess)

    def _evict(self, excess: int) -> None:
        """Let go of blocks of open objects, those not used lately first."""
        # Once to find what was used, and once more to take that.
        rounds = 3 * len(self._ring)
        while excess > 0 and rounds > 0:
            image = self._ring[0]
            try:
                excess -= self.evict_from(image, excess)
            except exceptions.TransferError as exc:
                self.failed(exc)
                return
            if image.clock.swept:
                rounds -= 1
                self._ring.rotate(-1)

    def evict_from(self, image: _blocks.Blocks, excess: int) -> int:
        """Let go of some blocks; returns how many bytes that gave.

        :raises TransferError: the disk does not work
        """
        before = image.disk_bytes
        try:
            self.evicted += image.evict(image.clock.coldest(excess))
        finally:
            after = image.disk_bytes
            self.measure(image.path, after)
        return before - after
