# SPDX-License-Identifier: Apache-2.0
"""nginx as a proxy, with the configuration that the manual has."""

from __future__ import annotations

import os
import pathlib
import re
import socket
import typing

from tests.servers import child

#: The file of the manual.
MANUAL = (
    pathlib.Path(__file__).parents[2] / 'doc/source/admin/nginx-proxy.conf'
)
_ORIGIN, _NETWORK = 'images.example', '203.0.113.0/24'
_MAIN = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/temporary;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    # As Debian's nginx.conf.
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    include {directory}/manual.conf;
}}
"""


class NginxProxy(child.Child):
    """Runs the file of the manual while it is entered.

    Nothing in it is changed but the port, the address of the origin, who
    may ask, and directories.

    :param origin: the authority of the origin, for ``images.example``
    :param clients: the network of those who may ask
    :param host: the address to listen at
    """

    program = 'nginx'

    def __init__(
        self, origin: str, clients: str = _NETWORK, host: str = '127.0.0.1'
    ) -> None:
        super().__init__()
        self.host = host
        self._origin = origin
        self._clients = clients

    def __enter__(self) -> typing.Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Its base, as it is in the option ``proxies``."""
        return f'plain+http://{self.host}:{self.port}'

    def of(self, url: str) -> str:
        """The URL at which it has what is at one of the origin."""
        scheme, rest = url.split('://')
        return f'http://{self.host}:{self.port}/{scheme}/{rest}'

    @property
    def cached(self) -> int:
        """Bytes that it keeps."""
        return sum(
            path.stat().st_size
            for path in self.directory.glob('cache/**/*')
            if path.is_file()
        )

    def access_log(self) -> str:
        """What it wrote of requests."""
        return (self.directory / 'oslo-transfer.log').read_text()

    def command(self) -> list[str]:
        """Write the configuration; return the command."""
        text = MANUAL.read_text()
        for old, new in (
            (f'server {_ORIGIN}:80;', f'server {self._origin};'),
            (re.escape(_ORIGIN), re.escape(self._origin)),
            ('listen 8480;', f'listen {self.host}:{self.port};'),
            (_NETWORK, self._clients),
            ('/var/cache/nginx/oslo-transfer', f'{self.directory}/cache'),
            ('/var/log/nginx', f'{self.directory}'),
        ):
            assert old in text, f'{MANUAL.name} has no {old}'
            text = text.replace(old, new)
        (self.directory / 'manual.conf').write_text(text)
        config = self.directory / 'nginx.conf'
        # The rest is refused from a temporary directory, too.
        user = 'user root;' if os.geteuid() == 0 else ''
        config.write_text(user + _MAIN.format(directory=self.directory))
        program = self.found() or self.program
        return [
            *(program, '-c', str(config)),
            *('-e', str(self.directory / 'error.log')),
        ]

    def ready(self) -> bool:
        """Return whether this nginx answers, and no other server."""
        with socket.create_connection((self.host, self.port), 1) as sock:
            sock.sendall(b'GET / HTTP/1.0\r\n\r\n')
            return b' 403 ' in sock.makefile('rb').readline()
