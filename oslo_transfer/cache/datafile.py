# SPDX-License-Identifier: Apache-2.0
"""A sparse file with the bytes of an object where the object has them."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import functools
import os
import zlib

from oslo_transfer.drivers import localfs
from oslo_transfer import oserrors

_ZEROS = bytes(1 << 20)
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def open_file(directory: str | None, name: str) -> int:
    """Open a file of a directory, or one that is nowhere.

    :raises TransferError: it cannot be opened, or made
    """
    if directory is None:
        return os.memfd_create(name, os.MFD_CLOEXEC)
    path = os.path.join(directory, name)
    with oserrors.os_errors(f'opening {path}'):
        os.makedirs(directory, 0o700, exist_ok=True)
        return os.open(path, _FLAGS, 0o600)


class DataFile:
    """Bytes of an object; what was never written is zeros. Thread-safe.

    :param fd: the file; owned
    :param path: its name, for errors
    """

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def resize(self, size: int, keep: bool) -> None:
        """Give it the size of the object.

        :param keep: what is there may be of use
        :raises TransferError: it cannot be written
        """
        with oserrors.os_errors(f'writing {self.path}'):
            if not keep:
                os.ftruncate(self.fd, 0)
            if os.fstat(self.fd).st_size != size:
                os.ftruncate(self.fd, size)

    def write(self, view: memoryview, offset: int) -> None:
        """Write all of a buffer.

        :raises TransferError: some of it may be written
        """
        localfs.pwrite_all(self.fd, view, offset, self.path)

    def read(self, view: memoryview, offset: int) -> int:
        """Fill a buffer; returns how far it could be read."""
        done = 0
        with contextlib.suppress(OSError):
            while done < len(view):
                count = os.preadv(self.fd, [view[done:]], offset + done)
                if not count:
                    break
                done += count
        return done

    def drop_cached(self, offset: int, length: int) -> None:
        """Have bytes read from the disk the next time; only a hint."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self.fd, offset, length, os.POSIX_FADV_DONTNEED)

    def punch(self, offset: int, length: int) -> None:
        """Make bytes zeros that take no space, if the disk can do that.

        :raises TransferError: it can neither do that nor be written
        """
        with oserrors.os_errors(f'writing {self.path}'):
            punched = localfs.punch_hole(self.fd, offset, length)
        for at in range(0, 0 if punched else length, len(_ZEROS)):
            part = memoryview(_ZEROS)[: length - at]
            self.write(part, offset + at)

    def allocated(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where it takes space, as (first byte, byte behind)."""
        if start < end:
            with oserrors.os_errors(f'reading {self.path}'):
                for extent in localfs.extents(self.fd, start, end - start):
                    if extent.data:
                        yield extent.offset, extent.offset + extent.length

    def disk_bytes(self) -> int:
        """How much of the disk it takes."""
        return os.fstat(self.fd).st_blocks * 512

    def flush(self) -> None:
        """Make what was written durable; blocks as long as that takes.

        :raises TransferError: it is not, and may be lost
        """
        with oserrors.os_errors(f'flushing {self.path}'):
            os.fdatasync(self.fd)

    def close(self) -> None:
        """Close it; idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            oserrors.close(fd)


@functools.cache
def checksum_of_zeros(length: int) -> int:
    """CRC-32 of so many zeros."""
    return zlib.crc32(bytes(length))


def is_zero(block: memoryview) -> bool:
    """Whether all bytes of a block are 0."""
    # A memcmp without a copy, which ends at the first byte that is not 0.
    return all(
        _ZEROS.startswith(block[at : at + len(_ZEROS)])
        for at in range(0, len(block), len(_ZEROS))
    )
