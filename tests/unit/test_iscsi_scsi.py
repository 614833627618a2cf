# SPDX-License-Identifier: Apache-2.0
"""What targets say is taken for what it is, and no byte further."""

from __future__ import annotations

import struct

import hypothesis
from hypothesis import strategies
import pytest

from oslo_transfer.drivers.iscsi import blocks
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer import exceptions

THIN = scsi.Capacity(1000, 512, provisioned=True, zeros=True)


def vpd(page, body):
    return struct.pack('>BBH', 0, page, len(body)) + body


def designator(kind, value, code=1, association=0):
    return bytes([code, association << 4 | kind, 0, len(value)]) + value


def status(*descriptors, length=None):
    body = b''.join(
        struct.pack('>QIB3x', lba, count, state)
        for lba, count, state in descriptors
    )
    if length is None:
        length = len(body) + 4
    return struct.pack('>II', length, 0) + body


def runs(data, start=0, capacity=THIN):
    return [
        (each.offset // 512, each.length // 512, each.data)
        for each in scsi.parse_lba_status(data, capacity, start)
    ]


# Commands


@pytest.mark.parametrize(
    ('cdb', 'expected'),
    [
        (scsi.inquiry(), '120000 00fc 00'),
        (scsi.inquiry(0x83, 0x1234), '120183 1234 00'),
        (scsi.read_capacity_10(), '25 00 00000000 0000 00 00'),
        (
            scsi.read_capacity_16(),
            '9e 10 0000000000000000 00000020 00 00',
        ),
        (scsi.mode_sense_6(), '1a 08 3f 00 c0 00'),
        (scsi.test_unit_ready(), '000000000000'),
        (
            scsi.get_lba_status(1 << 40, 24),
            '9e 12 0000010000000000 00000018 00 00',
        ),
        (
            scsi.read_16(0x123456789A, 0x800),
            '88 00 000000123456789a 00000800 00 00',
        ),
        (scsi.write_16(1, 2), '8a 00 0000000000000001 00000002 00 00'),
        (
            scsi.write_same_16(1, 2, unmap=True),
            '93 08 0000000000000001 00000002 00 00',
        ),
        (
            scsi.write_same_16(1, 2, unmap=False),
            '93 00 0000000000000001 00000002 00 00',
        ),
        (scsi.synchronize_cache_10(), '35 00 00000000 00 0000 00'),
    ],
)
def test_commands(cdb, expected):
    assert cdb == bytes.fromhex(expected)


# Capacity


@pytest.mark.parametrize(
    ('flags', 'provisioned', 'zeros'),
    [(0, False, False), (0x80, True, False), (0xC0, True, True)],
)
def test_capacity_16(flags, provisioned, zeros):
    data = struct.pack('>QI2xB17x', 999, 4096, flags)
    found = scsi.parse_capacity_16(data)
    assert found == scsi.Capacity(1000, 4096, provisioned, zeros)
    assert found.size == 4_096_000


def test_capacity_16_of_an_old_target():
    """It may end behind the size of blocks."""
    found = scsi.parse_capacity_16(struct.pack('>QI', 1, 512))
    assert found == scsi.Capacity(2, 512)


def test_capacity_10():
    found = scsi.parse_capacity_10(struct.pack('>II', 999, 512))
    assert found == scsi.Capacity(1000, 512)
    assert scsi.parse_capacity_10(struct.pack('>II', 0xFFFFFFFF, 512)) is None


@pytest.mark.parametrize(
    'data',
    [
        b'',
        bytes(11),
        struct.pack('>QI', 10, 0),
        struct.pack('>QI', 10, 511),
        struct.pack('>QI', 10, 520),
        struct.pack('>QI', 10, 2 << 20),
        struct.pack('>QI', (1 << 64) - 1, 512),
        struct.pack('>QI', 1 << 60, 4096),
    ],
)
def test_nonsense_of_capacity(data):
    with pytest.raises(exceptions.ProtocolError):
        scsi.parse_capacity_16(data)


# Who it is


def test_inquiry():
    assert scsi.parse_inquiry(bytes(36)) == (True, True)
    assert scsi.parse_inquiry(b'\x7f' + bytes(35)) == (False, False)
    assert scsi.parse_inquiry(b'\x20' + bytes(35)) == (False, True)
    assert scsi.parse_inquiry(b'\x0c' + bytes(35)) == (True, False)
    with pytest.raises(exceptions.ProtocolError):
        scsi.parse_inquiry(b'')


def test_pages_end_where_they_say_or_are_cut():
    assert scsi.page_body(vpd(0x80, b'abc') + b'more', 0x80) == b'abc'
    assert scsi.page_body(vpd(0x80, b'abc')[:-1], 0x80) == b'ab'
    for data in (b'', b'\0\x80\0', vpd(0x83, b'abc')):
        with pytest.raises(exceptions.ProtocolError):
            scsi.page_body(data, 0x80)


def test_serial():
    assert scsi.parse_serial(b'  S123 \0\0junk') == 'S123'
    assert scsi.parse_serial(b'') == ''
    assert (
        scsi.parse_serial(b'a\x1b[2Jb\xff\n')
        == 'a[2Jb\N{REPLACEMENT CHARACTER}'
    )


def test_identification():
    naa = bytes.fromhex('60014051234567890abcdef012345678')
    body = (
        designator(1, b'T10 vendor', code=2)
        + designator(3, naa)
        + designator(2, bytes.fromhex('0011223344556677'))
        + designator(8, b'iqn.2010-10.org.openstack:X\0', code=3)
        + designator(3, bytes(8), association=1)
    )
    assert scsi.parse_identification(body) == {
        naa.hex(),
        '0011223344556677',
        'iqn.2010-10.org.openstack:x',
    }
    # The last one is cut off: half a name is no name.
    assert naa.hex() not in scsi.parse_identification(designator(3, naa)[:-1])
    assert scsi.parse_identification(b'') == frozenset()


def test_limits_and_provisioning():
    body = bytearray(60)
    body[4:8] = (2048).to_bytes(4, 'big')
    body[32:40] = (1 << 33).to_bytes(8, 'big')
    assert scsi.parse_limits(bytes(body)) == scsi.Limits(2048, 1 << 33)
    assert scsi.parse_limits(bytes(body[:12])) == scsi.Limits(2048, 0)
    assert scsi.parse_limits(b'') == scsi.Limits()
    assert scsi.parse_provisioning(b'\0\x44') == scsi.Provisioning(True, True)
    # 08h: the blocks read as a pattern of the vendor's.
    assert scsi.parse_provisioning(b'\0\x48') == scsi.Provisioning(True)
    assert scsi.parse_provisioning(b'') == scsi.Provisioning()


def test_write_protection():
    assert scsi.parse_write_protected(b'\x03\0\x80\0')
    assert not scsi.parse_write_protected(b'\x03\0\x10\0')
    assert not scsi.parse_write_protected(b'')


# Holes


def test_status():
    data = status((0, 10, 0), (10, 20, 1), (30, 970, 0))
    assert runs(data) == [
        (0, 10, True),
        (10, 20, False),
        (30, 970, True),
    ]


def test_status_from_the_middle():
    assert runs(status((0, 100, 1)), 40) == [(40, 60, False)]


def test_status_without_the_promise_of_zeros():
    """What is deallocated may hold anything: it has to be read."""
    thick = scsi.Capacity(1000, 512, provisioned=True, zeros=False)
    assert runs(status((0, 100, 1)), 0, thick) == [(0, 100, True)]


@pytest.mark.parametrize('state', [2, 3, 15])
def test_unknown_status_is_data(state):
    assert runs(status((0, 100, state))) == [(0, 100, True)]


def test_status_beyond_the_end():
    assert runs(status((0, 0xFFFFFFFF, 1))) == [(0, 1000, False)]


def test_status_with_a_gap():
    """What is behind a gap is not known."""
    assert runs(status((0, 10, 1), (11, 10, 1))) == [(0, 10, False)]
    assert runs(status((0, 10, 1), (10, 0, 1))) == [(0, 10, False)]
    assert runs(status((0, 10, 1), (5, 3, 1))) == [(0, 10, False)]


def test_status_that_is_cut():
    data = status((0, 10, 1), (10, 10, 0))
    assert runs(data[:-1]) == [(0, 10, False)]
    # It says that it is shorter than it is, and longer.
    assert runs(status((0, 10, 1), (10, 10, 0), length=20)) == [(0, 10, False)]
    assert runs(status((0, 10, 1), length=1 << 31)) == [(0, 10, False)]
    assert runs(status()) == []


@pytest.mark.parametrize(
    ('start', 'descriptor'), [(5, (6, 10, 1)), (5, (0, 5, 1)), (0, (0, 0, 1))]
)
def test_status_of_other_blocks(start, descriptor):
    with pytest.raises(exceptions.ProtocolError):
        runs(status(descriptor), start)


# Anything


@hypothesis.given(strategies.binary(max_size=300))
def test_any_bytes(data):
    """A parser ends with a result or with ProtocolError."""
    for parse in (
        scsi.parse_inquiry,
        scsi.parse_serial,
        scsi.parse_identification,
        scsi.parse_capacity_16,
        scsi.parse_capacity_10,
        scsi.parse_limits,
        scsi.parse_provisioning,
        scsi.parse_write_protected,
        lambda text: scsi.page_body(text, 0x83),
    ):
        try:
            parse(data)
        except exceptions.ProtocolError:
            pass


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.integers(0, 1100),
            strategies.integers(0, 1100),
            strategies.integers(0, 255),
        ),
        max_size=6,
    ),
    strategies.integers(0, 999),
    strategies.integers(0, 200),
)
def test_any_status(descriptors, start, cut):
    """Extents are in order, without a gap, inside of the disk."""
    try:
        found = runs(status(*descriptors)[: 8 + cut], start)
    except exceptions.ProtocolError:
        return
    position = start
    for first, count, _data in found:
        assert first == position
        assert count > 0
        position += count
    assert position <= 1000


