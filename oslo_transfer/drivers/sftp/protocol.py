# SPDX-License-Identifier: Apache-2.0
"""The packets of SFTP version 3 (draft-ietf-secsh-filexfer-02)."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import enum
import stat
import struct

from oslo_transfer import exceptions

VERSION = 3

#: Every server takes and gives this much by one request (draft, 3).
SAFE_LENGTH = 32 * 1024
# No reply that is wanted comes near this, but for DATA.
_MAX_REPLY = 64 * 1024


class Type(enum.IntEnum):
    """Packet types."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    FSETSTAT = 10
    REMOVE = 13
    STAT = 17
    RENAME = 18
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status(enum.IntEnum):
    """Status codes; from 10 on those of later versions.

    Some servers send them by version 3, too.
    """

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8
    NO_SUCH_PATH = 10
    FILE_ALREADY_EXISTS = 11
    WRITE_PROTECT = 12
    NO_SPACE_ON_FILESYSTEM = 14
    QUOTA_EXCEEDED = 15


class Open(enum.IntFlag):
    """Flags of OPEN."""

    READ = 0x01
    WRITE = 0x02
    CREAT = 0x08
    EXCL = 0x20


class _Flag(enum.IntFlag):
    """Which attributes there are."""

    SIZE = 0x01
    OWNER = 0x02
    PERMISSIONS = 0x04
    TIMES = 0x08
    EXTENDED = 0x80000000


@dataclasses.dataclass(frozen=True)
class Attributes:
    """What is known of a file.

    :ivar size: in bytes, or None
    :ivar mode: type and permissions as in ``st_mode``, or None
    :ivar mtime: seconds since 1970, or None
    """

    size: int | None = None
    mode: int | None = None
    mtime: int | None = None

    def encode(self) -> bytes:
        """As FSETSTAT and OPEN have it; only size and mode."""
        flags, fields = _Flag(0), b''
        if self.size is not None:
            flags |= _Flag.SIZE
            fields += struct.pack('>Q', self.size)
        if self.mode is not None:
            flags |= _Flag.PERMISSIONS
            fields += struct.pack('>I', stat.S_IMODE(self.mode))
        return struct.pack('>I', flags) + fields


@dataclasses.dataclass(frozen=True)
class Reply:
    """A whole reply.

    :ivar type: a :class:`Type`, or a number that is none
    :ivar id: the request it answers; the version for VERSION
    :ivar body: what stands behind that
    """

    type: int
    id: int
    body: bytes


@dataclasses.dataclass(frozen=True)
class Data:
    """A part of a DATA reply, as it came.

    :ivar id: the request it answers
    :ivar length: bytes in the whole reply
    :ivar part: the bytes; MAY be empty where there are none
    :ivar last: whether the reply is complete
    """

    id: int
    length: int
    part: memoryview
    last: bool


def string(value: bytes) -> bytes:
    """A string with its length before it."""
    return struct.pack('>I', len(value)) + value


def packet(kind: Type, number: int, body: bytes, follows: int = 0) -> bytes:
    """A request.

    :param number: its id; the version for INIT
    :param follows: bytes that are sent right behind it, as part of it
    """
    length = 5 + len(body) + follows
    return struct.pack('>IBI', length, kind, number) + body


class Replies:
    """Cuts what arrives into replies, however it is cut up.

    DATA is given on as it comes, without a copy; anything else when it is
    complete.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        # What is still to come of DATA.
        self._id = 0
        self._length = 0
        self._left = 0

    def feed(self, chunk: memoryview) -> Iterator[Reply | Data]:
        """Take what came next.

        :raises ProtocolError: it makes no sense
        """
        while chunk:
            if self._left:
                part, chunk = chunk[: self._left], chunk[self._left :]
                self._left -= len(part)
                yield Data(self._id, self._length, part, not self._left)
                continue
            chunk = self._fill(chunk, 9)
            if len(self._head) < 9:
                return
            length, kind, number = struct.unpack_from('>IBI', self._head)
            if length < 5:
                raise exceptions.ProtocolError(
                    f'an SFTP packet of {length} bytes'
                )
            if kind == Type.DATA:
                chunk = self._fill(chunk, 13)
                if len(self._head) < 13:
                    return
                self._id = number
                (self._length,) = struct.unpack_from('>I', self._head, 9)
                if self._length != length - 9:
                    raise exceptions.ProtocolError(
                        f'{self._length} bytes of data in an SFTP packet '
                        f'of {length}'
                    )
                self._left = self._length
                self._head.clear()
                if not self._left:
                    yield Data(number, 0, memoryview(b''), True)
                continue
            if length > _MAX_REPLY:
                raise exceptions.ProtocolError(
                    f'an SFTP reply of {length} bytes'
                )
            chunk = self._fill(chunk, 4 + length)
            if len(self._head) < 4 + length:
                return
            body = bytes(self._head[9:])
            self._head.clear()
            yield Reply(kind, number, body)

    def _fill(self, chunk: memoryview, length: int) -> memoryview:
        """Move bytes to the head until it has so many."""
        missing = max(0, length - len(self._head))
        self._head += chunk[:missing]
        return chunk[missing:]


class Reader:
    """Takes the fields of a reply one by one.

    :raises ProtocolError: by all methods, if the reply ends too early
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    @property
    def rest(self) -> int:
        """How many bytes were not read."""
        return len(self._body) - self._position

    def uint32(self) -> int:
        """A number of 32 bits."""
        return int.from_bytes(self._take(4), 'big')

    def uint64(self) -> int:
        """A number of 64 bits."""
        return int.from_bytes(self._take(8), 'big')

    def string(self) -> bytes:
        """A string."""
        return self._take(self.uint32())

    def attributes(self) -> Attributes:
        """The attributes of a file."""
        flags = self.uint32()
        size = self.uint64() if flags & _Flag.SIZE else None
        if flags & _Flag.OWNER:
            self._take(8)
        mode = self.uint32() if flags & _Flag.PERMISSIONS else None
        mtime = None
        if flags & _Flag.TIMES:
            self._take(4)
            mtime = self.uint32()
        return Attributes(size, mode, mtime)

    def _take(self, count: int) -> bytes:
        if count > self.rest:
            raise exceptions.ProtocolError('an SFTP reply ends too early')
        self._position += count
        return self._body[self._position - count : self._position]
