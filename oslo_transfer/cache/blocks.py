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
import functools
import os
import threading
import weakref
import zlib

from oslo_transfer.cache import blockmap
from oslo_transfer.cache import claimer
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors

_DATA, _MAP = 'data', 'map'
_ZEROS = bytes(1 << 20)
# What is known of a block that was compared.
_RIGHT, _ZERO = 1, 2


class Blocks:
    """Blocks of one version of an object. Thread-safe.

    :param directory: where its files are; made if it is not there
    :param size: of the object in bytes
    :param block_bytes: size of a block
    :param identity: 32 bytes that tell versions apart
    :raises TransferError: the files cannot be used
    """

    def __init__(
        self, directory: str, size: int, block_bytes: int, identity: bytes
    ) -> None:
        self.size = size
        self.block_bytes = block_bytes
        #: Tells versions apart.
        self.identity = identity
        #: The data file: the object's layout, with holes.
        self.path = os.path.join(directory, _DATA)
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        with oserrors.os_errors(f'making {directory}'):
            os.makedirs(directory, 0o700, exist_ok=True)
        self._map = blockmap.BlockMap(
            os.path.join(directory, _MAP), size, block_bytes, identity
        )
        self.count = self._map.count
        # Put, and not known to be durable yet: number and checksum.
        self._fresh: dict[int, int] = {}
        # One byte each: whether it was compared since it was opened, and
        # whether it is of zeros; and, for groups, whether it was used.
        self._checked = bytearray(self.count)
        self._touched = bytearray(-(-self.count // claimer.GROUP))
        self._claimers: weakref.WeakSet[claimer.Claimer] = weakref.WeakSet()
        self._pins: dict[int, int] = {}
        #: Blocks that were found to be other than they were put.
        self.damaged = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with oserrors.os_errors(f'opening {self.path}'):
                #: For sendfile(2) of blocks that are pinned.
                self.fd = os.open(self.path, flags, 0o600)
        except BaseException:
            self._map.close()
            raise
        try:
            with oserrors.os_errors(f'writing {self.path}'):
                if not self._map.found:
                    os.ftruncate(self.fd, 0)
                os.ftruncate(self.fd, size)
        except BaseException:
            self.close()
            raise

    def put(self, first: int, data: memoryview) -> None:
        """Add whole blocks from one on; those of zeros become holes.

        Blocks until the system has taken them.

        :raises NoSpace: the disk is full; they are not there
        :raises StorageError: the disk does not work
        """
        size = self.block_bytes
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        blocks = range(first, first + len(parts))
        assert first * size + len(data) == min(blocks.stop * size, self.size)
        checksums = [zlib.crc32(part) for part in parts]
        kinds = bytes(_ZERO if _is_zero(part) else _RIGHT for part in parts)
        # Evicting must not punch what is just being written.
        self._pin(blocks)
        try:
            self._store(first, kinds, data)
            with self._lock:
                self._fresh.update(zip(blocks, checksums))
                self._checked[first : blocks.stop] = kinds
        finally:
            self._unpin(blocks)

    def _store(self, first: int, kinds: bytes, data: memoryview) -> None:
        """Write runs of blocks that are not zero."""
        start = 0
        for number, kind in enumerate(kinds):
            if kind == _ZERO:
                self._write(first, start, number, data)
                self._punch(first + number)
                start = number + 1
        self._write(first, start, len(kinds), data)

    def _write(
        self, first: int, start: int, end: int, data: memoryview
    ) -> None:
        size = self.block_bytes
        localfs.pwrite_all(
            self.fd,
            data[start * size : end * size],
            (first + start) * size,
            self.path,
        )

    def has(self, index: int) -> bool:
        """Whether a block is there; it may still turn out to be damaged."""
        with self._lock:
            return self._known(index) is not None

    def _known(self, index: int) -> int | None:
        checksum = self._fresh.get(index)
        return self._map.checksum(index) if checksum is None else checksum

    def _pin(self, blocks: range) -> None:
        with self._lock:
            for index in blocks:
                self._pins[index] = self._pins.get(index, 0) + 1

    def _unpin(self, blocks: range) -> None:
        with self._lock:
            for index in blocks:
                self._pins[index] -= 1
                if not self._pins[index]:
                    del self._pins[index]

    @contextlib.contextmanager
    def pinned(self, offset: int, length: int) -> Iterator[int]:
        """Keep bytes from being evicted; tells how many of them are there.

        They are where the object has them in :attr:`fd`, up to the first
        block that is missing. Blocks for a read of the disk where one was
        not compared yet.
        """
        size = self.block_bytes
        blocks = range(offset // size, -(-(offset + length) // size))
        self._pin(blocks)
        try:
            index = blocks.start
            while index < blocks.stop and self._is_right(index):
                index += 1
            yield max(0, min(index * size, offset + length) - offset)
        finally:
            self._unpin(blocks)

    def _is_right(self, index: int) -> bool:
        """Whether a block is there, and is what was put."""
        if self._checked[index]:
            return True
        with self._lock:
            checksum = self._known(index)
        if checksum is None:
            return False
        block = bytearray(self._length(index))
        count = 0
        with contextlib.suppress(OSError):
            count = os.preadv(self.fd, [block], index * self.block_bytes)
        if count == len(block) and zlib.crc32(block) == checksum:
            kind = _ZERO if _is_zero(block) else _RIGHT
        else:
            kind = 0
        with self._lock:
            # It may have been put again, or evicted, meanwhile.
            if not self._checked[index] and self._known(index) == checksum:
                self._checked[index] = kind
                if not kind:
                    self.damaged += 1
                    self._forget(index)
            return bool(self._checked[index])

    def _length(self, index: int) -> int:
        return min(self.block_bytes, self.size - index * self.block_bytes)

    def read(self, view: memoryview, offset: int) -> int:
        """Fill a buffer as far as blocks are there; returns how far."""
        with self.pinned(offset, len(view)) as count:
            done = 0
            with oserrors.os_errors(f'reading {self.path}'):
                while done < count:
                    step = os.preadv(
                        self.fd, [view[done:count]], offset + done
                    )
                    if not step:
                        raise exceptions.StorageError(
                            f'{self.path} was cut short'
                        )
                    done += step
            return count

    def claimer(self) -> claimer.Claimer:
        """One who claims blocks for sendfile(2) without a lock."""
        made = claimer.Claimer(self._checked, self._touched, self.block_bytes)
        with self._lock:
            self._claimers.add(made)
        return made

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """Runs of a range in order: how long, and whether it is of zeros.

        What is not here is told as data. Blocks for a read of the disk
        where a block of zeros was not compared yet.
        """
        size = self.block_bytes
        at, end = offset, offset + length
        start, was = at, False
        while at < end:
            zero = self._is_of_zeros(at // size)
            if zero != was:
                if at > start:
                    yield at - start, was
                start, was = at, zero
            at = (at // size + 1) * size
        if end > start:
            yield end - start, was

    def _is_of_zeros(self, index: int) -> bool:
        if not self._checked[index]:
            with self._lock:
                checksum = self._known(index)
            if checksum == _checksum_of_zeros(self._length(index)):
                self._is_right(index)
        return self._checked[index] == _ZERO

    def evict(self, blocks: Iterable[int]) -> int:
        """Let go of blocks that nobody uses; returns how many.

        Blocks until the map says so on the disk: a block that it claims
        is there.
        """
        with self._flushing:
            with self._lock:
                gone = self._take_back(blocks)
                changes = self._map.changes()
            self._map.save(changes)
            for index in gone:
                with self._lock:
                    # Unless somebody wants it again already.
                    if self._known(index) is None and index not in self._pins:
                        self._punch(index)
        return len(gone)

    def _take_back(self, blocks: Iterable[int]) -> list[int]:
        """Forget those of some blocks that nobody uses."""
        there = [
            (index, self._checked[index])
            for index in blocks
            if index not in self._pins and self._known(index) is not None
        ]
        # Who claims after this finds nothing; who did before is seen.
        for index, _kind in there:
            self._checked[index] = 0
        claimed: set[int] = set()
        for each in self._claimers:
            held = each.held
            if held is not None:
                claimed.update(range(*held))
        gone = []
        for index, kind in there:
            if index in claimed:
                self._checked[index] = kind
            else:
                self._forget(index)
                gone.append(index)
        return gone

    def _forget(self, index: int) -> None:
        self._fresh.pop(index, None)
        self._map.drop(index)
        self._checked[index] = 0

    def _punch(self, index: int) -> None:
        offset = index * self.block_bytes
        length = self._length(index)
        if not localfs.punch_hole(self.fd, offset, length):
            localfs.pwrite_all(
                self.fd, memoryview(_ZEROS)[:length], offset, self.path
            )

    def flush(self) -> int:
        """Make what was put durable; returns how many blocks.

        Blocks for as long as the disk takes; others may go on.

        :raises StorageError: it is not, and those blocks are gone
        """
        with self._flushing:
            with self._lock:
                batch = dict(self._fresh)
            try:
                with oserrors.os_errors(f'flushing {self.path}'):
                    os.fdatasync(self.fd)
            except exceptions.TransferError:
                # What is lost is known only now, and only once.
                with self._lock:
                    for index in batch:
                        self._forget(index)
                raise
            with self._lock:
                for index, checksum in batch.items():
                    if self._fresh.get(index) == checksum:
                        del self._fresh[index]
                        self._map.add(index, checksum)
                changes = self._map.changes()
            self._map.save(changes)
            return len(batch)

    def close(self) -> None:
        """Close the files; what was not flushed is missing afterwards."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            oserrors.close(fd)
        self._map.close()


@functools.cache
def _checksum_of_zeros(length: int) -> int:
    return zlib.crc32(bytes(length))


def _is_zero(block: memoryview | bytearray) -> bool:
    # A memcmp without a copy, which ends at the first byte that is not 0.
    block = memoryview(block)
    return all(
        _ZEROS.startswith(block[at : at + len(_ZEROS)])
        for at in range(0, len(block), len(_ZEROS))
    )
