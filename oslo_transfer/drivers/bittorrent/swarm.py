# SPDX-License-Identifier: Apache-2.0
"""A torrent at work: its peers, the places that feed it, and its limits."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Sequence
import logging
import time
import typing

from oslo_transfer.drivers.bittorrent import feeder as _feeder
from oslo_transfer.drivers.bittorrent import peers as _peers
from oslo_transfer.drivers.bittorrent import torrent as _torrent
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers.bittorrent import metainfo
    from oslo_transfer.drivers import target

LOG = logging.getLogger(__name__)

# Seconds after which peers that are not connected are tried again.
_AGAIN = 5.0
# Pieces that are begun at one peer at once.
_PIECES_OF_A_PEER = 2
_LOOK = 0.5
# Seconds for a peer that is tried alone to bring something.
_ONE_SUSPECT = 2.0
# Seconds for it to complete a right piece, while it brings bytes.
_PROOF = 5.0


class Swarm:
    """Gets pieces of a torrent into its file.

    :param meta: the torrent
    :param path: the file
    :param group: the options of the driver
    :param ctx: the limits
    :param have: pieces that are in the file and right
    :param places: further places to read pieces from
    :param demand: the pieces that somebody waits for; None to get all
    """

    def __init__(
        self,
        meta: metainfo.Metainfo,
        path: str,
        group: typing.Any,
        ctx: _context.Context,
        *,
        have: Collection[int],
        places: Sequence[target.Helper],
        demand: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        self._ctx = ctx
        self._whole = demand is None
        # Peers that are tried one by one; None as long as there is no need.
        self._suspects: list[_peers.Address] | None = None
        self._good = self._checked = 0
        allowed = _peers.Allowed(group.peer_networks)
        finder: _peers.Finder = _peers.GivenPeers(group.peers)
        trackers = _peers.trackers(meta, group.trackers, allowed, ctx)
        self._peers = _allowed(finder.peers(meta.info_hash, ctx), allowed)
        self._lonely = not (self._peers or trackers or group.lsd or group.dht)
        self.torrent = _torrent.Torrent(
            meta,
            path,
            group,
            have=have,
            wanted=demand is None,
            trackers=trackers,
        )
        self.torrent.connect(self._peers)
        self._feeder = _feeder.Feeder(
            self.torrent, places, demand or _nothing, ctx
        )
        self._stats = self.torrent.stats()
        self._looked = self._connected = time.monotonic()
        self._moved = self._proved = self._looked
        self._window = self._looked
        self._before = 0

    @property
    def stats(self) -> _torrent.Stats:
        """Figures of a moment ago."""
        return self._stats

    def look_after(self) -> None:
        """See that it goes on; called often while somebody waits.

        :raises Stalled: nobody brings anything
        :raises Unavailable: nobody is left who could
        :raises IntegrityError: what came was wrong
        :raises NoSpace: the file system is full
        """
        self._ctx.check()
        self.torrent.check()
        now = time.monotonic()
        if now < self._looked + _LOOK:
            return
        self._looked = now
        self._stats = self.torrent.stats()
        good = self._good_bytes()
        if good > self._good:
            self._good, self._moved = good, now
        if self.torrent.checked > self._checked:
            self._checked, self._proved = self.torrent.checked, now
        if self._suspects is not None or self._is_poisoned(now):
            self._try_suspects(now)
        elif not self._stats.peers and now >= self._connected + _AGAIN:
            self._connected = now
            self.torrent.connect(self._peers)
        if self._lonely and not self._stats.peers and not self._feeder.alive:
            raise self._alone()
        self._check_stall(now)

    def _is_poisoned(self, now: float) -> bool:
        """Whether those who had right bytes seem to be banned, too."""
        if not self._whole or not self._stats.failed or len(self._peers) < 2:
            return False
        patience = max(_ONE_SUSPECT, self._ctx.stall.seconds / 4)
        return not self._stats.peers or now > self._moved + patience

    def _try_suspects(self, now: float) -> None:
        """Ask one peer at a time: then it is known who has wrong bytes."""
        if self._suspects is None:
            self._suspects = list(self._peers)
        elif now < max(self._connected, self._moved) + _ONE_SUSPECT:
            # Bytes that nobody asked for may come without end.
            if now < max(self._connected, self._proved) + _PROOF:
                return
        # Blocks of the one before would be blamed on the next one.
        if self._suspects and self.torrent.forgive():
            self.torrent.connect([self._suspects.pop(0)])
            self._connected = now
        elif now > self._proved + _PROOF + self._ctx.stall.seconds:
            raise self._stalled(now - self._proved)

    def _good_bytes(self) -> int:
        found = self._stats
        return (
            found.from_peers - found.failed - found.redundant
        ) + self._feeder.fed

    def _check_stall(self, now: float) -> None:
        rule = self._ctx.stall
        if now < self._window + rule.seconds:
            return
        seconds = now - self._window
        bytes_now = self._good_bytes()
        rate = (bytes_now - self._before) / seconds
        if rate < rule.bytes_per_second or now > self._proved + (
            # Bytes that come have to make right pieces in the end.
            rule.seconds
            + _PIECES_OF_A_PEER
            * self.torrent.meta.piece_length
            * max(1, self._stats.peers)
            / rate
        ):
            raise self._stalled(seconds)
        self._window, self._before = now, bytes_now

    def _alone(self) -> exceptions.TransferError:
        if self._feeder.error is not None:
            return self._feeder.error
        return exceptions.Unavailable(
            'nobody has the data: there are no peers, no trackers and no '
            'web seeds; see [oslo_transfer_bittorrent] peer_networks, peers '
            'and trackers'
        )

    def _stalled(self, seconds: float) -> exceptions.TransferError:
        found = self._stats
        if found.failed:
            return exceptions.IntegrityError(
                f'the swarm has wrong bytes: {found.failed} bytes from peers '
                f'did not have the right hash'
            )
        further = self._feeder.error
        return exceptions.Stalled(
            f'the swarm brought nothing in {seconds:.0f} seconds; '
            f'{found.peers} peers are connected, {found.seeds} of them have '
            f'everything' + (f'; beside them: {further}' if further else '')
        )

    def close(self) -> None:
        """Leave the swarm; idempotent."""
        self._feeder.close()
        self.torrent.close()


def _allowed(
    found: Sequence[_peers.Address], allowed: _peers.Allowed
) -> list[_peers.Address]:
    """The peers of them that may be connected to."""
    for host, _port in found:
        if host not in allowed:
            LOG.warning('a peer is left out: %s not in peer_networks', host)
    return [each for each in found if each[0] in allowed]


def _nothing() -> Sequence[int]:
    return ()
