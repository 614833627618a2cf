# SPDX-License-Identifier: Apache-2.0
"""Buffers for bulk data."""

from __future__ import annotations

import mmap


def aligned(size: int) -> memoryview:
    """Make a buffer of zeros that begins where a page does.

    Large ones of malloc(3), and so of ``bytearray``, begin 16 bytes behind a
    page. Where the kernel copies by ``rep movsb``, some processors take three
    times as long for that: the source is so little before the destination,
    modulo the size of a page.

    :param size: in bytes
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return memoryview(mmap.mmap(-1, max(1, size), flags=flags))[:size]
