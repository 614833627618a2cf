# SPDX-License-Identifier: Apache-2.0
"""Servers that take data badly: UPLOADS."""

from __future__ import annotations

from collections.abc import Callable
import functools

from tests.servers import evil_nbd_lab
from tests.servers import nbd_session

Session = nbd_session.Session
Request = nbd_session.Request
UPLOADS = evil_nbd_lab.UPLOADS
row = functools.partial(evil_nbd_lab.row, rows=UPLOADS)
replaced = functools.partial(evil_nbd_lab.replaced, rows=UPLOADS)

#: Behind the first MiB, which comes last.
MIDDLE = 3 << 19


def _take(session: Session, request: Request) -> bool:
    """Read a WRITE; whether it is the one to be bad at."""
    if request.offset + request.length <= MIDDLE:
        Session.on_write(session, request)
        return False
    session.recv(request.length)
    return True


def _bad_write(
    key: str,
    title: str,
    errors: str,
    then: Callable[..., None],
    says: str = '',
) -> None:
    @replaced('on_write', key, title, errors, says=says)
    def _(session: Session, request: Request) -> None:
        if _take(session, request):
            then(session, request)


def _fail(session: Session, request: Request, code: int) -> None:
    session.fail(request, code, b'no\x1b[2J more')


for _code, _error in {
    nbd_session.EPERM: 'AccessDenied',
    nbd_session.EIO: 'StorageError',
    nbd_session.ENOSPC: 'NoSpace',
    nbd_session.ESHUTDOWN: 'Unavailable',
    4711: 'ProtocolError',
}.items():
    _bad_write(
        f'write-errno-{_code}',
        'a write fails',
        _error,
        functools.partial(_fail, code=_code),
        'writing bytes 1',
    )
_bad_write(
    'write-cookie',
    'a reply that nothing was asked for',
    'ProtocolError',
    lambda session, request: session.simple(request._replace(cookie=99)),
)
_bad_write(
    'write-data',
    'data in reply to a write',
    'ProtocolError',
    lambda session, request: session.part(
        request, request.offset, request.offset + 9, 1
    ),
)
_bad_write(
    'write-silent',
    'it never answers',
    'Stalled',
    lambda session, _request: session.hang(),
)
_bad_write(
    'write-reset',
    'it is cut',
    'Unavailable',
    lambda session, _request: session.reset(),
)


@replaced(
    'on_flush', 'flush-error', 'it cannot make it durable', 'StorageError'
)
def _(session: Session, request: Request) -> None:
    session.fail(request, nbd_session.EIO)


@replaced(
    'on_flush', 'flush-silent', 'it never says that it is durable', 'Stalled'
)
def _(session: Session, request: Request) -> None:
    session.hang()


def _flags(key: str, title: str, errors: str, flags: int) -> None:
    row(key, title, errors)(type('Flags', (Session,), {'flags': flags}))


_ALL = Session.flags
_flags(
    'read-only',
    'it takes nothing',
    'AccessDenied',
    _ALL | nbd_session.READ_ONLY,
)
_flags('no-flush', 'it cannot flush', '', _ALL & ~nbd_session.CAN_FLUSH)
_flags('no-zero', 'it cannot zero', '', _ALL & ~nbd_session.CAN_ZERO)
_flags('no-flags', 'it can do nothing but write', '', nbd_session.HAS_FLAGS)
row('no-structured', 'simple replies only')(
    type('Simple', (Session,), {'structured': False})
)
row('blocks', 'whole blocks only')(
    type('Blocks', (Session,), {'blocks': (4096, 4096, 65536 + 512)})
)


def _bad_zero(key: str, title: str, errors: str, code: int) -> None:
    @replaced('on_zero', key, title, errors)
    def _(session: Session, request: Request) -> None:
        session.fail(request, code)


_bad_zero('zero-notsup', 'zeroing is not supported', '', nbd_session.ENOTSUP)
_bad_zero('zero-inval', 'zeroing is refused', '', nbd_session.EINVAL)
_bad_zero('zero-error', 'zeroing fails', 'StorageError', nbd_session.EIO)
