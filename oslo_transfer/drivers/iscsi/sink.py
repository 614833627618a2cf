# SPDX-License-Identifier: Apache-2.0
"""A LUN as a sink, without the kernel's initiator."""

from __future__ import annotations

import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.iscsi import blocks as _blocks
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import pool as _pool
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import session as _session
from oslo_transfer.drivers.iscsi import unit as _unit
from oslo_transfer.drivers.iscsi import waiting
from oslo_transfer.drivers.iscsi import zeroing
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context


class ISCSISink(base.Sink):
    """A LUN that is written in place.

    :param lun: what to log in to
    :param ctx: the limits
    :param size: bytes that will be written, None if unknown
    """

    capabilities = (
        base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.READBACK
    )
    form = 'device'

    def __init__(
        self, lun: _lun.Lun, ctx: _context.Context, size: int | None
    ) -> None:
        self._where = lun.where
        self._ended = threading.Event()
        self._pool = _pool.Pool(lun, ctx)
        try:
            unit = self._pool.open()
            self._check(unit, size)
        except BaseException:
            self._pool.close()
            raise
        self.capacity: int = unit.capacity.size
        self._blocks = _blocks.Blocks(self._pool, unit, lun.where)
        self._zeroing = zeroing.Zeroing(self._pool, self._blocks, unit)

    def _check(self, unit: _unit.Unit, size: int | None) -> None:
        waiter = self._waiter()
        if self._pool.do(
            lambda session: _unit.write_protected(session, waiter), waiter
        ):
            raise exceptions.AccessDenied(
                f'{self._where}: the LUN is write-protected'
            )
        if size is not None and size > unit.capacity.size:
            raise exceptions.NoSpace(
                f'{self._where} has {unit.capacity.size} bytes, {size} are '
                f'needed'
            )

    def _waiter(self) -> waiting.Waiter:
        """The limits of one call."""
        if self._ended.is_set():
            raise exceptions.TransferCancelled(
                f'{self._where} was committed or aborted before'
            )
        return self._pool.waiter(self._ended)

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Write to the LUN."""
        waiter = self._waiter()
        if offset + len(buffer) > self.capacity:
            raise exceptions.NoSpace(
                f'{self._where} has {self.capacity} bytes; '
                f'{offset + len(buffer)} are needed'
            )
        while buffer:
            # So that many bytes at a time keep within the time limits.
            count = min(len(buffer), _blocks.MOST)
            self._blocks.write(buffer[:count], offset, waiter)
            offset += count
            buffer = buffer[count:]

    def zero(self, offset: int, length: int) -> bool:
        """Have the target zero whole blocks; see :mod:`zeroing`."""
        waiter = self._waiter()
        if offset + length > self.capacity:
            return False
        return self._zeroing.zero(offset, length, waiter)

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Read what was written."""
        waiter = self._waiter()
        count = min(len(buffer), _blocks.MOST, self.capacity - offset)
        if count <= 0:
            return 0
        self._blocks.read(buffer[:count], offset, waiter)
        return count

    def sync(self) -> None:
        """Have the target make it durable (SYNCHRONIZE CACHE)."""
        waiter = self._waiter()
        command = _session.Command('flushing', scsi.synchronize_cache_10())
        try:
            self._pool.run([command], waiter)
        except failures.SenseError as exc:
            # What has no cache does not know how to flush it.
            if exc.unsupported:
                return
            raise exceptions.StorageError(
                f'{self._where}: flushing failed; what was written may be '
                f'lost (SCSI sense {exc.key:X}h/{exc.code:04X}h)'
            ) from exc

    def commit(self, size: int) -> None:
        """Flush, see that it was the right LUN to the end, and log out.

        :raises IntegrityError: another has taken its place
        """
        self.sync()
        self._pool.check(self._waiter())
        self.abort(keep=True)

    def abort(self, keep: bool) -> None:
        """Log out."""
        self._ended.set()
        self._pool.close()

    def __repr__(self) -> str:
        return f'<ISCSISink {self._where}>'
