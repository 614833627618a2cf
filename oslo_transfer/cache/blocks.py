# SPDX-License-Identifier: Apache-2.0
"""The blocks of one object that are on this host.

Whatever happens, what is read is what was put: a block is compared with its
checksum when it is first used after the files were opened, and one that is
damaged is gone. After the death of the process, or of the machine, at most
the blocks that were put since the last :meth:`Blocks.flush` are missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import itertools
import logging
import os
import threading
import time
import typing
import zlib

from oslo_transfer.cache import blockmap
from oslo_transfer.cache import claimer
from oslo_transfer.cache import clock
from oslo_transfer.cache import datafile
from oslo_transfer.cache import extents
from oslo_transfer.cache import places
from oslo_transfer.cache import table
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors

LOG = logging.getLogger(__name__)

# Seconds for a disk to take what is being written.
_PATIENCE = 10.0


class Owner(typing.Protocol):
    """What keeps several objects, and has only so much room.

    :ivar now: one byte, the present time, see
        :class:`oslo_transfer.cache.clock.Clock`
    :ivar fixed_until: by ``time.monotonic()``: sockets may have pages of the
        object until then
    """

    now: bytearray
    fixed_until: float

    def room(
        self, image: Blocks, length: int
    ) -> contextlib.AbstractContextManager[None]:
        """Bytes are put while a context lasts.

        :raises NoSpace: there is no room for them
        :raises StorageError: the disk does not work
        """

    def release(self) -> None:
        """One who opened the object does not need it any more."""


class Blocks:
    """Blocks of one version of an object. Thread-safe.

    :param directory: where its files are; made if it is not there. None for
        one that keeps nothing
    :param size: of the object in bytes
    :param block_bytes: size of a block
    :param identity: 32 bytes that tell versions apart
    :param owner: who makes room, and closes it
    :raises TransferError: the files cannot be used
    """

    def __init__(
        self,
        directory: str | None,
        size: int,
        block_bytes: int,
        identity: bytes,
        owner: Owner | None = None,
    ) -> None:
        self.size = size
        self.block_bytes = block_bytes
        #: Tells versions apart.
        self.identity = identity
        header = blockmap.Header(block_bytes, size, identity)
        #: How many blocks the object has.
        self.count = header.blocks
        #: The data file: the object's layout, with holes.
        self.path = os.path.join(directory or '', places.DATA)
        #: Whether blocks can be put.
        self.keeps = directory is not None
        #: Whether it is being closed.
        self.closing = False
        #: Whether none is to be evicted. Never reset: see
        #: :attr:`oslo_transfer.export.exported.Exported.stays`
        self.stays = False
        self._fixed_until = 0.0 if owner is None else owner.fixed_until
        self._owner = owner
        self._flushing = threading.Lock()
        self._map = blockmap.BlockMap(
            datafile.open_file(directory, places.MAP),
            os.path.join(directory or '', places.MAP),
            header,
            reserve=self.keeps,
        )
        try:
            now = clock.start() if owner is None else owner.now
            self._table = table.Table(self._map, header, now)
            self._file = datafile.DataFile(
                datafile.open_file(directory, places.DATA), self.path
            )
        except BaseException:
            self._map.close()
            raise
        self._extents = extents.Extents(
            header, self._file, self._table, self.compare
        )
        try:
            self._file.resize(size, self._map.found)
            if directory is not None:
                with oserrors.os_errors(f'making {self.path}'):
                    localfs.sync_directory(directory)
                    localfs.sync_directory(os.path.dirname(directory) or '.')
            self._reclaim()
        except BaseException:
            self.shut()
            raise

    def _reclaim(self) -> None:
        """Give back what one that died has put and not flushed."""
        size = self.block_bytes
        there = self._map.presence()
        for start, end in self._file.allocated(0, self.size):
            index, last = start // size, -(-end // size)
            while (index := there.find(0, index, last)) >= 0:
                stop = there.find(1, index, last)
                stop = last if stop < 0 else stop
                self._punch(index, stop - index)
                index = stop

    @property
    def fd(self) -> int:
        """For sendfile(2) of what is claimed, or pinned."""
        return self._file.fd

    @property
    def present(self) -> int:
        """How many blocks are there."""
        return self._table.present

    def presence(self) -> bytearray:
        """A byte for each block: 1 where it is there, as :meth:`has`."""
        return self._table.presence()

    @property
    def damaged(self) -> int:
        """How many were found to be other than they were put."""
        return self._table.damaged

    @property
    def disk_bytes(self) -> int:
        """How much of the disk it takes."""
        return self._file.disk_bytes() + self._map.disk_bytes()

    # Putting and reading

    def put(self, first: int, data: memoryview) -> None:
        """Add whole blocks from one on; those of zeros become holes.

        Blocks until the system has taken them.

        :raises NoSpace: there is no room for them; they are not there
        :raises StorageError: the disk does not work
        """
        size = self.block_bytes
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        blocks = range(first, first + len(parts))
        assert first * size + len(data) == min(blocks.stop * size, self.size)
        kinds = bytes(table.kind_of(part) for part in parts)
        checksums = [
            datafile.checksum_of_zeros(len(part))
            if kind == table.ZERO
            else zlib.crc32(part)
            for part, kind in zip(parts, kinds)
        ]
        losses = self._table.losses
        if self.closing or not self.keeps:
            raise exceptions.NoSpace(f'{self.path} is not written')
        # Evicting must not punch what is just being written.
        try:
            with self._table.pinned(blocks):
                with self._room(len(data) if table.RIGHT in kinds else 0):
                    self._store(first, kinds, data)
                    if not self._table.put(first, checksums, kinds, losses):
                        raise exceptions.StorageError(
                            f'{self.path} has lost what was written'
                        )
        except exceptions.TransferError:
            with contextlib.suppress(exceptions.TransferError):
                self._table.give_back(blocks, self._punch)
            raise

    def _room(
        self, length: int
    ) -> contextlib.AbstractContextManager[None, bool | None]:
        if self._owner is None:
            return contextlib.nullcontext()
        return self._owner.room(self, length)

    def _store(self, first: int, kinds: bytes, data: memoryview) -> None:
        """Write runs of blocks that are not zero."""
        start = 0
        try:
            for kind, run in itertools.groupby(kinds):
                part = data[start : start + len([*run]) * self.block_bytes]
                offset = first * self.block_bytes + start
                if kind == table.ZERO:
                    self._file.punch(offset, len(part))
                else:
                    self._file.write(part, offset)
                start += len(part)
        except exceptions.NoSpace:
            raise
        except exceptions.TransferError as exc:
            raise exceptions.StorageError(str(exc)) from exc

    def has(self, index: int) -> bool:
        """Whether a block is there; it may still turn out to be damaged."""
        return self._table.checksum(index) is not None

    @contextlib.contextmanager
    def pinned(self, offset: int, length: int) -> Iterator[int]:
        """Keep bytes from being evicted; tells how many of them are there.

        They are where the object has them in :attr:`fd`, up to the first
        block that is missing. Blocks for a read of the disk where one was
        not compared yet.
        """
        size = self.block_bytes
        blocks = range(offset // size, -(-(offset + length) // size))
        with self._table.pinned(blocks):
            index = blocks.start
            while index < blocks.stop and (
                self._table.checked[index] or self.compare(index)
            ):
                index += 1
            yield max(0, min(index * size, offset + length) - offset)

    def compare(self, index: int) -> bool:
        """Compare a block with its checksum, whether it was before or not.

        Blocks for a read of the disk.

        :returns: False if it is not there, or not any more
        """
        checksum = self._table.checksum(index)
        if checksum is None:
            return False
        block = memoryview(bytearray(self._length(index)))
        # One that cannot be read is brought again, too.
        count = self._file.read(block, index * self.block_bytes)
        right = count == len(block) and zlib.crc32(block) == checksum
        return self._table.judge(
            index, checksum, right and table.kind_of(block)
        )

    def _length(self, index: int) -> int:
        return min(self.block_bytes, self.size - index * self.block_bytes)

    def scrub(self, index: int) -> bool:
        """As :meth:`compare`, with what the disk has."""
        self._file.drop_cached(index * self.block_bytes, self.block_bytes)
        return self.compare(index)

    def doubt(self, offset: int, length: int) -> None:
        """Have blocks compared again: they could not be read, or sent."""
        size = self.block_bytes
        for index in range(offset // size, -(-(offset + length) // size)):
            self._table.checked[index] = 0

    def read(self, view: memoryview, offset: int) -> int:
        """Fill a buffer as far as blocks are there; returns how far."""
        with self.pinned(offset, len(view)) as count:
            done = self._file.read(view[:count], offset)
            if done < count:
                # It was cut short, or fails: they are brought again.
                self.doubt(offset + done, count - done)
            return done

    def claimer(self) -> claimer.Claimer:
        """One who claims blocks for sendfile(2) without a lock.

        :raises TransferCancelled: this was closed
        """
        return self._table.claimer()

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """Runs of a range in order: how long, and whether it is of zeros.

        What is not here is told as data. Blocks for a read of the disk
        where a block of zeros was not compared yet.
        """
        return self._extents.of(offset, length)

    # Letting go

    @property
    def fixed(self) -> bool:
        """Whether nothing of it may become a hole now.

        A hole makes zeros of what sockets have of the file, too.
        """
        # Without that it is somebody else's file.
        if self.stays or not self.keeps:
            return True
        return time.monotonic() < self._fixed_until

    def ages(self) -> set[int]:
        """For how long groups of blocks were not used."""
        return self._table.clock.ages()

    def old(self, wanted: int, age: int) -> Iterator[list[int]]:
        """Blocks that take space and were not used for long.

        :param wanted: how many bytes of them each time, about
        :param age: see :meth:`ages`
        """
        return self._table.old(-(-wanted // self.block_bytes), age)

    def evict(self, blocks: Iterable[int]) -> int:
        """Let go of blocks that nobody uses; returns how many.

        Blocks until the map says so on the disk: a block that it claims
        is there, but where the disk cannot be written.

        :raises TransferError: it cannot; space is given back nevertheless
        """
        with self._flushing:
            if self.closing or self.fixed:
                return 0
            gone = self._table.take_back(blocks)
            try:
                self._map.save(self._table.changes())
            finally:
                self._table.give_back(gone, self._punch)
            return len(gone)

    def forget(self, blocks: Iterable[int]) -> int:
        """Have blocks brought again to where they are; returns how many.

        Also of one whose blocks stay: it is for what turns out to be wrong.
        Those that somebody uses are kept. Blocks for the disk.

        :raises TransferError: the disk cannot be written
        """
        with self._flushing:
            if self.closing or not self.keeps:
                return 0
            gone = self._table.take_back(blocks)
            self._map.save(self._table.changes())
            return len(gone)

    def _punch(self, first: int, count: int) -> None:
        if self.fixed:
            return
        start = first * self.block_bytes
        end = min(start + count * self.block_bytes, self.size)
        self._file.punch(start, end - start)

    # To the disk

    @property
    def unflushed(self) -> int:
        """Bytes that were put since the last flush, in whole blocks."""
        return self._table.fresh * self.block_bytes

    @property
    def unflushed_since(self) -> float:
        """When the first of them was put, by ``time.monotonic()``."""
        return self._table.fresh_since

    def flush(self) -> int:
        """Make what was put durable; returns how many blocks.

        Blocks for as long as the disk takes; others may go on.

        :raises TransferError: it is not; what was put since the last one
            that worked is gone
        """
        with self._flushing:
            if self._file.fd < 0:
                return 0
            batch = self._table.batch()
            if batch:
                try:
                    self._file.flush()
                except exceptions.TransferError:
                    # It is told only once, also of what was put meanwhile.
                    self._table.lose()
                    raise
            self._table.durable(batch)
            self._map.save(self._table.changes())
            return len(batch)

    def give_away(self, path: str) -> None:
        """Give the data file another name: it gets another use.

        Nothing is put or evicted any more. What is there can still be
        read, until this is closed.

        :param path: on the same file system; what is there is replaced
        :raises TransferError: it is not durable, or cannot be renamed;
            nothing changes
        """
        # Should it fail, others may have taken it for one that stays.
        self.stays = True
        self.keeps = False
        try:
            self.flush()
            # Its size is, too, where nothing was put since it was opened.
            self._file.flush()
            with oserrors.os_errors(f'renaming {self.path}'):
                os.rename(self.path, path)
                localfs.sync_directory(os.path.dirname(path))
        except BaseException:
            self.keeps = True
            raise
        self.path = path
        self._owner = None

    def close(self) -> None:
        """One who opened it does not need it any more."""
        if self._owner is None:
            self.shut()
        else:
            self._owner.release()

    def shut(self) -> None:
        """Close the files; what was not flushed is missing afterwards.

        Waits for those who put, read or have claims, but not for long: then
        the files stay open, for another one could get their numbers. Nothing
        is there for those who come later.
        """
        self.closing = True
        if self._table.close(_PATIENCE):
            with self._flushing:
                self._file.close()
                self._map.close()
        else:
            LOG.warning('%s is still in use, and left open', self.path)
