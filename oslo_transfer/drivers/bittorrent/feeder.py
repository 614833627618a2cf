# SPDX-License-Identifier: Apache-2.0
"""Reads pieces from plain servers and feeds them to a torrent.

That makes a seed of whatever another driver can read: the swarm gets what
the origin gives to any of its hosts. Each host reads other pieces, those
that nobody in the swarm has; see :mod:`.choice`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import logging
import threading
import time
import typing

from oslo_transfer import buffers
from oslo_transfer.drivers import base
from oslo_transfer.drivers.bittorrent import choice as _choice
from oslo_transfer.drivers import target
from oslo_transfer import exceptions
from oslo_transfer import growth

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers.bittorrent import torrent as _torrent

LOG = logging.getLogger(__name__)

# Bytes that are asked for at once while others may bring them sooner.
_LONGEST = 4 << 20
# How far it may be ahead of what peers have got of it, in bytes and in
# seconds of its own reading, the larger of both.
_AHEAD = 1 << 20
_AHEAD_SECONDS = 0.25
# Bytes that were fed and are not in the file yet, at most.
_MOST_ON_ITS_WAY = 32 << 20
# Seconds between two looks at what peers have.
_LOOK = 0.1
_TICK = 0.01
# Peers suffice if they bring this share of what the origin gives ...
_ENOUGH = 0.25
# ... or have not been slower for longer than these seconds.
_GRACE = 1.0
_JOIN_TIMEOUT = 5.0


class Feeder:
    """Feeds a torrent in threads of its own, from one place at a time.

    It begins with one stream. More are added while each makes it faster,
    but only for a host that is alone: in a swarm the others are at work.

    :param torrent: what to feed
    :param places: where to read, in order; the next one if one fails
    :param demand: tells the pieces that somebody waits for, in order
    :param ctx: the limits; it gets a ``stop`` of its own
    """

    def __init__(
        self,
        torrent: _torrent.Torrent,
        places: Sequence[target.Helper],
        demand: Callable[[], Sequence[int]],
        ctx: _context.Context,
    ) -> None:
        #: What is fed.
        self.torrent = torrent
        self._places = list(places)
        self._demand = demand
        self._stop = threading.Event()
        self._ctx = ctx.replace(stop=self._stop)
        self._most_streams: int = ctx.conf.oslo_transfer.max_streams
        self._lock = threading.Lock()
        meta = torrent.meta
        self._choice = _choice.Choice(
            meta.piece_count, _LONGEST // meta.piece_length
        )
        self._looked = 0.0
        self._availability: Sequence[int] = ()
        self._alone = True
        self._from_peers = 0
        self._slow_since: float | None = time.monotonic()
        # When the place in use was opened, and what was read before.
        self._started = 0.0
        self._before = 0
        # Replaced and never changed: others go through it meanwhile.
        self._readers: tuple[_Reader, ...] = ()
        self._retired = 0
        #: Bytes that it has read.
        self.fed = 0
        #: Why the last place was given up, once all are.
        self.error: exceptions.TransferError | None = None
        self._thread = threading.Thread(
            target=self._run, name='oslo-transfer-feeder', daemon=True
        )
        self._ended = not self._places
        if self._places:
            self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether there is a place left to read from."""
        return not self._ended

    def _run(self) -> None:
        try:
            for place in self._places:
                try:
                    self._use(place)
                    return
                except exceptions.TransferCancelled:
                    return
                except exceptions.TransferError as exc:
                    LOG.info('%s feeds no more: %s', place.name, exc)
                    place.failed(exc)
                    self.error = exc
        except Exception as exc:
            LOG.exception('feeding failed unexpectedly')
            self.error = exceptions.Unavailable(f'feeding failed: {exc}')
        finally:
            self._ended = True

    def _use(self, place: target.Helper) -> None:
        """Read from a place until the torrent is complete."""
        meta = self.torrent.meta
        run = self.next_run()
        if run is None:
            return
        source = place.open(self._ctx, meta.piece_span(run.start)[0])
        with contextlib.closing(source):
            if source.size not in (None, meta.size):
                raise exceptions.SizeMismatch(
                    meta.size, source.size or 0, place.name
                )
            self._started, self._before = time.monotonic(), self.fed
            ranges = base.Capability.RANDOM_READ in source.capabilities
            if not ranges:
                run = range(meta.piece_count)
            self._read(source, place, run, ranges)

    def _read(
        self,
        source: base.Source,
        place: target.Helper,
        run: range,
        ranges: bool,
    ) -> None:
        """Have readers at work until all is there, or the last one fails."""
        more = growth.Growth(
            min(self._most_streams, source.geometry.max_streams)
            if ranges
            else 1
        )
        self._add_reader(source, place, run, ranges)
        try:
            while self._readers:
                self.torrent.check()
                self._ctx.sleep(_TICK)
                ended = [each for each in self._readers if each.ended]
                self._readers = tuple(
                    each for each in self._readers if each not in ended
                )
                for reader in ended:
                    if reader.error is None:
                        continue
                    if not self._readers or not reader.error.retryable:
                        raise reader.error
                    more.refused()
                streams = [r.stream for r in self._readers if r.stream]
                if self._alone and more.wants_more(
                    streams=len(self._readers),
                    waited=[each.waited for each in streams],
                    total=self.fed,
                ):
                    further = self.next_run(wait=False)
                    if further is not None:
                        self._add_reader(source, place, further, ranges)
                if more.too_many:
                    more.too_many = False
                    self._retired += 1
        finally:
            for reader in self._readers:
                reader.close()
            self._readers = ()

    def _add_reader(
        self,
        source: base.Source,
        place: target.Helper,
        run: range,
        ranges: bool,
    ) -> None:
        reader = _Reader(self, source, place.name, run, ranges)
        self._readers = (*self._readers, reader)

    # For readers

    def next_run(self, wait: bool = True) -> range | None:
        """The next pieces to read. None when done, or for one too many.

        :param wait: wait until there are some
        """
        while not self.torrent.complete:
            self.keep_up()
            with self._lock:
                if self._retired and len(self._readers) > 1:
                    self._retired -= 1
                    return None
                run = self._choose()
            if run or not wait:
                return run
            # What is on its way may still turn out to be wrong.
            self.torrent.wait(_LOOK)
        return None

    def _choose(self) -> range | None:
        have = self.torrent.have()
        for reader in self._readers:
            if reader.index is not None:
                # And where it will be in a moment.
                have[reader.index : reader.index + 2] = [True, True]
        del have[self.torrent.meta.piece_count :]
        if all(have):
            return None
        self._look()
        return self._choice.next_run(
            have, self._availability, self._demand(), self._peers_suffice()
        )

    def goes_on(self, index: int) -> bool:
        """Whether to read on into a piece."""
        with self._lock:
            self._look()
            return (
                self.torrent.missing(index)
                and all(reader.index != index for reader in self._readers)
                and not (self._availability[index] and self._peers_suffice())
            )

    def keep_up(self) -> None:
        """Wait while too much is not written yet."""
        most = max(1, _MOST_ON_ITS_WAY // self.torrent.meta.piece_length)
        while True:
            self._ctx.check()
            self.torrent.check()
            if self.torrent.on_its_way < most:
                return
            self.torrent.wait(_LOOK)

    def let_others(self) -> None:
        """Pause while peers still want much of what only this host has.

        Else it would have more to hand on than it can, and the origin less
        for the others. Not where they take nothing, or give little.
        """
        least: int | None = None
        since = time.monotonic()
        while time.monotonic() < since + _GRACE:
            self._ctx.check()
            with self._lock:
                self._look()
                rate = self._rate()
                if self._from_peers <= rate:
                    return
                ahead = self._choice.ahead(self._availability)
            if ahead * self.torrent.meta.piece_length <= max(
                _AHEAD, rate * _AHEAD_SECONDS
            ):
                return
            if least is None or ahead < least:
                least, since = ahead, time.monotonic()
            self.torrent.wait(_TICK)

    def took(self, index: int, length: int) -> None:
        """A piece was read."""
        with self._lock:
            self._choice.took(index)
            self.fed += length

    def _look(self) -> None:
        """See what peers have, now and then: it takes libtorrent's time."""
        now = time.monotonic()
        if now < self._looked + _LOOK:
            return
        self._looked = now
        self._availability = self.torrent.availability()
        if not self._availability:  # Nothing is missing.
            self._availability = [0] * self.torrent.meta.piece_count
        stats = self.torrent.stats()
        self._alone = not stats.peers
        self._from_peers = stats.down_rate
        if stats.down_rate and stats.down_rate >= self._rate() * _ENOUGH:
            self._slow_since = None
        elif self._slow_since is None:
            self._slow_since = now

    def _peers_suffice(self) -> bool:
        """Whether peers bring what they have fast enough, or soon may."""
        return (
            self._slow_since is None
            or time.monotonic() < self._slow_since + _GRACE
        )

    def _rate(self) -> float:
        """What the place gives, in bytes per second."""
        seconds = time.monotonic() - self._started
        if not self._started or seconds <= _GRACE:
            return 0.0
        return (self.fed - self._before) / seconds

    def close(self) -> None:
        """End it; what is being read is broken off. Idempotent."""
        self._stop.set()
        for reader in self._readers:
            reader.abort()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_TIMEOUT)


