# SPDX-License-Identifier: Apache-2.0
"""OpenSSH's sshd as an honest SFTP server, with keys of its own."""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
import functools
import getpass
import os
import pathlib
import signal
import subprocess
import tempfile

from tests.servers import child

# Where sshd locks its unprivileged half up; it must exist.
PRIVSEP = pathlib.Path('/run/sshd')

CONFIG = """
ListenAddress {host}:{port}
{host_keys}
PidFile none
UsePAM no
UseDNS no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile {directory}/authorized_keys
MaxStartups 500
MaxSessions 100
Subsystem sftp internal-sftp
LogLevel {log_level}
{lines}
"""


def make_key(
    path: pathlib.Path, kind: str = 'ed25519', passphrase: str = ''
) -> pathlib.Path:
    """Make a key pair; the public half is in PATH.pub."""
    command = ['ssh-keygen', '-q', '-t', kind, '-N', passphrase]
    if kind == 'rsa':
        command += ['-b', '2048']  # Larger ones take seconds.
    subprocess.run(
        [*command, '-f', str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return path


@functools.cache
def _host_key(kind: str) -> tuple[str, str]:
    """Return the halves of the host key that all servers here have."""
    with tempfile.TemporaryDirectory() as directory:
        path = make_key(pathlib.Path(directory, 'key'), kind)
        return path.read_text(), path.with_suffix('.pub').read_text()


class OpenSSH(child.Child):
    """Serves the whole file system over SFTP while it is entered."""

    program = 'sshd'

    def __init__(
        self,
        *,
        host_keys: Iterable[str] = ('ed25519',),
        log_level: str = 'VERBOSE',
        lines: Iterable[str] = (),
    ) -> None:
        super().__init__()
        #: Types of the host keys, as ssh-keygen names them.
        self.host_keys = tuple(host_keys)
        self.log_level = log_level
        #: Further lines of the configuration.
        self.lines = tuple(lines)
        #: Who runs it, and may log in.
        self.user = getpass.getuser()

    def __enter__(self) -> OpenSSH:
        self.start()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.stop()

    @property
    def key(self) -> pathlib.Path:
        """Return the file of a client key that is let in."""
        return self.directory / 'client'

    def url(self, path: str | os.PathLike[str], userinfo: str = '') -> str:
        """Return the URL of an absolute path."""
        at = f'{userinfo}@' if userinfo else ''
        return f'sftp://{at}{self.host}:{self.port}{os.fspath(path)}'

    def public_key(self, kind: str = 'ed25519') -> str:
        """Return type and key of a host key, as in a known_hosts line."""
        path = self.directory / f'host_{kind}.pub'
        return ' '.join(path.read_text().split()[:2])

    @property
    def known_hosts(self) -> str:
        """Return the right known_hosts text, with a line for each key."""
        return ''.join(
            f'[{self.host}]:{self.port} {self.public_key(kind)}\n'
            for kind in self.host_keys
        )

    def allow(self, key: pathlib.Path) -> None:
        """Let the owner of one more key in."""
        with open(self.directory / 'authorized_keys', 'a') as file:
            file.write(key.with_name(f'{key.name}.pub').read_text())

    def command(self) -> list[str]:
        """Write the configuration; return the command."""
        if os.geteuid() == 0:
            PRIVSEP.mkdir(mode=0o755, exist_ok=True)
        if not self.key.exists():
            make_key(self.key)
            self.allow(self.key)
            for kind in self.host_keys:
                self._write_host_key(kind)
        config = self.directory / 'sshd_config'
        config.write_text(
            CONFIG.format(
                host=self.host,
                port=self.port,
                directory=self.directory,
                log_level=self.log_level,
                host_keys='\n'.join(
                    f'HostKey {self.directory}/host_{kind}'
                    for kind in self.host_keys
                ),
                # Of two lines for one thing the first one counts.
                lines='\n'.join(self.lines),
            )
        )
        # It starts itself anew for each connection, by an absolute path.
        program = self.found() or self.program
        return [program, '-D', '-e', '-f', str(config)]

    def _write_host_key(self, kind: str) -> None:
        private, public = _host_key(kind)
        path = self.directory / f'host_{kind}'
        path.touch(0o600)
        path.write_text(private)
        path.with_suffix('.pub').write_text(public)

    def ready(self) -> bool:
        """Return whether this sshd has bound its port."""
        return f'listening on {self.host} port {self.port}' in self.log()

    def sessions(self) -> list[int]:
        """Return the processes that serve connections, and their parts."""
        found: list[int] = []
        todo = [self.process.pid] if self.process else []
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError):
                children = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
                todo += map(int, children.read_text().split())
            found.append(pid)
        return found[1:]

    def stop(self) -> None:
        """End it, and the connections that it left to themselves."""
        sessions = self.sessions()
        super().stop()
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
