# SPDX-License-Identifier: Apache-2.0
"""A small object, for tests of what keeps its blocks."""

from __future__ import annotations

import os
import random

from oslo_transfer.cache import blockmap
from oslo_transfer.cache import blocks as _blocks

BLOCK = 4096
SIZE = 9 * BLOCK + 17
IDENTITY = bytes(range(32))


def content(seed, index):
    length = min(BLOCK, SIZE - index * BLOCK)
    if seed == 0:
        return bytes(length)
    return random.Random((seed << 8) + index).randbytes(length)


def open_image(path, identity=IDENTITY):
    return _blocks.Blocks(str(path), SIZE, BLOCK, identity)


def open_map(path):
    return blockmap.BlockMap(
        os.open(path, os.O_RDWR | os.O_CREAT),
        path,
        blockmap.Header(BLOCK, SIZE, IDENTITY),
    )


def length(index):
    return min(BLOCK, SIZE - index * BLOCK)


def read(image, index):
    buffer = bytearray(length(index))
    count = image.read(memoryview(buffer), index * BLOCK)
    assert count in (0, len(buffer))
    return bytes(buffer) if count else None
