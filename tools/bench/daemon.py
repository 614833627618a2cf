# SPDX-License-Identifier: Apache-2.0
"""Servers of the distribution as child processes: vsftpd, OpenSSH's sshd."""

from __future__ import annotations

import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import time
import typing

from bench import registry

_HOST = '127.0.0.1'
_READY_SECONDS = 10.0
_PORT_TRIES = 10
# Where Debian keeps what is not in PATH.
_SBIN = '/usr/local/sbin:/usr/sbin:/sbin'
# Where sshd locks its unprivileged half up if it runs as root.
_PRIVSEP = pathlib.Path('/run/sshd')


class Daemon:
    """Starts a program on a free port.

    :param directory: for its files; removed by the caller
    :raises Unmeasurable: the program is not installed
    """

    program: typing.ClassVar[str]

    def __init__(self, directory: pathlib.Path) -> None:
        found = shutil.which(self.program) or shutil.which(
            self.program, path=_SBIN
        )
        if found is None:
            raise registry.Unmeasurable(f'{self.program} is not installed')
        # sshd wants an absolute path: it starts itself anew.
        self._found = found
        self.directory = directory
        self._log = directory / f'{self.program}.log'
        self.prepare()
        for _try in range(_PORT_TRIES):
            self.port = _free_port()
            if self._start():
                return
        raise registry.Unmeasurable(
            f'{self.program} does not start: {self._log.read_text()}'
        )

    def prepare(self) -> None:
        """Write what does not depend on the port."""

    def arguments(self) -> list[str]:
        """Write the configuration; returns the arguments."""
        raise NotImplementedError

    def _start(self) -> bool:
        """Whether it answers before it ends."""
        with open(self._log, 'wb') as log:
            self._process = subprocess.Popen(
                [self._found, *self.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                socket.create_connection((_HOST, self.port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return True
        self.close()
        return False

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((_HOST, 0))
        port: int = sock.getsockname()[1]
    return port


class Vsftpd(Daemon):
    """Serves a directory to guests.

    :param root: the directory
    :param certificate: a file with the key, too: TLS is demanded then, and
        that data connections go on with the session
    """

    program = 'vsftpd'

    def __init__(
        self,
        directory: pathlib.Path,
        root: pathlib.Path,
        certificate: pathlib.Path | None = None,
    ) -> None:
        self._root = root
        self._certificate = certificate
        super().__init__(directory)

    def url(self, path: str) -> str:
        """The URL of a file below the root."""
        scheme = 'ftps' if self._certificate else 'ftp'
        return f'{scheme}://localhost:{self.port}{path}'

    def arguments(self) -> list[str]:
        """Write the configuration; returns the arguments."""
        options = {
            'listen': 'YES',
            'listen_address': _HOST,
            'listen_port': self.port,
            'background': 'NO',
            # No root is needed then, and no user of its own.
            'run_as_launching_user': 'YES',
            'seccomp_sandbox': 'NO',
            'xferlog_enable': 'NO',
            'anonymous_enable': 'YES',
            'no_anon_password': 'YES',
            'anon_root': self._root,
        }
        if self._certificate:
            options |= {
                'ssl_enable': 'YES',
                'rsa_cert_file': self._certificate,
                'allow_anon_ssl': 'YES',
                'force_anon_logins_ssl': 'YES',
                'force_anon_data_ssl': 'YES',
                'require_ssl_reuse': 'YES',
                'ssl_ciphers': 'HIGH',
            }
        config = self.directory / 'vsftpd.conf'
        config.write_text(
            ''.join(f'{name}={value}\n' for name, value in options.items())
        )
        return [str(config)]


class Sshd(Daemon):
    """Serves all files over SFTP to whoever runs it, with a key."""

    program = 'sshd'

    def prepare(self) -> None:
        """Make the keys of both ends."""
        if os.geteuid() == 0:
            _PRIVSEP.mkdir(mode=0o755, exist_ok=True)
        #: The client's key.
        self.key = self.directory / 'client'
        self._host_key = self.directory / 'host'
        for path in (self.key, self._host_key):
            subprocess.run(
                ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', path],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
            )
        shutil.copy(f'{self.key}.pub', self.directory / 'authorized_keys')

    def arguments(self) -> list[str]:
        """Write the configuration; returns the arguments."""
        public = pathlib.Path(f'{self._host_key}.pub').read_text()
        #: The right known_hosts file.
        self.known_hosts = self.directory / 'known_hosts'
        self.known_hosts.write_text(f'[{_HOST}]:{self.port} {public}')
        config = self.directory / 'sshd_config'
        config.write_text(
            f'ListenAddress {_HOST}:{self.port}\n'
            f'HostKey {self._host_key}\n'
            f'AuthorizedKeysFile {self.directory}/authorized_keys\n'
            'PidFile none\n'
            'UsePAM no\n'
            'UseDNS no\n'
            'StrictModes no\n'
            'PermitRootLogin prohibit-password\n'
            'PasswordAuthentication no\n'
            'KbdInteractiveAuthentication no\n'
            'Subsystem sftp internal-sftp\n'
        )
        return ['-D', '-e', '-f', str(config)]

    def url(self, path: pathlib.Path) -> str:
        """The URL of a file."""
        return f'sftp://{_HOST}:{self.port}{path}'

    @property
    def options(self) -> dict[str, str]:
        """What the library has to be told to get in."""
        return {
            'oslo_transfer_sftp.known_hosts_file': str(self.known_hosts),
            'oslo_transfer_sftp.private_key_file': str(self.key),
        }

    def client(
        self,
        *options: str | os.PathLike[str],
        fetch: tuple[pathlib.Path, pathlib.Path] | None = None,
    ) -> tuple[str | os.PathLike[str], ...]:
        """The command of OpenSSH's own client, without a configuration.

        :param options: more of them
        :param fetch: a file, and where to put it
        """
        host = f'{getpass.getuser()}@{_HOST}'
        return (
            *('sftp', '-q', '-F', 'none', '-o', 'BatchMode=yes'),
            *('-o', f'UserKnownHostsFile={self.known_hosts}'),
            *('-i', self.key, '-o', 'IdentitiesOnly=yes'),
            *('-P', str(self.port), *options),
            *((f'{host}:{fetch[0]}', fetch[1]) if fetch else (host,)),
        )
