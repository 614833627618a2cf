# SPDX-License-Identifier: Apache-2.0
"""Real NBD servers: nbdkit and qemu-nbd, on TCP or a unix socket."""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
import os
import pathlib
import signal
import subprocess
import typing

from tests.servers import child


# The flag and the state of a socket that takes connections.
_ACCEPTS, _LISTENS = '00010000', '0A'


class _Server(child.Child):
    """What both have in common.

    :param unix: listen on a unix socket instead of TCP
    """

    signal = signal.SIGKILL

    def __init__(self, unix: bool = False) -> None:
        super().__init__()
        self.unix = unix

    def __enter__(self) -> typing.Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def socket(self) -> pathlib.Path:
        """The unix socket."""
        return self.directory / 'socket'

    def url(self, export: str = '', scheme: str = 'nbd') -> str:
        """Return the URL of an export."""
        if self.unix:
            return f'{scheme}+unix:///{export}?socket={self.socket}'
        host = 'localhost' if scheme == 'nbds' else self.host
        return f'{scheme}://{host}:{self.port}/{export}'

    def ready(self) -> bool:
        """Return whether it answers."""
        return True

    def end(self) -> None:
        """End it as if it had crashed; the rest stays as it is."""
        self._end()

    def begin_again(self) -> None:
        """Start it anew where it was."""
        self.socket.unlink(missing_ok=True)
        self._start_once()

    def _connects(self) -> bool:
        # Nobody knocks: some servers end with their first client.
        if self.unix:
            return any(
                fields[-1] == str(self.socket) and fields[3] == _ACCEPTS
                for fields in _table('unix')
            )
        return any(
            fields[1].endswith(f':{self.port:04X}') and fields[3] == _LISTENS
            for fields in _table('tcp')
        )


def _table(name: str) -> list[list[str]]:
    """Sockets as the kernel lists them (proc(5))."""
    lines = pathlib.Path('/proc/net', name).read_text().splitlines()
    return [line.split() for line in lines[1:]]


class Nbdkit(_Server):
    """nbdkit with a plugin and filters.

    :param arguments: the plugin and its parameters
    :param filters: their names
    :param options: further options of nbdkit itself
    """

    program = 'nbdkit'

    def __init__(
        self,
        *arguments: str | os.PathLike[str],
        filters: Iterable[str] = (),
        options: Iterable[str] = (),
        unix: bool = False,
    ) -> None:
        super().__init__(unix)
        self.arguments = [os.fspath(each) for each in arguments]
        self.filters = [f'--filter={name}' for name in filters]
        self.options = list(options)

    def command(self) -> list[str]:
        """Return the command."""
        where = (
            ['-U', str(self.socket)]
            if self.unix
            else ['-i', self.host, '-p', str(self.port)]
        )
        program = self.found()
        assert program is not None
        return [
            program,
            '--foreground',
            '--exit-with-parent',
            *where,
            *self.options,
            *self.filters,
            *self.arguments,
        ]


class QemuNbd(_Server):
    """qemu-nbd with one image, for any number of clients.

    :param image: the image
    :param kind: its format
    :param options: further ones
    """

    program = 'qemu-nbd'

    def __init__(
        self,
        image: str | os.PathLike[str],
        kind: str = 'raw',
        *,
        options: Iterable[str] = ('--persistent', '--shared=0'),
        unix: bool = False,
    ) -> None:
        super().__init__(unix)
        self.image = os.fspath(image)
        self.kind = kind
        self.options = list(options)

    def command(self) -> list[str]:
        """Return the command."""
        where = (
            ['--socket', str(self.socket)]
            if self.unix
            else ['--bind', self.host, '--port', str(self.port)]
        )
        program = self.found()
        assert program is not None
        return [
            program,
            *('--format', self.kind),
            *where,
            *self.options,
            self.image,
        ]

    @staticmethod
    def make(path: pathlib.Path, kind: str, size: int) -> pathlib.Path:
        """Make an empty image."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        subprocess.run(
            ['qemu-img', 'create', '-q', '-f', kind, path, str(size)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return path
