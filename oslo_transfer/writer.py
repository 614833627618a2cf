# SPDX-License-Identifier: Apache-2.0
"""Puts bytes into a sink, leaving zeros out where that is allowed."""

from __future__ import annotations

from collections.abc import Sequence
import threading
import typing

from oslo_transfer.drivers import base

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

_BLOCK = 64 * 1024
_ZEROS = bytes(_BLOCK)
_ZERO_BUFFER = memoryview(bytes(1 << 20))


class Writer:
    """Writes to one sink; thread-safe as far as the sink is.

    :param sink: the open sink
    :param ctx: interrupts long runs of zeros
    :param detect_zeros: look for zeros in data
    :param taps: see each byte as it is written
    """

    def __init__(
        self,
        sink: base.Sink,
        ctx: _context.Context,
        detect_zeros: bool,
        taps: Sequence[typing.Any],
    ) -> None:
        self._sink = sink
        self._ctx = ctx
        self._detect_zeros = detect_zeros
        self._taps = taps
        self._lock = threading.Lock()
        #: Bytes stored: less than moved, for zeros are not.
        self.bytes_written = 0

    def write(self, view: memoryview, offset: int) -> None:
        """Write data, without the zeros in it if they may be left out."""
        if not view:
            return
        for tap in self._taps:
            tap.update(bytes(view))
        if not self._detect_zeros:
            self._store(view, offset)
            return
        # Runs of one kind go out as one. ``startswith`` is a memcmp
        # without a copy, and ends at the first byte that is not zero.
        start = 0
        was_zero = False
        for here in range(0, len(view), _BLOCK):
            is_zero = _ZEROS.startswith(view[here : here + _BLOCK])
            if is_zero != was_zero:
                self._run(view[start:here], offset + start, was_zero)
                start, was_zero = here, is_zero
        self._run(view[start:], offset + start, was_zero)

    def _run(self, run: memoryview, offset: int, zero: bool) -> None:
        if zero:
            self.zero(offset, len(run))
        elif run:
            self._store(run, offset)

    def _store(self, view: memoryview, offset: int) -> None:
        self._sink.pwrite(view, offset)
        self.stored(len(view))

    def stored(self, count: int) -> None:
        """Count bytes that reached the sink by another way."""
        with self._lock:
            self.bytes_written += count

    def zero(self, offset: int, length: int) -> None:
        """Make a run read as zeros, as cheaply as the sink can."""
        if self._sink.zeroed or self._sink.zero(offset, length):
            return
        while length:
            self._ctx.check()
            step = min(length, len(_ZERO_BUFFER))
            self._store(_ZERO_BUFFER[:step], offset)
            offset += step
            length -= step
