# SPDX-License-Identifier: Apache-2.0
"""One flight per local destination, across processes.

The lock is a ``flock`` on the part file itself, so it leaves nothing
behind: the kernel drops it with its holder, and the file becomes the
destination. Whoever gets the lock looks whether the name still leads to
the file that is locked, and starts over if not. Children that inherited
the descriptor keep the lock: they may still be writing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat

from oslo_transfer import context as _context
from oslo_transfer import exceptions
from oslo_transfer import journal as _journal
from oslo_transfer import oserrors

SUFFIX = '.oslo-part'
JOURNAL_SUFFIX = '.journal'
_NAME_MAX = 255


def part_path(path: str) -> str:
    """Where the bytes of a destination are collected: the same directory.

    A leading dot hides it from shells, the suffix from everybody who looks
    for the real name.
    """
    directory, name = os.path.split(path)
    hidden = f'.{name}{SUFFIX}'
    if len(os.fsencode(hidden + JOURNAL_SUFFIX)) > _NAME_MAX:
        short = hashlib.sha256(os.fsencode(name)).hexdigest()
        hidden = f'.{short}{SUFFIX}'
    return os.path.join(directory, hidden)


def journal_path(part: str) -> str:
    """Where the journal of a part file is."""
    return part + JOURNAL_SUFFIX


def is_device(path: str) -> bool:
    """Whether the path leads to a block device."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


class Flight:
    """The exclusive right to write a local destination.

    :param path: the destination
    :param ctx: bounds the wait for another process
    """

    def __init__(self, path: str, ctx: _context.Context) -> None:
        self._ctx = ctx
        self.device = is_device(path)
        self.locked_path = path if self.device else part_path(path)
        #: What another copy that we waited for has just put there.
        self.landed: _journal.Identity | None = None
        self._fd = -1
        self._take(path)

    @property
    def part_path(self) -> str:
        """The part file; not for devices."""
        return self.locked_path

    @property
    def inode(self) -> int:
        """The part file's inode."""
        return os.fstat(self._fd).st_ino

    @property
    def length(self) -> int:
        """The part file's length in bytes."""
        return os.fstat(self._fd).st_size

    def _take(self, path: str) -> None:
        while True:
            fd = self._open()
            try:
                waited_for = self._lock(fd)
                if self._is_current(fd):
                    self._fd = fd
                    return
                self.landed = None
                if waited_for is not None and _same_file(fd, path):
                    self.landed = waited_for
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        if not self.device:
            flags |= os.O_CREAT
        with oserrors.os_errors(f'creating {self.locked_path}'):
            return os.open(
                self.locked_path,
                flags & ~os.O_NOFOLLOW if self.device else flags,
                0o600,
            )

    def _lock(self, fd: int) -> _journal.Identity | None:
        """Wait for the lock; returns what its holder is copying."""
        holder: _journal.Identity | None = None
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return holder
            except BlockingIOError:
                if not self.device:
                    found = os.fstat(fd)
                    record = _journal.load(
                        journal_path(self.locked_path),
                        found.st_ino,
                        1 << 62,
                    )
                    holder = record.identity if record else holder
                self._ctx.sleep(_context.TICK / 2)
            except OSError as exc:
                raise oserrors.translate(
                    exc, f'locking {self.locked_path}'
                ) from exc

    def _is_current(self, fd: int) -> bool:
        found = os.fstat(fd)
        if self.device:
            return True
        if not stat.S_ISREG(found.st_mode):
            raise exceptions.InvalidEndpoint(
                f'{self.locked_path} is not a regular file'
            )
        if found.st_nlink > 1:
            # Somebody linked it, or we died between link and unlink: the
            # other name is not ours to write to.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.locked_path)
            return False
        return _same_file(fd, self.locked_path)

    def release(self, remove: bool) -> None:
        """Give up the right; idempotent.

        :param remove: take away an empty or dropped part file, too
        """
        if self._fd < 0:
            return
        if (
            remove
            and not self.device
            and _same_file(self._fd, self.locked_path)
        ):
            with contextlib.suppress(OSError):
                os.unlink(self.locked_path)
        os.close(self._fd)
        self._fd = -1


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(
            os.fstat(fd), os.stat(path, follow_symlinks=False)
        )
    except OSError:
        return False
