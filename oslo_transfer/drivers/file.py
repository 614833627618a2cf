# SPDX-License-Identifier: Apache-2.0
"""Local paths: regular files and block devices."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import os
import stat
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer.drivers import device
from oslo_transfer.drivers import file_sink
from oslo_transfer.drivers import localfs
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import flight
from oslo_transfer import oserrors


class FileDriver(base.Driver):
    """Paths and ``file://`` URLs: regular files and block devices.

    A regular file appears under its name when it is complete, by a rename
    inside its directory. A copy within one XFS or btrfs file system can be
    a clone, and one within a network file system is left to its server
    where that can do it.
    """

    name = 'file'
    schemes = ('file',)
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.EXTENTS
        | base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.ATOMIC
        | base.Capability.READBACK
        | base.Capability.RESUME
        | base.Capability.CLONE
        | base.Capability.ATTACH
        | base.Capability.LOCAL_PATH
    )

    def local_path(self, endpoint: _endpoint.Endpoint) -> str:
        """The absolute path; symbolic links to devices are followed.

        :raises InvalidEndpoint: it is a directory, a socket or the like
        """
        path = os.path.abspath(endpoint.path)
        if endpoint.path.endswith('/'):
            raise exceptions.InvalidEndpoint(f'{path}/ is a directory')
        return path

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> FileSource:
        """Open a file or device for reading."""
        return FileSource(self.local_path(endpoint), ctx)

    def open_sink(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> base.Sink:
        """Open a part file, or a device, for writing."""
        path = self.local_path(endpoint)
        if flight.is_device(path):
            return device.DeviceSink(path, size)
        return file_sink.FileSink(
            path,
            size=size,
            resume=resume,
            overwrite=overwrite,
            preallocate=ctx.conf.oslo_transfer.preallocate,
        )

    def fill(
        self,
        endpoint: _endpoint.Endpoint,
        part_path: str,
        ctx: _context.Context,
    ) -> str:
        """Share the blocks of the file with the part file (reflink)."""
        path = self.local_path(endpoint)
        with (
            oserrors.os_errors(f'reading {path}'),
            open(path, 'rb', buffering=0, opener=_at_once) as source,
        ):
            if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                raise exceptions.CapabilityMissing(
                    f'{path} is not a regular file'
                )
            with open(part_path, 'r+b', buffering=0) as part:
                method = localfs.clone(source.fileno(), part.fileno())
                # What was there may have been longer.
                part.truncate(os.fstat(source.fileno()).st_size)
                return method

    def attach(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        record: Callable[[Mapping[str, typing.Any]], None],
    ) -> base.Attachment:
        """A local file is readable in place as it is."""
        path = self.local_path(endpoint)
        with FileSource(path, ctx) as source:
            record({})
            return base.Attachment(
                id='',
                driver=self.name,
                source=str(endpoint),
                form='device' if flight.is_device(path) else 'path',
                path=path,
                size=source.size,
            )

    def detach(
        self,
        attachment: base.Attachment,
        ctx: _context.Context,
        force: bool,
    ) -> None:
        """Nothing was done, so nothing is left."""


class FileSource(base.Source):
    """A regular file or block device that is open for reading.

    :param opener: opens it instead of ``os.open``
    """

    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.EXTENTS
    )

    def __init__(
        self,
        path: str,
        ctx: _context.Context,
        opener: Callable[[str, int], int] = os.open,
    ) -> None:
        self._path = path
        self._ctx = ctx
        self._opener = opener
        with oserrors.os_errors(f'reading {path}'):
            # A FIFO would block the open; it is refused right below.
            self._fd = opener(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                self._examine(os.fstat(self._fd))
            except BaseException:
                oserrors.close(self._fd)
                raise
        # Local reads wait for nobody; a second stream only takes turns.
        self.geometry = base.Geometry(preferred=1 << 18, max_streams=1)

    def _examine(self, found: os.stat_result) -> None:
        if stat.S_ISBLK(found.st_mode):
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
            self._holes = False
            self.capabilities &= ~base.Capability.EXTENTS
        elif stat.S_ISREG(found.st_mode):
            self.size = found.st_size
            self._holes = True
            # The inode tells two files with equal times apart. Times are
            # of the kernel's tick, so a change right after a change may
            # not show: weak.
            self.validator = base.Validator(self.version(found), strong=False)
        else:
            raise exceptions.InvalidEndpoint(
                f'{self._path} is neither a regular file nor a block device'
            )

    def version(self, found: os.stat_result) -> str:
        """What tells this version of a file from others."""
        return (
            f'{found.st_dev}:{found.st_ino}:{found.st_size}:'
            f'{found.st_mtime_ns}'
        )

    def stream(self, offset: int, length: int | None) -> FileStream:
        """Read a run of bytes.

        :raises TransferCancelled: the source was closed
        """
        self._check_open()
        assert self.size is not None
        end = self.size if length is None else offset + length
        if not 0 <= offset <= end <= self.size:
            raise exceptions.SourceChanged(
                f'{self._path} has {self.size} bytes; {offset}..{end} were '
                f'asked for'
            )
        return FileStream(self, offset, end)

    def check_unchanged(self) -> None:
        """See whether the file is still what was opened.

        Of a device only the size can be told.

        :raises SourceChanged: it was written to meanwhile, or resized
        """
        with oserrors.os_errors(f'looking at {self._path}'):
            found = os.fstat(self.fd)
            size = os.lseek(self.fd, 0, os.SEEK_END)
        if size != self.size:
            raise exceptions.SourceChanged(
                f'{self._path} has {size} bytes, {self.size} were there when '
                f'it was opened'
            )
        if self.validator and self.validator.value != self.version(found):
            raise exceptions.SourceChanged(
                f'{self._path} was written to while it was read'
            )

    def _check_open(self) -> None:
        if self._fd < 0:
            raise exceptions.TransferCancelled(f'{self._path} was closed')

    @property
    def fd(self) -> int:
        """The open descriptor.

        :raises TransferCancelled: the source was closed
        """
        self._check_open()
        return self._fd

    def open_again(self) -> int:
        """Open the same once more, at a position of its own.

        :returns: a descriptor, which is the caller's
        :raises SourceChanged: something else has that path now
        :raises TransferError: it cannot be opened
        """
        with oserrors.os_errors(f'reading {self._path}'):
            flags = os.O_RDONLY | os.O_CLOEXEC
            try:
                return os.open(f'/proc/self/fd/{self.fd}', flags)
            except PermissionError:
                # Who has opened it for us can do so again.
                fd = self._opener(self._path, flags | os.O_NONBLOCK)
            if os.path.sameopenfile(fd, self.fd):
                return fd
        oserrors.close(fd)
        raise exceptions.SourceChanged(f'{self._path} was replaced')

    @property
    def ctx(self) -> _context.Context:
        """The limits to keep."""
        return self._ctx

    @property
    def path(self) -> str:
        """The path, for messages."""
        return self._path

    def extents(
        self, offset: int, length: int
    ) -> Iterator[base.Extent] | None:
        """Holes and data as the file system tells them."""
        if not self._holes:
            return None
        return self._extents(offset, length)

    def _extents(self, offset: int, length: int) -> Iterator[base.Extent]:
        with oserrors.os_errors(f'looking for holes in {self._path}'):
            for extent in localfs.extents(self.fd, offset, length):
                if not extent.data:
                    # What was cut off would look like a hole.
                    self.check_unchanged()
                yield extent

    def close(self) -> None:
        """Close the file; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            oserrors.close(fd)


