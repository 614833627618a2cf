# SPDX-License-Identifier: Apache-2.0
"""What the catalogue of bad behaviours is made of, and runs in."""

from __future__ import annotations

import base64
from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import pathlib
import ssl
import tempfile
from typing import Any
from typing import TypeVar

from tests.servers import certs as servers_certs
from tests.servers import http
from tests.servers import resource
from tests.servers import wire

SIZE = 256 * 1024
#: What a client holds when an interrupted copy is resumed.
HELD = 100 * 1024
CREDENTIALS = ('authorization', 'x-auth-token', 'cookie')
MODIFIED = 'Sat, 21 Nov 2026 10:00:00 GMT'

OK = 'ok'
FAIL = 'fail'
OK_OR_FAIL = 'ok_or_fail'
UNDETECTABLE = 'undetectable'


class Lab:
    """Two origins, more when asked for, and the secrets of one client."""

    def __init__(self, certs: servers_certs.Certs | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix='evil-http-')
        self.directory = pathlib.Path(self._temporary.name)
        self._certs = certs
        self._servers: list[http.ScriptedHTTPServer] = []
        self._tls: http.ScriptedHTTPServer | None = None
        self._host2: http.ScriptedHTTPServer | None = None
        #: Headers with credentials, for the client to send to its origin.
        self.credentials = {
            'Authorization': 'Bearer s3cr3t-bearer',
            'X-Auth-Token': 's3cr3t-token',
            'Cookie': 'session=s3cr3t-cookie',
        }
        #: Strings that may be seen nowhere but at the origin.
        self.secrets = {'s3cr3t-bearer', 's3cr3t-token', 's3cr3t-cookie'}
        #: The token that is valid now: what a refresh callback returns.
        self.token = 's3cr3t-token'
        self.a = self.new_server(name='origin-a')
        self.b = self.new_server(name='origin-b')

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()
        if kind is None and self.errors:
            raise RuntimeError('a handler failed') from self.errors[0]

    @property
    def certs(self) -> servers_certs.Certs:
        """Return the certificates, made if the test gave none."""
        if self._certs is None:
            self._certs = servers_certs.Certs(self.directory / 'certs')
        return self._certs

    @property
    def tls(self) -> http.ScriptedHTTPServer:
        """Return the TLS origin."""
        if self._tls is None:
            self._tls = self.new_server('good', name='origin-tls')
        return self._tls

    @property
    def host2(self) -> http.ScriptedHTTPServer:
        """Return an origin on another host, 127.0.0.2."""
        if self._host2 is None:
            self._host2 = self.new_server(host='127.0.0.2', name='host2')
        return self._host2

    def new_server(
        self, certificate: str | ssl.SSLContext | None = None, **options: Any
    ) -> http.ScriptedHTTPServer:
        """Start one more server, which ends with the lab."""
        if isinstance(certificate, str):
            certificate = self.certs.server_context(certificate)
        server = http.ScriptedHTTPServer(certificate, **options)
        self._servers.append(server)
        return server

    @property
    def servers(self) -> list[http.ScriptedHTTPServer]:
        """Return all servers."""
        return list(self._servers)

    @property
    def requests(self) -> list[wire.Request]:
        """Return the requests to all servers, by time."""
        found = [r for server in self._servers for r in server.requests]
        return sorted(found, key=lambda request: request.time)

    @property
    def errors(self) -> list[Exception]:
        """Return the bugs of handlers."""
        return [error for server in self._servers for error in server.errors]

    def leaked(
        self,
        *servers: http.ScriptedHTTPServer,
        names: tuple[str, ...] = CREDENTIALS,
    ) -> list[str]:
        """Return the credentials that reached servers not meant."""
        found = []
        for server in servers:
            for request in server.requests:
                where = f'{server.origin}{request.path}'
                for name, value in request.headers.items():
                    if name in names or self._secret(value):
                        found.append(f'{name} at {where}')
                if self._secret(request.target):
                    found.append(f'target at {where}')
        return found

    def _secret(self, text: str) -> bool:
        if text.lower().startswith('basic '):
            text += base64.b64decode(text[6:] + '==').decode('latin-1')
        return any(secret in text for secret in self.secrets)

    def close(self) -> None:
        """End all servers."""
        try:
            for server in self._servers:
                server.closing.set()
            for server in self._servers:
                server.close()
        finally:
            self._temporary.cleanup()


