# SPDX-License-Identifier: Apache-2.0
"""An image for exports, whose blocks are there, or come, as it is told."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import os
import threading
import typing

from oslo_transfer import exceptions

BLOCK = 64 * 1024


class ScriptedImage:
    """Bytes in memory, of which none is there at first; thread-safe.

    :param data: all bytes
    :param there: they are there from the beginning
    """

    etag = 'feed'
    #: Whether nothing is evicted.
    stays = False

    def __init__(self, data: bytes, *, there: bool = False) -> None:
        self.data = data
        self.size = len(data)
        self.fd = os.memfd_create('image')
        os.truncate(self.fd, self.size)
        #: A byte for each block.
        self.present = bytearray(-(-self.size // BLOCK))
        #: Called in a thread that fetches, before a block is there.
        self.on_bring: Callable[[int], object] = lambda _block: None
        #: Whether blocks can be kept.
        self.keeps = True
        #: Blocks that were brought, and ranges that were read, in order.
        self.brought: list[int] = []
        self.read: list[tuple[int, int]] = []
        #: Readers that are open.
        self.readers: set[ScriptedReader] = set()
        if there:
            for block in range(len(self.present)):
                self.put(block)

    def put(self, block: int) -> None:
        """Have a block there."""
        start = block * BLOCK
        os.pwrite(self.fd, self.data[start : start + BLOCK], start)
        self.present[block] = 1

    def evict(self, block: int) -> None:
        """Take one away; nobody may have claimed it."""
        assert not self.stays
        for reader in list(self.readers):
            held = reader.held
            assert held is None or block not in held
        self.present[block] = 0
        length = min(BLOCK, self.size - block * BLOCK)
        os.pwrite(self.fd, b'\xee' * length, block * BLOCK)

    def reader(self) -> ScriptedReader:
        """Begin to read."""
        return ScriptedReader(self)

    def close(self) -> None:
        """Let go of the memory; all readers have to be closed."""
        assert not self.readers
        os.close(self.fd)

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class ScriptedReader:
    """Checks that it is used by one thread at a time."""

    def __init__(self, image: ScriptedImage) -> None:
        self._image = image
        self._used = threading.Lock()
        self.fd = image.fd
        #: Blocks that are claimed.
        self.held: range | None = None
        image.readers.add(self)

    def _enter(self) -> threading.Lock:
        assert self in self._image.readers, 'it is closed'
        assert self._used.acquire(blocking=False), 'two threads use it'
        return self._used

    def claim(self, offset: int, length: int) -> int:
        """How much of it is there."""
        assert length > 0
        assert offset + length <= self._image.size
        used = self._enter()
        try:
            blocks = range(offset // BLOCK, -(-(offset + length) // BLOCK))
            self.held = blocks
            missing = self._image.present.find(0, blocks.start, blocks.stop)
            if missing < 0:
                return length
            return max(0, missing * BLOCK - offset)
        finally:
            used.release()

    def release(self) -> None:
        """Give the claim up."""
        self.held = None

    def bring(self, offset: int, length: int) -> bool:
        """Have the first block there, as the image was told."""
        used = self._enter()
        try:
            block = offset // BLOCK
            self._image.on_bring(block)
            if not self._image.keeps:
                return False
            self._image.brought.append(block)
            self._image.put(block)
            return True
        finally:
            used.release()

    def read(self, view: memoryview, offset: int) -> None:
        """Fill a buffer."""
        used = self._enter()
        try:
            self._image.on_bring(offset // BLOCK)
            self._image.read.append((offset, len(view)))
            view[:] = self._image.data[offset : offset + len(view)]
        finally:
            used.release()

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """Nothing is known."""
        yield length, False

    def close(self) -> None:
        """End it."""
        if self in self._image.readers:
            self._enter().release()
            self._image.readers.discard(self)


def unavailable(_block: int) -> typing.NoReturn:
    """An origin that does not answer."""
    raise exceptions.Unavailable('the origin http://secret/ is gone')
