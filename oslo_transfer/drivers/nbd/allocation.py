# SPDX-License-Identifier: Apache-2.0
"""Where an export has data, and where it reads as zeros."""

from __future__ import annotations

import array
import bisect
import collections
from collections.abc import Callable
from collections.abc import Iterator
import sys
import threading

from oslo_transfer.drivers import base
from oslo_transfer import nbd_wire as wire

#: The most that one request asks about.
MOST = 1 << 30
# Of one reply, the most that is looked at, and kept.
_MOST_EXTENTS = 1 << 16
# How many replies are kept: several streams look at different places.
_MOST_KEPT = 8
# A run of zeros between data that is not worth a request of its own.
_SHORT = 64 * 1024


def extents(payload: bytes, offset: int, length: int) -> list[base.Extent]:
    """What a reply to BLOCK_STATUS says; pure.

    Runs of one kind become one, and short runs of zeros between data are
    taken for data.

    :param payload: pairs of a length and flags
    :param offset: the first byte that was asked about
    :param length: how many bytes were; at least the first is told of
    :raises ValueError: it says of nothing, or more than it may
    """
    numbers = array.array('I', payload)
    if sys.byteorder == 'little':
        numbers.byteswap()
    ends: list[tuple[int, bool]] = []
    position = 0
    for index in range(0, min(len(numbers), 2 * _MOST_EXTENTS), 2):
        count, flags = numbers[index], numbers[index + 1]
        if not count:
            raise ValueError('an extent of no bytes')
        if position >= length:
            raise ValueError('extents of more than was asked about')
        # The last one may go beyond.
        count = min(count, length - position)
        position += count
        data = not flags & wire.STATE_ZERO
        if ends and ends[-1][1] == data:
            ends[-1] = position, data
        elif (
            data and len(ends) > 1 and position - count - _SHORT < ends[-2][0]
        ):
            ends[-2:] = [(position, True)]
        else:
            ends.append((position, data))
    found = []
    start = 0
    for end, data in ends:
        found.append(base.Extent(offset + start, end - start, data))
        start = end
    return found


class Allocation:
    """Asks where data is, and remembers the last answers; thread-safe.

    :param ask: tells the extents from an offset on, for at most a length;
        it covers at least the first byte
    """

    def __init__(self, ask: Callable[[int, int], list[base.Extent]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._kept: collections.deque[tuple[list[int], list[base.Extent]]] = (
            collections.deque(maxlen=_MOST_KEPT)
        )

    def runs(self, offset: int, length: int) -> Iterator[base.Extent]:
        """Tell data from holes, in order and without a gap."""
        end = offset + length
        while offset < end:
            found = self._known(offset)
            if found is None:
                runs = self._ask(offset, min(MOST, end - offset))
                with self._lock:
                    self._kept.append(([each.offset for each in runs], runs))
                found = runs[0]
            stop = min(end, found.offset + found.length)
            yield base.Extent(offset, stop - offset, found.data)
            offset = stop

    def data_behind(self, offset: int) -> Iterator[base.Extent]:
        """Runs of data behind a hole, as far as they are known.

        :param offset: where the hole begins; nothing if none does
        """
        found = self._known(offset)
        if found is not None and found.data:
            return
        while found is not None:
            if found.data:
                yield found
            found = self._known(found.offset + found.length)

    def _known(self, offset: int) -> base.Extent | None:
        with self._lock:
            kept = list(self._kept)
        for starts, runs in reversed(kept):
            index = bisect.bisect_right(starts, offset) - 1
            if index >= 0:
                found = runs[index]
                if offset < found.offset + found.length:
                    return found
        return None
