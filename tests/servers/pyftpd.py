# SPDX-License-Identifier: Apache-2.0
"""pyftpdlib in a thread: an FTP server with a directory of its own."""

from __future__ import annotations

import logging
import pathlib
import tempfile
import threading
from typing import Any

from pyftpdlib import authorizers
from pyftpdlib import handlers
from pyftpdlib import ioloop
from pyftpdlib import servers

#: A login that may read and write.
USER = 'somebody'
PASSWORD = 'something'

ALL = 'elradfmwMT'
READ = 'elr'


class PyFTPd:
    """Serves a temporary directory on a loopback port.

    Guests may read and write; a directory ``denied`` may be read by
    nobody and written by nobody.

    :param certificate: files of a certificate and its key: TLS is then
        demanded on all connections
    :param handler: replaces methods of the handler, by name
    :param without: commands that the server does not know
    :param root: what to serve; made and removed if it is None
    """

    def __init__(
        self,
        certificate: tuple[str, str] | None = None,
        *,
        handler: dict[str, Any] | None = None,
        without: tuple[str, ...] = (),
        root: str | None = None,
        host: str = '127.0.0.1',
    ) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if root is None:
            self._temporary = tempfile.TemporaryDirectory(prefix='pyftpd-')
            root = self._temporary.name
        self.root = pathlib.Path(root)
        (self.root / 'denied').mkdir(exist_ok=True)
        authorizer = authorizers.DummyAuthorizer()
        # It warns about guests who may write, which is what we want.
        authorizer._check_permissions = lambda *_args: None
        authorizer.add_anonymous(root, perm=ALL)
        authorizer.add_user(USER, PASSWORD, root, perm=ALL)
        for user in (USER, 'anonymous'):
            authorizer.override_perm(user, str(self.root / 'denied'), 'e')
        base = handlers.FTPHandler
        #: Every command that came, without its argument.
        self.commands: list[str] = []
        fields: dict[str, Any] = {}
        if certificate is not None:
            base = handlers.TLS_FTPHandler
            fields['certfile'], fields['keyfile'] = certificate
            fields['tls_control_required'] = True
            fields['tls_data_required'] = True
        fields['authorizer'] = authorizer
        # Nobody waits for what a wrong password costs here.
        fields['auth_failed_timeout'] = 0
        fields['proto_cmds'] = {
            verb: how
            for verb, how in base.proto_cmds.items()
            if verb not in without
        }
        fields['log_prefix'] = ''
        seen = self.commands
        pre_process = base.pre_process_command

        def noting(self, line, cmd, arg):
            seen.append(cmd)
            return pre_process(self, line, cmd, arg)

        fields['pre_process_command'] = noting
        fields.update(handler or {})
        self.handler = type('Handler', (base,), fields)
        self.scheme = 'ftp' if certificate is None else 'ftps'
        # It would log to the terminal by itself.
        logging.getLogger('pyftpdlib').setLevel(logging.CRITICAL)
        self._loop = ioloop.IOLoop()
        self.server = servers.FTPServer(
            (host, 0), self.handler, ioloop=self._loop
        )
        self.host, self.port = self.server.address[:2]
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name='pyftpd', daemon=True
        )

    def url(self, path: str, userinfo: str = '') -> str:
        """The URL of a path in the directory that is served."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{self.scheme}://{userinfo}{host}:{self.port}/{path}'

    def _run(self) -> None:
        while not self._stop.is_set():
            self._loop.loop(timeout=0.02, blocking=False)
        self.server.close_all()

    def __enter__(self) -> PyFTPd:
        self._thread.start()
        return self

    def close(self) -> None:
        """Hang up everywhere; idempotent."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        self._loop.close()

    def __exit__(self, *_exc: object) -> None:
        self.close()
        if self._temporary is not None:
            self._temporary.cleanup()
