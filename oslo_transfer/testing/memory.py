# SPDX-License-Identifier: Apache-2.0
"""Objects in memory, for tests that need neither a network nor a disk.

A :class:`MemoryStore` has the objects, under ``memory://CONTAINER/NAME``
URLs; its driver reads and writes them. :mod:`oslo_transfer.testing.fixtures`
makes ``oslo_transfer.copy()`` find it.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import itertools
import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.testing import faults as _faults
from oslo_transfer.testing import memory_handles as handles

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint


class MemoryStore:
    """Objects by URL, and a driver for them. Thread-safe.

    :param capacity: the most bytes that all objects may take; None for no
        limit
    """

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._objects: dict[str, handles.Object] = {}
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
        content = handles.Blocks()
        for offset, run in (runs or {}).items():
            content.write_data(run, offset)
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

    def find(self, key: str) -> handles.Object:
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

    def commit(
        self, key: str, content: handles.Blocks, overwrite: bool
    ) -> None:
        """Show an object.

        :raises AlreadyExists: there is one already
        """
        self._keep(f'memory://{key}', content, overwrite=overwrite)

    def _keep(
        self,
        url: str,
        content: handles.Blocks,
        overwrite: bool = True,
        **options: typing.Any,
    ) -> None:
        key = _key(url)
        with self._lock:
            if not overwrite and key in self._objects:
                raise exceptions.AlreadyExists(f'{url} exists')
            self._containers.add(_container(key))
            self._objects[key] = handles.Object(
                content, next(self._versions), **options
            )


def _key(url: str) -> str:
    return url.removeprefix('memory://')


def _container(key: str) -> str:
    return key.partition('/')[0]


def _pieces(content: handles.Blocks, length: int) -> base.Pieces:
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
        source = handles.MemorySource(found, ctx)
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
        return handles.MemorySink(self.store, key, ctx, size, overwrite)
