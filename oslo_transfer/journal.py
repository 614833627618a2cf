# SPDX-License-Identifier: Apache-2.0
"""What a part file holds, so that a later copy can go on with it.

The file has two slots that are written in turn, so that one is whole
whatever happens while the other is written. A slot is::

    magic (8 bytes) | length, CRC-32 of the body (4 bytes each, big-endian)
    | body: a JSON object in UTF-8

``written`` are the ranges handed to the operating system: they survive the
death of the process, and count only while the same boot lasts. ``synced``
are the ranges that were made durable before the slot was written: they
survive a power cut too. Whatever is unknown, damaged or belongs to another
part file is refused as a whole, and the copy starts again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import struct
import typing
import zlib

from oslo_transfer import exceptions
from oslo_transfer import oserrors
from oslo_transfer import ranges

_MAGIC = b'OSLOXFR2'
# Pieces of a torrent come in any order: room for thousands of ranges.
_SLOT = 512 * 1024
_HEAD = struct.Struct('>8sII')


@dataclasses.dataclass(frozen=True)
class Identity:
    """What the bytes of a part file are bytes of.

    :ivar source: digest of the location's URL
    :ivar validator: the strong validator they were read under, or None
    :ivar digest: ``algorithm:hex`` that the whole must have, or None
    :ivar size: of the whole in bytes, or None
    """

    source: str
    validator: str | None
    digest: str | None
    size: int | None

    def continues(self, earlier: Identity) -> bool:
        """Whether bytes of ``earlier`` may be joined with ours.

        Only under the same strong validator of the same source, or if a
        digest decides about the whole in the end.
        """
        if self.size is None or self.size != earlier.size:
            return False
        if self.digest is not None:
            return self.digest == earlier.digest
        return (
            self.validator is not None
            and self.validator == earlier.validator
            and self.source == earlier.source
        )

    def same_data(self, other: Identity) -> bool:
        """Whether two copies that run now will deliver the same."""
        if self.digest is not None or other.digest is not None:
            return self.digest == other.digest
        return self.source == other.source


def boot_id() -> str:
    """Names the current boot of this machine; '' if it has no name."""
    try:
        with open('/proc/sys/kernel/random/boot_id') as file:
            return file.read().strip()
    except OSError:
        return ''


class Journal:
    """The journal beside one part file.

    Thread-safe as long as one thread at a time writes.

    :param path: the journal's file; created when something is saved
    :param inode: of the part file that it speaks about
    :param identity: of the bytes in it
    :param earlier: the valid record that is there already, or None: then
        whatever is there is dropped
    """

    def __init__(
        self,
        path: str,
        inode: int,
        identity: Identity,
        earlier: Record | None,
    ) -> None:
        self._path = path
        self._inode = inode
        self._identity = identity
        self._boot = boot_id()
        self._serial = earlier.serial + 1 if earlier else 0
        self._fd: int | None = None
        self._closed = False

    def save(
        self,
        written: ranges.RangeSet,
        synced: ranges.RangeSet,
        durable: bool = False,
    ) -> None:
        """Note what the part file holds; does nothing once it is closed.

        :param written: what was handed to the operating system
        :param synced: what was made durable before
        :param durable: return only when the note itself is durable
        :raises TransferError: it could not be written
        """
        if self._closed:
            return
        body = json.dumps(
            {
                'serial': self._serial,
                'inode': self._inode,
                'boot': self._boot,
                'identity': dataclasses.asdict(self._identity),
                'written': list(written),
                'synced': list(synced),
            }
        ).encode()
        head = _HEAD.pack(_MAGIC, len(body), zlib.crc32(body))
        if len(head) + len(body) > _SLOT:
            return  # Absurdly many ranges: the last note stays valid.
        if self._fd is None:
            self._fd = self._open()
        with oserrors.os_errors(f'writing {self._path}'):
            place = (self._serial % 2) * _SLOT
            if os.pwrite(self._fd, head + body, place) < len(head + body):
                raise exceptions.NoSpace(f'{self._path} got half a note')
            self._serial += 1
            if durable:
                os.fdatasync(self._fd)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with oserrors.os_errors(f'creating {self._path}'):
            fd = os.open(self._path, flags | os.O_NONBLOCK, 0o600)
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                    raise exceptions.InvalidEndpoint(
                        f'{self._path} is not ours to write to'
                    )
                if self._serial == 0:
                    os.ftruncate(fd, 0)
            except BaseException:
                oserrors.close(fd)
                raise
        return fd

    def reinstate(self, earlier: Record) -> None:
        """Note that after all the part file holds what it held before."""
        self._identity = earlier.identity
        self.save(earlier.held, ranges.RangeSet())

    def close(self) -> None:
        """Close the file; idempotent."""
        self._closed = True
        fd, self._fd = self._fd, None
        if fd is not None:
            oserrors.close(fd)


@dataclasses.dataclass(frozen=True)
class Record:
    """What a journal says about its part file."""

    identity: Identity
    held: ranges.RangeSet
    serial: int


def load(path: str, inode: int, length: int) -> Record | None:
    """Read the newest valid note about a part file.

    :param path: the journal's file
    :param inode: the part file's
    :param length: the part file's length in bytes
    :returns: None where there is nothing that can be relied on
    """
    try:
        fd = open_file(path)
    except OSError:
        return None
    try:
        return read(fd, inode, length)
    finally:
        oserrors.close(fd)


def open_file(path: str) -> int:
    """Open a journal for reading; whatever is there, it does not block.

    :raises OSError: it cannot be opened
    """
    return os.open(
        path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    )


def read(fd: int, inode: int, length: int) -> Record | None:
    """Like :func:`load`, from an open file.

    :param fd: the journal; it may have lost its name meanwhile
    """
    try:
        content = os.pread(fd, 2 * _SLOT, 0)
    except OSError:
        return None
    notes = [_note(content[start : start + _SLOT]) for start in (0, _SLOT)]
    whole = [note for note in notes if note is not None]
    if not whole:
        return None
    newest = max(whole, key=lambda note: note.serial)
    if newest.inode != inode:
        return None
    same_boot = newest.boot != '' and newest.boot == boot_id()
    held = newest.written if same_boot else newest.synced
    end = length
    if newest.identity.size is not None:
        end = min(end, newest.identity.size)
    if any(stop > end for _start, stop in held):
        return None  # It speaks of bytes that cannot be there.
    return Record(newest.identity, held, newest.serial)


@dataclasses.dataclass(frozen=True)
class _Note:
    serial: int
    inode: int
    boot: str
    identity: Identity
    written: ranges.RangeSet
    synced: ranges.RangeSet


def _note(data: bytes) -> _Note | None:
    """What a slot says, if it is whole and all in it is as expected."""
    if len(data) < _HEAD.size:
        return None
    magic, length, checksum = _HEAD.unpack_from(data)
    body = data[_HEAD.size : _HEAD.size + length]
    if magic != _MAGIC or len(body) != length:
        return None
    if zlib.crc32(body) != checksum:
        return None
    try:
        found = json.loads(body)
        identity = found['identity']
        return _Note(
            _is(int, found['serial']),
            _is(int, found['inode']),
            _is(str, found['boot']),
            Identity(
                source=_is(str, identity.pop('source')),
                validator=_is(str, identity.pop('validator'), None),
                digest=_is(str, identity.pop('digest'), None),
                size=_is(int, identity.pop('size'), None),
                **identity,
            ),
            _ranges(found['written']),
            _ranges(found['synced']),
        )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None


def _is(kind: type, value: typing.Any, *also: None) -> typing.Any:
    if type(value) is not kind and value not in also:
        raise TypeError
    return value


def _ranges(value: typing.Any) -> ranges.RangeSet:
    return ranges.RangeSet((_is(int, a), _is(int, b)) for a, b in value)
