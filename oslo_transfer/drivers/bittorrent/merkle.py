# SPDX-License-Identifier: Apache-2.0
"""The hash trees of BitTorrent v2 (BEP 52): SHA-256 over 16 KiB blocks."""

from __future__ import annotations

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


def leaves_of_zeros(length: int) -> bytes:
    """The same for so many bytes that are all zeros."""
    zeros = memoryview(bytes(BLOCK))
    whole, rest = divmod(length, BLOCK)
    return leaves(zeros) * whole + leaves(zeros[:rest])


def piece_root(hashes: bytes, length: int) -> bytes:
    """The hash of a piece: the root over its leaves.

    :param length: the torrent's piece length, in bytes
    """
    return _root(hashes, length // BLOCK, _NO_LEAF)


def small_root(hashes: bytes) -> bytes:
    """The root over the leaves of a file of a single piece."""
    return _root(hashes, _width(hashes), _NO_LEAF)


def file_root(hashes: bytes, length: int) -> bytes:
    """The root over the hashes of all pieces.

    :param length: the torrent's piece length, in bytes
    """
    return _root(hashes, _width(hashes), piece_root(_NO_LEAF, length))


def _width(hashes: bytes) -> int:
    """The power of two that holds all hashes of a layer."""
    return 1 << (len(hashes) // DIGEST - 1).bit_length()


def _root(hashes: bytes, width: int, filler: bytes) -> bytes:
    """The root over a layer that is filled up to a width."""
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
