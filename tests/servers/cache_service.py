# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer serve --role cache``, as operators run it."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import typing

from oslo_config import cfg

from oslo_transfer import opts
from oslo_transfer.service import client
from tests import waiting

#: What the installed command runs; there may be no such command here.
SCRIPT = (
    'import sys; from oslo_transfer.cli import main; sys.exit(main.main())'
)
_PATIENCE = 20.0


class CacheService:
    """A service with a state of its own, while it is entered.

    :param path: an empty directory with a short name
    :param options: of the configuration, by group
    """

    #: What it does.
    role = 'cache'

    def __init__(
        self,
        path: pathlib.Path,
        options: Mapping[str, Mapping[str, typing.Any]] | None = None,
    ) -> None:
        self.path = path
        self.state = path / 'state'
        self.log = path / 'log'
        self.config = path / 'config'
        self._process: subprocess.Popen[bytes] | None = None
        groups: dict[str, dict[str, typing.Any]] = {
            'oslo_transfer': {'state_path': self.state},
            'oslo_transfer_service': {'control_socket': path / 'sock'},
            'oslo_transfer_cache': {'hydrate_delay': 0},
        }
        for group, values in (options or {}).items():
            groups.setdefault(group, {}).update(values)
        self.config.write_text(
            '\n'.join(
                line
                for group, values in groups.items()
                for line in (
                    f'[{group}]',
                    *(f'{name} = {value}' for name, value in values.items()),
                )
            )
        )

    def conf(self) -> cfg.ConfigOpts:
        """A configuration for those who ask it."""
        conf = cfg.ConfigOpts()
        opts.register_opts(conf)
        conf(['--config-file', str(self.config)], project='test')
        return conf

    @property
    def client(self) -> client.Client:
        """Asks it."""
        return client.Client(self.conf())

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def command(self, *words: str) -> list[str]:
        """A command of the command line."""
        python = [sys.executable, '-c', SCRIPT]
        return [*python, '--config-file', str(self.config), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line."""
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start it, and wait until it can be asked."""
        command = self.command('serve', '--role', self.role)
        if setpriv := shutil.which('setpriv'):
            command = [setpriv, '--pdeathsig', 'KILL', *command]
        notified = self.path / 'notify'
        with (
            open(self.log, 'ab') as log,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            with contextlib.suppress(FileNotFoundError):
                notified.unlink()
            sock.bind(str(notified))
            # It may run as another user.
            notified.chmod(0o666)
            sock.settimeout(_PATIENCE)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, 'NOTIFY_SOCKET': str(notified)},
            )
            try:
                while sock.recv(100) != b'READY=1':
                    pass
            except TimeoutError:
                self.stop(signal.SIGKILL)
                raise AssertionError(self.log.read_text()) from None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal that ends it; returns the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        status = self._process.wait(_PATIENCE)
        self._process = None
        return status

    def __enter__(self) -> typing.Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            # Killed, it would leave mounts to be taken away.
            assert self.stop() == 0, self.log.read_text()

    def export(
        self, destination: str | os.PathLike[str]
    ) -> dict[str, typing.Any]:
        """What it says of what a destination leads to."""
        (found,) = (
            each
            for each in self.client.cached()
            if each['destination'] == str(destination)
        )
        return found

    def wait(
        self, destination: str | os.PathLike[str], *states: str
    ) -> dict[str, typing.Any]:
        """Wait until what a destination leads to has one of some states."""
        waiting.until(
            lambda: self.export(destination)['state'] in states, _PATIENCE
        )
        return self.export(destination)
