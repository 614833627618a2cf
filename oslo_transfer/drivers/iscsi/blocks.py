# SPDX-License-Identifier: Apache-2.0
"""Runs of bytes as runs of blocks.

A target reads and writes whole blocks; streams and sinks start and end at
any byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import threading
import typing

from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import libiscsi
from oslo_transfer.drivers.iscsi import pool as _pool
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import session as _session
from oslo_transfer.drivers.iscsi import unit as _unit
from oslo_transfer.drivers.iscsi import waiting
from oslo_transfer import exceptions

# One command, where the target takes as much: tgt needs twice the processor
# time for two of half the size.
_CHUNK = 1 << 20
#: What one call moves at most.
MOST = 2 * _CHUNK


class Part(typing.NamedTuple):
    """A piece of a run: whole blocks, or a part of one.

    :ivar offset: in bytes
    :ivar length: in bytes
    :ivar whole: it is whole blocks
    """

    offset: int
    length: int
    whole: bool


def split(offset: int, length: int, block: int) -> Iterator[Part]:
    """The part of a block in front, the whole blocks, the part behind."""
    end = offset + length
    first = -(-offset // block) * block
    last = end // block * block
    if first > last:
        # Inside of one block.
        if length:
            yield Part(offset, length, False)
        return
    if offset < first:
        yield Part(offset, first - offset, False)
    if first < last:
        yield Part(first, last - first, True)
    if last < end:
        yield Part(last, end - last, False)


class Blocks:
    """Reads and writes a unit by bytes. Thread-safe.

    :param pool: sessions with it
    :param unit: what it is
    :param where: the redacted endpoint, for messages
    """

    def __init__(self, pool: _pool.Pool, unit: _unit.Unit, where: str) -> None:
        self._pool = pool
        self._where = where
        self.size = unit.capacity.size
        self.block = unit.capacity.block_size
        most = unit.limits.transfer * self.block or _CHUNK
        self._chunk = max(min(_CHUNK, most), self.block)
        # Two threads may have parts of the same block.
        self._edges = threading.Lock()

    def read(
        self,
        view: memoryview,
        offset: int,
        waiter: waiting.Waiter,
        *more: _session.Command,
    ) -> None:
        """Fill a buffer.

        Blocks until all of it is there.

        :param more: commands to give along
        :raises StorageError: the target cannot read a block
        :raises SourceChanged: it has no such blocks any more
        :raises Unavailable: no portal answers
        """
        commands: list[_session.Command] = []
        bounced: list[tuple[memoryview, bytearray, int]] = []
        for part in split(offset, len(view), self.block):
            at = part.offset - offset
            target = view[at : at + part.length]
            start = part.offset % self.block
            if not part.whole:
                block = bytearray(self.block)
                bounced.append((target, block, start))
                target = memoryview(block)
            commands += self.reads(target, part.offset - start)
        self.run([*commands, *more], waiter)
        for target, block, start in bounced:
            target[:] = block[start : start + len(target)]

    def write(
        self, view: memoryview, offset: int, waiter: waiting.Waiter
    ) -> None:
        """Write a buffer.

        Blocks until the target has taken all of it. A block of which only
        a part is written is read first.

        :raises AccessDenied: the LUN is write-protected or reserved
        :raises NoSpace: the storage behind it is full
        :raises StorageError: the target cannot write a block
        :raises SourceChanged: it has no such blocks any more
        :raises Unavailable: no portal answers
        """
        for part in split(offset, len(view), self.block):
            at = part.offset - offset
            data = view[at : at + part.length]
            if part.whole:
                self.run(self._writes(data, part.offset), waiter)
                continue
            start = part.offset % self.block
            block = memoryview(bytearray(self.block))
            with self._edges:
                self.read(block, part.offset - start, waiter)
                block[start : start + len(data)] = data
                self.run(self._writes(block, part.offset - start), waiter)

    def reads(
        self, view: memoryview, offset: int
    ) -> Iterator[_session.Command]:
        """Commands that read whole blocks into a buffer."""
        for start, stop, what in self._runs(len(view), offset):
            yield _session.Command(
                f'reading {what}',
                scsi.read_16(
                    (offset + start) // self.block,
                    (stop - start) // self.block,
                ),
                into=view[start:stop],
            )

    def pieces(self, view: memoryview) -> list[memoryview]:
        """What the commands that read a buffer read, one by one."""
        step = self._chunk
        return [view[at : at + step] for at in range(0, len(view), step)]

    def _writes(
        self, view: memoryview, offset: int
    ) -> Iterator[_session.Command]:
        """Commands that write whole blocks."""
        for start, stop, what in self._runs(len(view), offset):
            yield _session.Command(
                f'writing {what}',
                scsi.write_16(
                    (offset + start) // self.block,
                    (stop - start) // self.block,
                ),
                data=view[start:stop],
            )

    def _runs(
        self, length: int, offset: int
    ) -> Iterator[tuple[int, int, str]]:
        """What one command each is to move, also in words."""
        for start in range(0, length, self._chunk):
            stop = min(start + self._chunk, length)
            yield start, stop, f'{stop - start} bytes at byte {offset + start}'

    def run(
        self,
        commands: Iterable[_session.Command],
        waiter: waiting.Waiter,
    ) -> None:
        """Give commands at once; all their bytes have to move.

        :raises TransferError: one failed
        """
        commands = list(commands)
        try:
            outcomes = self._pool.run(commands, waiter)
        except failures.SenseError as exc:
            raise exc.translated(self._where) from exc
        self.check(commands, outcomes)

    def check(
        self,
        commands: Iterable[_session.Command],
        outcomes: Iterable[libiscsi.Outcome],
    ) -> None:
        """See that all bytes of some commands have moved.

        :raises ProtocolError: some have not
        """
        for command, outcome in zip(commands, outcomes):
            buffer = command.data if command.into is None else command.into
            if buffer is not None and outcome.moved != len(buffer):
                raise exceptions.ProtocolError(
                    f'{self._where}: {command.what}: only {outcome.moved} '
                    f'were moved'
                )
