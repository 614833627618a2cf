# SPDX-License-Identifier: Apache-2.0
"""Files that lie about themselves, or change (S-09, S-10)."""

from __future__ import annotations

import dataclasses
import stat
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


_size('S-10-smaller', 'STAT tells half', HALF, FAIL)
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
        file.data = evil_sftp_lab.other(file.data)
        file.mtime += 1


def _newer(data: bytes) -> tuple[bytes, ...]:
    return (evil_sftp_lab.other(data),)


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
        file.data = evil_sftp_lab.other(file.data)


@row(
    'S-10-rewritten',
    'other bytes are written into it while it is read',
    OK_OR_FAIL,
    versions=_newer,
    with_digest=FAIL,
)
class Rewritten(Changing):
    """Nothing but the time tells."""


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
