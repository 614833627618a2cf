# SPDX-License-Identifier: Apache-2.0
"""Reads of one export, many ahead, within a bound of memory."""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Iterable

from oslo_transfer.drivers import base
from oslo_transfer.drivers.nbd import connection
from oslo_transfer.drivers.nbd import replies

#: The most that one request moves.
REQUEST = 2 << 20
#: The most bytes that are asked for, or sent, and not done with. It takes
#: a round trip of 80 ms to hold 100 MiB/s back by it.
WINDOW = 8 << 20
# The most requests for what is behind a run.
_MOST_AHEAD = 64


class Reads:
    """Reads a run of bytes in order.

    Not thread-safe; the connection may have other users in between.

    :param link: the connection, in use by the caller when he reads
    :param offset: the first byte
    :param length: how many; they MUST be there
    :param behind: tells runs of data that will probably be read next, from
        an offset on; they are asked for when all of this run is
    """

    def __init__(
        self,
        link: connection.Connection,
        offset: int,
        length: int,
        behind: Callable[[int], Iterable[base.Extent]] = lambda _offset: (),
    ) -> None:
        self._link = link
        self._position = offset
        self._end = offset + length
        self._behind = behind
        self._align = link.export.align
        self._next, self._asked_end = self._whole(offset, self._end)
        self._step = min(REQUEST, link.export.most)
        # What is asked for at first: few bytes may be all that is wanted.
        self._window = 2 * self._step
        self._queue: collections.deque[replies.Request] = collections.deque()
        self._begun = False

    def _whole(self, start: int, end: int) -> tuple[int, int]:
        """Whole blocks that a run is in."""
        return start - start % self._align, -(
            -end // self._align
        ) * self._align

    def read_into(self, view: memoryview) -> int:
        """Read at least one byte; 0 at the end of the run.

        :raises TransferError: what the server says, or the connection
        """
        if self._position == self._end:
            return 0
        self._fill()
        request = self._queue[0]
        view = view[: self._end - self._position]
        count = self._link.read_into(request, view)
        self._position += count
        self._window = min(WINDOW, self._window + count)
        if request.taken == request.length:
            self._queue.popleft()
        return count

    def _adopt(self) -> None:
        """Take what was asked for already, or have it thrown away."""
        ahead = self._link.ahead
        while ahead and ahead[0].offset == self._next < self._asked_end:
            request = ahead.popleft()
            request.taken = max(0, self._position - self._next)
            self._queue.append(request)
            self._next += request.length
        if not self._queue:
            while ahead:
                ahead.popleft().drop()

    def _fill(self) -> None:
        """Ask for as much as may be in flight, all at once."""
        if not self._begun:
            self._begun = True
            self._adopt()
        runs = []
        while self._room:
            # Requests end at multiples of the step, and blocks with them.
            count = self._most(self._next, self._asked_end)
            runs.append((self._next, count))
            self._next += count
        own = len(runs)
        if self._next >= self._asked_end:
            runs += self._runs_behind()
        if runs:
            made = self._link.submit_reads(runs)
            made[0].taken = max(0, self._position - made[0].offset)
            self._queue.extend(made[:own])
            self._link.ahead.extend(made[own:])

    @property
    def _room(self) -> bool:
        return (
            self._next < self._asked_end
            and self._next - self._position < self._window
        )

    def _most(self, start: int, end: int) -> int:
        return min(self._step - start % self._step, end - start)

    def _runs_behind(self) -> list[tuple[int, int]]:
        """What is to come along with the end of this run."""
        ahead = self._link.ahead
        flight = self._next - self._position + sum(x.length for x in ahead)
        if flight > self._window // 2:
            return []  # A few at a time: each message wakes the server up.
        known = self._next
        if ahead:
            known = ahead[-1].offset + ahead[-1].length
        runs: list[tuple[int, int]] = []
        for run in self._behind(known):
            start, end = self._whole(run.offset, run.offset + run.length)
            if start < known or flight >= self._window:
                break
            count = self._most(start, end)
            runs.append((start, count))
            flight += count
            known = end
            if count < end - start or len(ahead) + len(runs) >= _MOST_AHEAD:
                break  # The rest of a long run comes when it is read.
        return runs

    def drop(self) -> None:
        """Let go of what was asked for."""
        while self._queue:
            self._queue.popleft().drop()
