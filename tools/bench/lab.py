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

from bench import paced
from bench import registry
from bench import worker
from tests.servers import nginx

MIB = 1 << 20
_SHM = '/dev/shm'


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
    def nginx(self) -> nginx.Nginx:
        """A server of the directory in memory.

        :raises Unmeasurable: it is not installed
        """
        if nginx.Nginx.found() is None:
            raise registry.Unmeasurable('nginx is not installed')
        return self._stack.enter_context(nginx.Nginx(self.memory))

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