class FileStream(base.Stream):
    """A run of bytes of a local file."""

    def __init__(self, source: FileSource, offset: int, end: int) -> None:
        super().__init__()
        self._source = source
        self._position = offset
        self._end = end
        self._server_copies: bool | None = None

    def readinto(self, buffer: typing.Any) -> int:
        """Read from the file."""
        self._check_open()
        view = memoryview(buffer).cast('B')
        view = view[: self._end - self._position]
        if not view:
            self._source.check_unchanged()
            return 0
        self._source.ctx.check()
        with oserrors.os_errors(
            f'reading {self._source.path} at byte {self._position}'
        ):
            count = os.preadv(self._source.fd, [view], self._position)
        return self._advance(count)

    def splice(self, fd: int, offset: int, count: int) -> int | None:
        """Leave the copy to the server of a network file system."""
        self._check_open()
        count = min(count, self._end - self._position)
        if not count:
            self._source.check_unchanged()
            return 0
        self._source.ctx.check()
        if self._server_copies is None:
            self._server_copies = localfs.copies_itself(self._source.fd, fd)
        if not self._server_copies:
            return None
        copied = localfs.server_copy(
            self._source.fd, self._position, fd, offset, count
        )
        return copied if copied is None else self._advance(copied)

    def _check_open(self) -> None:
        if self.closed:
            raise exceptions.TransferCancelled(
                f'{self._source.path}: the stream was closed'
            )

    def _advance(self, count: int) -> int:
        if count == 0:
            raise exceptions.SourceChanged(
                f'{self._source.path} ends at byte {self._position}, '
                f'{self._end} were there when it was opened'
            )
        self._position += count
        return count


def _at_once(path: str, flags: int) -> int:
    """Open a file; a FIFO without waiting for its other end."""
    return os.open(path, flags | os.O_NONBLOCK)
