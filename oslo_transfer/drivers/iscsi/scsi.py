# SPDX-License-Identifier: Apache-2.0
"""SCSI: command descriptor blocks, and what targets answer. Pure.

Sources: SPC-4 (INQUIRY, MODE SENSE, VPD pages 80h and 83h, sense keys) and
SBC-3 (the other commands and VPD pages B0h and B2h). What a target sends is
not believed: a parser raises ProtocolError for what makes no sense, and
takes nothing that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import struct

from oslo_transfer.drivers import base
from oslo_transfer import exceptions

# Sense keys (SPC-4, 4.5.6).
NO_SENSE = 0x0
RECOVERED = 0x1
NOT_READY = 0x2
MEDIUM_ERROR = 0x3
HARDWARE_ERROR = 0x4
ILLEGAL_REQUEST = 0x5
UNIT_ATTENTION = 0x6
DATA_PROTECT = 0x7
ABORTED = 0xB

# Additional sense codes with their qualifiers (SPC-4, annex F).
OUT_OF_RANGE = 0x2100
NO_UNIT = 0x2500
SPACE_ALLOCATION_FAILED = 0x2707

# VPD pages.
SERIAL = 0x80
IDENTIFICATION = 0x83
BLOCK_LIMITS = 0xB0
PROVISIONING = 0xB2

_MAX_BLOCK = 1 << 20
_DISK = 0x00
# Types of designators (SPC-4, 7.8.6): T10, EUI-64, NAA, SCSI name.
_EUI, _NAA, _NAME = 2, 3, 8
_LOGICAL_UNIT = 0
_BINARY = 1


def inquiry(page: int | None = None, length: int = 252) -> bytes:
    """INQUIRY; of a VPD page where one is given."""
    return struct.pack(
        '>BBBHB', 0x12, 0 if page is None else 1, page or 0, length, 0
    )


def read_capacity_16(length: int = 32) -> bytes:
    """READ CAPACITY(16)."""
    return struct.pack('>BBQIBB', 0x9E, 0x10, 0, length, 0, 0)


def read_capacity_10() -> bytes:
    """READ CAPACITY(10)."""
    return struct.pack('>BBIHBB', 0x25, 0, 0, 0, 0, 0)


def mode_sense_6(length: int = 192) -> bytes:
    """MODE SENSE(6) of all pages, for the header in front of them."""
    return struct.pack('>BBBBBB', 0x1A, 0x08, 0x3F, 0, length, 0)


def test_unit_ready() -> bytes:
    """TEST UNIT READY."""
    return bytes(6)


def get_lba_status(lba: int, length: int) -> bytes:
    """GET LBA STATUS."""
    return struct.pack('>BBQIBB', 0x9E, 0x12, lba, length, 0, 0)


def read_16(lba: int, blocks: int) -> bytes:
    """READ(16)."""
    return struct.pack('>BBQIBB', 0x88, 0, lba, blocks, 0, 0)


def write_16(lba: int, blocks: int) -> bytes:
    """WRITE(16)."""
    return struct.pack('>BBQIBB', 0x8A, 0, lba, blocks, 0, 0)


def write_same_16(lba: int, blocks: int, unmap: bool) -> bytes:
    """WRITE SAME(16) of one block that is sent along.

    :param unmap: the target may deallocate the blocks instead
    """
    flags = 0x08 if unmap else 0
    return struct.pack('>BBQIBB', 0x93, flags, lba, blocks, 0, 0)


def synchronize_cache_10() -> bytes:
    """SYNCHRONIZE CACHE(10) of all blocks."""
    return struct.pack('>BBIBHB', 0x35, 0, 0, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What READ CAPACITY says.

    :ivar blocks: how many there are
    :ivar block_size: in bytes
    :ivar provisioned: blocks can be deallocated (LBPME)
    :ivar zeros: deallocated blocks read as zeros (LBPRZ)
    """

    blocks: int
    block_size: int
    provisioned: bool = False
    zeros: bool = False

    @property
    def size(self) -> int:
        """In bytes."""
        return self.blocks * self.block_size


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one command may move (VPD page B0h); 0 where nothing is said.

    :ivar transfer: the most blocks to read or write
    :ivar same: the most blocks of WRITE SAME
    """

    transfer: int = 0
    same: int = 0


@dataclasses.dataclass(frozen=True)
class Identity:
    """What tells one logical unit from all others.

    :ivar serial: unit serial number, or ''
    :ivar names: designators of the unit, as hexadecimal digits in lower
        case, or as text for names
    """

    serial: str = ''
    names: frozenset[str] = frozenset()


def parse_inquiry(data: bytes) -> tuple[bool, bool]:
    """Whether a unit is there, and is a disk: standard INQUIRY data.

    :raises ProtocolError: it is none
    """
    if len(data) < 5:
        raise _short('INQUIRY data', data)
    # Any qualifier but 0 says that there is no unit (SPC-4, 6.6.2).
    return data[0] >> 5 == 0, data[0] & 0x1F == _DISK


def page_body(data: bytes, page: int) -> bytes:
    """What a VPD page holds, at most as long as it says and as it is.

    :raises ProtocolError: it is another page
    """
    if len(data) < 4:
        raise _short(f'VPD page {page:02X}h', data)
    if data[1] != page:
        raise exceptions.ProtocolError(
            f'VPD page {data[1]:02X}h came where {page:02X}h was asked for'
        )
    length = int.from_bytes(data[2:4], 'big')
    return data[4 : 4 + length]


def parse_serial(body: bytes) -> str:
    """The unit serial number; '' for none."""
    return _text(body)


def parse_identification(body: bytes) -> frozenset[str]:
    """The designators of the logical unit; those of ports are left out."""
    names = set()
    while len(body) >= 4:
        code, kind, _reserved, length = body[:4]
        value, body = body[4 : 4 + length], body[4 + length :]
        if (kind >> 4) & 3 != _LOGICAL_UNIT or len(value) < length:
            continue
        kind &= 0xF
        if kind in (_EUI, _NAA) and code & 0xF == _BINARY:
            names.add(value.hex())
        elif kind == _NAME:
            names.add(_text(value).lower())
    return frozenset(names - {''})


def parse_capacity_16(data: bytes) -> Capacity:
    """READ CAPACITY(16) data.

    :raises ProtocolError: it makes no sense
    """
    if len(data) < 12:
        raise _short('READ CAPACITY(16) data', data)
    last, block_size = struct.unpack_from('>QI', data)
    flags = data[14] if len(data) > 14 else 0
    return _capacity(
        last,
        block_size,
        provisioned=bool(flags & 0x80),
        zeros=bool(flags & 0x40),
    )


def parse_capacity_10(data: bytes) -> Capacity | None:
    """READ CAPACITY(10) data; None where there is more than it can say.

    :raises ProtocolError: it makes no sense
    """
    if len(data) < 8:
        raise _short('READ CAPACITY(10) data', data)
    last, block_size = struct.unpack_from('>II', data)
    if last == 0xFFFFFFFF:
        return None
    return _capacity(last, block_size)


def _capacity(
    last: int,
    block_size: int,
    *,
    provisioned: bool = False,
    zeros: bool = False,
) -> Capacity:
    if (
        not 512 <= block_size <= _MAX_BLOCK
        or block_size & (block_size - 1)
        or (last + 1) * block_size >= 1 << 63
    ):
        raise exceptions.ProtocolError(
            f'the target speaks of {last + 1} blocks of {block_size} bytes'
        )
    return Capacity(last + 1, block_size, provisioned, zeros)


def parse_limits(body: bytes) -> Limits:
    """VPD page B0h behind its head; older ones are shorter."""
    transfer = int.from_bytes(body[4:8], 'big') if len(body) >= 8 else 0
    same = int.from_bytes(body[32:40], 'big') if len(body) >= 40 else 0
    return Limits(transfer, same)


@dataclasses.dataclass(frozen=True)
class Provisioning:
    """VPD page B2h.

    :ivar write_same: WRITE SAME(16) can deallocate (LBPWS)
    :ivar zeros: deallocated blocks read as zeros (LBPRZ)
    """

    write_same: bool = False
    zeros: bool = False


def parse_provisioning(body: bytes) -> Provisioning:
    """VPD page B2h behind its head."""
    flags = body[1] if len(body) > 1 else 0
    # Only xx1b says zeros; others say one pattern of the vendor's (SBC-4).
    return Provisioning(bool(flags & 0x40), bool(flags & 0x04))


def parse_write_protected(data: bytes) -> bool:
    """Whether the header of MODE SENSE(6) says so (WP)."""
    return len(data) > 2 and bool(data[2] & 0x80)


def parse_lba_status(
    data: bytes, capacity: Capacity, start: int
) -> Iterator[base.Extent]:
    """GET LBA STATUS data, as extents from a block on.

    Whatever does not go on where the former extent has ended is the end:
    the rest is not known. Only deallocated blocks (SBC-3, 5.5.2) are no
    data, and only if they are known to read as zeros.

    :param start: the first block, which may be in the middle of the first
        descriptor's
    :raises ProtocolError: the first descriptor is about other blocks
    """
    if len(data) < 8:
        raise _short('GET LBA STATUS data', data)
    end = min(len(data), 4 + int.from_bytes(data[:4], 'big'))
    position = start
    for at in range(8, end - 15, 16):
        lba, count, status = struct.unpack_from('>QIB', data, at)
        stop = min(lba + count, capacity.blocks)
        if at == 8 and not lba <= position < stop:
            raise exceptions.ProtocolError(
                f'the target was asked for the status of block {start}, and '
                f'speaks of {count} blocks from {lba} on'
            )
        if lba > position or stop <= position:
            return
        yield base.Extent(
            position * capacity.block_size,
            (stop - position) * capacity.block_size,
            not (status & 0xF == 1 and capacity.zeros),
        )
        position = stop


def _text(data: bytes) -> str:
    """Text of a target, made harmless for messages."""
    text = data.partition(b'\x00')[0].decode('ascii', errors='replace')
    return ''.join(c for c in text if c.isprintable()).strip()


def _short(what: str, data: bytes) -> exceptions.ProtocolError:
    return exceptions.ProtocolError(
        f'{what} has {len(data)} bytes, which is too few'
    )
