# SPDX-License-Identifier: Apache-2.0
"""Fills the part file of a copy: libtorrent writes straight into it."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import logging
import time
import typing

from oslo_transfer.drivers.bittorrent import bound
from oslo_transfer.drivers.bittorrent import held
from oslo_transfer.drivers.bittorrent import swarm as _swarm
from oslo_transfer.drivers.bittorrent import torrent as _torrent
from oslo_transfer.drivers.bittorrent import webseed

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers.bittorrent import metainfo
    from oslo_transfer.drivers import target

LOG = logging.getLogger(__name__)

_TICK = 0.1


class Filling:
    """Fills one target.

    :param meta: the torrent
    :param target: the part file
    :param group: the options of the driver
    :param ctx: the limits
    """

    def __init__(
        self,
        meta: metainfo.Metainfo,
        target: target.Target,
        group: typing.Any,
        ctx: _context.Context,
    ) -> None:
        self._meta = meta
        self._target = target
        self._group = group
        self._started = time.monotonic()
        self._most_peers = 0
        self._moved = 0
        have = held.check(meta, target.path, target.held, ctx)
        # The rest is what has to come from somebody.
        self._size = meta.size - sum(meta.piece_span(i)[1] for i in have)
        self._report_held(have)
        self._swarm = _swarm.Swarm(
            meta,
            target.path,
            group,
            ctx,
            have=have,
            places=[*target.helpers, *webseed.of(meta)],
        )

    def run(self) -> None:
        """Wait until all pieces are there, and report them."""
        torrent = self._swarm.torrent
        try:
            while not torrent.complete:
                torrent.limit(self._target.rate)
                self._report(torrent.collect())
                self._swarm.look_after()
                self._note()
                torrent.wait_readable(_TICK)
        finally:
            self._report(torrent.collect())
            stats = torrent.stats()
            self._target.waste(stats.failed + stats.redundant)
        self._tell_bound()

    def _report_held(self, have: set[int]) -> None:
        """What is there at the beginning."""
        zeros = self._meta.zero_pieces()
        self._arrived(have - zeros, 'resumed')
        self._arrived(have & zeros, 'zeros')
        self._target.checked()

    def _report(self, pieces: list[_torrent.Piece]) -> None:
        names = {piece.by for piece in pieces}
        for by in names:
            self._arrived(
                [piece.index for piece in pieces if piece.by == by],
                'origin' if by else 'peer',
                by,
            )

    def _arrived(
        self, indices: Iterable[int], origin: str, by: str | None = None
    ) -> None:
        for start, stop in _runs(indices):
            offset = self._meta.piece_span(start)[0]
            last, length = self._meta.piece_span(stop - 1)
            self._target.arrived(offset, last + length - offset, origin, by)

    def _note(self) -> None:
        stats = self._swarm.stats
        self._most_peers = max(self._most_peers, stats.peers)
        if stats.from_peers > self._moved:
            self._target.moved(stats.from_peers - self._moved)
            self._moved = stats.from_peers
        self._target.note(
            peers=stats.peers,
            from_peers_per_second=stats.down_rate,
            to_peers_per_second=stats.up_rate,
        )

    def _tell_bound(self) -> None:
        """Say how near it came to what is possible."""
        group = self._group
        origin = group.origin_rate_bytes_per_second
        host = group.host_rate_bytes_per_second
        if not (origin and host and self._size):
            return
        seconds = time.monotonic() - self._started
        hosts = group.swarm_hosts or self._most_peers + 1
        least = bound.lower_bound(self._size, origin, host, hosts)
        LOG.info(
            '%s: %.2f s, %.2f times the lower bound of %.2f s for %d hosts',
            self._meta.name,
            seconds,
            seconds / least,
            least,
            hosts,
        )

    def close(self) -> None:
        """Leave the swarm; idempotent."""
        self._swarm.close()


def _runs(indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Pieces that follow each other, as (first, one behind the last)."""
    start = stop = -1
    for index in sorted(indices):
        if index != stop:
            if start >= 0:
                yield start, stop
            start = index
        stop = index + 1
    if start >= 0:
        yield start, stop
