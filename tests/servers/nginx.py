# SPDX-License-Identifier: Apache-2.0
"""nginx as an honest and fast server of a directory."""

from __future__ import annotations

import os
import pathlib
import secrets
import socket
import ssl

from tests.servers import child

CONFIG = """
daemon off;
{workers}
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
events {{ worker_connections 1024; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    client_max_body_size 0;
    lingering_close always;
    server {{
        listen {host}:{port}{listen};
        root "{root}";
        {lines}
        location = /.ready {{ return 200 {token}; }}
        location / {{
            autoindex off;
            {location}
        }}
    }}
}}
"""


class Nginx(child.Child):
    """Serves a directory while it is entered."""

    program = 'nginx'

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        limit_rate: int | None = None,
        ranges: bool = True,
        put: bool = False,
        certificate: tuple[str, str] | None = None,
        location: str = '',
        workers: int | None = None,
    ) -> None:
        super().__init__()
        self.root = pathlib.Path(root).resolve()
        #: Bytes per second on each connection.
        self.limit_rate = limit_rate
        self.ranges = ranges
        #: Whether PUT and DELETE are taken.
        self.put = put
        #: Files of certificate and key: serve TLS.
        self.certificate = certificate
        #: Further lines for the location.
        self.location = location
        #: Processes as an installed one has them; None for one that does
        #: all, and is surely ended with the test.
        self.workers = workers
        self._token = secrets.token_hex(16)

    def __enter__(self) -> Nginx:
        self.start()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.stop()

    def url(self, path: str = '/') -> str:
        """Return the URL of a file below the root."""
        scheme = 'https' if self.certificate else 'http'
        return f'{scheme}://{self.host}:{self.port}{path}'

    def command(self) -> list[str]:
        """Write the configuration; return the command."""
        lines, location = [], [self.location]
        if self.certificate:
            lines.append(f'ssl_certificate "{self.certificate[0]}";')
            lines.append(f'ssl_certificate_key "{self.certificate[1]}";')
        if self.limit_rate:
            location.append(f'limit_rate {self.limit_rate};')
        if not self.ranges:
            location.append('max_ranges 0;')
        if self.put:
            location.append('dav_methods PUT DELETE;')
            location.append('create_full_put_path on;')
        workers = 'master_process off;\nworker_processes 1;'
        if self.workers is not None:
            # They see what this user sees; only root has to say so.
            user = 'user root;' if os.geteuid() == 0 else ''
            workers = f'{user}\nworker_processes {self.workers};'
        config = self.directory / 'nginx.conf'
        config.write_text(
            CONFIG.format(
                directory=self.directory,
                workers=workers,
                host=self.host,
                port=self.port,
                listen=' ssl' if self.certificate else '',
                root=self.root,
                lines='\n        '.join(lines),
                location='\n            '.join(location),
                token=self._token,
            )
        )
        program = self.found() or self.program
        error_log = str(self.directory / 'error.log')
        return [program, '-c', str(config), '-e', error_log]

    def ready(self) -> bool:
        """Return whether this nginx answers, and no other server."""
        address = (self.host, self.port)
        try:
            with socket.create_connection(address, 1) as plain:
                sock = plain
                if self.certificate:
                    context = ssl.create_default_context()
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                    sock = context.wrap_socket(plain)
                with sock:
                    sock.sendall(b'GET /.ready HTTP/1.0\r\n\r\n')
                    answer = sock.makefile('rb').read()
        except OSError:
            return False
        return answer.endswith(self._token.encode())
