# SPDX-License-Identifier: Apache-2.0
"""A regular file that appears when it is complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from oslo_transfer.drivers import base
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import flight
from oslo_transfer import oserrors


class FileSink(base.Sink):
    """A part file that becomes a regular file when it is committed.

    :param part: where it is, if not where a later copy would look for it
    """

    capabilities = (
        base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.ATOMIC
        | base.Capability.READBACK
        | base.Capability.RESUME
    )

    def __init__(
        self,
        path: str,
        *,
        size: int | None,
        resume: bool,
        overwrite: bool,
        preallocate: bool,
        part: str | None = None,
    ) -> None:
        self._path = path
        self._part = part or flight.part_path(path)
        self._overwrite = overwrite
        with oserrors.os_errors(f'creating {self._part}'):
            self.fd = os.open(
                self._part,
                os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
        try:
            if not resume:
                os.ftruncate(self.fd, 0)
            if size is not None:
                # Zeros at the end are never written, and yet are there.
                os.ftruncate(self.fd, size)
            if size and preallocate:
                _preallocate(self.fd, size)
        except OSError as exc:
            oserrors.close(self.fd)
            raise oserrors.translate(exc, f'preparing {self._part}') from exc
        # What an earlier copy left between the ranges it vouches for may
        # be anything: there zeros have to be made.
        self.zeroed = not resume

    @property
    def free(self) -> int | None:
        """Bytes that the file system can still take for this file."""
        fd = self._open_fd()
        with oserrors.os_errors(f'looking at {self._part}'):
            found = os.fstatvfs(fd)
            mine = os.fstat(fd).st_blocks * 512
        return found.f_bavail * found.f_frsize + mine

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Write to the part file."""
        fd = self._open_fd()
        localfs.pwrite_all(fd, buffer, offset, self._part)

    def zero(self, offset: int, length: int) -> bool:
        """Make a hole."""
        fd = self._open_fd()
        with oserrors.os_errors(f'zeroing {self._part} at byte {offset}'):
            return localfs.punch_hole(fd, offset, length)

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Read from the part file."""
        fd = self._open_fd()
        with oserrors.os_errors(f'reading {self._part}'):
            return os.preadv(fd, [buffer], offset)

    def sync(self) -> None:
        """Flush the part file to the disk."""
        fd = self._open_fd()
        with oserrors.os_errors(f'flushing {self._part}'):
            os.fsync(fd)

    def commit(self, size: int) -> None:
        """Give the part file its name."""
        fd = self._open_fd()
        with oserrors.os_errors(f'completing {self._path}'):
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, size)
            localfs.take_over_ownership(fd, self._path)
            os.fsync(fd)
            if not flight.same_file(fd, self._part):
                raise exceptions.StorageError(
                    f'{self._part} was taken away or replaced meanwhile'
                )
            localfs.rename(self._part, self._path, self._overwrite)
            localfs.sync_directory(os.path.dirname(self._path))
        self._close()

    def abort(self, keep: bool) -> None:
        """Close the part file; drop it if it is not to be kept."""
        if self.fd is None:
            return
        # Its name leads to it already if it is its directory that could not
        # be flushed.
        if not keep and not flight.same_file(self.fd, self._path):
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, 0)
                # Whoever has locked it takes it away himself: without its
                # name the lock would keep out nobody.
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(self._part)
        self._close()

    def _open_fd(self) -> int:
        if self.fd is None:
            raise exceptions.TransferCancelled(
                f'{self._part} was committed or aborted before'
            )
        return self.fd

    def _close(self) -> None:
        fd, self.fd = self.fd, None
        if fd is not None:
            oserrors.close(fd)


def _preallocate(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as exc:
        # Where the file system has no such thing, the copy does without.
        if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
