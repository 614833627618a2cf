# SPDX-License-Identifier: Apache-2.0
"""What the catalogue of bad FTP behaviours is made of, and runs in."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import socket
import ssl
from typing import Any
from typing import TypeVar

from oslo_transfer import exceptions
from tests.servers import certs as servers_certs
from tests.servers import lab
from tests.servers import scripted_ftp

SIZE = 256 * 1024
#: What a client holds when a copy is interrupted.
HELD = 100 * 1024
NAME = 'image'
LOGIN = ('lab-user', 's3cr3t-pass')
#: What no client of this project has a use for: active mode, listings,
#: directories, and commands to the host.
UNWANTED = frozenset(
    'PORT EPRT LPRT LIST NLST MLSD MLST CWD CDUP SITE ACCT HOST MODE STRU '
    'STAT ALLO APPE STOU MKD RMD SMNT'.split()
)
ALL_FACTS = ('none', 'size', 'digest')
#: Where the facts cannot make a difference: nothing gets that far.
NO_FACTS = ('none',)

OK = lab.OK
FAIL = lab.FAIL
OK_OR_FAIL = lab.OK_OR_FAIL
UNDETECTABLE = lab.UNDETECTABLE

Kind = type[exceptions.TransferError]
other = lab.other
newer = lab.newer


class Lab:
    """FTP servers and plain listeners that end together."""

    def __init__(self, certs: servers_certs.Certs) -> None:
        self.certs = certs
        self.servers: list[scripted_ftp.ScriptedFTPServer] = []
        #: Listeners that nobody may connect to.
        self.forbidden: list[socket.socket] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self._stack.close()
        if kind is None and self.errors:
            raise RuntimeError('a step failed') from self.errors[0]

    def new_server(
        self, tls: str | ssl.SSLContext | None = None, **options: Any
    ) -> scripted_ftp.ScriptedFTPServer:
        """Start a server that knows the lab's login only."""
        context = (
            self.certs.server_context(tls) if isinstance(tls, str) else tls
        )
        server = scripted_ftp.ScriptedFTPServer(context, **options)
        self._stack.callback(server.close)
        server.login = LOGIN
        self.servers.append(server)
        return server

    def listen(self, host: str, port: int = 0) -> socket.socket:
        """Listen at an address that nobody may connect to."""
        listener = socket.create_server((host, port))
        self._stack.callback(listener.close)
        self.forbidden.append(listener)
        return listener

    def silent_port(self) -> int:
        """Return a port that does not answer: its queue is full."""
        listener = self._stack.enter_context(
            socket.create_server(('127.0.0.1', 0), backlog=0)
        )
        port: int = listener.getsockname()[1]
        for _ in range(3):
            sock = self._stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(('127.0.0.1', port))
        return port

    @property
    def errors(self) -> list[Exception]:
        """Return the bugs of steps."""
        return [error for server in self.servers for error in server.errors]

    def violations(self) -> list[str]:
        """Return what no client may do, whatever the server does."""
        found = []
        for server in self.servers:
            binary: dict[int, bool] = {}
            for command in list(server.commands):
                if command.verb in UNWANTED:
                    found.append(f'{command.verb} was sent')
                if {*command.argument} & {*'\r\n\0'}:
                    found.append(f'{command.verb} with a control character')
                if command.verb == 'TYPE':
                    binary[command.session] = command.argument == 'I'
                elif command.verb in ('SIZE', 'RETR', 'STOR'):
                    if not binary.get(command.session):
                        found.append(f'{command.verb} before TYPE I')
            if server.tls is not None and server.in_clear:
                found.append('a password came in clear')
            if any(login != LOGIN for login in server.logins):
                found.append('another login came')
        for listener in self.forbidden:
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                found.append('a connection to somebody else')
        return found


Install = Callable[[Lab, bytes], str]
Check = Callable[[Lab], list[str]]
AnyInstall = TypeVar('AnyInstall', bound=Install)
AnyStep = TypeVar('AnyStep', bound=scripted_ftp.Step)


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """One way to misbehave, and what a good client makes of it."""

    id: str
    title: str
    #: install(lab, data) -> the URL to read.
    install: Install
    #: 'ok', 'fail', 'ok_or_fail' or 'undetectable', with no facts known.
    expect: str
    #: The same when the caller gives the size, or size and digest.
    with_size: str | None = None
    with_digest: str | None = None
    #: What it fails with, if it fails.
    errors: tuple[Kind, ...] = (exceptions.TransferError,)
    #: Other whole contents that are right where no digest excludes them.
    versions: Callable[[bytes], tuple[bytes, ...]] | None = None
    #: Broken promises of the client.
    check: Check | None = None
    #: The facts that may make a difference.
    facts: tuple[str, ...] = ALL_FACTS
    #: How often it may be tried again without progress.
    retries: int = 1
    elapsed_limit: float = 4.0

    @property
    def row(self) -> str:
        """Return the row in the notes that this is a case of."""
        return '-'.join(self.id.split('-')[:2])

    def expects(self, facts: str) -> str:
        """Return what must happen with some facts."""
        size = self.with_size or self.expect
        digest = self.with_digest or size
        if facts == 'digest':
            return OK_OR_FAIL if digest == UNDETECTABLE else digest
        return {'none': self.expect, 'size': size}[facts]

    def right(self, data: bytes, facts: str) -> tuple[bytes, ...]:
        """Return every content that counts as right."""
        more = self.versions(data) if self.versions else ()
        if facts == 'digest':
            more = ()
        elif facts == 'size':
            more = tuple(m for m in more if len(m) == len(data))
        return (data, *more)


BEHAVIOURS: dict[str, Behaviour] = {}


def behaviour(
    key: str, title: str, expect: str, **fields: Any
) -> Callable[[AnyInstall], AnyInstall]:
    """Register an install function under an id."""

    def register(install: AnyInstall) -> AnyInstall:
        assert key not in BEHAVIOURS, key
        assert expect in (OK, FAIL, OK_OR_FAIL, UNDETECTABLE)
        BEHAVIOURS[key] = Behaviour(key, title, install, expect, **fields)
        return install

    return register


def step(
    key: str,
    title: str,
    verb: str,
    expect: str,
    *,
    tls: str | None = None,
    no_size: bool = False,
    **fields: Any,
) -> Callable[[AnyStep], AnyStep]:
    """Register a step of an otherwise good server.

    :param tls: a certificate's name
    :param no_size: SIZE is not implemented
    """

    def register(function: AnyStep) -> AnyStep:
        def install(world: Lab, data: bytes) -> str:
            server = world.new_server(tls)
            server.on(verb, function)
            if no_size:
                server.on('SIZE', refuse(502, 'SIZE not implemented.'))
            return server.put(NAME, data)

        behaviour(key, title, expect, **fields)(install)
        return function

    return register


def refuse(code: int, *lines: str) -> scripted_ftp.Step:
    """Return a step that only says something."""

    def say(session: scripted_ftp.Session, _argument: str) -> None:
        session.reply(code, *lines)

    return say


def raw(data: bytes) -> scripted_ftp.Step:
    """Return a step that sends bytes as they are."""

    def say(session: scripted_ftp.Session, _argument: str) -> None:
        session.raw(data)

    return say


def once(verb: str, bad: scripted_ftp.Step) -> scripted_ftp.Step:
    """Return a step that is bad at the first time and good after that."""

    def act(session: scripted_ftp.Session, argument: str) -> None:
        first = session.serial == 0 if verb == 'CONNECT' else session.nth == 0
        if first:
            bad(session, argument)
        else:
            session.default(verb, argument)

    return act
