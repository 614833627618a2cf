# SPDX-License-Identifier: Apache-2.0
"""Reads of one export, many ahead, within a bound of memory."""

from __future__ import annotations

import collections

from oslo_transfer.drivers.nbd import connection
from oslo_transfer.drivers.nbd import replies
from oslo_transfer.drivers.nbd import wire

#: The most that one request moves.
REQUEST = 1 << 20
#: The most bytes that are asked for, or sent, and not done with. It takes
#: a round trip of 80 ms to hold 100 MiB/s back by it.
WINDOW = 8 << 20


class Reads:
    """Reads a run of bytes in order.

    Not thread-safe; the connection may have other users in between.

    :param link: the connection, in use by the caller when he reads
    :param offset: the first byte
    :param length: how many; they MUST be there
    """

    def __init__(
        self,
        link: connection.Connection,
        offset: int,
        length: int,
    ) -> None:
        self._link = link
        self._position = offset
        self._end = offset + length
        align = link.export.align
        self._next = offset - offset % align
        self._asked_end = -(-self._end // align) * align
        self._step = min(REQUEST, link.export.most)
        # What is asked for at first: few bytes may be all that is wanted.
        self._window = 2 * self._step
        self._queue: collections.deque[replies.Request] = collections.deque()

    def read_into(self, view: memoryview) -> int:
        """Read at least one byte; 0 at the end of the run.

        :raises TransferError: what the server says, or the connection
        """
        view = view[: self._end - self._position]
        if not view:
            return 0
        self._fill()
        request = self._queue[0]
        count = self._link.read_into(request, view)
        self._position += count
        self._window = min(WINDOW, self._window + count)
        if request.taken == request.length:
            self._queue.popleft()
        return count

    def _fill(self) -> None:
        """Ask for as much as may be in flight."""
        while (
            self._next < self._asked_end
            and self._next - self._position < self._window
        ):
            # Requests end at multiples of the step, and blocks with them.
            count = min(
                self._step - self._next % self._step,
                self._asked_end - self._next,
            )
            request = self._link.submit(wire.Command.READ, self._next, count)
            request.taken = max(0, self._position - self._next)
            self._queue.append(request)
            self._next += count

    def drop(self) -> None:
        """Let go of what was asked for."""
        while self._queue:
            self._queue.popleft().drop()
