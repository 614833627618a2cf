# SPDX-License-Identifier: Apache-2.0
"""The words of the NBD protocol (doc/proto.md of the NBD project)."""

from __future__ import annotations

import enum
import struct

MAGIC = b'NBDMAGIC'
OPTION_MAGIC = b'IHAVEOPT'
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
STRUCTURED_MAGIC = 0x668E33EF

#: The only metadata context that is asked for, and the only one served.
ALLOCATION = b'base:allocation'

#: No disk is larger: offsets have a sign in all systems.
MOST_SIZE = (1 << 63) - 1


class Handshake(enum.IntFlag):
    """Flags of the server's greeting, and of the answer to it."""

    FIXED_NEWSTYLE = 1 << 0
    NO_ZEROES = 1 << 1


class Flag(enum.IntFlag):
    """What an export is and what its server can do with it."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10


class Option(enum.IntEnum):
    """What is negotiated."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class OptionReply(enum.IntEnum):
    """Answers to options; those with the highest bit are errors."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = (1 << 31) + 1
    ERR_POLICY = (1 << 31) + 2
    ERR_INVALID = (1 << 31) + 3
    ERR_PLATFORM = (1 << 31) + 4
    ERR_TLS_REQD = (1 << 31) + 5
    ERR_UNKNOWN = (1 << 31) + 6
    ERR_SHUTDOWN = (1 << 31) + 7
    ERR_BLOCK_SIZE_REQD = (1 << 31) + 8
    ERR_TOO_BIG = (1 << 31) + 9


class Info(enum.IntEnum):
    """What a server tells about an export."""

    EXPORT = 0
    BLOCK_SIZE = 3


class Command(enum.IntEnum):
    """Requests."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class RequestFlag(enum.IntFlag):
    """What else a request says."""

    #: Of READ: the answer is one chunk.
    DF = 1 << 2
    #: Of BLOCK_STATUS: the answer is one extent.
    REQ_ONE = 1 << 3


class Chunk(enum.IntEnum):
    """Parts of structured replies; those with bit 15 are errors."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = (1 << 15) + 1
    ERROR_OFFSET = (1 << 15) + 2


#: The flag of a reply's last chunk.
DONE = 1
#: The bit of a chunk's type that makes it an error.
IS_ERROR = 1 << 15
#: Flags of an extent: nothing is stored of it, it reads as zeros.
STATE_HOLE, STATE_ZERO = 1, 2

#: Magic, flags, command, cookie, offset, length.
REQUEST = struct.Struct('>IHHQQI')
#: Magic, error, cookie.
SIMPLE = struct.Struct('>IIQ')
#: Magic, flags, type, cookie, bytes of payload.
CHUNK = struct.Struct('>IHHQI')


class Error(enum.IntEnum):
    """Why a request failed: numbers of Linux, whatever the server is."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


def option(kind: Option, data: bytes = b'') -> bytes:
    """An option as a client sends it."""
    return OPTION_MAGIC + struct.pack('>II', kind, len(data)) + data


def go(export: bytes) -> bytes:
    """The data of GO: the export, and that its block sizes are kept."""
    return struct.pack('>I', len(export)) + export + b'\0\1\0\3'


def set_meta_context(export: bytes, context: bytes) -> bytes:
    """The data of SET_META_CONTEXT."""
    return b''.join(
        (
            struct.pack('>I', len(export)),
            export,
            struct.pack('>II', 1, len(context)),
            context,
        )
    )


def request(kind: Command, cookie: int, offset: int, length: int) -> bytes:
    """A request; the data of a WRITE follows."""
    return REQUEST.pack(REQUEST_MAGIC, 0, kind, cookie, offset, length)


def printable(text: bytes) -> str:
    """What a server says, fit to be shown."""
    said = text[:200].decode('utf-8', 'replace')
    return ''.join(each if each.isprintable() else '?' for each in said)