# Runs of bytes


@hypothesis.given(
    strategies.integers(0, 20_000),
    strategies.integers(0, 20_000),
    strategies.sampled_from([512, 4096]),
)
def test_split(offset, length, block):
    """Parts are in order, without a gap; whole ones are whole blocks."""
    position = offset
    for part in blocks.split(offset, length, block):
        assert part.offset == position
        assert part.length > 0
        if part.whole:
            assert not part.offset % block
            assert not part.length % block
        else:
            last = part.offset + part.length - 1
            assert part.offset // block == last // block
            assert part.length < block
        position += part.length
    assert position == offset + length


# What is refused


@pytest.mark.parametrize(
    ('key', 'code', 'kind', 'retryable'),
    [
        (scsi.NOT_READY, 0x0401, exceptions.Unavailable, True),
        (scsi.MEDIUM_ERROR, 0x1100, exceptions.StorageError, False),
        (scsi.HARDWARE_ERROR, 0x4400, exceptions.StorageError, False),
        (scsi.ILLEGAL_REQUEST, 0x2000, exceptions.ProtocolError, False),
        (
            scsi.ILLEGAL_REQUEST,
            scsi.OUT_OF_RANGE,
            exceptions.SourceChanged,
            True,
        ),
        (scsi.ILLEGAL_REQUEST, scsi.NO_UNIT, exceptions.NotFound, False),
        (scsi.DATA_PROTECT, 0x2700, exceptions.AccessDenied, False),
        (
            scsi.DATA_PROTECT,
            scsi.SPACE_ALLOCATION_FAILED,
            exceptions.NoSpace,
            False,
        ),
        (scsi.ABORTED, 0x0000, exceptions.Unavailable, True),
    ],
)
def test_errors(key, code, kind, retryable):
    error = failures.SenseError('reading 512 bytes at byte 1024', key, code)
    found = error.translated('iscsi://host/iqn.x/1')
    assert type(found) is kind
    assert found.retryable is retryable
    assert 'iscsi://host/iqn.x/1: reading 512 bytes at byte 1024' in str(found)
