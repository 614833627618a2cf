# SPDX-License-Identifier: Apache-2.0
"""Which blocks of a thin-provisioned LUN are allocated."""

from __future__ import annotations

from collections.abc import Iterator
import threading
import time

from oslo_transfer.drivers import base
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import pool as _pool
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import unit as _unit
from oslo_transfer.drivers.iscsi import waiting
from oslo_transfer import exceptions

# Descriptors that are asked for at once.
_BYTES = 8 + 16 * 4095
# Seconds for which an answer is believed.
_FRESH = 5.0


class Holes:
    """Asks a unit for its extents, and keeps them for a moment.

    Thread-safe. Only for units whose ``status`` is true.

    :param pool: sessions with the unit
    :param unit: what it is
    """

    def __init__(self, pool: _pool.Pool, unit: _unit.Unit) -> None:
        self._pool = pool
        self._capacity = unit.capacity
        self._lock = threading.Lock()
        self._known: list[base.Extent] = []
        self._since = 0.0

    def extents(
        self, offset: int, length: int, waiter: waiting.Waiter
    ) -> Iterator[base.Extent]:
        """Data and holes of a run, in order and without a gap.

        :raises TransferError: the target does not say
        """
        end = offset + length
        while offset < end:
            found = self._around(offset, waiter)
            stop = min(found.offset + found.length, end)
            yield base.Extent(offset, stop - offset, found.data)
            offset = stop

    def _around(self, offset: int, waiter: waiting.Waiter) -> base.Extent:
        # One at a time: what one asks is mostly what the next wants, too.
        with self._lock:
            if time.monotonic() < self._since + _FRESH:
                for each in self._known:
                    if each.offset <= offset < each.offset + each.length:
                        return each
            self._since = time.monotonic()
            self._known = self._ask(
                offset // self._capacity.block_size, waiter
            )
            return self._known[0]

    def forget(self) -> None:
        """Ask anew: something was written."""
        with self._lock:
            self._known = []

    def _ask(self, lba: int, waiter: waiting.Waiter) -> list[base.Extent]:
        try:
            data = self._pool.do(
                lambda session: session.ask(
                    'GET LBA STATUS',
                    scsi.get_lba_status(lba, _BYTES),
                    _BYTES,
                    waiter,
                ),
                waiter,
            )
        except failures.SenseError as exc:
            raise exc.translated(waiter.where) from exc
        found = list(scsi.parse_lba_status(data, self._capacity, lba))
        if not found:
            raise exceptions.ProtocolError(
                f'{waiter.where}: GET LBA STATUS says nothing about block '
                f'{lba}'
            )
        return found
