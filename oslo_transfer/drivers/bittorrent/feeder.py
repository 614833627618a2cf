# SPDX-License-Identifier: Apache-2.0
"""Reads pieces from plain servers and feeds them to a torrent.

That makes a seed of whatever another driver can read: the swarm gets what
the origin gives to any of its hosts. Each host reads other pieces, those
that nobody in the swarm has; see :mod:`.choice`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import logging
import threading
import time
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers import target
from oslo_transfer.drivers.bittorrent import choice as _choice
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers.bittorrent import torrent as _torrent

LOG = logging.getLogger(__name__)

# Bytes that were fed and are not checked yet, at most.
_MOST_ON_ITS_WAY = 32 << 20
# Seconds between two looks at what peers have.
_LOOK = 0.1
# Peers suffice if they bring this share of what the origin gives ...
_ENOUGH = 0.25
# ... or have not been slower for longer than these seconds.
_GRACE = 1.0
_JOIN_TIMEOUT = 5.0


class Feeder:
    """Feeds a torrent in a thread of its own, from one place at a time.

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
        self._torrent = torrent
        self._places = list(places)
        self._demand = demand
        self._stop = threading.Event()
        self._ctx = ctx.replace(stop=self._stop)
        self._choice = _choice.Choice(torrent.meta.piece_count)
        self._stream: base.Stream | None = None
        self._looked = 0.0
        self._availability: Sequence[int] = ()
        self._slow_since: float | None = time.monotonic()
        self._reading = 0.0
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
        meta = self._torrent.meta
        run = self._next_run()
        if run is None:
            return
        source = place.open(self._ctx, meta.piece_span(run.start)[0])
        try:
            if source.size not in (None, meta.size):
                raise exceptions.SizeMismatch(
                    meta.size, source.size or 0, place.name
                )
            if base.Capability.RANDOM_READ not in source.capabilities:
                self._read_run(source, place, range(meta.piece_count), True)
                return
            while run is not None:
                self._read_run(source, place, run)
                run = self._next_run()
        finally:
            source.close()

    def _next_run(self) -> range | None:
        """The next pieces to read; waits for some. None when done."""
        while not self._torrent.complete:
            self._keep_up()
            have = self._torrent.have()
            if all(have):
                # What is on its way may still turn out to be wrong.
                self._torrent.wait(_LOOK)
                continue
            self._look()
            run = self._choice.next_run(
                have, self._availability, self._demand(), self._peers_suffice()
            )
            if run:
                return run
            self._torrent.wait(_LOOK)
        return None

    def _look(self) -> None:
        """See what peers have, now and then: it takes libtorrent's time."""
        now = time.monotonic()
        if now < self._looked + _LOOK:
            return
        self._looked = now
        self._availability = self._torrent.availability()
        if not self._availability:  # Nothing is missing.
            self._availability = [0] * self._torrent.meta.piece_count
        rate = self._torrent.stats().down_rate
        if rate and rate >= self._rate() * _ENOUGH:
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
        return self.fed / self._reading if self._reading > _GRACE else 0.0

    def _read_run(
        self,
        source: base.Source,
        place: target.Helper,
        run: range,
        whole: bool = False,
    ) -> None:
        """Read pieces in order while they are wanted.

        :param whole: read to the end: there is no second chance
        """
        meta = self._torrent.meta
        offset = meta.piece_span(run.start)[0]
        last, length = meta.piece_span(run.stop - 1)
        buffer = memoryview(bytearray(meta.piece_length))
        stream = source.stream(offset, last + length - offset)
        self._stream = stream
        try:
            for index in run:
                self._keep_up()
                if (
                    index != run.start
                    and not whole
                    and not self._goes_on(index)
                ):
                    break
                _offset, length = meta.piece_span(index)
                started = time.monotonic()
                _fill(stream, buffer[:length])
                self._reading += time.monotonic() - started
                self.fed += length
                if not self._torrent.meta.check_piece(index, buffer[:length]):
                    # libtorrent would blame a peer that had a part in it.
                    raise exceptions.IntegrityError(
                        f'{place.name}: piece {index} is wrong'
                    )
                self._torrent.feed(index, bytes(buffer[:length]), place.name)
        finally:
            self._stream = None
            stream.close()

    def _goes_on(self, index: int) -> bool:
        """Whether to read on into a piece."""
        self._look()
        return self._torrent.missing(index) and not (
            self._availability[index] and self._peers_suffice()
        )

    def _keep_up(self) -> None:
        """Wait while too much is not written yet."""
        most = max(1, _MOST_ON_ITS_WAY // self._torrent.meta.piece_length)
        while True:
            self._ctx.check()
            self._torrent.check()
            if self._torrent.on_its_way < most:
                return
            self._torrent.wait(_LOOK)

    def close(self) -> None:
        """End it; what is being read is broken off. Idempotent."""
        self._stop.set()
        stream = self._stream
        if stream is not None:
            stream.close()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_TIMEOUT)


def _fill(stream: base.Stream, buffer: memoryview) -> None:
    while buffer:
        count = stream.readinto(buffer)
        if not count:
            raise exceptions.Unavailable('it ended early')
        buffer = buffer[count:]
