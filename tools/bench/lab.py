# SPDX-License-Identifier: Apache-2.0
"""What benchmarks work with: places, an image, servers, a worker."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import random
import re
import shutil
import tempfile
import typing

from bench import daemon
from bench import paced
from bench import registry
from bench import worker
from demo import certificate
from tests.servers import nginx as _nginx

MIB = 1 << 20
_SHM = '/dev/shm'

_Daemon = typing.TypeVar('_Daemon', bound=daemon.Daemon)


class Lab:
    """Makes things when they are first asked for; a context manager.

    :param runs: how often each contestant runs, after one warm-up
    :param size: of the image in bytes; other sizes follow from it
    """

    def __init__(self, runs: int, size: int) -> None:
        self.runs = runs
        self.size = size
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    # Places

    @functools.cached_property
    def memory(self) -> pathlib.Path:
        """A directory in memory, where there is room for all files."""
        # The image, a copy, a partial copy at the moment of a rename.
        needed = 5 * self.size // 2 + 512 * MIB
        if os.path.isdir(_SHM):
            free = min(shutil.disk_usage(_SHM).free, _available_memory())
            if free >= needed:
                return self.directory(_SHM)
        path = self.directory(None)
        print(
            f'{_SHM} has no room for {needed // MIB} MiB: files are in '
            f'{path}, and its disk counts'
        )
        return path

    @functools.cached_property
    def disk(self) -> tuple[pathlib.Path, str]:
        """A directory on a disk, and the type of its file system.

        :raises Unmeasurable: the temporary directory is on none
        """
        for place in (tempfile.gettempdir(), os.getcwd()):
            kind = file_system(place)
            if kind not in ('tmpfs', 'ramfs', 'overlay'):
                return self.directory(place), kind
        raise registry.Unmeasurable('no directory is on a disk; set TMPDIR')

    def directory(self, parent: str | None) -> pathlib.Path:
        """A directory that is removed in the end."""
        temporary = tempfile.TemporaryDirectory(
            prefix='oslo-transfer-bench-', dir=parent
        )
        return pathlib.Path(self._stack.enter_context(temporary))

    # Files

    @functools.cached_property
    def image(self) -> pathlib.Path:
        """The image: random bytes, as of a compressed file system."""
        path = self.memory / 'image'
        self.random_file(path, self.size)
        return path

    @staticmethod
    def random_file(path: pathlib.Path, size: int) -> None:
        """Write a file of random bytes."""
        with open(path, 'wb') as file:
            while (left := size - file.tell()) > 0:
                file.write(os.urandom(min(MIB, left)))

    @staticmethod
    def sparse_file(path: pathlib.Path, size: int, data: int) -> None:
        """Write a file with data in pieces of 1 MiB, and holes between."""
        places = random.Random(size).sample(range(size // MIB), data // MIB)
        with open(path, 'wb') as file:
            for place in places:
                file.seek(place * MIB)
                file.write(os.urandom(MIB))
            file.truncate(size)

    # Processes

    @functools.cached_property
    def nginx(self) -> _nginx.Nginx:
        """A server of the directory in memory.

        :raises Unmeasurable: it is not installed
        """
        return self._start_nginx()

    @functools.cached_property
    def nginx_tls(self) -> _nginx.Nginx:
        """One with TLS.

        :raises Unmeasurable: it is not installed
        """
        pem = str(self._certificates[0])
        return self._start_nginx(certificate=(pem, pem))

    def _start_nginx(self, **options: typing.Any) -> _nginx.Nginx:
        if _nginx.Nginx.found() is None:
            raise registry.Unmeasurable('nginx is not installed')
        return self._stack.enter_context(_nginx.Nginx(self.memory, **options))

    @functools.cached_property
    def _certificates(self) -> tuple[pathlib.Path, pathlib.Path]:
        return certificate.make(self.directory(None))

    @property
    def ca_file(self) -> str:
        """What clients of the servers with TLS have to trust."""
        return str(self._certificates[1])

    @functools.cached_property
    def vsftpd(self) -> daemon.Vsftpd:
        """An FTP server of the directory in memory.

        :raises Unmeasurable: it is not installed
        """
        started = daemon.Vsftpd(self.directory(None), self.memory)
        return self._closing(started)

    @functools.cached_property
    def vsftpd_tls(self) -> daemon.Vsftpd:
        """One with TLS.

        :raises Unmeasurable: it is not installed
        """
        started = daemon.Vsftpd(
            self.directory(None), self.memory, self._certificates[0]
        )
        return self._closing(started)

    @functools.cached_property
    def sshd(self) -> daemon.Sshd:
        """An SFTP server of all files.

        :raises Unmeasurable: it is not installed
        """
        return self._closing(daemon.Sshd(self.directory(None)))

    def _closing(self, started: _Daemon) -> _Daemon:
        return self._stack.enter_context(contextlib.closing(started))

    @functools.cached_property
    def worker(self) -> worker.Worker:
        """The process in which this library is measured."""
        return self._stack.enter_context(contextlib.closing(worker.Worker()))

    def paced(self, path: pathlib.Path, rate: int, ranges: bool) -> str:
        """Serve a file at a rate per connection; returns its URL."""
        server = paced.Paced(path, rate, ranges)
        return self._stack.enter_context(contextlib.closing(server)).url


def _available_memory() -> int:
    with open('/proc/meminfo') as file:
        found = re.search(r'^MemAvailable: +(\d+) kB', file.read(), re.M)
    assert found is not None
    return int(found.group(1)) * 1024


def file_system(path: str) -> str:
    """The type of the file system that a path is on."""
    device = os.stat(path).st_dev
    numbers = f'{os.major(device)}:{os.minor(device)}'
    kind = 'unknown'
    with open('/proc/self/mountinfo') as file:
        for line in file:
            fields = line.split()
            if fields[2] == numbers:
                kind = fields[fields.index('-') + 1]
    return kind
