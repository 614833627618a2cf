# SPDX-License-Identifier: Apache-2.0
"""Digests that are computed while bytes arrive."""

from __future__ import annotations

import collections
from collections.abc import Callable
import dataclasses
import hashlib
import re
import threading
import typing

from oslo_transfer import buffers
from oslo_transfer import context as _context
from oslo_transfer import exceptions
from oslo_transfer import ranges

_READ_BACK = 1 << 20
_ZEROS = memoryview(bytes(1 << 20))


@dataclasses.dataclass(frozen=True)
class Expected:
    """A digest algorithm, and the value that is expected of it.

    :ivar algorithm: a ``hashlib`` name
    :ivar value: lower-case hex, or None to compute it only
    """

    algorithm: str
    value: str | None = None

    def __str__(self) -> str:
        return f'{self.algorithm}:{self.value}'


def expected(algorithm: str | None, value: str | None) -> Expected | None:
    """Check what the caller asks for.

    :raises ConfigurationError: the algorithm is unknown, or the value is
        not one of its digests
    """
    if algorithm is None:
        if value is not None:
            raise exceptions.ConfigurationError(
                'hash_value is given without hash_algo'
            )
        return None
    size = new(algorithm).digest_size
    if size == 0:
        raise exceptions.ConfigurationError(
            f'digest algorithm {algorithm} has no fixed length'
        )
    if value is not None:
        value = value.strip().lower()
        if not re.fullmatch(f'[0-9a-f]{{{2 * size}}}', value):
            raise exceptions.ConfigurationError(
                f'hash_value is no {algorithm} digest: {2 * size} hex '
                f'digits are needed'
            )
    return Expected(algorithm, value)


def new(algorithm: str) -> typing.Any:
    """A fresh hash object.

    :raises ConfigurationError: the algorithm is unknown
    """
    try:
        return hashlib.new(algorithm, usedforsecurity=False)
    except (ValueError, TypeError) as exc:
        known = ', '.join(sorted(hashlib.algorithms_guaranteed))
        raise exceptions.ConfigurationError(
            f'unknown digest algorithm {str(algorithm)[:40]!r}; known are: '
            f'{known}'
        ) from exc


class Digester:
    """Hashes in a thread of its own, in order, whatever order bytes come in.

    Bytes that arrive in order are hashed from the buffer they arrived in,
    which costs nothing beside the hash itself. What comes out of order is
    read back from the sink as soon as the gap before it is closed.

    :param algorithm: a ``hashlib`` name
    :param ctx: ends waits
    :param buffer_bytes: size of a buffer
    :param queue_bytes: the most bytes in buffers at once
    :param read_back: reads what was written, or None where that cannot be
        done: then bytes must come in order
    """

    def __init__(
        self,
        algorithm: str,
        ctx: _context.Context,
        *,
        buffer_bytes: int,
        queue_bytes: int,
        read_back: Callable[[memoryview, int], int] | None,
    ) -> None:
        self._hash = new(algorithm)
        self._ctx = ctx
        self._buffer_bytes = buffer_bytes
        self._spare = max(2, queue_bytes // buffer_bytes)
        self._free: list[memoryview] = []
        self._read_back = read_back
        self._have = ranges.RangeSet()
        self._queue: collections.deque[tuple[memoryview | None, int]] = (
            collections.deque()
        )
        self._tail = 0  # The end of what is hashed or queued in order.
        self._end: int | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(
            target=self._run, name='oslo-transfer-digest', daemon=True
        )
        self._thread.start()

    def buffer(self) -> memoryview:
        """A buffer to read into; waits while all are to be hashed."""
        with self._changed:
            while not self._free and not self._spare:
                self._ctx.check()
                self._raise_error()
                self._changed.wait(_context.TICK)
            if self._free:
                return self._free.pop()
            self._spare -= 1
        return buffers.aligned(self._buffer_bytes)

    def give_back(self, buffer: memoryview) -> None:
        """Return a buffer unused."""
        with self._changed:
            self._free.append(buffer)
            self._changed.notify_all()

    def wrote(self, offset: int, buffer: memoryview, count: int) -> None:
        """Bytes are in place; the buffer is not the caller's any more."""
        with self._changed:
            self._have.add(offset, offset + count)
            if offset == self._tail:
                self._queue.append((buffer, count))
                self._tail += count
            else:
                self._free.append(buffer)
            self._changed.notify_all()

    def in_place(self, offset: int, count: int) -> None:
        """Bytes are in place that nobody has in memory."""
        with self._changed:
            self._have.add(offset, offset + count)
            self._changed.notify_all()

    def zeros(self, offset: int, count: int) -> None:
        """A run reads as zeros."""
        with self._changed:
            self._have.add(offset, offset + count)
            if offset == self._tail:
                self._queue.append((None, count))
                self._tail += count
            self._changed.notify_all()

    def finish(self, size: int) -> str:
        """Wait until all is hashed; returns the digest in hex."""
        with self._changed:
            self._end = size
            self._changed.notify_all()
        while self._thread.is_alive():
            self._ctx.check()
            self._thread.join(_context.TICK)
        self._raise_error()
        return str(self._hash.hexdigest())

    def stop(self) -> None:
        """End the thread; idempotent."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            scratch: memoryview | None = None
            while (work := self._next()) is not None:
                buffer, offset, count = work
                if offset is not None:
                    if scratch is None:
                        scratch = buffers.aligned(_READ_BACK)
                    self._hash_back(scratch, offset, count)
                elif buffer is None:
                    self._hash_zeros(count)
                else:
                    self._hash.update(buffer[:count])
                    self.give_back(buffer)
        except BaseException as exc:
            with self._changed:
                self._error = exc
                self._changed.notify_all()

    def _next(self) -> tuple[memoryview | None, int | None, int] | None:
        """What to hash next: a buffer, zeros, or a run to read back."""
        with self._changed:
            while True:
                if self._stopped:
                    return None
                if self._queue:
                    buffer, count = self._queue.popleft()
                    return buffer, None, count
                frontier = self._have.frontier(self._tail)
                if frontier > self._tail:
                    offset = self._tail
                    count = min(frontier - offset, _READ_BACK)
                    self._tail += count
                    return None, offset, count
                if self._end is not None and self._tail >= self._end:
                    return None
                self._changed.wait()

    def _hash_back(self, scratch: memoryview, offset: int, count: int) -> None:
        if self._read_back is None:
            raise exceptions.CapabilityMissing(
                'bytes came out of order and cannot be read back'
            )
        done = 0
        while done < count:
            step = self._read_back(scratch[: count - done], offset + done)
            if step == 0:
                raise exceptions.StorageError(
                    f'the part file ends at byte {offset + done}'
                )
            self._hash.update(scratch[:step])
            done += step

    def _hash_zeros(self, count: int) -> None:
        while count and not self._stopped:
            step = min(count, len(_ZEROS))
            self._hash.update(_ZEROS[:step])
            count -= step