Install = Callable[[Lab, str, bytes], str | list[str]]
Check = Callable[[Lab], list[str]]


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """One way to misbehave, and what a good client makes of it."""

    id: str
    title: str
    #: install(lab, path, data) -> the URL to read, or several mirrors.
    install: Install
    #: 'ok', 'fail', 'ok_or_fail' or 'undetectable', with no facts known.
    expect: str
    #: The same when the caller gives the size, or size and digest.
    with_size: str | None = None
    with_digest: str | None = None
    #: Other whole contents that are right where no digest excludes them.
    versions: Callable[[bytes], tuple[bytes, ...]] | None = None
    #: Whether the first answer is cut after HELD bytes.
    resume: bool = False
    #: Of tls, dns, second_origin, env, token, headers.
    needs: frozenset[str] = frozenset()
    #: Secrets seen where they must not be.
    leak_check: Check | None = None
    #: Other broken promises.
    check: Check | None = None
    elapsed_limit: float = 10.0
    #: Environment and request headers that the client must be run with.
    environ: Callable[[Lab], dict[str, str]] | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def row(self) -> str:
        """Return the row in the notes that this is a case of."""
        return '-'.join(self.id.split('-')[:2])

    def expects(self, facts: str = 'none') -> str:
        """Return what must happen with facts none, size or digest."""
        size = self.with_size or self.expect
        digest = self.with_digest or size
        if facts == 'digest':
            return OK_OR_FAIL if digest == UNDETECTABLE else digest
        return {'none': self.expect, 'size': size}[facts]

    def right(self, data: bytes, facts: str = 'none') -> tuple[bytes, ...]:
        """Return every content that counts as right."""
        more = self.versions(data) if self.versions else ()
        if facts == 'digest':
            more = ()
        elif facts == 'size':
            more = tuple(m for m in more if len(m) == len(data))
        return (data, *more)

    def violations(self, lab: Lab) -> list[str]:
        """Return leaks and broken promises, after the client has ended."""
        checks = (self.leak_check, self.check)
        return [text for check in checks if check for text in check(lab)]


BEHAVIOURS: dict[str, Behaviour] = {}

AnyInstall = TypeVar('AnyInstall', bound=Install)
RowHandler = Callable[[wire.Request, wire.Connection, bytes], Any]


def behaviour(
    key: str,
    title: str,
    expect: str,
    *,
    needs: tuple[str, ...] = (),
    **fields: Any,
) -> Callable[[AnyInstall], AnyInstall]:
    """Register an install function under an id."""

    def register(install: AnyInstall) -> AnyInstall:
        assert key not in BEHAVIOURS, key
        assert expect in (OK, FAIL, OK_OR_FAIL, UNDETECTABLE)
        BEHAVIOURS[key] = Behaviour(
            key, title, install, expect, needs=frozenset(needs), **fields
        )
        return install

    return register


def handler(
    key: str, title: str, expect: str, **fields: Any
) -> Callable[[RowHandler], RowHandler]:
    """Register a function that answers every request at the first origin."""

    def register(function: RowHandler) -> RowHandler:
        def install(lab: Lab, path: str, data: bytes) -> str:
            return lab.a.serve(
                path, lambda request, conn: function(request, conn, data)
            )

        behaviour(key, title, expect, **fields)(install)
        return function

    return register


def other(data: bytes) -> bytes:
    """Return another version: as long, and different in every byte."""
    return data.translate(bytes(value ^ 0x5A for value in range(256)))


def newer(data: bytes) -> tuple[bytes, ...]:
    """Return the contents that are right after a change to other()."""
    return (other(data),)


def good(data: bytes, **options: Any) -> resource.Resource:
    """Return a well-behaved resource."""
    return resource.Resource(data, len(data), **options)
