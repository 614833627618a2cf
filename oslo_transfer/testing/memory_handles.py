# SPDX-License-Identifier: Apache-2.0
"""Sources and sinks of objects in memory."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import ranges
from oslo_transfer.testing import faults as _faults

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.testing import memory

BLOCK = 64 << 10
_ZEROS = bytes(BLOCK)


class Blocks:
    """Bytes in blocks; those that are all zeros take no memory."""

    def __init__(self) -> None:
        self.blocks: dict[int, bytearray] = {}
        self.size = 0

    @property
    def stored(self) -> int:
        """Bytes of memory that it takes."""
        return len(self.blocks) * BLOCK

    def read(self, buffer: memoryview, offset: int) -> int:
        """Copy into a buffer; 0 at the end."""
        count = max(0, min(len(buffer), self.size - offset))
        done = 0
        while done < count:
            index, start = divmod(offset + done, BLOCK)
            step = min(BLOCK - start, count - done)
            block = self.blocks.get(index, _ZEROS)
            buffer[done : done + step] = memoryview(block)[
                start : start + step
            ]
            done += step
        return count

    def write(self, data: memoryview, offset: int) -> None:
        """Copy from a buffer."""
        self.size = max(self.size, offset + len(data))
        done = 0
        while done < len(data):
            index, start = divmod(offset + done, BLOCK)
            step = min(BLOCK - start, len(data) - done)
            block = self.blocks.setdefault(index, bytearray(BLOCK))
            block[start : start + step] = data[done : done + step]
            done += step

    def write_data(self, data: bytes, offset: int) -> None:
        """Copy what is not zeros; they take no memory."""
        for start in range(0, len(data), BLOCK):
            part = memoryview(data)[start : start + BLOCK]
            if not _ZEROS.startswith(part):
                self.write(part, offset + start)

    def zero(self, offset: int, length: int) -> None:
        """Make a run zeros."""
        self.size = max(self.size, offset + length)
        end = offset + length
        for index in [
            index
            for index in self.blocks
            if offset < (index + 1) * BLOCK and index * BLOCK < end
        ]:
            start = max(offset - index * BLOCK, 0)
            stop = min(end - index * BLOCK, BLOCK)
            self.blocks[index][start:stop] = bytes(stop - start)
            if self.blocks[index] == _ZEROS:
                del self.blocks[index]

    def resize(self, size: int) -> None:
        """Cut off, or go on with zeros."""
        old, self.size = self.size, size
        if size < old:
            self.zero(size, old - size)
            self.size = size


@dataclasses.dataclass(frozen=True)
class Object:
    """One version of an object; never changed."""

    content: Blocks
    version: int
    sized: bool = True
    ranges: bool = True
    pieces: base.Pieces | None = None
    faults: _faults.Faults | None = None


class MemorySource(base.Source):
    """One version of an object in memory."""

    def __init__(self, found: Object, ctx: _context.Context) -> None:
        self.content = found.content
        self.ctx = ctx
        self.closed = False
        self.capabilities = base.Capability.READ
        if found.sized:
            self.capabilities |= base.Capability.EXTENTS
        if found.ranges:
            self.capabilities |= base.Capability.RANDOM_READ
        if found.pieces is not None:
            self.capabilities |= base.Capability.PIECES
        self.size = found.content.size if found.sized else None
        self.validator = base.Validator(str(found.version), strong=True)
        self.pieces = found.pieces

    def stream(self, offset: int, length: int | None) -> MemoryStream:
        """Read a run."""
        if offset and base.Capability.RANDOM_READ not in self.capabilities:
            raise exceptions.CapabilityMissing(
                'the object can be read from its start only'
            )
        end = self.content.size if length is None else offset + length
        if not 0 <= offset <= end <= self.content.size:
            raise exceptions.SourceChanged(
                f'there are {self.content.size} bytes; {offset}..{end} were '
                f'asked for'
            )
        return MemoryStream(self, offset, end)

    def extents(
        self, offset: int, length: int
    ) -> Iterator[base.Extent] | None:
        """Blocks that are stored are data, all else is zeros."""
        if base.Capability.EXTENTS not in self.capabilities:
            return None
        return self._extents(offset, offset + length)

    def _extents(self, start: int, end: int) -> Iterator[base.Extent]:
        data = ranges.RangeSet()
        for index in self.content.blocks:
            first = max(start, index * BLOCK)
            last = min(end, (index + 1) * BLOCK)
            if first < last:
                data.add(first, last)
        position = start
        for first, last in data:
            if first > position:
                yield base.Extent(position, first - position, False)
            yield base.Extent(first, last - first, True)
            position = last
        if position < end:
            yield base.Extent(position, end - position, False)

    def close(self) -> None:
        """End all streams."""
        self.closed = True


class MemoryStream(base.Stream):
    """A run of bytes of an object in memory."""

    def __init__(self, source: MemorySource, offset: int, end: int) -> None:
        super().__init__()
        self._source = source
        self._position = offset
        self._end = end

    def readinto(self, buffer: typing.Any) -> int:
        """Copy from the object."""
        if self.closed or self._source.closed:
            raise exceptions.TransferCancelled('the stream was closed')
        self._source.ctx.check()
        view = memoryview(buffer).cast('B')[: self._end - self._position]
        count = self._source.content.read(view, self._position)
        self._position += count
        return count


class MemorySink(base.Sink):
    """A new version of an object in memory."""

    capabilities = (
        base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.ATOMIC
        | base.Capability.READBACK
    )
    zeroed = True

    def __init__(
        self,
        store: memory.MemoryStore,
        key: str,
        ctx: _context.Context,
        size: int | None,
        overwrite: bool,
    ) -> None:
        self._store = store
        self._key = key
        self._ctx = ctx
        self._overwrite = overwrite
        self._lock = threading.Lock()
        self._content: Blocks | None = Blocks()
        # Zeros at the end are never written, and yet are there.
        self._content.size = size or 0

    @property
    def free(self) -> int | None:
        """Bytes that still fit."""
        return self._store.free

    def _open(self) -> Blocks:
        if self._content is None:
            raise exceptions.TransferCancelled(
                f'memory://{self._key} is not being written any more'
            )
        return self._content

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Copy from the buffer."""
        self._ctx.check()
        with self._lock:
            content = self._open()
            content.write(buffer, offset)
            self._store.check_space(content.stored)

    def zero(self, offset: int, length: int) -> bool:
        """Drop blocks."""
        with self._lock:
            self._open().zero(offset, length)
        return True

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Copy from what was written."""
        with self._lock:
            return self._open().read(buffer, offset)

    def sync(self) -> None:
        """Nothing: this is as durable as it gets."""

    def commit(self, size: int) -> None:
        """Show the new version."""
        with self._lock:
            content = self._open()
            content.resize(size)
            self._store.commit(self._key, content, self._overwrite)
            self._content = None

    def abort(self, keep: bool) -> None:
        """Drop what was written."""
        with self._lock:
            self._content = None
