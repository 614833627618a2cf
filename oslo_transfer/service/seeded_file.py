# SPDX-License-Identifier: Apache-2.0
"""A finished file that is only read, and let go when it changes."""

from __future__ import annotations

from collections.abc import Sequence
import os
import stat

from oslo_transfer import exceptions
from oslo_transfer import oserrors


class SeededFile:
    """An open file; for one thread at a time.

    The descriptor keeps naming the same file whatever happens to the path,
    and keeps a deleted file on the disk: ask :meth:`lost` often.

    :ivar fd: a descriptor to read from
    :param path: an absolute path that leads to no symbolic link
    :param size: bytes that it has to have
    :param directories: where it has to be, in any depth; () for anywhere
    :raises InvalidEndpoint: the path is not absolute, or of no plain file
    :raises SizeMismatch: it has another size
    :raises PolicyRefused: it is in none of the directories
    :raises TransferError: it cannot be opened
    """

    def __init__(
        self, path: str, size: int, directories: Sequence[str] = ()
    ) -> None:
        try:
            usable = b'\0' not in os.fsencode(path) and os.path.isabs(path)
        except UnicodeEncodeError:
            usable = False
        if not usable:
            raise exceptions.InvalidEndpoint(f'{path!r} is no absolute path')
        self.path = path
        self._size = size
        with oserrors.os_errors(f'opening {path}'):
            # A FIFO would keep us waiting.
            self.fd = os.open(
                path,
                os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
            )
        try:
            self._check(directories)
        except BaseException:
            self.close()
            raise

    def _check(self, directories: Sequence[str]) -> None:
        self._opened = os.fstat(self.fd)
        if not stat.S_ISREG(self._opened.st_mode):
            raise exceptions.InvalidEndpoint(f'{self.path} is no plain file')
        if self._opened.st_size != self._size:
            raise exceptions.SizeMismatch(
                self._size, self._opened.st_size, self.path
            )
        # Where the open file is, which no rename can change any more.
        real = os.readlink(f'/proc/self/fd/{self.fd}')
        allowed = [os.path.realpath(each) for each in directories]
        if allowed and not any(
            os.path.commonpath((each, real)) == each for each in allowed
        ):
            raise exceptions.PolicyRefused(
                f'{self.path} is below none of [oslo_transfer_seed] seed_paths'
            )

    def lost(self) -> str:
        """Why it can no longer be what it was, or ''."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return 'the file was removed'
        except OSError as exc:
            return f'the file cannot be found: {exc.strerror}'
        if not os.path.samestat(found, self._opened):
            return 'the file was replaced'
        if found.st_size != self._size:
            return 'the file has another size'
        return ''

    def touched(self) -> bool:
        """Whether it was written to since the last call.

        Nova sets the time of a base image whenever it uses it, so this
        does not tell that the content has changed.
        """
        before = self._opened.st_mtime_ns
        try:
            self._opened = os.fstat(self.fd)
        except OSError:  # For example a file server that forgot it.
            return True
        return self._opened.st_mtime_ns != before

    def close(self) -> None:
        """Let it go; may be called twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            oserrors.close(fd)
