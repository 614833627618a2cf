# SPDX-License-Identifier: Apache-2.0
"""The service's unix socket, and that there is only one service."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat

from oslo_transfer import accounts
from oslo_transfer import exceptions
from oslo_transfer import oserrors

#: Whose members may connect.
GROUP_OPTION = '[oslo_transfer_service] control_socket_group'

_BACKLOG = 128
#: Bytes of a socket's name with the zero at its end; unix(7).
_MAX_NAME = 108


class Lock:
    """Keeps a second process away; ends with the process at the latest.

    :param path: a file that is made for it, and stays: removing it could
        take the name from under the next process's lock
    :param purpose: what it stands for, for the message
    :raises Unavailable: another process has it
    :raises TransferError: the file cannot be made
    """

    def __init__(self, path: str, purpose: str) -> None:
        with oserrors.os_errors(f'locking {path}'):
            self._fd = os.open(
                path,
                os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
        try:
            self._lock(path, purpose)
        except BaseException:
            self.close()
            raise

    def _lock(self, path: str, purpose: str) -> None:
        with oserrors.os_errors(f'locking {path}'):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(self._fd, 20, 0).decode('ascii', 'replace')
                raise exceptions.Unavailable(
                    f'another service (process {pid.strip() or "unknown"}) '
                    f'uses {purpose}'
                ) from None
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f'{os.getpid()}\n'.encode(), 0)

    def close(self) -> None:
        """Let the next one have it; may be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            oserrors.close(fd)


class Listener:
    """A unix socket that listens, with its lock; a context manager.

    What is left of a process that was killed is replaced. At no moment can
    anybody connect who is not meant to.

    :ivar sock: the socket
    :param path: where it is; the directory above it is made if needed
    :param group: name or number of the group that may connect, or None
    :raises ConfigurationError: the path or the group cannot be used
    :raises Unavailable: another service listens there
    :raises TransferError: the socket cannot be made
    """

    def __init__(self, path: str, group: str | None) -> None:
        if not os.path.isabs(path) or len(os.fsencode(path)) >= _MAX_NAME - 4:
            raise exceptions.ConfigurationError(
                f'[oslo_transfer_service] control_socket "{path}" is not an '
                f'absolute path of fewer than {_MAX_NAME - 4} bytes'
            )
        gid = accounts.gid_of(group, GROUP_OPTION)
        with oserrors.os_errors(
            f'making {os.path.dirname(path)} (see [oslo_transfer_service] '
            f'control_socket)'
        ):
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        self._path = path
        self._lock = Lock(f'{path}.lock', path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with oserrors.os_errors(f'making the socket {path}'):
                self._listen(gid)
        except BaseException:
            self.sock.close()
            self._lock.close()
            raise

    def _listen(self, gid: int | None) -> None:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(self._path).st_mode):
                raise exceptions.ConfigurationError(
                    f'{self._path} is no socket; remove it, or set '
                    f'[oslo_transfer_service] control_socket'
                )
        # Nobody can connect before listen(), so the mode comes in time.
        temporary = f'{self._path}.new'
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        self.sock.bind(temporary)
        accounts.give(temporary, None, gid)
        os.chmod(temporary, 0o600 if gid is None else 0o660)
        os.rename(temporary, self._path)
        self.sock.listen(_BACKLOG)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self.sock.close()
        self._lock.close()