class _Reader:
    """Reads one stream after the other, in a thread of its own."""

    def __init__(
        self,
        feeder: Feeder,
        source: base.Source,
        name: str,
        run: range,
        ranges: bool,
    ) -> None:
        self._feeder = feeder
        self._source = source
        self._name = name
        self._ranges = ranges
        #: The piece that is being read.
        self.index: int | None = run.start
        self.stream: base.Stream | None = None
        self.error: exceptions.TransferError | None = None
        self._thread = threading.Thread(
            target=self._run,
            args=(run,),
            name='oslo-transfer-feed',
            daemon=True,
        )
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether it reads no more."""
        return not self._thread.is_alive()

    def _run(self, run: range | None) -> None:
        try:
            while run is not None:
                self._read(run)
                run = self._feeder.next_run() if self._ranges else None
        except exceptions.TransferError as exc:
            self.error = exc
        except Exception as exc:
            LOG.exception('feeding failed unexpectedly')
            self.error = exceptions.Unavailable(f'feeding failed: {exc}')

    def _read(self, run: range) -> None:
        """Read pieces in order while they are wanted."""
        meta = self._feeder.torrent.meta
        offset = meta.piece_span(run.start)[0]
        last, length = meta.piece_span(run.stop - 1)
        buffer = buffers.aligned(meta.piece_length)
        self.index = run.start
        self.stream = self._source.stream(offset, last + length - offset)
        try:
            for index in run:
                self._feeder.keep_up()
                self._feeder.let_others()
                if (
                    self._ranges
                    and index != run.start
                    and not self._feeder.goes_on(index)
                ):
                    break
                self.index = index
                self._feed(index, buffer[: meta.piece_span(index)[1]])
        finally:
            self.index = None
            self.stream.close()
            self.stream = None

    def _feed(self, index: int, buffer: memoryview) -> None:
        assert self.stream is not None
        rest = buffer
        while rest:
            count = self.stream.readinto(rest)
            if not count:
                raise exceptions.Unavailable(f'{self._name} ended early')
            rest = rest[count:]
        self._feeder.took(index, len(buffer))
        if not self._feeder.torrent.meta.check_piece(index, buffer):
            # libtorrent would blame a peer that had a part in it.
            raise exceptions.IntegrityError(
                f'{self._name}: piece {index} is wrong'
            )
        self._feeder.torrent.feed(index, bytes(buffer), self._name)

    def abort(self) -> None:
        """Break off what is being read."""
        stream = self.stream
        if stream is not None:
            stream.close()

    def close(self) -> None:
        """Break it off, and wait for the thread."""
        self.abort()
        self._thread.join(_JOIN_TIMEOUT)
