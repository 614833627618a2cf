# SPDX-License-Identifier: Apache-2.0
"""Replies that are late, many, wrong or endless, and files that lie."""

from __future__ import annotations

import dataclasses
import random
import stat
import struct
from typing import Any

from tests.servers import evil_sftp
from tests.servers import sftp_session

FAIL, OK = evil_sftp.FAIL, evil_sftp.OK
OK_OR_FAIL, UNDETECTABLE = evil_sftp.OK_OR_FAIL, evil_sftp.UNDETECTABLE
Request = sftp_session.Request
Session = sftp_session.Session
row = evil_sftp.session
u32, u64, string = sftp_session.u32, sftp_session.u64, sftp_session.string

HALF = evil_sftp.SIZE // 2
# Bytes a server may be asked for at once by a client that thinks.
SANE = 1 << 20


# S-13: the order of replies


class Late(Session):
    """Holds replies to READ back until nothing more is asked for."""

    batches = True
    # More requests than one for each file.
    limits = (1 << 15, 1 << 14, 1 << 14, 0)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.held: list[tuple[Request, bytes]] = []

    def read_data(
        self, request: Request, data: bytes, offset: int, length: int
    ) -> None:
        self.held.append((request, data))

    def idle(self) -> None:
        held, self.held = self.held, []
        for request, data in self.order(held):
            self.data(request, data)

    def order(
        self, held: list[tuple[Request, bytes]]
    ) -> list[tuple[Request, bytes]]:
        """Return replies as they are sent."""
        return held[::-1]


row('S-13-reversed', 'the last reply comes first', OK)(Late)


@row('S-13-shuffled', 'replies in any order', OK)
class Shuffled(Late):
    def order(self, held: Any) -> Any:
        return random.Random(1).sample(held, len(held))


@row('S-13-swapped', 'the bytes of one reply in another', UNDETECTABLE)
class Swapped(Late):
    def order(self, held: Any) -> Any:
        return [
            (one, data)
            for (one, _), (_, data) in zip(held, held[1:] + held[:1])
        ]


@row('S-13-merged', 'all replies in one piece', OK)
class Merged(Late):
    def idle(self) -> None:
        held, self.held = self.held, []
        self.send(
            b''.join(
                self.packet(sftp_session.DATA, u32(one.id) + string(data))
                for one, data in held
            )
        )


@row('S-13-pieces', 'replies in pieces of any length', OK)
class Pieces(Session):
    def send(self, data: bytes) -> None:
        choose = random.Random(len(data))
        while data:
            # Heads byte by byte.
            count = 1 if len(data) < 100 else choose.randrange(1, 5000)
            super().send(data[:count])
            data = data[count:]


def _wrong_reply(key: str, title: str, kind: int, body: bytes) -> None:
    @row(key, title, FAIL, errors='ProtocolError')
    class Wrong(Session):
        def read_data(self, request: Request, *_rest: Any) -> None:
            self.reply(request, kind, body)


_wrong_reply('S-13-handle', 'HANDLE for READ', 102, string(b'h'))
_wrong_reply('S-13-unknown-type', 'a reply of no known type', 250, b'x' * 9)
_wrong_reply('S-13-request', 'a request instead of a reply', 5, b'x' * 9)
_wrong_reply('S-13-ok', 'STATUS OK for READ', 101, u32(0) + string('') * 2)


def _ids(key: str, title: str, expect: str, *changes: int) -> None:
    @row(key, title, expect, errors='ProtocolError')
    class Ids(Session):
        def read_data(
            self, request: Request, data: bytes, offset: int, length: int
        ) -> None:
            bad = evil_sftp.other(data)
            for change in changes:
                one = (request.id + change) & 0xFFFFFFFF
                body = u32(one) + string(bad if change else data)
                self.send(self.packet(sftp_session.DATA, body))
                data = bad


_ids('S-13-wrong-id', 'an id that nobody used', FAIL, 1 << 20)
_ids('S-13-twice', 'two replies for one request', OK_OR_FAIL, 0, 0)
_ids('S-13-more', 'a reply for what was not asked', OK_OR_FAIL, 0, 1 << 20)


