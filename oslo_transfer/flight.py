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
import typing

from oslo_transfer import context as _context
from oslo_transfer import exceptions
from oslo_transfer import journal as _journal
from oslo_transfer import oserrors

SUFFIX = '.oslo-part'
JOURNAL_SUFFIX = '.journal'
_NAME_MAX = 255
_ANY_LENGTH = 1 << 62
# Short at first: what takes a few milliseconds is waited for, too.
_FIRST_PAUSE = 0.002


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


class _Note:
    """The journal of a flight that is waited for.

    It is held open, and so can be read when the flight has landed and the
    journal is gone. What is read earlier may be of somebody who died.

    :param path: the journal
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def open(self) -> None:
        """Open it once it is there."""
        if self._fd < 0:
            with contextlib.suppress(OSError):
                self._fd = _journal.open_file(self._path)

    def identity(self, inode: int) -> _journal.Identity | None:
        """What it says last about a part file."""
        if self._fd < 0:
            return None
        record = _journal.read(self._fd, inode, _ANY_LENGTH)
        return record.identity if record else None

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._fd >= 0:
            oserrors.close(self._fd)


class Flight:
    """The exclusive right to write a local destination.

    :param path: the destination
    :param ctx: bounds the wait for another process
    :param wait: False to give up at once if another process has it
    :raises Unavailable: another process has it
    """

    def __init__(
        self, path: str, ctx: _context.Context, wait: bool = True
    ) -> None:
        self._ctx = ctx
        self._wait = wait
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
        landed: tuple[os.stat_result, _journal.Identity | None] | None = None
        while True:
            fd = self._open()
            try:
                with _Note(journal_path(self.locked_path)) as note:
                    self._lock(fd, note)
                    if self._is_current(fd):
                        self._fd = fd
                        break
                    if same_file(fd, path):
                        found = os.fstat(fd)
                        landed = found, note.identity(found.st_ino)
            except BaseException:
                oserrors.close(fd)
                raise
            oserrors.close(fd)
        with contextlib.suppress(OSError):
            # Others may have taken the lock in between, to find the same.
            if landed and os.path.samestat(landed[0], os.lstat(path)):
                self.landed = landed[1]

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

    def _lock(self, fd: int, note: _Note) -> None:
        """Wait for the lock."""
        pause = _FIRST_PAUSE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not self._wait:
                    raise exceptions.Unavailable(
                        f'another process copies to {self.locked_path}'
                    ) from None
                note.open()
                self._ctx.sleep(pause)
                pause = min(2 * pause, _context.TICK / 2)
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
        return same_file(fd, self.locked_path)

    def sync(self) -> None:
        """Flush the part file.

        :raises StorageError: bytes that were written to it are lost
        """
        with oserrors.os_errors(f'flushing {self.locked_path}'):
            os.fsync(self._fd)

    def release(self, remove: bool) -> None:
        """Give up the right; idempotent.

        :param remove: take away an empty or dropped part file, too
        """
        if self._fd < 0:
            return
        if (
            remove
            and not self.device
            and same_file(self._fd, self.locked_path)
        ):
            with contextlib.suppress(OSError):
                os.unlink(self.locked_path)
        fd, self._fd = self._fd, -1
        oserrors.close(fd)


def same_file(fd: int, path: str) -> bool:
    """Whether a path still leads to the file that is open."""
    try:
        return os.path.samestat(
            os.fstat(fd), os.stat(path, follow_symlinks=False)
        )
    except OSError:
        return False
