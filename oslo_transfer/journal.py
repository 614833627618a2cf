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

import contextlib
import dataclasses
import json
import os
import struct
import typing
import zlib

from oslo_transfer import oserrors
from oslo_transfer import ranges

_MAGIC = b'OSLOXFR1'
_SLOT = 16 * 1024
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

    def save(
        self,
        written: ranges.RangeSet,
        synced: ranges.RangeSet,
        durable: bool = False,
    ) -> None:
        """Note what the part file holds.

        :param written: what was handed to the operating system
        :param synced: what was made durable before
        :param durable: return only when the note itself is durable
        :raises TransferError: it could not be written
        """
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
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            if self._serial == 0:
                flags |= os.O_TRUNC
            with oserrors.os_errors(f'creating {self._path}'):
                self._fd = os.open(self._path, flags, 0o600)
        with oserrors.os_errors(f'writing {self._path}'):
            os.pwrite(self._fd, head + body, (self._serial % 2) * _SLOT)
            self._serial += 1
            if durable:
                os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def remove(self) -> None:
        """Close and remove the file; idempotent."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


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
        with open(path, 'rb') as file:
            content = file.read(2 * _SLOT + 1)
    except OSError:
        return None
    newest: dict[str, typing.Any] | None = None
    for start in (0, _SLOT):
        slot = _slot(content[start : start + _SLOT])
        if slot is not None and (
            newest is None or slot['serial'] > newest['serial']
        ):
            newest = slot
    if newest is None or newest['inode'] != inode:
        return None
    same_boot = newest['boot'] and newest['boot'] == boot_id()
    held = ranges.RangeSet(newest['written' if same_boot else 'synced'])
    identity = Identity(**newest['identity'])
    within = list(held.gaps(length))
    covered = length - sum(end - start for start, end in within)
    if covered != held.total:
        return None  # It speaks of bytes behind the end of the file.
    if identity.size is not None and held.frontier(0) > identity.size:
        return None
    return Record(identity, held, newest['serial'])


def _slot(data: bytes) -> dict[str, typing.Any] | None:
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
        Identity(**found['identity'])
        for name in ('written', 'synced'):
            ranges.RangeSet((int(a), int(b)) for a, b in found[name])
        if not isinstance(found['serial'], int):
            return None
        return typing.cast('dict[str, typing.Any]', found)
    except (ValueError, KeyError, TypeError):
        return None
