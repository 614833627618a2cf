# SPDX-License-Identifier: Apache-2.0
"""The pieces of a torrent: where they are, and whether bytes are theirs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import typing

from oslo_transfer.drivers.bittorrent import merkle

#: The length of a SHA-1 hash, in bytes.
SHA1 = 20

_STEP = 1 << 18


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The pieces of one file, with a hash of each; for any thread.

    :ivar size: of the file, in bytes
    :ivar length: of each piece but the last, in bytes
    :ivar sha1: the v1 hashes, joined; empty for v2 only
    :ivar sha256: the v2 hashes, joined; empty for v1 only
    """

    size: int
    length: int
    sha1: bytes
    sha256: bytes

    @property
    def count(self) -> int:
        """How many there are."""
        return -(-self.size // self.length)

    def span(self, index: int) -> tuple[int, int]:
        """Where a piece begins, and its length, in bytes."""
        offset = index * self.length
        return offset, min(self.length, self.size - offset)

    def check(self, index: int, data: memoryview | bytes) -> bool:
        """Whether these are the bytes of a piece.

        SHA-256 decides where it is known. Takes the time of one hash over
        the data, nearly all of it without the interpreter's lock.
        """
        if not 0 <= index < self.count:
            return False
        with memoryview(data) as given, given.cast('B') as view:
            if len(view) != self.span(index)[1]:
                return False
            if self.sha256:
                found = self._tree(merkle.leaves(view))
            else:
                found = sha1(view)
        return found == self._expected(index)

    @functools.cached_property
    def zero(self) -> frozenset[int]:
        """The pieces that are all zeros, which their hashes tell."""
        last = self.count - 1
        found: set[int] = set()
        if last:
            whole = self._zero_hash(self.length)
            found.update(
                index
                for index in range(last)
                if self._expected(index) == whole
            )
        if self._expected(last) == self._zero_hash(self.span(last)[1]):
            found.add(last)
        return frozenset(found)

    def _expected(self, index: int) -> bytes:
        hashes, length = self.sha256, merkle.DIGEST
        if not hashes:
            hashes, length = self.sha1, SHA1
        return hashes[index * length : (index + 1) * length]

    def _tree(self, leaves: bytes) -> bytes:
        if self.count == 1:
            return merkle.small_root(leaves)
        return merkle.piece_root(leaves, self.length)

    def _zero_hash(self, length: int) -> bytes:
        if not self.sha256:
            return sha1_of_zeros(length)
        return self._tree(merkle.leaves_of_zeros(length))


def sha1(data: memoryview) -> bytes:
    """The SHA-1 hash of a piece."""
    return hashlib.sha1(data, usedforsecurity=False).digest()


def sha1_of_zeros(length: int) -> bytes:
    """The SHA-1 hash of a piece of zeros."""
    zeros = memoryview(bytes(_STEP))
    found: typing.Any = hashlib.sha1(usedforsecurity=False)
    for start in range(0, length, _STEP):
        found.update(zeros[: length - start])
    return bytes(found.digest())
