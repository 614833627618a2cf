# SPDX-License-Identifier: Apache-2.0
"""Seeds files with libtorrent, in the session that the process shares."""

from __future__ import annotations

import logging
import threading
import time
import typing

import libtorrent

from oslo_transfer import call
from oslo_transfer import context as _context
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer.drivers.bittorrent import peers
from oslo_transfer.drivers.bittorrent import session as _session
from oslo_transfer import exceptions
from oslo_transfer.service import seeder

if typing.TYPE_CHECKING:
    from oslo_config import cfg

LOG = logging.getLogger(__name__)

#: Seconds until names are resolved, and given peers tried, once more.
_AGAIN = 300.0
#: What a tracker has to say for itself, in characters.
_MOST_REASON = 200
#: Seconds that libtorrent has to let a file go.
_LET_GO = 3.0


class LibtorrentSeeder:
    """A seeder; see :class:`oslo_transfer.service.seeder.Seeder`.

    :param conf: the configuration
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._ended = threading.Event()
        self._added = threading.Event()
        self._ctx = call.Call(conf, self._ended, None, None).ctx
        self._group = conf.oslo_transfer_bittorrent
        # What is wrong with them shows at the start.
        self._allowed = peers.Allowed(self._group.peer_networks)
        self._finder = peers.GivenPeers(self._group.peers)
        if not self._allowed.networks:
            LOG.warning(
                '[oslo_transfer_bittorrent] peer_networks is empty: nobody '
                'may connect, so nothing is sent'
            )
        self._lock = threading.Lock()
        self._seedings: dict[str, _Seeding] = {}
        self._search = threading.Thread(
            target=self._search_peers, name='oslo-transfer-seed', daemon=True
        )
        self._search.start()

    def add(self, meta: metainfo.Metainfo, fd: int) -> _Seeding:
        """Offer a file."""
        seeding = _Seeding(meta, fd, self._group, self._gone)
        with self._lock:
            self._seedings[meta.info_hash] = seeding
        self._added.set()
        return seeding

    def close(self) -> None:
        """End all."""
        self._ended.set()
        self._added.set()
        with self._lock:
            seedings = list(self._seedings.values())
        for seeding in seedings:
            seeding.leave()
        end = time.monotonic() + _LET_GO
        for seeding in seedings:
            seeding.remove(end)
        self._search.join(2 * _context.TICK)

    def _gone(self, seeding: _Seeding) -> None:
        with self._lock:
            self._seedings.pop(seeding.meta.info_hash, None)

    def _search_peers(self) -> None:
        """Look for peers of what is new, and at times of all.

        In a thread of its own, because resolving a name may take long.
        """
        done: set[_Seeding] = set()
        again = time.monotonic() + _AGAIN
        while not self._ended.is_set():
            self._added.wait(max(0.0, again - time.monotonic()))
            self._added.clear()
            if time.monotonic() >= again:
                again = time.monotonic() + _AGAIN
                done.clear()
            with self._lock:
                seedings = set(self._seedings.values())
            done &= seedings
            for seeding in seedings - done:
                done.add(seeding)
                try:
                    self._search_for(seeding)
                except exceptions.TransferCancelled:
                    return
                # The second if it was removed meanwhile.
                except (exceptions.TransferError, RuntimeError) as exc:
                    LOG.warning('%s: %s', seeding.meta.name, exc)

    def _search_for(self, seeding: _Seeding) -> None:
        meta = seeding.meta
        seeding.announce(
            peers.trackers(
                meta, self._group.trackers, self._allowed, self._ctx
            )
        )
        for address in self._finder.peers(meta.info_hash, self._ctx):
            if address[0] in self._allowed:
                seeding.connect(address)


class _Seeding:
    """A file that is offered; see :class:`.seeder.Seeding`."""

    def __init__(
        self,
        meta: metainfo.Metainfo,
        fd: int,
        group: typing.Any,
        gone: typing.Callable[[_Seeding], None],
    ) -> None:
        self.meta = meta
        self._gone = gone
        self._error = ''
        self._removed = False
        self._trackers: list[str] = []
        parameters = _parameters(meta, fd)
        self._session = _session.acquire(group, meta.info_hash, seeding=True)
        try:
            self._handle = self._session.add(parameters, self)
        except BaseException:
            _session.release(self._session, meta.info_hash)
            raise

    def stats(self) -> seeder.Stats:
        """How it goes."""
        found = self._handle.status(0)
        error = self._error
        if not error and not found.is_seeding:
            error = 'the file is not what the torrent describes'
        return seeder.Stats(
            uploaded=found.total_payload_upload,
            upload_rate=found.upload_payload_rate,
            peers=found.num_peers,
            error=error,
        )

    def announce(self, trackers: list[str]) -> None:
        """Announce it to these trackers, and to no other."""
        if trackers != self._trackers:
            self._trackers = trackers
            self._handle.replace_trackers(
                [{'url': url, 'tier': 0} for url in trackers]
            )

    def connect(self, address: peers.Address) -> None:
        """Try to connect to a peer."""
        self._handle.connect_peer(address)

    def leave(self) -> None:
        """Begin to end it."""
        self._session.remove(self._handle)

    def remove(self, end: float | None = None) -> None:
        """End it, and wait until libtorrent has let the file go.

        :param end: when to wait no longer, by the monotonic clock
        """
        if self._removed:
            return
        self._removed = True
        self._gone(self)
        self.leave()
        # Its threads may still open the file by the descriptor's number,
        # which could soon be that of another file.
        if end is None:
            end = time.monotonic() + _LET_GO
        while self._handle.is_valid() and time.monotonic() < end:
            time.sleep(0.01)
        _session.release(self._session, self.meta.info_hash)

    # Called by the session's thread

    def alert(self, alert: typing.Any) -> None:
        """Note what ends it."""
        if isinstance(alert, libtorrent.hash_failed_alert):
            self._error = (
                f'piece {alert.piece_index} of the file is not what the '
                f'torrent describes'
            )
        elif isinstance(
            alert, libtorrent.file_error_alert | libtorrent.torrent_error_alert
        ):
            self._error = f'libtorrent: {alert.message()}'
        elif isinstance(alert, libtorrent.tracker_error_alert):
            # Not its message: the URL may hold a key.
            LOG.warning(
                '%s: a tracker failed: %s %r',
                self.meta.name,
                alert.error.message(),
                alert.failure_reason()[:_MOST_REASON],
            )

    def tick(self) -> None:
        """Nothing is ever written."""


def _parameters(meta: metainfo.Metainfo, fd: int) -> typing.Any:
    # By the descriptor, so that nothing that happens to the path matters.
    found = _session.parameters(meta, '/proc/self/fd', str(fd))
    # Seed mode takes the file as complete, but checks the hash of a piece
    # before it is sent for the first time. Where one is wrong all are
    # checked; upload mode then keeps libtorrent from mending the file.
    flags = libtorrent.torrent_flags
    found.flags |= flags.seed_mode | flags.upload_mode
    return found
