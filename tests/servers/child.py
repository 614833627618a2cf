# SPDX-License-Identifier: Apache-2.0
"""A server program as a child process that ends with the test."""

from __future__ import annotations

import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

READY_SECONDS = 10.0
PORT_TRIES = 10


class PortTaken(Exception):
    """Somebody else took the port before the program could bind it."""


def free_port(host: str = '127.0.0.1') -> int:
    """Return a port that was free a moment ago."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


class Child:
    """Starts a program on a free port; a new port each time it is taken."""

    #: The program, and where Debian keeps what is not in PATH.
    program = ''
    host = '127.0.0.1'
    #: What ends it: kill where a polite end takes seconds.
    signal = signal.SIGTERM

    def __init__(self) -> None:
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.directory = pathlib.Path()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def found(cls) -> str | None:
        """Return the program's path, None where it is not installed."""
        path = '/usr/local/sbin:/usr/sbin:/sbin'
        return shutil.which(cls.program) or shutil.which(
            cls.program, path=path
        )

    def command(self) -> list[str]:
        """Write the configuration for self.port; return the command."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Return whether the program, and no other, answers."""
        raise NotImplementedError

    def log(self) -> str:
        """Return what the program wrote."""
        return ''.join(
            file.read_text(errors='replace')
            for file in sorted(self.directory.glob('*.log'))
        )

    def start(self) -> None:
        """Start the program and wait until it answers."""
        self._temporary = tempfile.TemporaryDirectory(
            prefix=f'{self.program}-'
        )
        self.directory = pathlib.Path(self._temporary.name)
        try:
            for _ in range(PORT_TRIES):
                self.port = free_port(self.host)
                try:
                    self._start_once()
                    return
                except PortTaken:
                    self._end()
                    for log in self.directory.glob('*.log'):
                        log.unlink()
            raise RuntimeError(f'{self.program}: no free port')
        except BaseException:
            self.stop()
            raise

    def _start_once(self) -> None:
        command = self.command()
        if setpriv := shutil.which('setpriv'):
            # Killed with the thread that starts it, whatever happens.
            command = [setpriv, '--pdeathsig', 'KILL', *command]
        with open(self.directory / 'output.log', 'wb') as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
            )
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            # nginx goes on trying for seconds.
            if self.process.poll() is not None or self._refused():
                break
            if self._connects() and self.ready():
                return
            try:
                self.process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
        if self._refused():
            raise PortTaken
        raise RuntimeError(f'{self.program} did not start:\n{self.log()}')

    def _refused(self) -> bool:
        log = self.log()
        return 'ddress already in use' in log or 'annot bind' in log

    def _connects(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), 1).close()
        except OSError:
            return False
        return True

    def _end(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(self.signal)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def stop(self) -> None:
        """End the program and remove its files."""
        self._end()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
