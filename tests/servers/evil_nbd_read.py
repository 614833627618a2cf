# SPDX-License-Identifier: Apache-2.0
"""Servers that answer READ badly."""

from __future__ import annotations

import struct

from tests.servers import evil_nbd_lab
from tests.servers import nbd_session

Evil = evil_nbd_lab.Evil
Session = nbd_session.Session
Request = nbd_session.Request
row, replaced = evil_nbd_lab.row, evil_nbd_lab.replaced
DONE, DATA, HOLE = nbd_session.DONE, nbd_session.DATA, nbd_session.HOLE
NONE, ERROR = nbd_session.NONE, nbd_session.ERROR
ERROR_OFFSET = nbd_session.ERROR_OFFSET
SIZE = evil_nbd_lab.SIZE


def _end(request: Request) -> int:
    return request.offset + request.length


def _middle(request: Request) -> int:
    return request.offset + request.length // 2


def chunks(
    key: str, title: str, errors: str, *parts: tuple[int, bytes, int]
) -> None:
    """It answers each READ with these chunks: type, payload, flags."""

    @replaced('on_read', key, title, errors)
    def _(session: Session, request: Request) -> None:
        for kind, payload, flags in parts:
            session.chunk(request, kind, payload, flags)


# Replies that are none

_BAD = 'ProtocolError'


@replaced('on_read', 'magic', 'no reply but other bytes', _BAD)
def _(session: Session, request: Request) -> None:
    session.send(b'\0' * 64)


@replaced('on_read', 'cookie', 'a reply that nothing was asked for', _BAD)
def _(session: Session, request: Request) -> None:
    Session.on_read(session, request._replace(cookie=request.cookie + 99))


@replaced('on_read', 'twice', 'each reply comes twice', _BAD)
def _(session: Session, request: Request) -> None:
    Session.on_read(session, request)
    Session.on_read(session, request)


@replaced('on_read', 'simple', 'a simple reply to a read', _BAD)
def _(session: Session, request: Request) -> None:
    session.simple(request)
    session.send(bytes(session.data[request.offset : _end(request)]))


@row('structured', 'a structured reply that was not agreed to', _BAD)
class Structured(Evil):
    structured = False

    def on_read(self, request: Request) -> None:
        self.part(request, request.offset, _end(request), DONE)


chunks('done-at-once', 'it is done without a byte', _BAD, (NONE, b'', DONE))
chunks('none-not-last', 'an empty chunk, and more', _BAD, (NONE, b'', 0))
chunks('none-with-data', 'an empty chunk of bytes', _BAD, (NONE, b'x', DONE))
chunks('data-empty', 'data without any', _BAD, (DATA, bytes(8), DONE))
chunks('data-short', 'data without its place', _BAD, (DATA, b'x', DONE))
chunks('unknown', 'a chunk of an unknown type', _BAD, (99, b'x' * 9, DONE))
chunks('status', 'extents in reply to a read', _BAD, (5, bytes(12), DONE))
chunks('hole-short', 'a malformed hole', _BAD, (HOLE, bytes(11), DONE))
chunks('hole-empty', 'a hole of no bytes', _BAD, (HOLE, bytes(12), DONE))
chunks(
    'hole-large',
    'a hole larger than what was asked for',
    _BAD,
    (HOLE, struct.pack('>QI', 0, SIZE + 1), DONE),
)
chunks('error-short', 'a malformed error', _BAD, (ERROR, bytes(5), DONE))
chunks('error-zero', 'an error that is none', _BAD, (ERROR, bytes(6), DONE))
chunks(
    'error-text',
    'a text longer than its chunk',
    _BAD,
    (ERROR, struct.pack('>IH', 5, 100) + b'short', DONE),
)
chunks(
    'error-place',
    'an error of bytes that nobody asked for',
    _BAD,
    (ERROR_OFFSET, struct.pack('>IHQ', 5, 0, 1 << 60), DONE),
)
chunks(
    'error-huge', 'an error of a megabyte', _BAD, (ERROR, bytes(1 << 20), DONE)
)


def _moved(key: str, title: str, by: int, longer: int = 0) -> None:
    @replaced('on_read', key, title, _BAD)
    def _(session: Session, request: Request) -> None:
        payload = struct.pack('>Q', (request.offset + by) % (1 << 64))
        payload += bytes(request.length + longer)
        session.chunk(request, DATA, payload)


_moved('before', 'data before what was asked for', -1)
_moved('behind', 'data behind what was asked for', 1)
_moved('far', 'data from far away', 1 << 62)
_moved('longer', 'more data than was asked for', 0, 1)
_moved('shorter', 'less data than was asked for', 0, -1)


@replaced('on_read', 'overlap', 'parts that overlap', _BAD)
def _(session: Session, request: Request) -> None:
    middle = _middle(request)
    session.part(request, request.offset, middle + 1)
    session.part(request, middle, _end(request), DONE)


@replaced('on_read', 'gap', 'a part is missing, and it is done', _BAD)
def _(session: Session, request: Request) -> None:
    session.part(request, request.offset, _middle(request))
    session.chunk(request, NONE, b'')


@replaced('on_read', 'tiny', 'a chunk for every second byte', _BAD)
def _(session: Session, request: Request) -> None:
    for start in range(request.offset, _end(request), 2):
        session.part(request, start, start + 1)


# Errors, some of them late: what came before is worth nothing

