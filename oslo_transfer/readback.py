# SPDX-License-Identifier: Apache-2.0
"""Reads what a sink holds; for sinks with READBACK."""

from __future__ import annotations

from collections.abc import Iterator

from oslo_transfer import buffers
from oslo_transfer import context as _context
from oslo_transfer.drivers import base

_STEP = 1 << 20


def fill(sink: base.Sink, buffer: memoryview, offset: int) -> None:
    """Read as many bytes as fit; what is behind the end are zeros.

    A file may end in a hole that was never written.
    """
    while buffer:
        count = sink.pread(buffer, offset)
        if not count:
            buffer[:] = bytes(len(buffer))
            return
        buffer = buffer[count:]
        offset += count


def chunks(
    sink: base.Sink, start: int, end: int, ctx: _context.Context
) -> Iterator[memoryview]:
    """A run of bytes in order; each chunk is valid until the next one."""
    buffer = buffers.aligned(min(_STEP, end - start))
    while start < end:
        ctx.breathe()
        chunk = buffer[: end - start]
        fill(sink, chunk, start)
        yield chunk
        start += len(chunk)
