# SPDX-License-Identifier: Apache-2.0
"""Daemons of others, and the service of the library."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
import signal
import socket
import subprocess
import time

from demo import scene

_READY_SECONDS = 15.0
_PAUSE = 0.02


class Daemon:
    """A process that ends with the demonstration.

    :param command: what to run
    :param log: where it writes
    :param environment: of it, beside ours
    :param end: the signal that ends it
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        log: pathlib.Path,
        environment: Mapping[str, str] | None = None,
        end: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._log = log
        self._end = end
        with open(log, 'wb') as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def wait_for(self, family: int, address: object) -> None:
        """Wait until it listens.

        :raises Broken: it does not
        """

        def listens() -> bool:
            with socket.socket(family) as sock:
                return not sock.connect_ex(address)  # type: ignore[arg-type]

        self.wait_until(listens)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until something is the case.

        :raises Broken: it is not
        """
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            if ready():
                return
            time.sleep(_PAUSE)
        self.close()
        raise scene.Broken(f'it does not work: {self._log.read_text()}')

    def close(self) -> None:
        """End it."""
        self._process.send_signal(self._end)
        self._process.wait()


class Service:
    """``oslo-transfer serve``, until the end.

    :param name: of its directory
    :param role: what it does
    :param options: for it alone
    """

    def __init__(
        self, here: scene.Scene, name: str, role: str, options: str = ''
    ) -> None:
        directory = here.root / name
        directory.mkdir()
        path = directory / 'control.sock'
        #: How to reach it, for a configuration.
        self.options = (
            f'[oslo_transfer_service]\ncontrol_socket = {path}\n'
            f'[oslo_transfer]\nstate_path = {directory}\n'
        )
        #: Its configuration.
        self.conf_file = directory / 'service.conf'
        self.conf_file.write_text(f'{self.options}{options}')
        process = Daemon(
            [
                *(scene.TOOL, '--config-file', self.conf_file),
                *('serve', '--role', role),
            ],
            directory / 'log',
        )
        here.undo(process.close)
        process.wait_for(socket.AF_UNIX, str(path))
