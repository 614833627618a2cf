# SPDX-License-Identifier: Apache-2.0
"""Objects in memory, for tests that need neither a network nor a disk.

A :class:`MemoryStore` has the objects, under ``memory://CONTAINER/NAME``
URLs; its driver reads and writes them. :mod:`oslo_transfer.testing.fixtures`
makes ``oslo_transfer.copy()`` find it.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import hashlib
import itertools
import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.testing import faults as _faults

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint

BLOCK = 64 << 10
_ZEROS = bytes(BLOCK)


class _Blocks:
    """Bytes in blocks; those that are all zeros take no memory."""

    def __init__(self) -> None:
        self.blocks: dict[int, bytearray] = {}
        self.size = 0

    @property
    def stored(self) -> int:
        return len(self.blocks) * BLOCK

    def read(self, buffer: memoryview, offset: int) -> int:
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
        self.size = max(self.size, offset + len(data))
        done = 0
        while done < len(data):
            index, start = divmod(offset + done, BLOCK)
            step = min(BLOCK - start, len(data) - done)
            block = self.blocks.setdefault(index, bytearray(BLOCK))
            block[start : start + step] = data[done : done + step]
            done += step

    def zero(self, offset: int, length: int) -> None:
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
        old, self.size = self.size, size
        if size < old:
            self.zero(size, old - size)
            self.size = size


@dataclasses.dataclass(frozen=True)
class _Object:
    """One version of an object; never changed."""

    content: _Blocks
    version: int
    sized: bool = True
    ranges: bool = True
    pieces: base.Pieces | None = None
    faults: _faults.Faults | None = None


class MemoryStore:
    """Objects by URL, and a driver for them. Thread-safe.

    :param capacity: the most bytes that all objects may take; None for no
        limit
    """

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._objects: dict[str, _Object] = {}
        self._expected: dict[str, _faults.CheckingSink] = {}
        self._containers: set[str] = set()
        self._versions = itertools.count(1)

    def driver_class(self) -> type[MemoryDriver]:
        """The driver of this store."""
        return type('MemoryDriver', (MemoryDriver,), {'store': self})

    def put(
        self,
        url: str,
        data: bytes | None = None,
        *,
        size: int = 0,
        runs: Mapping[int, bytes] | None = None,
        sized: bool = True,
        ranges: bool = True,
        piece_bytes: int | None = None,
        faults: _faults.Faults | None = None,
    ) -> str:
        """Store an object, or its next version.

        :param url: ``memory://CONTAINER/NAME``
        :param data: the content; or else
        :param size: of content that is zeros but for
        :param runs: data by offset
        :param sized: whether sources tell the size
        :param ranges: whether they can be read from any offset; needs the
            size
        :param piece_bytes: they have digests for pieces of this length
        :param faults: what goes wrong with them
        :returns: the URL
        """
        if data is not None:
            size, runs = len(data), {0: data}
        content = _Blocks()
        for offset, run in (runs or {}).items():
            for start in range(0, len(run), BLOCK):
                part = memoryview(run)[start : start + BLOCK]
                if not _ZEROS.startswith(part):
                    content.write(part, offset + start)
        content.size = size
        self._keep(
            url,
            content,
            sized=sized,
            ranges=ranges and sized,
            pieces=_pieces(content, piece_bytes) if piece_bytes else None,
            faults=faults,
        )
        return url

    def get(self, url: str) -> bytes | None:
        """The content of an object; None if there is no such object."""
        with self._lock:
            found = self._objects.get(_key(url))
        if found is None:
            return None
        data = bytearray(found.content.size)
        found.content.read(memoryview(data), 0)
        return bytes(data)

    def delete(self, url: str) -> None:
        """Forget an object."""
        with self._lock:
            self._objects.pop(_key(url), None)

    def container(self, name: str) -> None:
        """Make a container; :meth:`put` does it, too."""
        with self._lock:
            self._containers.add(name)

    def expect(self, url: str, data: bytes) -> _faults.CheckingSink:
        """Have the next write to a URL compared with some data.

        :returns: the sink that will compare
        """
        sink = _faults.CheckingSink(data)
        with self._lock:
            self._containers.add(_container(_key(url)))
            self._expected[_key(url)] = sink
        return sink

    # For the driver

    def find(self, key: str) -> _Object:
        """An object.

        :raises NotFound: there is none
        """
        with self._lock:
            found = self._objects.get(key)
        if found is None:
            raise exceptions.NotFound(f'memory://{key} does not exist')
        return found

    def prepare(
        self, key: str, size: int | None
    ) -> _faults.CheckingSink | None:
        """See whether an object may be written.

        :returns: what compares it instead, or None
        :raises NotFound: its container does not exist
        :raises NoSpace: it cannot fit
        """
        with self._lock:
            if _container(key) not in self._containers:
                raise exceptions.NotFound(
                    f'memory://{key}: no container {_container(key)}'
                )
            self._check_space(size or 0)
            return self._expected.pop(key, None)

    @property
    def free(self) -> int | None:
        """Bytes that still fit; None for no limit."""
        with self._lock:
            return self._free()

    def _free(self) -> int | None:
        if self._capacity is None:
            return None
        used = sum(each.content.stored for each in self._objects.values())
        return max(0, self._capacity - used)

    def check_space(self, size: int) -> None:
        """See whether so many bytes fit.

        :raises NoSpace: they do not
        """
        with self._lock:
            self._check_space(size)

    def _check_space(self, size: int) -> None:
        free = self._free()
        if free is not None and size > free:
            raise exceptions.NoSpace(
                f'{size} bytes of memory are needed, {free} are left'
            )

    def commit(self, key: str, content: _Blocks, overwrite: bool) -> None:
        """Show an object.

        :raises AlreadyExists: there is one already
        """
        self._keep(f'memory://{key}', content, overwrite=overwrite)

    def _keep(
        self,
        url: str,
        content: _Blocks,
        overwrite: bool = True,
        **options: typing.Any,
    ) -> None:
        key = _key(url)
        with self._lock:
            if not overwrite and key in self._objects:
                raise exceptions.AlreadyExists(f'{url} exists')
            self._containers.add(_container(key))
            self._objects[key] = _Object(
                content, next(self._versions), **options
            )


def _key(url: str) -> str:
    return url.removeprefix('memory://')


def _container(key: str) -> str:
    return key.partition('/')[0]


def _pieces(content: _Blocks, length: int) -> base.Pieces:
    digests = []
    for start in range(0, content.size, length):
        part = memoryview(bytearray(min(length, content.size - start)))
        content.read(part, start)
        digests.append(hashlib.sha256(part).digest())
    return base.Pieces('sha256', length, digests)


class MemoryDriver(base.Driver):
    """Objects of a :class:`MemoryStore`.

    Made by :meth:`MemoryStore.driver_class`.
    """

    name = 'memory'
    schemes = ('memory',)
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.EXTENTS
        | base.Capability.PIECES
        | base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.ATOMIC
        | base.Capability.READBACK
    )

    #: Where the objects are.
    store: typing.ClassVar[MemoryStore]

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> base.Source:
        """Open the version that there is now."""
        found = self.store.find(endpoint.host + endpoint.path)
        source = MemorySource(found, ctx)
        if found.faults is not None:
            return _faults.FaultySource(source, found.faults, ctx)
        return source

    def open_sink(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> base.Sink:
        """Begin a new version."""
        key = endpoint.host + endpoint.path
        expected = self.store.prepare(key, size)
        if expected is not None:
            return expected
        return MemorySink(self.store, key, ctx, overwrite)


class MemorySource(base.Source):
    """One version of an object in memory."""

    def __init__(self, found: _Object, ctx: _context.Context) -> None:
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
        position = start
        for index in sorted(self.content.blocks):
            first = max(position, index * BLOCK)
            last = min(end, (index + 1) * BLOCK)
            if first >= last:
                continue
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
        store: MemoryStore,
        key: str,
        ctx: _context.Context,
        overwrite: bool,
    ) -> None:
        self._store = store
        self._key = key
        self._ctx = ctx
        self._overwrite = overwrite
        self._lock = threading.Lock()
        self._content: _Blocks | None = _Blocks()

    @property
    def free(self) -> int | None:
        """Bytes that still fit."""
        return self._store.free

    def _open(self) -> _Blocks:
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
