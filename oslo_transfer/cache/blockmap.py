# SPDX-License-Identifier: Apache-2.0
"""Which blocks of an object are in its data file, and their checksums.

The file is a header and one entry of eight bytes for each block::

    magic (8 bytes) | CRC-32 of the rest (4) | block size (4) | size (8)
    | identity (32)                                     padded to 4096
    CRC-32 of the block (4) | tag (4)                   for each block

all little-endian. The tag is of the block's number, its checksum and the
identity, so that an entry which is torn, flipped, or was written for another
block or object is as good as none; zeros are none. A file whose header is
not the one expected is refused as a whole.

What is added counts on disk only after :meth:`BlockMap.save`. Whoever calls
it has made the data durable before: so the map is never ahead of it.
"""

from __future__ import annotations

import os
import struct
import typing
import zlib

from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors

# The last byte is the version: another one is of no use to this one.
_MAGIC = b'OSLOXFM1'
_HEAD = struct.Struct('<8sI')
_BODY = struct.Struct('<IQ32s')
_ENTRY = struct.Struct('<II')
_NUMBERED = struct.Struct('<QI')
_START = 4096
# Entries are written by pages of the disk.
_PAGE = 4096


class Header(typing.NamedTuple):
    """What a map is of.

    :ivar block_bytes: size of a block; the last one may be shorter
    :ivar size: of the object in bytes
    :ivar identity: 32 bytes that tell one version of an object from others
    """

    block_bytes: int
    size: int
    identity: bytes

    @property
    def blocks(self) -> int:
        """How many blocks the object has."""
        return -(-self.size // self.block_bytes)

    def pack(self) -> bytes:
        """As it is in the file."""
        body = _BODY.pack(*self)
        return _HEAD.pack(_MAGIC, zlib.crc32(body)) + body


def read_header(path: str) -> Header | None:
    """What a file is the map of; None if it is none of this version."""
    try:
        with open(path, 'rb') as file:
            data = file.read(_HEAD.size + _BODY.size)
        header = Header(*_BODY.unpack(data[_HEAD.size :]))
    except (OSError, struct.error):
        return None
    return header if header.block_bytes and header.pack() == data else None


class BlockMap:
    """The map of one data file. Not thread-safe.

    :param fd: the file; made anew if it is of no use. Owned
    :param path: its name, for errors
    :param header: what it has to be of
    :param reserve: take the space of all of it at once
    :raises TransferError: it cannot be read or written; the file is closed
    """

    def __init__(
        self, fd: int, path: str, header: Header, reserve: bool = True
    ) -> None:
        self._fd = fd
        self._path = path
        self._header = header.pack()
        self._seed = zlib.crc32(header.identity)
        self._entries = bytearray(_ENTRY.size * header.blocks)
        self._dirty: set[int] = set()
        #: How many blocks are there.
        self.present = 0
        try:
            #: Whether there was one of this version already.
            self.found = self._load()
            if not self.found:
                self._make(reserve)
        except BaseException:
            self.close()
            raise

    def _load(self) -> bool:
        with oserrors.os_errors(f'reading {self._path}'):
            header = os.pread(self._fd, len(self._header), 0)
            if header != self._header:
                return False
            done = 0
            view = memoryview(self._entries)
            while done < len(view):
                count = os.preadv(self._fd, [view[done:]], _START + done)
                if not count:
                    break  # Cut short: those behind are not there.
                done += count
        self.present = self.presence().count(1)
        return True

    def presence(self) -> bytes:
        """A byte for each block: 1 where there is an entry.

        Whether that is of any use shows when it is looked at.
        """
        return bytes(map(bool, memoryview(self._entries).cast('Q')))

    def _make(self, reserve: bool) -> None:
        """Begin with nothing; durably, before anything is added."""
        with oserrors.os_errors(f'writing {self._path}'):
            os.ftruncate(self._fd, 0)
            if reserve:
                # Letting go of blocks must not need space itself.
                os.posix_fallocate(self._fd, 0, _START + len(self._entries))
            self._write(memoryview(self._header), 0)
            os.fsync(self._fd)

    def _tag(self, index: int, checksum: int) -> int:
        # Never 0.
        return zlib.crc32(_NUMBERED.pack(index, checksum), self._seed) | 1

    def checksum(self, index: int) -> int | None:
        """CRC-32 of a block; None if it is not there."""
        checksum, tag = _ENTRY.unpack_from(self._entries, index * _ENTRY.size)
        if tag == self._tag(index, checksum):
            return int(checksum)
        self.drop(index)
        return None

    def find(self, checksum: int, first: int, end: int) -> int:
        """The first of some blocks that has a checksum; -1 if none has."""
        wanted = checksum.to_bytes(4, 'little')
        step = _ENTRY.size
        at = self._entries.find(wanted, first * step, end * step)
        while at % step and at >= 0:
            at = self._entries.find(wanted, at + 1, end * step)
        return at // step

    def has(self, index: int) -> bool:
        """Whether there is an entry, of use or not."""
        at = index * _ENTRY.size
        return any(self._entries[at : at + _ENTRY.size])

    def add(self, index: int, checksum: int) -> None:
        """A block is there."""
        self.present += not self.has(index)
        self._put(index, checksum, self._tag(index, checksum))

    def drop(self, index: int) -> None:
        """A block is not there any more."""
        if self.has(index):
            self.present -= 1
            self._put(index, 0, 0)

    def _put(self, index: int, checksum: int, tag: int) -> None:
        at = index * _ENTRY.size
        _ENTRY.pack_into(self._entries, at, checksum, tag)
        self._dirty.add(at // _PAGE)

    def changes(self) -> list[tuple[int, bytes]]:
        """What :meth:`save` has to write: nothing else is touched by it.

        To be called by whoever keeps others away; saving may then go on
        beside them.
        """
        dirty, self._dirty = sorted(self._dirty), set()
        return [
            (
                page * _PAGE,
                bytes(self._entries[page * _PAGE : (page + 1) * _PAGE]),
            )
            for page in dirty
        ]

    def save(self, changes: list[tuple[int, bytes]]) -> None:
        """Make changes durable; blocks for as long as the disk takes.

        :raises TransferError: they are not; they come with the next ones
        """
        if not changes:
            return
        try:
            with oserrors.os_errors(f'writing {self._path}'):
                for at, entries in changes:
                    self._write(memoryview(entries), _START + at)
                os.fdatasync(self._fd)
        except exceptions.TransferError:
            # update() is one step for all other threads.
            self._dirty.update([at // _PAGE for at, _entries in changes])
            raise

    def _write(self, view: memoryview, offset: int) -> None:
        localfs.pwrite_all(self._fd, view, offset, self._path)

    def disk_bytes(self) -> int:
        """How much of the disk it takes."""
        return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        """Close the file; what was not saved is lost."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            oserrors.close(fd)
