# SPDX-License-Identifier: Apache-2.0
"""Sinks that cannot hide their bytes: keep some back until verified."""

from __future__ import annotations

import abc

from oslo_transfer.drivers import base

_FIRST = 1 << 20
_CLEAN = memoryview(bytes(_FIRST))


class HoldBack(base.Sink):
    """Wraps a sink without ATOMIC.

    :param sink: the open sink; owned from now on
    """

    def __init__(self, sink: base.Sink) -> None:
        self._sink = sink
        self.capabilities = sink.capabilities
        self.capacity = sink.capacity
        self.zeroed = sink.zeroed
        self.form = sink.form

    @property
    def free(self) -> int | None:
        """That of the wrapped sink."""
        return self._sink.free

    @abc.abstractmethod
    def release(self) -> None:
        """Write what was kept back."""

    def sync(self) -> None:
        """That of the wrapped sink."""
        self._sink.sync()

    def commit(self, size: int) -> None:
        """Release what was kept back, then commit."""
        self.release()
        self._sink.commit(size)

    def abort(self, keep: bool) -> None:
        """That of the wrapped sink; what was kept back is dropped."""
        self._sink.abort(keep)


class HoldFirst(HoldBack):
    """Writes the first MiB of a device last.

    Until then it holds zeros, so that neither half an image nor the former
    one can boot.
    """

    def __init__(self, sink: base.Sink, size: int | None) -> None:
        super().__init__(sink)
        room = _FIRST if sink.capacity is None else sink.capacity
        length = min(_FIRST, room if size is None else min(size, room))
        self._first = memoryview(bytearray(length))
        self.held_back = length
        sink.pwrite(_CLEAN[:length], 0)
        sink.sync()

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Write; the first MiB goes to memory."""
        held = max(0, min(len(buffer), len(self._first) - offset))
        if held:
            self._first[offset : offset + held] = buffer[:held]
        if held < len(buffer):
            self._sink.pwrite(buffer[held:], offset + held)

    def zero(self, offset: int, length: int) -> bool:
        """Zero; the first MiB in memory."""
        held = max(0, min(length, len(self._first) - offset))
        if held:
            self._first[offset : offset + held] = bytes(held)
        return held == length or self._sink.zero(offset + held, length - held)

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Read back, from memory where it is kept there."""
        held = max(0, min(len(buffer), len(self._first) - offset))
        if held:
            buffer[:held] = self._first[offset : offset + held]
            return held
        return self._sink.pread(buffer, offset)

    def release(self) -> None:
        """Make the rest durable, then write the first MiB."""
        self._sink.sync()
        self._sink.pwrite(self._first, 0)


class HoldLast(HoldBack):
    """Keeps the last bytes of a sequential sink until they may be sent.

    A receiver that counts then sees a transfer that broke off, and drops
    what it has.
    """

    def __init__(self, sink: base.Sink) -> None:
        super().__init__(sink)
        self._last = b''
        self._offset = 0

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Send what came before, and keep this."""
        if not buffer:
            return
        self.release()
        self._last = bytes(buffer)
        self._offset = offset

    def release(self) -> None:
        """Send what was kept."""
        if self._last:
            self._sink.pwrite(memoryview(self._last), self._offset)
            self._last = b''
