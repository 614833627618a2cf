# SPDX-License-Identifier: Apache-2.0
"""Which pieces a file has already. Nothing is believed, all is hashed."""

from __future__ import annotations

import os
import typing

from oslo_transfer import buffers
from oslo_transfer import oserrors
from oslo_transfer import ranges

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers.bittorrent import metainfo


def check(
    meta: metainfo.Metainfo,
    path: str,
    held: ranges.RangeSet,
    ctx: _context.Context,
) -> set[int]:
    """The pieces that are in the file and right.

    Blocks for the time of reading and hashing what is held.

    :param path: the file; where nothing is held, it is all zeros
    :param held: what may be in it
    :raises StorageError: it cannot be read
    """
    if not held.total:
        return set(meta.zero_pieces())
    found = set()
    buffer = buffers.aligned(meta.piece_length)
    with oserrors.os_errors(f'reading {path}'):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for index in sorted(_candidates(meta, held)):
                ctx.breathe()
                offset, length = meta.piece_span(index)
                if not _read(fd, buffer[:length], offset):
                    continue
                if meta.check_piece(index, buffer[:length]):
                    found.add(index)
        finally:
            oserrors.close(fd)
    return found


def _candidates(meta: metainfo.Metainfo, held: ranges.RangeSet) -> set[int]:
    """Pieces that are held whole, and those that a hole would do for."""
    found = set(meta.zero_pieces())
    for start, end in held:
        first = -(-start // meta.piece_length)
        last = end // meta.piece_length
        if end == meta.size:
            last = meta.piece_count
        found.update(range(first, last))
    return found


def _read(fd: int, buffer: memoryview, offset: int) -> bool:
    """Fill the buffer; False at the end of the file."""
    while buffer:
        count = os.preadv(fd, [buffer], offset)
        if not count:
            return False
        buffer, offset = buffer[count:], offset + count
    return True
