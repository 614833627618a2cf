# SPDX-License-Identifier: Apache-2.0
"""What an SFTP server can do wrong when it is written to: UPLOADS, by id."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any
from typing import TypeVar

from tests.servers import sftp_session

OK, FAIL, OK_OR_FAIL = 'ok', 'fail', 'ok_or_fail'
TARGET = '/there/image'
OLD = b'what was there before'

Request = sftp_session.Request
Session = sftp_session.Session


@dataclasses.dataclass(frozen=True)
class Upload:
    """One way to misbehave, and what a good client makes of it."""

    id: str
    title: str
    session: type[Session]
    expect: str
    #: Names of the error's class, if it is clear what it must be.
    errors: frozenset[str]
    #: What is there before; a copy that overwrites it.
    old: bytes | None = None
    #: Whether the server can be asked to remove what is left.
    reachable: bool = True


UPLOADS: dict[str, Upload] = {}

AnySession = TypeVar('AnySession', bound=type[Session])


def upload(
    key: str, title: str, expect: str, errors: str = '', **fields: Any
) -> Callable[[AnySession], AnySession]:
    """Register a session."""

    def register(cls: AnySession) -> AnySession:
        assert key not in UPLOADS
        kinds = frozenset(errors.split())
        UPLOADS[key] = Upload(key, title, cls, expect, kinds, **fields)
        return cls

    return register


upload('good', 'all is well', OK)(Session)
upload('good-over', 'all is well with what is replaced', OK, old=OLD)(Session)


@upload('bare', 'no extensions', OK)
class Bare(Session):
    extensions = ()
    limits = (1 << 15, 1 << 15, 1 << 15, 0)


upload('bare-over', 'and something is replaced', OK, old=OLD)(Bare)


class Late(Session):
    """Answers writes only when nothing more comes."""

    batches = True
    code = sftp_session.OK

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.held: list[Request] = []

    def status(self, request: Request, code: int, text: str = '') -> None:
        if request.kind == sftp_session.WRITE and code == sftp_session.OK:
            self.held.append(request)
        else:
            super().status(request, code, text)

    def idle(self) -> None:
        held, self.held = self.held, []
        for request in held[::-1]:
            super().status(request, self.code)
            self.code = sftp_session.OK


upload('late', 'writes are answered late and in reverse', OK)(Late)


@upload('late-error', 'one late answer is an error', FAIL, 'StorageError')
class LateError(Late):
    code = sftp_session.FAILURE


def _code(
    key: str,
    title: str,
    method: str,
    code: int,
    errors: str = '',
    expect: str = FAIL,
    **fields: Any,
) -> None:
    def refuse(self: Session, request: Request, **_options: Any) -> None:
        self.status(request, code)

    made = type('Refused', (Session,), {f'on_{method}': refuse})
    upload(key, title, expect, errors, **fields)(made)


_code('open', 'it cannot be created', 'open', 4, 'StorageError')
_code('denied', 'it may not be created', 'open', 3, 'AccessDenied')
_code('nowhere', 'its directory is not there', 'open', 2, 'NotFound')
_code('write', 'writing fails', 'write', 4, 'StorageError')
_code('space', 'no space is left', 'write', 14, 'NoSpace')
_code('quota', 'the quota is used up', 'write', 15, 'NoSpace')
_code('eof', 'writing answers EOF', 'write', 1)
_code('unknown', 'writing answers an unknown code', 'write', 77)
_code('close', 'closing fails', 'close', 4)
_code('rename', 'renaming fails', 'rename', 4, 'StorageError')
_code('rename-denied', 'renaming is denied', 'rename', 3, 'AccessDenied')
_code('rename-over', 'replacing fails', 'rename', 4, 'StorageError', old=OLD)
_code('remove', 'nothing can be removed', 'remove', 4, expect=OK)
_code('setstat', 'FSETSTAT is refused', 'setstat', 3, expect=OK_OR_FAIL)


@upload('fsync', 'it cannot be made durable', FAIL, 'StorageError')
class Fsync(Session):
    def on_extended(self, request: Request) -> None:
        fields = sftp_session.Fields(request.fields.rest())
        if fields.string() == b'fsync@openssh.com':
            self.status(request, sftp_session.FAILURE)
        else:
            super().on_extended(request)


@upload('lost', 'bytes are taken and not kept', FAIL)
class Lost(Session):
    def on_write(self, request: Request) -> None:
        self.status(request, sftp_session.OK)

    def on_setstat(self, request: Request) -> None:
        self.status(request, sftp_session.OK)


@upload('short', 'the last bytes are not kept', FAIL)
class Short(Session):
    def on_close(self, request: Request) -> None:
        super().on_close(request)

    def attributes(self, request: Request, file: sftp_session.File) -> None:
        if self.store.log:
            file = dataclasses.replace(file, length=file.size - 1)
        super().attributes(request, file)


@upload('data', 'DATA for a write', FAIL, 'ProtocolError', reachable=False)
class Data(Session):
    def on_write(self, request: Request) -> None:
        self.data(request, b'x')


@upload('ids', 'an id that nobody used', FAIL, 'ProtocolError')
class Ids(Session):
    def on_write(self, request: Request) -> None:
        request.id += 1 << 20
        super().on_write(request)


@upload('reset', 'the connection is cut', FAIL, 'Unavailable')
class Reset(Session):
    def on_write(self, request: Request) -> None:
        self.connection.reset()


@upload('closed', 'the channel is closed', FAIL, 'Unavailable')
class Closed(Session):
    def on_write(self, request: Request) -> None:
        raise EOFError


@upload('cut-rename', 'cut instead of renaming', FAIL, 'Unavailable', old=OLD)
class CutRename(Session):
    def on_rename(self, request: Request, replace: bool = False) -> None:
        self.connection.reset()


def _silent(key: str, title: str, method: str) -> None:
    def hang(self: Session, *_rest: Any, **_options: Any) -> None:
        self.hang()

    made = type('Silent', (Session,), {method: hang})
    upload(key, title, FAIL, 'Stalled', reachable=False)(made)


_silent('silent-open', 'no answer to OPEN', 'on_open')
_silent('silent-write', 'no answer to WRITE', 'on_write')
_silent('silent-close', 'no answer to CLOSE', 'on_close')
_silent('silent-rename', 'no answer to RENAME', 'on_rename')


@upload('full', 'nothing is read any more', FAIL, 'Stalled', reachable=False)
class Full(Session):
    def on_write(self, request: Request) -> None:
        # The window of the channel is used up, and not opened again.
        self.channel.in_window_threshold = 1 << 40
        self.hang()
