# SPDX-License-Identifier: Apache-2.0
"""Which blocks of an image are needed first, and in which order.

The trace of a boot is a few hundred ranges. Recorded once, it has the next
boot's blocks brought before the guest asks for them. It is only a hint: one
that is wrong costs bytes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import os
import threading
import time
import typing

from oslo_transfer.cache import iolog
from oslo_transfer import exceptions
from oslo_transfer import oserrors
from oslo_transfer import ranges
from oslo_transfer import statefile

#: The bounds of what is asked for in one go on replay, in bytes.
MIN_REQUEST = 256 << 10
MAX_REQUEST = 8 << 20

# Touches that follow one another, and are this near in time, are one.
_AT_ONCE_US = 1000
# On replay a window of touches is read in the order of the disk. What is
# needed first is to come soon; later on large requests are worth more.
_FIRST_WINDOW, _LAST_WINDOW = 512 << 10, 8 << 20
# A gap of this size or less is read rather than asked around.
_GAP = 64 << 10
# Of an image whose size only the trace tells; each takes a byte while that
# is merged.
_MAX_BLOCKS = 1 << 28
# Seconds that a pause counts at most: a guest may be started long after its
# image was looked at.
_PAUSE = 10.0
# What an iolog may have, less its lines for the file.
_MOST = iolog.MAX_LINES - 16


class Touch(typing.NamedTuple):
    """A range that was used for the first time.

    :ivar time: microseconds since the first one
    :ivar offset: in bytes
    :ivar length: in bytes
    """

    time: int
    offset: int
    length: int


class Trace:
    """First touches of an image, in the order of their times. Immutable.

    :param touches: in any order; those of one time in the order given
    """

    def __init__(self, touches: Iterable[Touch] = ()) -> None:
        self.touches = tuple(sorted(touches, key=lambda touch: touch.time))

    @classmethod
    def parse(cls, data: bytes, name: str | None = None) -> Trace:
        """The reads in an iolog of fio, version 2 or 3.

        :param name: the file to look at, where it has several
        :raises ProtocolError: it is no iolog
        :raises CapabilityMissing: it is of another version
        :raises NotFound: it has no reads of the file
        :raises InvalidEndpoint: it has several files, and none was named
        """
        entries = [
            entry
            for entry in iolog.parse(data)
            if entry.action == 'read' and entry.length
        ]
        names = {entry.name for entry in entries}
        if name is not None and name not in names:
            raise exceptions.NotFound(f'the iolog reads no file {name!r}')
        if name is None and len(names) > 1:
            raise exceptions.InvalidEndpoint(
                f'the iolog reads {len(names)} files, such as '
                f'{min(names)!r}; say which one is meant'
            )
        return cls(
            Touch(entry.time, entry.offset, entry.length)
            for entry in entries
            if name in (None, entry.name)
        )

    @classmethod
    def load(cls, path: str, name: str | None = None) -> Trace:
        """Read a file; blocks for the disk.

        :raises TransferError: see :meth:`parse`, or it cannot be read
        """
        with oserrors.os_errors(f'reading {path}'), open(path, 'rb') as file:
            data = file.read(iolog.MAX_BYTES + 1)
        return cls.parse(data, name)

    def save(self, path: str, name: str) -> None:
        """Replace a file, or leave it as it was; blocks for the disk.

        :param name: as for :meth:`dump`
        :raises TransferError: it cannot be written
        """
        data = self.dump(name)
        with oserrors.os_errors(f'writing {path}'):
            statefile.write(os.path.abspath(path), data)

    def dump(self, name: str, version: int = 3) -> bytes:
        """An iolog that fio can replay.

        :param name: what it calls the image; fio's ``replay_redirect``
            reads another file instead
        :param version: 3, or 2 for the order alone
        :raises ValueError: it has spaces, or is too long
        """
        return iolog.write(
            (
                iolog.Entry(touch.time, name, 'read', *touch[1:])
                for touch in self.touches
            ),
            version,
        )

    @property
    def seconds(self) -> float:
        """From the first touch to the last."""
        if not self.touches:
            return 0.0
        return (self.touches[-1].time - self.touches[0].time) / 1e6

    def ranges(self) -> ranges.RangeSet:
        """What was touched at all."""
        # In the order of the disk each is added at the end, and cheaply.
        return ranges.RangeSet(
            (touch.offset, touch.offset + touch.length)
            for touch in sorted(self.touches, key=lambda touch: touch.offset)
        )

    def blocks(self, size: int, block_bytes: int) -> bytearray:
        """A byte for each block of an image: 1 where it was touched."""
        found = bytearray(-(-size // block_bytes))
        for _time, offset, length in self.clipped(size).touches:
            first = offset // block_bytes
            end = -(-(offset + length) // block_bytes)
            found[first:end] = b'\1' * (end - first)
        return found

    def clipped(self, size: int) -> Trace:
        """Without what is behind the end of an image of a size in bytes."""
        return Trace(
            touch._replace(length=min(touch.length, size - touch.offset))
            for touch in self.touches
            if touch.offset < size
        )

    def merged(
        self,
        size: int | None = None,
        block_bytes: int = 64 << 10,
        most: int = MAX_REQUEST,
    ) -> Trace:
        """Each block once, in requests that are worth a round trip.

        They keep the order of first use by windows of a few MiB. Within one
        they are in the order of the disk, and near ones are joined.

        :param size: of the image, to be kept to
        :param block_bytes: what they are aligned to, but at the end
        :param most: the most bytes of one, from :data:`MIN_REQUEST` to
            :data:`MAX_REQUEST`
        :raises ProtocolError: by what it says the image is too large
        """
        if not MIN_REQUEST <= most <= MAX_REQUEST:
            raise ValueError(f'{MIN_REQUEST} to {MAX_REQUEST}: {most}')
        if size is None:
            size = max((each[1] + each[2] for each in self.touches), default=0)
            if size > _MAX_BLOCKS * block_bytes:
                raise exceptions.ProtocolError(
                    f'the trace is of an image of {size} bytes; with blocks '
                    f'of {block_bytes} bytes no image is as large'
                )
        merging = _Merging(size, block_bytes, most)
        return Trace(merging.run(self.clipped(size).touches))

    def plan(self, size: int, block_bytes: int) -> list[tuple[int, int]]:
        """Offsets and lengths to have brought, in this order.

        See :meth:`merged`.
        """
        merged = self.merged(size, block_bytes)
        return [(touch.offset, touch.length) for touch in merged.touches]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and self.touches == other.touches

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f'<Trace of {len(self.touches)} touches>'


class _Merging:
    def __init__(self, size: int, block_bytes: int, most: int) -> None:
        self._size = size
        self._block_bytes = block_bytes
        self._most = max(1, most // block_bytes)
        self._window = max(1, _FIRST_WINDOW // block_bytes)
        self._last_window = max(1, _LAST_WINDOW // block_bytes)
        self._gap = _GAP // block_bytes
        # One byte for each block: whether it is in.
        self._seen = bytearray(-(-size // block_bytes))

    def run(self, touches: Iterable[Touch]) -> Iterator[Touch]:
        """Requests in the order in which they are to be made."""
        runs: list[tuple[int, int]] = []
        began = count = 0
        for touch in touches:
            for run in self._new(touch):
                began = began if runs else touch.time
                runs.append(run)
                count += run[1] - run[0]
            if count >= self._window:
                yield from self._requests(began, runs)
                runs, count = [], 0
                self._window = min(self._last_window, 2 * self._window)
        yield from self._requests(began, runs)

    def _new(self, touch: Touch) -> Iterator[tuple[int, int]]:
        """Runs of blocks that nobody has touched before."""
        seen = self._seen
        start = touch.offset // self._block_bytes
        end = -(-(touch.offset + touch.length) // self._block_bytes)
        while start < end and (start := seen.find(0, start, end)) >= 0:
            stop = seen.find(1, start, end)
            stop = end if stop < 0 else stop
            seen[start:stop] = b'\1' * (stop - start)
            yield start, stop
            start = stop

    def _requests(
        self, when: int, runs: list[tuple[int, int]]
    ) -> Iterator[Touch]:
        runs.sort()
        joined: list[tuple[int, int]] = []
        for start, stop in runs:
            # What is between them may be here already, or come twice.
            if joined and (
                start - joined[-1][1] <= self._gap
                and self._seen.find(1, joined[-1][1], start) < 0
            ):
                self._seen[joined[-1][1] : start] = b'\1' * (
                    start - joined[-1][1]
                )
                joined[-1] = joined[-1][0], stop
            else:
                joined.append((start, stop))
        for start, stop in joined:
            for first in range(start, stop, self._most):
                offset = first * self._block_bytes
                end = min(first + self._most, stop) * self._block_bytes
                yield Touch(when, offset, min(end, self._size) - offset)


class Recorder:
    """Notes when each block is read for the first time. Thread-safe.

    A block that was touched before costs a look at one byte.

    :param size: of the image in bytes
    :param block_bytes: size of a block
    :param seconds: how long it notes, from the first touch on, with no more
        than ten for a pause
    """

    def __init__(self, size: int, block_bytes: int, seconds: float) -> None:
        self._size = size
        self._block_bytes = block_bytes
        # The most blocks of one touch.
        self._most = max(1, MAX_REQUEST // block_bytes)
        self._seconds = seconds
        self._seen = bytearray(-(-size // block_bytes))
        self._lock = threading.Lock()
        # When something was noted last, and when that was by the trace.
        self._last: float | None = None
        self._clock = 0.0
        self._touches: list[Touch] = []
        #: Nothing more is noted.
        self.over = not seconds

    def touch(self, offset: int, length: int) -> None:
        """Somebody reads bytes; they MUST be inside of the image."""
        if self.over:
            return
        size = self._block_bytes
        first, end = offset // size, -(-(offset + length) // size)
        if self._seen.find(0, first, end) >= 0:
            self._note(first, end)

    def seen(self) -> bytearray:
        """A byte for each block: 1 where it was noted."""
        return bytearray(self._seen)

    def _note(self, first: int, end: int) -> None:
        with self._lock:
            now = time.monotonic()
            if self._last is not None:
                self._clock += min(now - self._last, _PAUSE)
            self._last = now
            if self._clock > self._seconds or len(self._touches) >= _MOST:
                self.over = True
                return
            seen = self._seen
            while first < end and (first := seen.find(0, first, end)) >= 0:
                stop = seen.find(1, first, end)
                stop = min(end if stop < 0 else stop, first + self._most)
                seen[first:stop] = b'\1' * (stop - first)
                self._add(int(self._clock * 1e6), first, stop)
                first = stop

    def _add(self, when: int, first: int, stop: int) -> None:
        offset = first * self._block_bytes
        length = min(stop * self._block_bytes, self._size) - offset
        if self._touches:
            last = self._touches[-1]
            if (
                last.offset + last.length == offset
                and when - last.time < _AT_ONCE_US
                and last.length + length <= MAX_REQUEST
            ):
                length += last.length
                self._touches[-1] = last._replace(length=length)
                return
        self._touches.append(Touch(when, offset, length))

    def trace(self) -> Trace:
        """What was noted so far."""
        with self._lock:
            return Trace(self._touches)