@row('S-13-unasked', 'data before anything is asked', FAIL)
class Unasked(Session):
    def greet(self, version: int) -> None:
        super().greet(version)
        for number in range(200):
            body = u32(number) + string(b'E' * 1000)
            self.send(self.packet(sftp_session.DATA, body))


# S-10: how much there is


def _data(
    key: str, title: str, expect: str, change: Any, **fields: Any
) -> None:
    @row(key, title, expect, **fields)
    class Changed(Session):
        def read_data(
            self, request: Request, data: bytes, offset: int, length: int
        ) -> None:
            change(self, request, data, offset)


_data(
    'S-10-longer',
    'more bytes than asked for',
    FAIL,
    lambda self, request, data, _at: self.data(request, data + b'E' * 4000),
    errors='ProtocolError',
)
_data(
    'S-10-short',
    'half of what is asked for, each time',
    OK,
    lambda self, request, data, _at: self.data(
        request, data[: 1 + len(data) // 2]
    ),
)
_data(
    'S-10-one-byte',
    'one byte for each of the first requests',
    OK,
    lambda self, request, data, _at: self.data(
        request, data[:1] if self.replies < 100 else data
    ),
)
_data(
    'S-10-empty',
    'no bytes at all, for ever',
    FAIL,
    lambda self, request, data, _at: self.data(request, b''),
    errors='ProtocolError',
)
_data(
    'S-10-eof',
    'the end comes in the middle',
    FAIL,
    lambda self, request, data, at: (
        self.status(request, sftp_session.EOF)
        if at >= HALF
        else self.data(request, data[: HALF - at])
    ),
    errors='SourceChanged AllSourcesFailed',
)
_data(
    'S-10-length',
    'more bytes announced than are in the packet',
    FAIL,
    lambda self, request, data, _at: self.reply(
        request, sftp_session.DATA, u32(len(data) + 10) + data
    ),
)
_data(
    'S-10-behind',
    'bytes behind the data of a packet',
    OK_OR_FAIL,
    lambda self, request, data, _at: self.reply(
        request, sftp_session.DATA, string(data) + b'E' * 100
    ),
)


def _stat(
    key: str, title: str, expect: str, attrs: Any, **fields: Any
) -> None:
    @row(key, title, expect, **fields)
    class Stat(Session):
        def attributes(
            self, request: Request, file: sftp_session.File
        ) -> None:
            self.reply(request, sftp_session.ATTRS, attrs(self, file))


def _size(key: str, title: str, size: int, expect: str, **fields: Any) -> None:
    _stat(
        key,
        title,
        expect,
        lambda _self, file: dataclasses.replace(file, length=size).attrs(),
        **fields,
    )


_size(
    'S-10-smaller', 'STAT tells half', HALF, UNDETECTABLE,
    with_size=FAIL, versions=lambda data: (data[:HALF],),
)  # fmt: skip
_size('S-10-larger', 'STAT tells twice as much', HALF * 4, FAIL)
_size('S-10-zero', 'STAT tells 0', 0, UNDETECTABLE, with_size=FAIL)
_size('S-10-huge', 'STAT tells 2^63', 1 << 63, FAIL)
_size('S-10-all-ones', 'STAT tells 2^64-1', (1 << 64) - 1, FAIL)
_stat(
    'S-10-no-size', 'STAT without a size', OK_OR_FAIL,
    lambda _self, file: u32(4) + u32(file.mode),
)  # fmt: skip
_stat(
    'S-10-no-time', 'STAT without times', OK,
    lambda _self, file: u32(5) + u64(file.size) + u32(file.mode),
)  # fmt: skip
_stat(
    'S-10-extended', 'STAT with attributes that nobody knows', OK,
    lambda _self, file: (
        u32(0x80000000 | 15) + file.attrs()[4:] + u32(1) + string('a') * 2
    ),
)  # fmt: skip
_stat(
    'S-20-extended', 'STAT with 2^32-1 attributes more', OK_OR_FAIL,
    lambda _self, file: (
        u32(0x80000000 | 15) + file.attrs()[4:] + u32(0xFFFFFFFF)
    ),
)  # fmt: skip
_stat(
    'S-20-attrs', 'STAT that ends in the middle', FAIL,
    lambda _self, file: file.attrs()[:9], errors='ProtocolError',
)  # fmt: skip


class Changing(Session):
    """The file becomes another one after half of it was sent."""

    cut = False

    def read_data(
        self, request: Request, data: bytes, offset: int, length: int
    ) -> None:
        if offset + len(data) > HALF and not self.store.memory:
            self.store.memory['changed'] = True
            self.change(self.store.files['/image'])
            if self.cut:
                self.connection.reset()
        self.data(request, data)

    def change(self, file: sftp_session.File) -> None:
        """Change the file."""
        file.data = evil_sftp.other(file.data)
        file.mtime += 1


def _newer(data: bytes) -> tuple[bytes, ...]:
    return (evil_sftp.other(data),)


@row(
    'S-10-replaced', 'another file is there after a drop', OK_OR_FAIL,
    versions=_newer, with_digest=FAIL,
)  # fmt: skip
class Replaced(Changing):
    cut = True


@row(
    'S-10-disguised', 'and it is of the same size and time', OK_OR_FAIL,
    versions=_newer, with_digest=FAIL,
)  # fmt: skip
class Disguised(Changing):
    cut = True

    def change(self, file: sftp_session.File) -> None:
        file.data = evil_sftp.other(file.data)


@row(
    'S-10-grows', 'the file grows while it is read', OK_OR_FAIL,
    versions=lambda data: (data + b'more' * 1000,),
)  # fmt: skip
class Grows(Changing):
    def change(self, file: sftp_session.File) -> None:
        file.data += b'more' * 1000
        file.mtime += 1


@row(
    'S-10-shrinks', 'the file shrinks while it is read', OK_OR_FAIL,
    versions=lambda data: (data[:1000],), with_size=FAIL,
)  # fmt: skip
class Shrinks(Changing):
    limits = (1 << 15, 1 << 14, 1 << 14, 0)

    def change(self, file: sftp_session.File) -> None:
        file.data = file.data[:1000]
        file.mtime += 1


# S-20: packets


def _raw(
    key: str, title: str, data: bytes, expect: str = FAIL, **fields: Any
) -> None:
    @row(key, title, expect, **fields)
    class Raw(Session):
        def read_data(self, *_rest: Any) -> None:
            self.send(data)
            self.hang()


_BAD = {'errors': 'ProtocolError'}
_raw('S-20-huge', 'a packet of 2^32-1 bytes', b'\xff' * 400, **_BAD)
_raw('S-20-256M', 'a packet of 256 MiB', u32(1 << 28) + b'e' * 50000, **_BAD)
_raw('S-20-empty', 'a packet of no bytes', bytes(40), **_BAD)
_raw('S-20-no-id', 'a packet without an id', u32(1) + b'e' * 40, **_BAD)
_raw(
    'S-20-text', 'words of a login script in between',
    b'Welcome to the jungle\r\n' * 10, **_BAD,
)  # fmt: skip


@row('S-20-cut', 'a packet that ends with the channel', FAIL)
class Cut(Session):
    def read_data(self, request: Request, data: bytes, *_rest: Any) -> None:
        self.send(u32(len(data) + 9) + b'\x67' + u32(request.id) + b'short')
        raise EOFError


@row('S-20-greeting', 'words of a login script before VERSION', FAIL, **_BAD)
class Greeting(Session):
    def greet(self, version: int) -> None:
        self.send(b'Welcome to the jungle\r\n')
        super().greet(version)
        self.hang()


@row('S-20-endless', 'a VERSION without end', FAIL, **_BAD)
class Endless(Session):
    def greet(self, version: int) -> None:
        body = u32(3) + string('x') * (2 << 20)
        self.send(self.packet(sftp_session.VERSION, body))


@row('S-20-many', 'a VERSION with many extensions', OK)
class Many(Session):
    extensions = tuple((f'x{n}@example.org', '1') for n in range(500))


@row('S-20-torn', 'a VERSION with half an extension', FAIL, **_BAD)
class Torn(Session):
    def greet(self, version: int) -> None:
        body = u32(3) + u32(100) + b'half'
        self.send(self.packet(sftp_session.VERSION, body))


def _version(number: int) -> None:
    @row(f'S-20-version-{number}', f'version {number}', OK_OR_FAIL)
    class Version(Session):
        version = number


for _number in (0, 2, 4, 6):
    _version(_number)


@row('S-20-twice', 'two VERSIONs', OK_OR_FAIL)
class Twice(Session):
    def greet(self, version: int) -> None:
        super().greet(version)
        super().greet(version)


@row('S-20-bare', 'a server without any extension', OK)
class Bare(Session):
    extensions = ()
    limits = (1 << 15, 1 << 15, 1 << 15, 0)


@row('S-20-status', 'STATUS without texts', OK)
class Status(Session):
    extensions = (('limits@openssh.com', '1'),)

    def status(self, request: Request, code: int, text: str = '') -> None:
        self.reply(request, sftp_session.STATUS, u32(code))

    def on_extended(self, request: Request) -> None:
        self.status(request, sftp_session.UNSUPPORTED)


@row('S-20-status-short', 'STATUS without a code', FAIL, **_BAD)
class ShortStatus(Session):
    def on_read(self, request: Request) -> None:
        self.reply(request, sftp_session.STATUS, b'\0')


def _limits(key: str, title: str, expect: str, *numbers: int) -> None:
    @row(key, title, expect)
    class Limits(Session):
        limits = numbers  # type: ignore[assignment]

        def on_read(self, request: Request) -> None:
            (length,) = struct.unpack('>I', request.fields.rest()[-4:])
            assert 0 < length <= SANE, f'{length} bytes asked for'
            self.limits = Session.limits
            super().on_read(request)


_limits('S-20-limits-0', 'limits of 0: none', OK, 0, 0, 0, 0)
_limits('S-20-limits-1', 'a read of 1 byte at most', OK_OR_FAIL, 9, 1, 1, 1)
_limits('S-20-limits-all', 'no limit that counts', OK, *[(1 << 64) - 1] * 4)


def _handle(length: int, expect: str) -> None:
    @row(f'S-20-handle-{length}', f'a handle of {length} bytes', expect)
    class Handle(Session):
        def handle(self) -> bytes:
            return b'h' * length


_handle(0, OK_OR_FAIL)
_handle(256, OK)
_handle(1000, OK_OR_FAIL)


# S-09: what is no file


def _mode(kind: str, mode: int) -> None:
    _stat(
        f'S-09-{kind}', f'a {kind} instead of a file', FAIL,
        lambda _self, file: dataclasses.replace(
            file, mode=mode | 0o644
        ).attrs(),
        errors='InvalidEndpoint CapabilityMissing',
    )  # fmt: skip


for _kind, _bits in {
    'fifo': stat.S_IFIFO,
    'directory': stat.S_IFDIR,
    'device': stat.S_IFCHR,
    'disk': stat.S_IFBLK,
    'socket': stat.S_IFSOCK,
}.items():
    _mode(_kind, _bits)

_stat(
    'S-09-unknown', 'STAT without a mode', OK,
    lambda _self, file: u32(1 | 8) + u64(file.size) + u32(file.mtime) * 2,
)  # fmt: skip


@row('S-09-race', 'a FIFO by the time it is open', FAIL)
class Race(Session):
    def on_fstat(self, request: Request) -> None:
        fifo = sftp_session.File(mode=stat.S_IFIFO | 0o644)
        self.attributes(request, fifo)


# Errors, and words that come with them


def _code(
    key: str,
    title: str,
    method: str,
    code: int,
    text: str = '',
    expect: str = FAIL,
    **fields: Any,
) -> None:
    def refuse(self: Session, request: Request) -> None:
        self.status(request, code, text)

    made = type('Refused', (Session,), {f'on_{method}': refuse})
    row(key, title, expect, facts=('digest',), **fields)(made)


_code('E-stat', 'no such file', 'stat', 2, errors='NotFound')
_code('E-denied', 'not allowed to open it', 'open', 3, errors='AccessDenied')
_code('E-open', 'it cannot be opened', 'open', 4)
_code('E-read', 'reading fails', 'read', 4)
_code('E-unknown', 'a code that nobody knows', 'read', 99)
_code('E-ones', 'the code 2^32-1', 'read', 0xFFFFFFFF)
_code('E-text', 'an endless text', 'open', 4, 'x' * 200_000)
_code('E-control', 'control characters', 'open', 4, '\x1b[2J\x00\r\nroot#')
_code('E-close', 'closing fails', 'close', 4, expect=OK)
_code('E-fstat', 'FSTAT is not there', 'fstat', 8, expect=OK_OR_FAIL)
_code('E-limits', 'limits are refused', 'extended', 4, expect=OK)


# S-16, S-19: drops and silence


class Drops(Session):
    """Ends once, after some replies."""

    times: int | None = 1

    def read_data(
        self, request: Request, data: bytes, offset: int, length: int
    ) -> None:
        drops = self.store.memory.get('drops', 0)
        if offset + len(data) > HALF and drops != self.times:
            self.store.memory['drops'] = drops + 1
            self.data(request, data[: HALF - offset] or data[:1])
            self.end()
        self.data(request, data)

    def end(self) -> None:
        """End it."""
        self.connection.reset()
        raise EOFError


_DROP = {'with_digest': OK, 'with_size': OK_OR_FAIL}
row('S-16-reset', 'the connection is cut', OK_OR_FAIL, **_DROP)(Drops)


@row('S-16-closed', 'the channel is closed', OK_OR_FAIL, **_DROP)
class Closed(Drops):
    def end(self) -> None:
        raise EOFError


@row('S-16-eof', 'the channel ends and is not closed', OK_OR_FAIL, **_DROP)
class Eof(Drops):
    def end(self) -> None:
        self.channel.shutdown_write()
        self.hang()


@row('S-16-exit', 'the server exits with a status', OK_OR_FAIL, **_DROP)
class Exit(Drops):
    def end(self) -> None:
        self.channel.send_exit_status(255)
        raise EOFError


@row('S-16-stuck', 'cut at the same place each time', FAIL)
class Stuck(Drops):
    times = None


@row('S-16-open', 'cut when the file is opened', FAIL, errors='Unavailable')
class CutOpen(Session):
    def on_open(self, request: Request) -> None:
        self.connection.reset()


# Without a digest the rest cannot be joined, and that is told, too.
_STALLED = 'Stalled NotResumable'


def _silent(key: str, title: str, method: str, expect: str = FAIL) -> None:
    def hang(self: Session, *_rest: Any) -> None:
        self.hang()

    made = type('Silent', (Session,), {method: hang})
    row(
        key,
        title,
        expect,
        errors='Stalled Unavailable',
        facts=('digest',),
    )(made)


_silent('S-19-init', 'no answer to INIT', 'greet')
_silent('S-19-limits', 'no answer to limits', 'on_extended')
_silent('S-19-stat', 'no answer to STAT', 'on_stat')
_silent('S-19-open', 'no answer to OPEN', 'on_open')
_silent('S-19-read', 'no answer to READ', 'on_read')
_silent('S-19-close', 'no answer to CLOSE', 'on_close', OK)


@row('S-19-half', 'no more answers in the middle', FAIL, errors=_STALLED)
class Half(Session):
    def read_data(
        self, request: Request, data: bytes, offset: int, length: int
    ) -> None:
        self.data(request, data[: HALF // 4])
        self.hang()


@row(
    'S-19-trickle',
    'a byte now and then',
    FAIL,
    errors=_STALLED,
    facts=('none',),
)
class Trickle(Session):
    def read_data(self, request: Request, data: bytes, *_rest: Any) -> None:
        packet = self.packet(sftp_session.DATA, u32(request.id) + string(data))
        for at in range(len(packet)):
            self.send(packet[at : at + 1])
            self.pause(0.05)


@row('S-07-stderr', 'much on the error channel', OK)
class Stderr(Session):
    def on_open(self, request: Request) -> None:
        self.channel.settimeout(5.0)
        for _ in range(100):
            self.channel.sendall_stderr(b'debug: ' * 9000)
        super().on_open(request)
