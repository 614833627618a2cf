# SPDX-License-Identifier: Apache-2.0
"""squid as a forward proxy, with a password if wanted."""

from __future__ import annotations

import pathlib
import shutil
import signal
import subprocess

from tests.servers import child

HELPER = '/usr/lib/squid/basic_ncsa_auth'
USER = 'proxy'

CONFIG = """
http_port {host}:{port}
visible_hostname oslo-transfer-test
pid_filename none
access_log stdio:{directory}/access.log
cache_log {directory}/cache.log
cache_store_log none
coredump_dir {directory}
cache deny all
cache_mem 8 MB
max_filedescriptors 1024
shutdown_lifetime 0 seconds
netdb_filename none
pinger_enable off
{auth}
http_access deny all
"""

AUTH = """
auth_param basic program {helper} {passwords}
auth_param basic children 1 startup=1
auth_param basic realm test
acl known proxy_auth REQUIRED
http_access allow known
"""


class Squid(child.Child):
    """Proxies http and CONNECT while it is entered."""

    program = 'squid'
    signal = signal.SIGKILL

    def __init__(self, user: str | None = None, password: str = '') -> None:
        super().__init__()
        self.user = user
        self.password = password

    def __enter__(self) -> Squid:
        self.start()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Return the proxy's URL, without a password."""
        return f'http://{self.host}:{self.port}'

    def requests(self) -> list[str]:
        """Return the lines of the access log so far."""
        log = self.directory / 'access.log'
        return log.read_text().splitlines() if log.exists() else []

    def command(self) -> list[str]:
        """Write the configuration; return the command."""
        auth = 'http_access allow all'
        if self.user is not None:
            passwords = self.directory / 'passwords'
            passwords.write_text(f'{self.user}:{self._hash()}\n')
            auth = AUTH.format(helper=HELPER, passwords=passwords)
        config = self.directory / 'squid.conf'
        config.write_text(
            CONFIG.format(
                host=self.host,
                port=self.port,
                directory=self.directory,
                auth=auth,
            )
        )
        self._give_away(self.directory)
        return [self.found() or self.program, '-N', '-f', str(config)]

    def ready(self) -> bool:
        """Return whether this squid has bound its port."""
        log = self.directory / 'cache.log'
        return log.exists() and 'Accepting HTTP' in log.read_text()

    def _hash(self) -> str:
        openssl = shutil.which('openssl') or 'openssl'
        return subprocess.run(
            [openssl, 'passwd', '-apr1', '-stdin'],
            input=self.password,
            text=True,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout.strip()

    @staticmethod
    def _give_away(directory: pathlib.Path) -> None:
        # Started as root, squid works as another user.
        try:
            for file in [directory, *directory.iterdir()]:
                shutil.chown(file, USER)
        except (LookupError, PermissionError):
            pass
