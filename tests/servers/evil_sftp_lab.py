# SPDX-License-Identifier: Apache-2.0
"""What the catalogue of bad SSH and SFTP servers is made of."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
from typing import Any
from typing import TypeVar

from tests.servers import scripted_ssh
from tests.servers import sftp_session

SIZE = 256 * 1024
PASSWORD = 's3cr3t-password'

OK = 'ok'
FAIL = 'fail'
OK_OR_FAIL = 'ok_or_fail'
UNDETECTABLE = 'undetectable'

Server = scripted_ssh.SSHServer | scripted_ssh.TCPServer


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to misbehave, and what a good client makes of it."""

    id: str
    title: str
    #: start(stack, data) -> the server, which ends with the stack.
    start: Callable[[contextlib.ExitStack, bytes], Server]
    #: 'ok', 'fail', 'ok_or_fail' or 'undetectable', with no facts known.
    expect: str
    #: The same when the caller gives the size, or the digest.
    with_size: str | None = None
    with_digest: str | None = None
    #: Names of the error's class, if it is clear what it must be.
    errors: frozenset[str] = frozenset()
    #: Other contents that are right where no digest excludes them.
    versions: Callable[[bytes], tuple[bytes, ...]] | None = None
    #: What the caller may know, as far as it makes a difference.
    facts: tuple[str, ...] = ('none', 'size', 'digest')
    path: str = '/image'
    seconds: float = 8.0

    @property
    def runs(self) -> tuple[str, ...]:
        """Return the facts to run it with; a size often tells nothing."""
        if self.with_size is None and self.versions is None:
            return tuple(each for each in self.facts if each != 'size')
        return self.facts

    def expects(self, facts: str) -> str:
        """Return what must happen with facts none, size or digest."""
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
            more = tuple(each for each in more if len(each) == len(data))
        return (data, *more)


ROWS: dict[str, Row] = {}

AnySession = TypeVar('AnySession', bound=type[sftp_session.Session])


def add(key: str, title: str, expect: str, start: Any, **fields: Any) -> None:
    """Register a row."""
    assert key not in ROWS, key
    assert expect in (OK, FAIL, OK_OR_FAIL, UNDETECTABLE)
    errors = frozenset(str(fields.pop('errors', '')).split())
    ROWS[key] = Row(key, title, start, expect, errors=errors, **fields)


def session(
    key: str, title: str, expect: str, **fields: Any
) -> Callable[[AnySession], AnySession]:
    """Register a session that does something of its own."""

    def register(cls: AnySession) -> AnySession:
        def start(stack: contextlib.ExitStack, data: bytes) -> Server:
            return serve(stack, sftp_session.Store(data), cls)

        add(key, title, expect, start, **fields)
        return cls

    return register


def serve(
    stack: contextlib.ExitStack,
    store: sftp_session.Store,
    cls: type[sftp_session.Session] = sftp_session.Session,
    **options: Any,
) -> scripted_ssh.SSHServer:
    """Start a server with sessions of a class."""
    server = scripted_ssh.SSHServer(store.subsystem(cls), **options)
    return stack.enter_context(server)


def other(data: bytes) -> bytes:
    """Return another version: as long, and different in every byte."""
    return data.translate(bytes(value ^ 0x5A for value in range(256)))
