# SPDX-License-Identifier: Apache-2.0
"""Blocks, holes and zeros, with disks that do not keep their word."""

from __future__ import annotations

import struct
import threading
import types

import pytest

from oslo_transfer.drivers.iscsi import blocks
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import holes
from oslo_transfer.drivers.iscsi import libiscsi
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import zeroing
from oslo_transfer import exceptions

BLOCK = 512
SIZE = 4 << 20
OLD = bytes(range(1, 256)) + b'\1'
WAITER = types.SimpleNamespace(where='iscsi://host/iqn.x/1')


class Disk:
    """A disk in memory, where a pool of sessions is expected.

    :param lies: deallocating leaves the data, and says that it does not
    :param refuses: opcodes that it does not know
    :param moves: the share of each buffer that it moves
    """

    def __init__(
        self,
        *,
        thin=True,
        status=True,
        lies=False,
        refuses=(),
        same=0,
        transfer=0,
        moves=1.0,
    ):
        self.data = bytearray(OLD * (SIZE // len(OLD)))
        self.lies = lies
        self.refuses = refuses
        self.moves = moves
        self.commands = []
        self.holes = set()
        self.lock = threading.Lock()
        self.unit = types.SimpleNamespace(
            capacity=scsi.Capacity(SIZE // BLOCK, BLOCK, thin, thin),
            limits=scsi.Limits(transfer, same),
            provisioning=scsi.Provisioning(thin, thin),
            status=status and thin,
        )

    def run(self, commands, waiter):
        with self.lock:
            return [self._run(command) for command in commands]

    def do(self, work, waiter):
        return work(self)

    def ask(self, what, cdb, length, waiter):
        lba = struct.unpack_from('>Q', cdb, 2)[0]
        descriptors = b''
        while lba < SIZE // BLOCK and len(descriptors) < 64:
            hole = lba in self.holes
            end = lba
            while end < SIZE // BLOCK and (end in self.holes) == hole:
                end += 1
            descriptors += struct.pack('>QIB3x', lba, end - lba, hole)
            lba = end
        return struct.pack('>II', len(descriptors) + 4, 0) + descriptors

    def _run(self, command):
        opcode = command.cdb[0]
        lba, count = struct.unpack_from('>QI', command.cdb, 2)
        self.commands.append((opcode, lba, count, command.cdb[1]))
        if opcode in self.refuses:
            raise failures.SenseError(
                command.what, scsi.ILLEGAL_REQUEST, 0x2000
            )
        run = slice(lba * BLOCK, (lba + count) * BLOCK)
        units = range(lba, lba + count)
        if opcode == 0x88:
            command.into[:] = self.data[run]
        elif opcode == 0x8A:
            self.data[run] = command.data
            self.holes.difference_update(units)
        elif opcode == 0x93:
            assert bytes(command.data) == bytes(BLOCK)
            if command.cdb[1] & 0x08:
                self.holes.update(units)
            if not (command.cdb[1] & 0x08 and self.lies):
                self.data[run] = bytes(count * BLOCK)
        buffer = command.data if command.into is None else command.into
        return libiscsi.Outcome(libiscsi.GOOD, int(self.moves * len(buffer)))

    def count(self, opcode, flags=None):
        return sum(
            each[0] == opcode and flags in (None, each[3])
            for each in self.commands
        )


def access(disk):
    return blocks.Blocks(disk, disk.unit, WAITER.where)


def zero(disk, offset, length):
    made = zeroing.Zeroing(disk, access(disk), disk.unit)
    return made.zero(offset, length, WAITER)


def expect(disk, offset, length):
    old = OLD * (SIZE // len(OLD))
    assert disk.data[:offset] == old[:offset]
    assert not any(disk.data[offset : offset + length])
    assert disk.data[offset + length :] == old[offset + length :]


RUNS = [(0, SIZE), (1000, 100), (511, 2), (5, SIZE - 10), (512, 1 << 20)]


@pytest.mark.parametrize(('offset', 'length'), RUNS)
@pytest.mark.parametrize('status', [True, False])
def test_deallocated_and_looked_at(offset, length, status):
    disk = Disk(status=status)
    assert zero(disk, offset, length)
    expect(disk, offset, length)
    assert not disk.count(0x93, flags=0)


@pytest.mark.parametrize('status', [True, False])
def test_a_promise_of_zeros_that_is_not_kept(status):
    """It shows in what is looked at; then they are written."""
    disk = Disk(lies=True, status=status)
    made = zeroing.Zeroing(disk, access(disk), disk.unit)
    assert made.zero(512, 2 << 20, WAITER)
    expect(disk, 512, 2 << 20)
    # And that way is not tried again.
    disk.commands.clear()
    assert made.zero(3 << 20, 512, WAITER)
    assert disk.count(0x93, flags=8) == 0


def test_thick_disks_are_written():
    disk = Disk(thin=False)
    assert zero(disk, 512, 1 << 20)
    expect(disk, 512, 1 << 20)
    assert disk.count(0x93, flags=8) == 0


def test_no_write_same():
    """Then the core writes zeros; and does not ask again and again."""
    disk = Disk(refuses=(0x93,))
    made = zeroing.Zeroing(disk, access(disk), disk.unit)
    assert not made.zero(0, 4096, WAITER)
    disk.commands.clear()
    assert not made.zero(0, 4096, WAITER)
    assert not disk.commands


def test_limits_are_kept():
    disk = Disk(same=16, transfer=8)
    assert zero(disk, 0, 1 << 20)
    access(disk).read(memoryview(bytearray(1 << 20)), 0, WAITER)
    assert max(c[2] for c in disk.commands if c[0] == 0x93) == 16
    assert max(c[2] for c in disk.commands if c[0] == 0x88) == 8


def test_zeros_are_sent_in_steps():
    """No command of many gigabytes, whatever the disk allows."""
    disk = Disk()
    disk.unit.capacity = scsi.Capacity(1 << 30, BLOCK, True, True)
    disk.unit.status = False
    made = zeroing.Zeroing(disk, access(disk), disk.unit)
    part = blocks.Part(0, 1 << 30, True)
    assert made._same(part, WAITER, unmap=True)
    assert all(c[2] * BLOCK <= 32 << 20 for c in disk.commands)
    assert sum(c[2] for c in disk.commands) * BLOCK == 1 << 30


@pytest.mark.parametrize(
    ('offset', 'length'), [(0, 1), (511, 2), (1, SIZE - 2), (700, 100)]
)
def test_any_run_is_read_and_written(offset, length):
    disk = Disk()
    data = bytes(index % 251 for index in range(length))
    access(disk).write(memoryview(data), offset, WAITER)
    old = bytearray(OLD * (SIZE // len(OLD)))
    old[offset : offset + length] = data
    assert disk.data == old
    found = memoryview(bytearray(length))
    access(disk).read(found, offset, WAITER)
    assert found == data


def test_parts_of_one_block_by_many_threads():
    """Nobody writes back what another has just written."""
    disk = Disk()
    made = access(disk)

    def write(index):
        for start in range(index, 2048, 8):
            made.write(memoryview(bytes([index])), start, WAITER)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert disk.data[:2048] == bytes(range(8)) * 256


@pytest.mark.parametrize('share', [0.0, 0.5])
def test_short_answers(share):
    """What did not come must not be taken for data."""
    disk = Disk(moves=share)
    with pytest.raises(exceptions.ProtocolError, match='at byte 512'):
        access(disk).read(memoryview(bytearray(1024)), 512, WAITER)
    with pytest.raises(exceptions.ProtocolError):
        access(disk).write(memoryview(bytes(1024)), 0, WAITER)


def test_holes_are_asked_for_once():
    disk = Disk()
    disk.holes = {*range(10, 20), *range(100, 8000)}
    asked = []
    ask = disk.ask

    def count(*arguments):
        asked.append(1)
        return ask(*arguments)

    disk.ask = count
    made = holes.Holes(disk, disk.unit)
    for _ in range(3):
        found = list(made.extents(5 * BLOCK + 3, 200 * BLOCK, WAITER))
        assert [(each.offset, each.length, each.data) for each in found] == [
            (5 * BLOCK + 3, 5 * BLOCK - 3, True),
            (10 * BLOCK, 10 * BLOCK, False),
            (20 * BLOCK, 80 * BLOCK, True),
            (100 * BLOCK, 105 * BLOCK + 3, False),
        ]
    assert len(asked) == 1
    made.forget()
    next(made.extents(0, 1, WAITER))
    assert len(asked) == 2


def test_no_answer_about_a_block():
    disk = Disk()
    disk.ask = lambda *_arguments: struct.pack('>II', 4, 0)
    made = holes.Holes(disk, disk.unit)
    with pytest.raises(exceptions.ProtocolError, match='block 3'):
        next(made.extents(3 * BLOCK, 1, WAITER))