for _code, _kind in {
    nbd_session.EPERM: 'AccessDenied',
    nbd_session.EIO: 'StorageError',
    nbd_session.ENOMEM: 'Unavailable NotResumable',
    nbd_session.EINVAL: 'ProtocolError',
    nbd_session.ESHUTDOWN: 'Unavailable NotResumable',
    4711: 'ProtocolError',
}.items():

    @replaced(
        'on_read',
        f'errno-{_code}',
        'an error, and words with it',
        _kind,
        says='reading byte ',
    )
    def _(session: Session, request: Request, code: int = _code) -> None:
        if request.offset == 0:
            Session.on_read(session, request)
            return
        text = b'bad\x1b[2J sector\0'
        payload = struct.pack('>IH', code, len(text)) + text
        payload += struct.pack('>Q', request.offset)
        session.chunk(request, ERROR_OFFSET, payload)


@row('errno-simple', 'an error in a simple reply', 'StorageError')
class SimpleError(Evil):
    structured = False

    def on_read(self, request: Request) -> None:
        self.fail(request, nbd_session.EIO)


@replaced(
    'on_read', 'error-unknown', 'an error of an unknown type', 'StorageError'
)
def _(session: Session, request: Request) -> None:
    payload = struct.pack('>IH', 5, 0) + b'whatever'
    session.chunk(request, (1 << 15) + 99, payload)


@replaced(
    'on_read', 'error-late', 'padding, and then an error', 'StorageError'
)
def _(session: Session, request: Request) -> None:
    payload = struct.pack('>Q', request.offset) + bytes(request.length)
    session.chunk(request, DATA, payload, 0)
    session.fail(request, nbd_session.EIO)


@replaced(
    'on_read', 'error-early', 'an error, and padding then', 'StorageError'
)
def _(session: Session, request: Request) -> None:
    payload = struct.pack('>IH', 5, 0)
    session.chunk(request, ERROR, payload, 0)
    payload = struct.pack('>Q', request.offset) + bytes(request.length)
    session.chunk(request, DATA, payload)


# What is allowed


@replaced('on_read', 'parts', 'data in parts, the last one first')
def _(session: Session, request: Request) -> None:
    step = request.length // 8 or 1
    for start in reversed(range(request.offset, _end(request), step)):
        session.part(request, start, min(start + step, _end(request)))
    session.chunk(request, NONE, b'')


class Shuffled(Evil):
    """Answers two requests at a time, the second one first."""

    def on_read(self, request: Request) -> None:
        kept = self.server.memory.setdefault(str(self.serial), [])
        kept.append(request)
        last = _end(request) == len(self.data)
        if len(kept) == 2 or last:
            for each in reversed(kept):
                Session.on_read(self, each)
            kept.clear()


row('shuffled', 'replies in another order')(Shuffled)


@row('shuffled-simple', 'simple replies in another order')
class ShuffledSimple(Shuffled):
    structured = False


@replaced('on_read', 'interleaved', 'chunks of two replies in turn')
def _(session: Session, request: Request) -> None:
    kept = session.server.memory.setdefault(str(session.serial), [])
    kept.append(request)
    if len(kept) < 2 and _end(request) < len(session.data):
        return
    for each in kept:
        session.part(each, _middle(each), _end(each))
    for each in kept:
        session.part(each, each.offset, _middle(each), DONE)
    kept.clear()


# Drops and silence


def _hurt(
    key: str,
    title: str,
    errors: str,
    hurt: str,
    times: int = 1 << 30,
) -> None:
    """After half of the data it does something, some times."""

    @replaced('on_read', key, title, errors)
    def _(session: Session, request: Request) -> None:
        count = session.server.memory.setdefault('count', 0)
        if request.offset < SIZE // 2 or count >= times:
            Session.on_read(session, request)
            return
        session.server.memory['count'] = count + 1
        head = struct.pack(
            '>IHHQIQ',
            *(nbd_session.STRUCTURED, DONE, DATA, request.cookie),
            *(request.length + 8, request.offset),
        )
        session.send(head + bytes(session.data[request.offset :][:1000]))
        getattr(session, hurt)()


# Without a digest the rest cannot be joined: the core begins again, once.
_CUT = 'NotResumable'
_hurt('reset-once', 'it is cut', '', 'reset', times=1)
_hurt('reset-always', 'it is cut always', f'{_CUT} Unavailable', 'reset')
_hurt('silent-once', 'it falls silent', '', 'hang', times=1)
_hurt('silent-always', 'it is silent always', f'{_CUT} Stalled', 'hang')


@replaced('on_read', 'trickle', 'a few bytes now and then', f'{_CUT} Stalled')
def _(session: Session, request: Request) -> None:
    head = struct.pack(
        '>IHHQIQ',
        *(nbd_session.STRUCTURED, DONE, DATA, request.cookie),
        *(request.length + 8, request.offset),
    )
    session.send(head)
    for start in range(request.offset, _end(request)):
        session.send(bytes(session.data[start : start + 1]))
        if session.server.closing.wait(0.05):
            return


class Changing(Evil):
    """Cut once; there is something else then."""

    def on_read(self, request: Request) -> None:
        if request.offset >= SIZE // 2 and self.server.once('cut'):
            self.change()
            self.reset()
        Session.on_read(self, request)

    def change(self) -> None:
        """Become something else."""
        del self.data[-4096:]


_CHANGED = 'SourceChanged DigestMismatch'
row(
    'shrunk',
    'it is smaller the next time',
    _CHANGED,
    version=lambda data: data[:-4096],
)(Changing)


def _other(data: bytes) -> bytes:
    return bytes(each ^ 0x5A for each in data)


@row('other', 'it holds something else', _CHANGED, version=_other)
class Other(Changing):
    def change(self) -> None:
        self.data[:] = _other(bytes(self.data))


@row('one-only', 'it says that it takes several connections, and does not')
class OneOnly(Evil):
    def run(self) -> None:
        if self.serial:
            self.hang()
        super().run()
