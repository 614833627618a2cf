# SPDX-License-Identifier: Apache-2.0
"""What Linux file systems can do beyond reading and writing."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import re
import stat
import typing

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import oserrors

_FICLONE = 0x40049409  # linux/fs.h
_PUNCH_HOLE = 0x02 | 0x01  # linux/falloc.h: PUNCH_HOLE | KEEP_SIZE

# Where copy_file_range(2) is done by a server, or by sharing blocks.
# Elsewhere it is no faster than reading and writing.
_SERVER_COPY = frozenset(
    {'nfs', 'nfs4', 'cifs', 'smb3', 'ceph', 'xfs', 'btrfs', 'ocfs2'}
)


def clone(source_fd: int, part_fd: int) -> str:
    """Share all blocks of one file with another, see ioctl_ficlone(2).

    :returns: ``reflink``
    :raises CapabilityMissing: the file systems cannot; says why
    """
    try:
        fcntl.ioctl(part_fd, _FICLONE, source_fd)
    except OSError as exc:
        size = os.fstat(source_fd).st_size
        if exc.errno == errno.EINVAL and os.fstat(part_fd).st_size > size:
            # Half a block cannot be put into the middle of a file.
            os.ftruncate(part_fd, size)
            return clone(source_fd, part_fd)
        reasons = {
            errno.EXDEV: 'source and destination are on different file '
            'systems',
            errno.EOPNOTSUPP: 'the file system has no reflinks',
            errno.ENOTTY: 'the file system has no reflinks',
            errno.EINVAL: 'the file system cannot reflink this file',
        }
        if exc.errno not in reasons:
            raise
        raise exceptions.CapabilityMissing(reasons[exc.errno]) from exc
    return 'reflink'


def extents(fd: int, offset: int, length: int) -> Iterator[base.Extent]:
    """Tell holes from data by SEEK_HOLE and SEEK_DATA, see lseek(2)."""
    end = offset + length
    position = offset
    while position < end:
        try:
            data = min(os.lseek(fd, position, os.SEEK_DATA), end)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            data = end  # Nothing but a hole up to the end.
        if data > position:
            yield base.Extent(position, data - position, False)
        if data < end:
            hole = min(os.lseek(fd, data, os.SEEK_HOLE), end)
            yield base.Extent(data, hole - data, True)
            position = hole
        else:
            position = end


def copies_itself(source_fd: int, fd: int) -> bool:
    """Whether both files are where a server, or sharing, does a copy."""
    kinds = _mounts()
    for each in (source_fd, fd):
        device = os.fstat(each).st_dev
        numbers = os.major(device), os.minor(device)
        if kinds.get(numbers) not in _SERVER_COPY:
            return False
    return True


def server_copy(
    source_fd: int, source_offset: int, fd: int, offset: int, count: int
) -> int | None:
    """Copy by copy_file_range(2).

    :returns: bytes copied, or None where these two files cannot
    """
    try:
        return os.copy_file_range(source_fd, fd, count, source_offset, offset)
    except OSError as exc:
        if exc.errno in (
            errno.EXDEV,
            errno.EOPNOTSUPP,
            errno.EINVAL,
            errno.ENOSYS,
        ):
            return None
        raise


def _mounts() -> dict[tuple[int, int], str]:
    """File system types by device number, see proc_pid_mountinfo(5)."""
    found: dict[tuple[int, int], str] = {}
    with (
        contextlib.suppress(OSError),
        open('/proc/self/mountinfo') as mounts,
    ):
        for line in mounts:
            match = re.match(r'\S+ \S+ (\d+):(\d+) .* - (\S+) ', line)
            if match:
                device = int(match.group(1)), int(match.group(2))
                found[device] = match.group(3)
    return found


@functools.cache
def _fallocate() -> typing.Any:
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
        ctypes.c_int64,
    )
    return function


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Make a run of a file a hole, and the file long enough for it.

    :returns: False where the file system cannot
    """
    size = os.fstat(fd).st_size
    if size < offset + length:
        os.ftruncate(fd, offset + length)
    if size <= offset + length:
        # The last page goes as a whole. A part of one would be zeroed, and
        # stay.
        length += -(offset + length) % mmap.PAGESIZE
    return bool(_fallocate()(fd, _PUNCH_HOLE, offset, length) == 0)


def current_umask() -> int:
    """The process's umask, without changing it as umask(2) would."""
    with (
        contextlib.suppress(OSError),
        open('/proc/self/status') as status,
    ):
        for line in status:
            if line.startswith('Umask:'):
                return int(line.split()[1], 8)
    return 0o022


def take_over_ownership(fd: int, path: str) -> None:
    """Give a part file the mode and owner that its name should have.

    Those of the file that it replaces, else what open(2) would give.
    """
    mine = os.fstat(fd)
    try:
        old = os.stat(path, follow_symlinks=False)
    except OSError:
        os.fchmod(fd, 0o666 & ~current_umask())
        return
    if (old.st_uid, old.st_gid) != (mine.st_uid, mine.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, stat.S_IMODE(old.st_mode) & 0o777)


def rename(part: str, path: str, overwrite: bool) -> None:
    """Give a file its final name.

    :raises FileExistsError: the name is taken and may not be replaced
    """
    if overwrite:
        os.rename(part, path)
        return
    try:
        # Unlike rename(2) this fails if somebody took the name meanwhile.
        os.link(part, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links leaves a short race.
        if os.path.lexists(path):
            raise FileExistsError(
                errno.EEXIST, os.strerror(errno.EEXIST), path
            ) from None
        os.rename(part, path)
    else:
        # It is complete under its name, and that is what counts.
        with contextlib.suppress(OSError):
            os.unlink(part)


def sync_directory(path: str) -> None:
    """Make names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as exc:
        # Some network file systems cannot; their renames are synchronous.
        if exc.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        oserrors.close(fd)


def pwrite_all(fd: int, buffer: memoryview, offset: int, path: str) -> None:
    """Write all of a buffer.

    :param path: names the file in errors
    """
    with oserrors.os_errors(f'writing {path} at byte {offset}'):
        while buffer:
            count = os.pwrite(fd, buffer, offset)
            buffer = buffer[count:]
            offset += count
