# SPDX-License-Identifier: Apache-2.0
"""That one process has a cache directory, and which one."""

from __future__ import annotations

import fcntl
import os

from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors

#: The file that is locked. It stays: removing it could take the name from
#: under the lock of the next process.
NAME = 'lock'
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST = 4096


class Lock:
    """Has a directory to itself; ends with the process at the latest.

    :param directory: absolute; made if it is not there
    :param owner: where this process can be talked to, or ''
    :raises Unavailable: another process has it; says which
    :raises ConfigurationError: it is used for something else
    :raises TransferError: it cannot be made, or written
    """

    def __init__(self, directory: str, owner: str) -> None:
        path = os.path.join(directory, NAME)
        with oserrors.os_errors(f'making {directory}'):
            os.makedirs(directory, 0o700, exist_ok=True)
            # A file system of its own begins with that.
            names = set(os.listdir(directory)) - {'lost+found'}
        if names and NAME not in names:
            raise exceptions.ConfigurationError(
                f'{directory} is not a cache, and not empty: set [oslo_'
                f'transfer_cache] directory to one of its own'
            )
        with oserrors.os_errors(f'locking {path}'):
            self._fd = os.open(path, _FLAGS, 0o600)
            try:
                self._take(directory, owner)
            except BaseException:
                self.close()
                raise

    def _take(self, directory: str, owner: str) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = os.pread(self._fd, _MOST, 0).decode(errors='replace')
            pid, _, socket = told.strip().partition('\n')
            where = f', which listens at {socket}' if socket else ''
            raise exceptions.Unavailable(
                f'{directory} is the cache of another process'
                f' ({pid or "unknown"}{where})'
            ) from None
        localfs.sync_directory(directory)
        localfs.sync_directory(os.path.dirname(directory))
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f'{os.getpid()}\n{owner}\n'.encode(), 0)

    def close(self) -> None:
        """Let the next one have it; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            oserrors.close(fd)
