# SPDX-License-Identifier: Apache-2.0
"""Block devices that fail when told to, by the device mapper."""

from __future__ import annotations

import contextlib
import pathlib
import typing

from tests.guest import tools

_SECTOR = 512
MIB = 1 << 20


class Disk:
    """A device over a file.

    :ivar path: the device
    :ivar backing: the file that is below it
    """

    def __init__(
        self,
        name: str,
        backing: pathlib.Path,
        size: int,
        stack: contextlib.ExitStack,
    ) -> None:
        self._name = name
        self._sectors = size // _SECTOR
        self.backing = backing
        self.path = pathlib.Path('/dev/mapper', name)
        self._loop = tools.run('losetup', '--find', '--show', backing).strip()
        stack.callback(tools.run, 'losetup', '--detach', self._loop)
        tools.run(
            *('dmsetup', 'create', '--verifyudev', name),
            *('--table', self._linear(0, self._sectors)),
        )
        stack.callback(tools.run, 'dmsetup', 'remove', '--retry', name)

    def _linear(self, start: int, count: int) -> str:
        return f'{start} {count} linear {self._loop} {start}'

    def _load(self, *lines: str) -> None:
        table = '\n'.join(lines)
        tools.run(
            *('dmsetup', 'suspend', '--noflush', '--nolockfs', self._name)
        )
        tools.run('dmsetup', 'load', self._name, '--table', table)
        tools.run('dmsetup', 'resume', self._name)

    def heal(self) -> None:
        """All works again."""
        self._load(self._linear(0, self._sectors))

    def fail(self) -> None:
        """All reads and writes fail."""
        self._load(f'0 {self._sectors} flakey {self._loop} 0 0 1')

    def fail_writes(self) -> None:
        """Writes fail, reads do not."""
        self._load(
            f'0 {self._sectors} flakey {self._loop} 0 0 1 1 error_writes'
        )

    def drop_writes(self) -> None:
        """Writes get lost without an error."""
        self._load(
            f'0 {self._sectors} flakey {self._loop} 0 0 1 1 drop_writes'
        )

    def bad_at(self, offset: int, length: int = 4096) -> None:
        """A run of bytes can be neither read nor written."""
        start, count = offset // _SECTOR, length // _SECTOR
        end = start + count
        self._load(
            *([self._linear(0, start)] if start else []),
            f'{start} {count} error',
            self._linear(end, self._sectors - end),
        )


class Disks:
    """Makes such devices, until the test is over."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._count = 0

    def __enter__(self) -> typing.Self:
        tools.run('modprobe', '-a', 'loop', 'dm_flakey')
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def disk(self, size: int = 16 * MIB, content: bytes = b'') -> Disk:
        """Make a device that works, so far.

        :param size: in bytes, a multiple of 512
        """
        self._count += 1
        name = f'flakey{self._count}'
        backing = self._directory / f'{name}.raw'
        with open(backing, 'wb') as file:
            file.write(content)
            file.truncate(size)
        return Disk(name, backing, size, self._stack)
