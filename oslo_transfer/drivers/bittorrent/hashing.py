# SPDX-License-Identifier: Apache-2.0
"""Hashes data for a torrent, in threads beside whoever reads it."""

from __future__ import annotations

import collections
from concurrent import futures
import dataclasses
import os
import typing

from oslo_transfer import buffers
from oslo_transfer.drivers.bittorrent import merkle
from oslo_transfer.drivers.bittorrent import pieces

# Large enough to make threads pay, small enough for the processor's cache.
_STRIDE = 1 << 20
_MAX_THREADS = 8
_MAX_BUFFERS = 128 << 20


@dataclasses.dataclass(frozen=True)
class Hashes:
    """All hashes of a torrent's data.

    :ivar size: of the data, in bytes
    :ivar sha1: of each piece, joined; empty if not asked for
    :ivar sha256: the hash of each piece, joined; empty if not asked for
    :ivar root: over those; empty if not asked for
    """

    size: int
    sha1: bytes
    sha256: bytes
    root: bytes


class _Part(typing.NamedTuple):
    """The hashes of one stride."""

    sha1: bytes
    sha256: bytes
    #: Those of the blocks, where it may turn out to be a lone piece.
    leaves: bytes
    buffer: memoryview | None


class Hasher:
    """Takes data in order, a stride at a time; a context manager.

    Strides are independent, so each thread makes both hashes of its own:
    that is as fast as the processors are, and neither waits for the other.
    Not for several threads.

    :param length: of a piece in bytes, a power of two
    :param sha1: whether to make v1 hashes
    :param sha256: whether to make v2 hashes
    """

    def __init__(self, length: int, *, sha1: bool, sha256: bool) -> None:
        self._length = length
        self._with_sha1 = sha1
        self._with_sha256 = sha256
        #: What is hashed at once: whole pieces, in bytes.
        self.stride = max(length, _STRIDE)
        #: Bytes taken so far.
        self.total = 0
        threads = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
        # One is filled while the others are hashed.
        self._spare = max(2, min(threads + 2, _MAX_BUFFERS // self.stride))
        self._free: list[memoryview] = []
        self._pending: collections.deque[futures.Future[_Part]] = (
            collections.deque()
        )
        self._sha1: list[bytes] = []
        self._sha256: list[bytes] = []
        self._first_leaves = b''
        self._zeros: _Part | None = None
        self._pool = futures.ThreadPoolExecutor(
            threads, thread_name_prefix='oslo-transfer-hash'
        )

    def buffer(self) -> memoryview:
        """A buffer of one stride; waits for a hash if none is free."""
        while not self._free and not self._spare:
            self._collect()
        if self._free:
            return self._free.pop()
        self._spare -= 1
        return buffers.aligned(self.stride)

    def add(self, buffer: memoryview, count: int) -> None:
        """Hash so many bytes; the buffer is not the caller's any more.

        All but the last are a whole stride.
        """
        if not count:
            self._free.append(buffer)
            return
        first = not self.total
        self.total += count
        self._pending.append(
            self._pool.submit(self._hash, buffer, count, first)
        )

    def zeros(self, count: int) -> None:
        """Go on with so many zeros: whole strides."""
        self.total += count
        while self._pending:
            self._collect()
        if self._zeros is None:
            self._zeros = self._hash_zeros()
        number = count // self._length
        self._sha1.append(self._zeros.sha1 * number)
        self._sha256.append(self._zeros.sha256 * number)
        self._first_leaves = self._first_leaves or self._zeros.leaves

    def finish(self) -> Hashes:
        """Wait for the last hash; returns them all."""
        while self._pending:
            self._collect()
        joined = b''.join(self._sha256)
        root = b''
        if self._with_sha256:
            if self.total > self._length:
                root = merkle.file_root(joined, self._length)
            else:
                root = joined = merkle.small_root(self._first_leaves)
        return Hashes(self.total, b''.join(self._sha1), joined, root)

    def _collect(self) -> None:
        part = self._pending.popleft().result()
        self._sha1.append(part.sha1)
        self._sha256.append(part.sha256)
        self._first_leaves = self._first_leaves or part.leaves
        if part.buffer is not None:
            self._free.append(part.buffer)

    def _hash(self, buffer: memoryview, count: int, first: bool) -> _Part:
        sha1, sha256 = [], []
        leaves = kept = b''
        for start in range(0, count, self._length):
            piece = buffer[start : min(start + self._length, count)]
            if self._with_sha1:
                sha1.append(pieces.sha1(piece))
            if self._with_sha256:
                leaves = merkle.leaves(piece)
                sha256.append(merkle.piece_root(leaves, self._length))
                if first and not start:
                    kept = leaves
        return _Part(b''.join(sha1), b''.join(sha256), kept, buffer)

    def _hash_zeros(self) -> _Part:
        sha1 = sha256 = leaves = b''
        if self._with_sha1:
            sha1 = pieces.sha1_of_zeros(self._length)
        if self._with_sha256:
            leaves = merkle.leaves_of_zeros(self._length)
            sha256 = merkle.piece_root(leaves, self._length)
        return _Part(sha1, sha256, leaves, None)

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        # Each waits for one stride at most; what has not begun never does.
        self._pool.shutdown(cancel_futures=True)
