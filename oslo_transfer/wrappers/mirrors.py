# SPDX-License-Identifier: Apache-2.0
"""Several locations of the same bytes as one source.

Each stream comes from one of them: the best one that has room. One that
fails, or is much slower than another, loses its streams to the others.
That the bytes fit together is only known in the end, from a digest; which
location gave which bytes is noted for the case that they do not.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
import threading
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import ranges
from oslo_transfer import shared
from oslo_transfer.wrappers import ledger as _ledger
from oslo_transfer.wrappers import mirror as _mirror
from oslo_transfer.wrappers import referee
from oslo_transfer.wrappers import retry


class MirroredSource(base.Source):
    """Wraps the sources of several locations; opens them as needed.

    :param locations: in the order of preference
    :param opener: opens one of them
    :param ctx: the limits to keep
    :param size: what it must be, or None
    :param most: how many locations to read from at once
    """

    def __init__(
        self,
        locations: Sequence[ends.End],
        opener: _mirror.Opener,
        ctx: _context.Context,
        size: int | None,
        most: int,
    ) -> None:
        memory = shared.current().locations
        backoff: float = ctx.conf.oslo_transfer.location_backoff
        self.mirrors = [
            _mirror.Mirror(end, index, memory.rest(end, backoff))
            for index, end in enumerate(locations)
        ]
        self._opener = opener
        self._ctx = ctx
        self._most = most
        self.size = size
        self._lock = threading.Lock()
        self._mine = threading.local()
        self._streams: set[MirrorStream] = set()
        self._referee = referee.Referee(
            self.mirrors, self._streams, self._lock
        )
        #: Which location gave which bytes.
        self.ledger = _ledger.Ledger()
        self._closed = False
        self.primary: _mirror.Mirror | None = None

    def open(self, offset: int) -> None:
        """Open the first location that works; its size is the size.

        :param offset: where reading will probably begin
        :raises TransferError: none works; the last reason
        """
        error = self.mirrors[-1].error
        for mirror in self.mirrors:
            if mirror.gone:
                continue
            try:
                source = self._open(mirror, offset)
            except exceptions.TransferError as exc:
                self._fail(mirror, exc)
                error = exc
                continue
            self.primary = mirror
            self.size = source.size
            self.pieces = source.pieces
            self.validator = source.validator
            self.delimited = source.delimited
            self.geometry = base.Geometry(
                align=source.geometry.align,
                preferred=source.geometry.preferred,
                max_streams=source.geometry.max_streams
                + len(self.mirrors)
                - 1,
            )
            return
        assert error is not None
        raise error

    @property
    def capabilities(self) -> base.Capability:  # type: ignore[override]
        """What at least one location can do."""
        found = base.Capability.READ
        if self.size is not None and any(
            each.ranges for each in self.mirrors if not each.gone
        ):
            found |= base.Capability.RANDOM_READ
        if self.primary is not None and self.primary.source is not None:
            found |= self.primary.source.capabilities & (
                base.Capability.EXTENTS | base.Capability.PIECES
            )
        return found

    def stream(
        self,
        offset: int,
        length: int | None,
        without: Collection[_mirror.Mirror] | None = None,
    ) -> MirrorStream:
        """A stream of the best location.

        :param without: locations not to ask; the stream is then one to
            compare with, that nobody takes away for being slow
        """
        spared = without is not None
        without = without or ()
        while True:
            mirror = self._choose(offset, without)
            try:
                self._open(mirror, offset)
                stream = mirror.stream(offset, length)
            except exceptions.TransferError as exc:
                self._fail(mirror, exc)
                if not self._another(without):
                    raise self._final(exc, without) from exc
                continue
            with self._lock:
                mine = MirrorStream(self, mirror, stream, offset)
                mine.spared = spared
                mirror.active.add(mine.pace)
                self._streams.add(mine)
            self._mine.mirror = mirror
            return mine

    def _choose(
        self, offset: int, without: Collection[_mirror.Mirror]
    ) -> _mirror.Mirror:
        if self._closed:
            raise exceptions.TransferCancelled('the source was closed')
        with self._lock:
            usable = [
                each
                for each in self.mirrors
                if not each.gone
                and each not in without
                and (each.ranges or not offset)
            ]
            if not usable:
                raise exceptions.CapabilityMissing(
                    f'no location is left that gives byte {offset}'
                )
            at_work = [each for each in usable if each.active]
            if len(at_work) >= self._most:
                usable = [each for each in at_work if each.healthy] or usable
            best = min(usable, key=self._preference)
            # Going on with the one that is in use saves opening another.
            last = getattr(self._mine, 'mirror', None)
            if (
                last in usable
                and last.healthy
                and not last.crowded
                and (last.rate or 0.0) >= (best.rate or 0.0) / 2
            ):
                return typing.cast(_mirror.Mirror, last)
            return best

    @staticmethod
    def _preference(mirror: _mirror.Mirror) -> tuple[typing.Any, ...]:
        rate = mirror.rate
        share = (
            float('-inf') if rate is None else -rate / (len(mirror.active) + 1)
        )
        if rate is None and mirror.active:
            # In use, and not known yet: behind those that wait unused.
            share = 0.0
        return (
            mirror.rest,
            mirror.slow,
            mirror.crowded,
            share,
            len(mirror.active),
            mirror.index,
        )

    def _open(self, mirror: _mirror.Mirror, offset: int) -> base.Source:
        self._referee.start()
        return mirror.opened(offset, self._opener, self._check)

    def _check(self, source: base.Source) -> None:
        if self.size is not None and source.size != self.size:
            if source.size is None:
                raise exceptions.CapabilityMissing(
                    'it does not tell its size, so it cannot be used beside '
                    'others'
                )
            raise exceptions.SizeMismatch(self.size, source.size)

    def _fail(
        self, mirror: _mirror.Mirror, error: exceptions.TransferError
    ) -> None:
        if isinstance(
            error,
            exceptions.TransferCancelled | exceptions.DeadlineExceeded,
        ):
            raise error
        with self._lock:
            mirror.failed(error)

    def _another(self, without: Collection[_mirror.Mirror] = ()) -> bool:
        """Whether another location can go on at once."""
        with self._lock:
            return any(
                each.healthy for each in self.mirrors if each not in without
            )

    def _final(
        self,
        error: exceptions.TransferError,
        without: Collection[_mirror.Mirror] = (),
    ) -> exceptions.TransferError:
        """What to raise where none can go on at once.

        One that has failed before may do it later.
        """
        with self._lock:
            later = any(
                not each.gone for each in self.mirrors if each not in without
            )
        if later and not error.retryable:
            return exceptions.Unavailable(str(error))
        return error

    # For streams

    def broken(
        self, stream: MirrorStream, error: exceptions.TransferError
    ) -> exceptions.TransferError:
        """What to raise where a stream has failed."""
        if isinstance(error, exceptions.TransferCancelled):
            self._ctx.check()
            if not self._closed:
                # It was the referee.
                return retry.Elsewhere(f'{stream.mirror.name} holds us up')
        self._fail(stream.mirror, error)
        if self._another():
            return retry.Elsewhere(str(error))
        return self._final(error)

    def ended(self, stream: MirrorStream) -> None:
        """A stream was closed."""
        with self._lock:
            if stream not in self._streams:
                return
            self._streams.discard(stream)
            stream.mirror.ended(stream.pace)
        # Bytes that are compared with others are noted if they replace them.
        if not stream.spared:
            self.ledger.note(stream.start, stream.position, stream.mirror)

    def shares(
        self, size: int, held: ranges.RangeSet
    ) -> dict[_mirror.Mirror, int]:
        """How many bytes of the whole came from which location.

        :param size: of the whole
        :param held: what was there before
        """
        found = {
            mirror: given.total
            for mirror, given in self.ledger.given().items()
        }
        known = self.ledger.known()
        for start, end in held:
            known.add(start, end)
        # Holes are known from the one that was opened first.
        assert self.primary is not None
        found[self.primary] = found.get(self.primary, 0) + size - known.total
        return found

    def extents(
        self, offset: int, length: int
    ) -> Iterator[base.Extent] | None:
        """Those of the location that was opened first."""
        primary = self.primary
        if primary is None or primary.source is None or primary.gone:
            return None
        return primary.source.extents(offset, length)

    def close(self) -> None:
        """Close all locations."""
        self._closed = True
        self._referee.stop()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.close()
        for mirror in self.mirrors:
            mirror.close()


class MirrorStream(base.Stream):
    """A stream of one location, noted as such."""

    def __init__(
        self,
        source: MirroredSource,
        mirror: _mirror.Mirror,
        stream: base.Stream,
        offset: int,
    ) -> None:
        super().__init__()
        self._source = source
        self._stream = stream
        self.mirror = mirror
        self.pace = _mirror.Pace()
        self.start = offset
        self.position = offset
        #: To compare with: not taken away, and noted by who compares.
        self.spared = False

    @property
    def waited(self) -> float:  # type: ignore[override]
        """Seconds spent waiting for the location."""
        return self._stream.waited

    def readinto(self, buffer: typing.Any) -> int:
        """Read at least one byte."""
        return self._note(lambda: self._stream.readinto(buffer)) or 0

    def splice(self, fd: int, offset: int, count: int) -> int | None:
        """Splice, where the location's stream can."""
        return self._note(lambda: self._stream.splice(fd, offset, count))

    def _note(self, read: Callable[[], int | None]) -> int | None:
        self.pace.reading()
        count: int | None = 0
        try:
            count = read()
        except exceptions.TransferError as exc:
            raise self._source.broken(self, exc) from exc
        finally:
            self.pace.read(count or 0)
            self.position += count or 0
        return count

    def relieve(self) -> None:
        """Have the reader go on elsewhere; from any thread."""
        self._stream.close()

    def close(self) -> None:
        """Close the location's stream."""
        self._stream.close()
        self._source.ended(self)
        super().close()
