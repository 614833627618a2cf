# SPDX-License-Identifier: Apache-2.0
"""The machine that boots, and what it says."""

from __future__ import annotations

import pathlib
import socket
import subprocess
import tempfile
import time
import typing

from tests.guest_boot import disk as _disk
from tests.guest_lab import image
from tests.guest_lab import machine

_END_SECONDS = 10.0
_TAIL = 4000


class Machine:
    """A guest with one disk, from its start; a context manager.

    :param disk: what it boots
    :param drive: QEMU's ``-drive`` of the disk, but for the interface
    """

    def __init__(self, disk: _disk.Disk, drive: str) -> None:
        self._disk = disk
        self._drive = drive
        self._temporary = tempfile.TemporaryDirectory(prefix='boot-')
        self._process: subprocess.Popen[bytes] | None = None
        self._socket, self._theirs = socket.socketpair()
        self._said = b''

    def __enter__(self) -> typing.Self:
        there = pathlib.Path(self._temporary.name)
        try:
            with (
                self._theirs,
                open(there / 'errors', 'wb') as errors,
            ):
                # Killed with the thread that starts it, whatever happens.
                self._process = subprocess.Popen(
                    ['setpriv', '--pdeathsig', 'KILL', *self._command(there)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=[self._theirs.fileno()],
                    env={'PATH': image.PATH, 'TMPDIR': str(there)},
                )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _command(self, there: pathlib.Path) -> list[str]:
        return [
            *('qemu-system-x86_64', '-nodefaults', '-no-user-config'),
            *('-display', 'none', '-no-reboot', '-net', 'none'),
            *('-accel', 'tcg', '-cpu', machine.PROCESSOR, '-m', '384M'),
            *('-kernel', str(self._disk.kernel)),
            *('-initrd', str(self._disk.initrd)),
            *('-append', ' '.join(machine.KERNEL)),
            *('-chardev', f'file,id=console,path={there / "console"}'),
            *('-serial', 'chardev:console'),
            *('-chardev', f'socket,id=lab,fd={self._theirs.fileno()}'),
            *('-serial', 'chardev:lab'),
            *('-drive', f'if=virtio,{self._drive}'),
        ]

    def wait(self, seconds: float) -> str:
        """Wait until it has booted, or has done what it was told.

        :returns: what it printed
        :raises GuestDied: it is gone, or slow, or it failed
        """
        end = time.monotonic() + seconds
        while True:
            text, mark, rest = self._said.partition(b'done ')
            status, newline, rest = rest.partition(b'\n')
            if mark and newline:
                self._said = rest
                if int(status):
                    raise self._died(f'it failed: {text.decode()}')
                return text.decode()
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            try:
                more = self._socket.recv(1 << 16)
            except TimeoutError:
                raise self._died(f'no answer in {seconds} s') from None
            if not more:
                raise self._died('it ended')
            self._said += more.replace(b'\r', b'')

    def tell(self, script: str) -> None:
        """Have a line of shell run; :meth:`wait` returns what it prints."""
        self._socket.sendall(script.encode() + b'\n')

    def run(self, script: str, seconds: float = 30.0) -> str:
        """Have a line of shell run, and wait for it."""
        self.tell(script)
        return self.wait(seconds)

    def _died(self, reason: str) -> machine.GuestDied:
        there = pathlib.Path(self._temporary.name)
        said = ''.join(
            (there / name).read_text(errors='replace')
            for name in ('errors', 'console')
        )
        return machine.GuestDied(f'{reason}; its console:\n{said[-_TAIL:]}')

    def close(self) -> None:
        """End it; idempotent."""
        self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait(_END_SECONDS)
            self._process = None
        self._temporary.cleanup()
