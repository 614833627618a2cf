# SPDX-License-Identifier: Apache-2.0
"""Buffers are where the kernel copies to and from them fast."""

from __future__ import annotations

import ctypes
import mmap

import pytest

from oslo_transfer import buffers


@pytest.mark.parametrize('size', [0, 1, 4096, 65537, 1 << 20])
def test_buffers_begin_with_a_page(size):
    buffer = buffers.aligned(size)
    assert len(buffer) == size
    assert bytes(buffer) == bytes(size)
    if size:
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        assert address % mmap.PAGESIZE == 0
        buffer[size - 1] = 1


def test_a_buffer_is_its_own(nothing_left):
    first, second = buffers.aligned(4096), buffers.aligned(4096)
    first[:] = b'x' * 4096
    assert bytes(second) == bytes(4096)
