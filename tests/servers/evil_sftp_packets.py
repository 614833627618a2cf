# SPDX-License-Identifier: Apache-2.0
"""Packets that make no sense, and errors (S-20)."""

from __future__ import annotations

import struct
from typing import Any

from tests.servers import evil_sftp_lab
from tests.servers import sftp_session

FAIL, OK = evil_sftp_lab.FAIL, evil_sftp_lab.OK
OK_OR_FAIL, UNDETECTABLE = evil_sftp_lab.OK_OR_FAIL, evil_sftp_lab.UNDETECTABLE
Request = sftp_session.Request
Session = sftp_session.Session
row = evil_sftp_lab.session
u32, u64, string = sftp_session.u32, sftp_session.u64, sftp_session.string

HALF = evil_sftp_lab.SIZE // 2
# Bytes a server may be asked for at once by a client that thinks.
SANE = 1 << 20


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
