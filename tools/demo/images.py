# SPDX-License-Identifier: Apache-2.0
"""Images as large and as sparse as those of virtual machines."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import hashlib
import os
import pathlib
import random
import struct

MIB = 1 << 20
_DATA = 0.4  # The share of a disk that is in use.
_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_COPIED = 1 << 63  # In qcow2: the cluster is referenced once.


@dataclasses.dataclass(frozen=True)
class Image:
    """A file to copy.

    :ivar path: where it is
    :ivar kind: ``raw`` or ``qcow2``
    :ivar size: in bytes
    :ivar digest: SHA-512 in hex
    """

    path: pathlib.Path
    kind: str
    size: int
    digest: str


def describe(path: pathlib.Path) -> Image:
    """Hash a file that is there."""
    with open(path, 'rb', buffering=0) as file:
        digest = hashlib.file_digest(file, 'sha512').hexdigest()
    kind = path.suffix.removeprefix('.')
    return Image(path, kind, path.stat().st_size, digest)


def make_raw(path: pathlib.Path, size: int) -> Image:
    """Write a disk with one partition, and data here and there on it."""
    places = range(1, size // MIB)
    used = sorted(random.sample(places, int(_DATA * len(places))))
    with open(path, 'wb') as file:
        file.write(_partition_table(size))
        for place in used:
            file.seek(place * MIB)
            # Some runs of zeros within, as file systems have.
            file.write(os.urandom(MIB - 64 * 1024 * random.randrange(4)))
        file.truncate(size)
    return describe(path)


def make_corrupt(
    path: pathlib.Path, image: Image, everywhere: bool = False
) -> None:
    """Write the same image with one wrong bit in its first data.

    :param everywhere: in each MiB that has data, too
    """
    wrong = False
    with open(path, 'wb') as file:
        for offset, block in _blocks(image.path):
            if offset and not offset % MIB and (everywhere or not wrong):
                block = bytes([block[0] ^ 1]) + block[1:]
                wrong = True
            file.seek(offset)
            file.write(block)
        file.truncate(image.size)


def _partition_table(size: int) -> bytes:
    """A master boot record with one Linux partition from 1 MiB on."""
    first = MIB // 512
    entry = struct.pack(
        '<B3sB3sII',
        *(0x80, b'\xfe\xff\xff', 0x83, b'\xfe\xff\xff'),
        *(first, size // 512 - first),
    )
    return bytes(446) + entry + bytes(48) + b'\x55\xaa'


def _blocks(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """The clusters of a file that are not all zeros."""
    zeros = bytes(_CLUSTER)
    with open(path, 'rb', buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for offset in range(0, size, _CLUSTER):
            file.seek(offset)
            block = file.read(_CLUSTER)
            if block != zeros[: len(block)]:
                yield offset, block


def make_qcow2(path: pathlib.Path, raw: Image) -> Image:
    """Write a raw image as qcow2, version 3 (QEMU's docs/interop/qcow2).

    In clusters: the header, the table of reference counts and its blocks,
    the L1 table, the L2 tables, then data in the order of the disk.
    """
    per_table = _CLUSTER // 8
    per_refblock = _CLUSTER // 2
    clusters = raw.size // _CLUSTER
    tables = -(-clusters // per_table)
    # As many as a full image needs.
    refblocks = -(-(clusters + tables + 64) // per_refblock)
    first_table = 2 + refblocks + 1
    following = first_table + tables
    l2 = [0] * (tables * per_table)
    with open(path, 'wb') as file:
        for offset, block in _blocks(raw.path):
            l2[offset // _CLUSTER] = following * _CLUSTER | _COPIED
            file.seek(following * _CLUSTER)
            file.write(block.ljust(_CLUSTER, b'\0'))
            following += 1
        l1 = [
            (first_table + index) * _CLUSTER | _COPIED
            for index in range(tables)
        ]
        refcounts = [1] * following
        file.seek(0)
        file.write(_qcow2_header(raw.size, refblocks, tables))
        for cluster, form, values in (
            (1, 'Q', [(2 + i) * _CLUSTER for i in range(refblocks)]),
            (2, 'H', refcounts),
            (2 + refblocks, 'Q', l1),
            (first_table, 'Q', l2),
        ):
            file.seek(cluster * _CLUSTER)
            file.write(struct.pack(f'>{len(values)}{form}', *values))
        file.truncate(following * _CLUSTER)
    return describe(path)


def _qcow2_header(size: int, refblocks: int, tables: int) -> bytes:
    return struct.pack(
        '>4sIQIIQIIQQIIQQQQII',
        *(b'QFI\xfb', 3),
        *(0, 0),  # No backing file.
        *(_CLUSTER_BITS, size, 0),
        *(tables, (2 + refblocks) * _CLUSTER),  # L1
        *(_CLUSTER, 1),  # Reference counts: their table, in clusters.
        *(0, 0),  # No snapshots.
        *(0, 0, 0),  # No features.
        *(4, 104),  # Counts of 16 bits; the length of this header.
    )
