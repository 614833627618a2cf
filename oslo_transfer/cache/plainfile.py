# SPDX-License-Identifier: Apache-2.0
"""A complete local file, exported as if it were a cached image."""

from __future__ import annotations

from collections.abc import Iterator
import hashlib
import os
import stat
import typing

from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors


class PlainFile:
    """A file or block device that has all bytes. Thread-safe.

    Nobody may write to it while it is exported.

    :param path: where it is
    :param etag: what stood for these bytes before, if anything did
    :param fd: it is open there already, and is taken over
    :raises InvalidEndpoint: it is neither a file nor a block device
    :raises TransferError: it cannot be opened
    """

    #: Nothing of it is evicted.
    stays = True

    def __init__(
        self, path: str, etag: str | None = None, fd: int | None = None
    ) -> None:
        self.path = path
        if fd is None:
            with oserrors.os_errors(f'opening {path}'):
                # A FIFO would block the open; it is refused right below.
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
                fd = os.open(path, flags)
        self.fd = fd
        try:
            with oserrors.os_errors(f'looking at {path}'):
                found = os.fstat(self.fd)
                self._holes = stat.S_ISREG(found.st_mode)
                if not (self._holes or stat.S_ISBLK(found.st_mode)):
                    raise exceptions.InvalidEndpoint(
                        f'{path} is neither a regular file nor a block device'
                    )
                self.size = os.lseek(self.fd, 0, os.SEEK_END)
        except BaseException:
            self.close()
            raise
        self.etag = etag or _version(found, self.size)

    def reader(self) -> PlainReader:
        """Begin to read."""
        return PlainReader(self)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """What is known of its holes."""
        if not self._holes:
            yield length, False
            return
        with oserrors.os_errors(f'looking for holes in {self.path}'):
            for extent in localfs.extents(self.fd, offset, length):
                yield extent.length, not extent.data

    def close(self) -> None:
        """Close it; idempotent. Its readers MUST be closed before."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            oserrors.close(fd)


class PlainReader:
    """Reads a :class:`PlainFile`: all of it is always there."""

    def __init__(self, image: PlainFile) -> None:
        self._image = image
        self._size = image.size
        self.fd = image.fd

    def claim(self, offset: int, length: int) -> int:
        """All that is asked for, up to the end."""
        left = self._size - offset
        return length if length <= left else max(0, left)

    def release(self) -> None:
        """Nothing is held."""

    def bring(self, offset: int, length: int) -> bool:
        """It is there."""
        return True

    def read(self, view: memoryview, offset: int) -> None:
        """Fill a buffer.

        :raises StorageError: it cannot be read, or was cut short
        """
        with oserrors.os_errors(f'reading {self._image.path}'):
            while view:
                count = os.preadv(self.fd, [view], offset)
                if not count:
                    raise exceptions.StorageError(
                        f'{self._image.path} was cut short'
                    )
                view = view[count:]
                offset += count

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """Its holes and data; see :meth:`PlainFile.extents`."""
        return self._image.extents(offset, length)

    def close(self) -> None:
        """Nothing is held."""


def _version(found: os.stat_result, size: int) -> str:
    told: tuple[typing.Any, ...] = (
        found.st_dev,
        found.st_ino,
        size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]
