# SPDX-License-Identifier: Apache-2.0
"""The hash trees of BitTorrent v2 (BEP 52): SHA-256 over 16 KiB blocks."""

from __future__ import annotations

from collections.abc import Iterator
import hashlib

#: The length of a leaf's data, in bytes.
BLOCK = 16 * 1024
#: The length of a hash, in bytes.
DIGEST = 32

_sha256 = hashlib.sha256
# What stands for a leaf beyond the end of the data.
_NO_LEAF = bytes(DIGEST)


def leaves(data: memoryview) -> bytes:
    """The hashes of all blocks, joined; the last block may be short."""
    return b''.join(
        _sha256(data[start : start + BLOCK]).digest()
        for start in range(0, len(data), BLOCK)
    )


def root(hashes: bytes, width: int, filler: bytes = _NO_LEAF) -> bytes:
    """The root of the tree over one layer.

    :param hashes: the layer's hashes, joined; at least one
    :param width: what the layer is filled up to, a power of two
    :param filler: the hash that it is filled up with
    """
    while width > 1:
        if len(hashes) % (2 * DIGEST):
            hashes += filler
        hashes = b''.join(
            _sha256(hashes[start : start + 2 * DIGEST]).digest()
            for start in range(0, len(hashes), 2 * DIGEST)
        )
        filler = _sha256(filler + filler).digest()
        width //= 2
    return hashes


def empty(width: int) -> bytes:
    """The root over so many leaves that are all beyond the end."""
    return root(_NO_LEAF, width)


def width_for(count: int) -> int:
    """The power of two that holds so many hashes."""
    return 1 << (count - 1).bit_length()


def split(hashes: bytes, length: int = DIGEST) -> Iterator[bytes]:
    """The hashes of a joined layer, one by one."""
    return (
        hashes[start : start + length]
        for start in range(0, len(hashes), length)
    )
