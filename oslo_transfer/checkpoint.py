# SPDX-License-Identifier: Apache-2.0
"""Keeps track of what is in place, and makes it durable now and then."""

from __future__ import annotations

import contextlib
import threading
import typing

from oslo_transfer import exceptions
from oslo_transfer import ranges

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers import base
    from oslo_transfer import journal as _journal

_TICK = 0.01
_PATIENCE = 0.5


class Checkpoint:
    """What is in place at a sink. Thread-safe.

    :param sink: flushed beside the copy
    :param journal: notes what is in place, or None
    :param held: what was in place before
    :param ctx: ends waits
    """

    def __init__(
        self,
        sink: base.Sink,
        journal: _journal.Journal | None,
        held: ranges.RangeSet,
        ctx: _context.Context,
    ) -> None:
        self._sink = sink
        self._journal = journal
        self._ctx = ctx
        self._sync_bytes: int = ctx.conf.oslo_transfer.sync_bytes
        self._lock = threading.Lock()
        self._in_place = held.copy()
        self._synced = held.copy()
        self._unsynced = 0
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def total(self) -> int:
        """Bytes in place, those that were there before included."""
        with self._lock:
            return self._in_place.total

    @property
    def damaged(self) -> bool:
        """Whether bytes are lost that were written: a flush failed."""
        return self._error is not None

    def add(self, start: int, end: int) -> None:
        """A run is in place."""
        with self._lock:
            self._in_place.add(start, end)
            self._unsynced += end - start

    def save(self) -> None:
        """Note what is in place.

        :raises TransferError: it could not be noted
        """
        if self._journal is not None:
            with self._lock:
                self._journal.save(self._in_place, self._synced)

    def tick(self) -> None:
        """Begin to make it durable if it is time.

        :raises StorageError: bytes that were written are lost
        """
        if self._error is not None:
            raise self._error
        if self._journal is None or self._unsynced < self._sync_bytes:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            self._unsynced = 0
        self._thread = threading.Thread(
            target=self._sync, name='oslo-transfer-sync', daemon=True
        )
        self._thread.start()

    def _sync(self) -> None:
        assert self._journal is not None
        try:
            with self._lock:
                safe = self._in_place.copy()
            self._sink.sync()
            with self._lock:
                self._synced = safe
                self._journal.save(self._in_place, safe, durable=True)
        except Exception as exc:
            self._error = exc

    def finish(self) -> None:
        """See how the last flush ends: its error is told only once."""
        while self._thread is not None and self._thread.is_alive():
            self._ctx.check()
            self._thread.join(_TICK)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End, whether or not all is in place; never raises."""
        if self._thread is not None:
            # A flush cannot be interrupted, but it can be left alone.
            self._thread.join(_PATIENCE)
        # The note before stays valid if this one cannot be made.
        with contextlib.suppress(exceptions.TransferError):
            self.save()
