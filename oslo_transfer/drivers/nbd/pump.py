# SPDX-License-Identifier: Apache-2.0
"""Reads a run in a thread of its own, while what has come is stored."""

from __future__ import annotations

import threading
import time

from oslo_transfer import context as _context
from oslo_transfer.drivers.nbd import connection
from oslo_transfer.drivers.nbd import reading
from oslo_transfer import sockets

#: After so many bytes of a run a thread pays.
WORTH = 4 << 20
# Seconds for the thread to notice that it has to end.
_PATIENCE = 0.5


class Pump:
    """Takes over a run that was begun to be read.

    Receiving and storing then go on at once. It costs copying the bytes
    once more, which is less than either.

    :param reads: the run; not used by others from now on
    :param link: its connection
    :param waiter: the limits
    """

    def __init__(
        self,
        reads: reading.Reads,
        link: connection.Connection,
        waiter: sockets.Waiter,
    ) -> None:
        self._reads = reads
        self._link = link
        self._waiter = waiter
        self._changed = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        #: Seconds spent waiting for the thread.
        self.waited = 0.0
        self._thread = threading.Thread(
            target=self._run, name='oslo-transfer-nbd', daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._wait_for_room():
                with self._link.use(self._waiter):
                    self._reads.receive()
                with self._changed:
                    self._changed.notify_all()
        except BaseException as exc:
            self._error = exc
        finally:
            with self._changed:
                self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        """Wait until something is to be done; False at the end."""
        with self._changed:
            while not self._stopped and not self._reads.due:
                self._changed.wait()
            return not self._stopped

    def read_into(self, view: memoryview) -> int:
        """Take what has come, at least one byte; 0 at the end of the run.

        :raises TransferError: what the server says, or the connection
        """
        if self._reads.finished:
            return 0
        started = time.monotonic()
        with self._changed:
            while not self._reads.ready:
                if self._error is not None:
                    raise self._error
                self._waiter.check()
                self._changed.wait(_context.TICK)
        self.waited += time.monotonic() - started
        self._waiter.check()
        count = self._reads.take(view)
        with self._changed:
            self._changed.notify_all()
        return count

    def stop(self) -> None:
        """End the thread; the waiter MUST be closed already."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)
