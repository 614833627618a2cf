# SPDX-License-Identifier: Apache-2.0
"""Block devices as destinations."""

from __future__ import annotations

from collections.abc import Callable
import errno
import fcntl
import os
import struct
import threading

from oslo_transfer.drivers import base
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors

_BLKZEROOUT = 0x127F  # linux/fs.h
_BLOCK = 4096


class DeviceSink(base.Sink):
    """A block device, claimed for as long as it is written.

    :param opener: opens it instead of ``os.open``
    """

    capabilities = (
        base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.READBACK
    )
    form = 'device'

    def __init__(
        self,
        path: str,
        size: int | None,
        opener: Callable[[str, int], int] = os.open,
    ) -> None:
        self._path = path
        self._zeroout = threading.Event()
        self._zeroout.set()
        try:
            # O_EXCL on a block device: not while it is mounted or part of
            # something else (open(2)).
            self.fd = opener(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                raise exceptions.AccessDenied(
                    f'{path} is in use (mounted, or part of another '
                    f'device); it is not touched'
                ) from exc
            raise oserrors.translate(exc, f'opening {path}') from exc
        with oserrors.os_errors(f'looking at {path}'):
            self.capacity = os.lseek(self.fd, 0, os.SEEK_END)
        if size is not None and size > self.capacity:
            oserrors.close(self.fd)
            raise exceptions.NoSpace(
                f'{path} has {self.capacity} bytes, {size} are needed'
            )

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Write to the device."""
        fd = self._open_fd()
        localfs.pwrite_all(fd, buffer, offset, self._path)

    def zero(self, offset: int, length: int) -> bool:
        """Have the kernel zero whole blocks; what it cannot is written.

        BLKZEROOUT promises zeros, by discarding only where the device
        promises them too (Documentation/block in the kernel).
        """
        fd = self._open_fd()
        if not self._zeroout.is_set() or (offset % _BLOCK or length % _BLOCK):
            return False
        try:
            fcntl.ioctl(fd, _BLKZEROOUT, struct.pack('QQ', offset, length))
        except OSError as exc:
            if exc.errno in (errno.EIO, errno.ENOSPC, errno.EROFS):
                raise oserrors.translate(
                    exc, f'zeroing {self._path} at byte {offset}'
                ) from exc
            self._zeroout.clear()
            return False
        return True

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Read from the device."""
        fd = self._open_fd()
        with oserrors.os_errors(f'reading {self._path}'):
            return os.preadv(fd, [buffer], offset)

    def sync(self) -> None:
        """Flush the device."""
        fd = self._open_fd()
        with oserrors.os_errors(f'flushing {self._path}'):
            os.fsync(fd)

    def commit(self, size: int) -> None:
        """Flush and let the device go."""
        self.sync()
        self.abort(keep=True)

    def abort(self, keep: bool) -> None:
        """Let the device go."""
        fd, self.fd = self.fd, None
        if fd is not None:
            oserrors.close(fd)

    def _open_fd(self) -> int:
        if self.fd is None:
            raise exceptions.TransferCancelled(
                f'{self._path} was committed or aborted before'
            )
        return self.fd
