# SPDX-License-Identifier: Apache-2.0
"""paramiko as an SFTP server of all files, where there is no sshd.

A program, see :class:`demo.program.Program`. Its argument is a directory
with the files ``host`` and ``client.pub``.
"""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib
import socket
import sys
import threading
import typing

import paramiko


class _Login(paramiko.ServerInterface):
    """Lets the owner of one key in."""

    allowed: typing.ClassVar[str]

    def get_allowed_auths(self, _username: str) -> str:
        """What there is."""
        return 'publickey'

    def check_auth_publickey(self, _username: str, key: paramiko.PKey) -> int:
        """Whether it is the key."""
        right = key.get_base64() == self.allowed
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, _kind: str, _channel: int) -> int:
        """Any channel."""
        return paramiko.OPEN_SUCCEEDED


def _status(function: Callable[..., object], *arguments: object) -> int:
    """Do something; returns what SFTP says of it."""
    try:
        function(*arguments)
    except OSError as error:
        code: int = paramiko.SFTPServer.convert_errno(error.errno)
        return code
    return paramiko.SFTP_OK


def _attributes(found: os.stat_result) -> paramiko.SFTPAttributes:
    return paramiko.SFTPAttributes.from_stat(found)


class _Handle(paramiko.SFTPHandle):
    """An open file; several transfers read it at any place."""

    def __init__(self, fd: int, flags: int) -> None:
        super().__init__(flags)
        self._fd = fd

    def read(self, offset: int, length: int) -> bytes:
        """Some bytes."""
        return os.pread(self._fd, length, offset)

    def write(self, offset: int, data: bytes) -> int:
        """Write some."""
        return _status(os.pwrite, self._fd, data, offset)

    def stat(self) -> paramiko.SFTPAttributes:
        """Attributes."""
        return _attributes(os.fstat(self._fd))

    def chattr(self, attr: paramiko.SFTPAttributes) -> int:
        """Set some."""
        path = f'/proc/self/fd/{self._fd}'
        return _status(paramiko.SFTPServer.set_file_attr, path, attr)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class _Files(paramiko.SFTPServerInterface):
    """Does what it is asked for, to any file."""

    def open(
        self, path: str, flags: int, _attr: paramiko.SFTPAttributes
    ) -> _Handle | int:
        """Open a file."""
        try:
            return _Handle(os.open(path, flags, 0o600), flags)
        except OSError as error:
            code: int = paramiko.SFTPServer.convert_errno(error.errno)
            return code

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        """Attributes, of what a link leads to."""
        return self._look(os.stat, path)

    def lstat(self, path: str) -> paramiko.SFTPAttributes | int:
        """Attributes, of a link itself."""
        return self._look(os.lstat, path)

    def _look(
        self, function: Callable[[str], os.stat_result], path: str
    ) -> paramiko.SFTPAttributes | int:
        try:
            return _attributes(function(path))
        except OSError as error:
            code: int = paramiko.SFTPServer.convert_errno(error.errno)
            return code

    def remove(self, path: str) -> int:
        """Remove a file."""
        return _status(os.remove, path)

    def rename(self, old: str, new: str) -> int:
        """Rename a file, but replace none."""
        return _status(os.link, old, new) or _status(os.remove, old)

    def posix_rename(self, old: str, new: str) -> int:
        """Rename a file."""
        return _status(os.replace, old, new)

    def chattr(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        """Set attributes."""
        return _status(paramiko.SFTPServer.set_file_attr, path, attr)


def _serve(connection: socket.socket, key: paramiko.PKey) -> None:
    transport = paramiko.Transport(connection)
    transport.add_server_key(key)
    transport.set_subsystem_handler('sftp', paramiko.SFTPServer, _Files)
    try:
        transport.start_server(server=_Login())
    except (paramiko.SSHException, EOFError):
        transport.close()


def _accept(listener: socket.socket, key: paramiko.PKey) -> None:
    while True:
        connection, _address = listener.accept()
        threading.Thread(
            target=_serve, args=(connection, key), daemon=True
        ).start()


def main() -> None:
    """Serve until the input ends."""
    directory = pathlib.Path(sys.argv[1])
    _Login.allowed = (directory / 'client.pub').read_text().split()[1]
    key = paramiko.Ed25519Key.from_private_key_file(str(directory / 'host'))
    listener = socket.create_server(('127.0.0.1', 0))
    threading.Thread(target=_accept, args=(listener, key), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


if __name__ == '__main__':
    main()
