# SPDX-License-Identifier: Apache-2.0
"""One torrent in the process's session, and which of its pieces are there."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
import dataclasses
import errno
import functools
import logging
import os
import threading
import typing

import libtorrent

from oslo_transfer.drivers.bittorrent import peers as _peers
from oslo_transfer.drivers.bittorrent import session as _session
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer.drivers.bittorrent import metainfo

LOG = logging.getLogger(__name__)

# What is known of a piece.
_MISSING = 0
_CHECKED = 1  # Its hash is right; it may be in libtorrent's memory only.
_READABLE = 2  # It is in the file.

# What a tracker has to say for itself, in characters.
_MOST_REASON = 200

_IDLE = 0  # The priority of what nobody wants now.
# Blocks that peers have sent already are replaced: they may be wrong.
_OVERWRITE = 1


@dataclasses.dataclass(frozen=True)
class Stats:
    """Figures of a torrent.

    :ivar peers: connected
    :ivar seeds: those of them that have everything
    :ivar from_peers: bytes of data that came from them, right or wrong
    :ivar down_rate: bytes per second from peers now
    :ivar up_rate: bytes per second to peers now
    :ivar failed: bytes that were wrong
    :ivar redundant: bytes that came twice
    """

    peers: int
    seeds: int
    from_peers: int
    down_rate: int
    up_rate: int
    failed: int
    redundant: int


_NOTHING = Stats(0, 0, 0, 0, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece that can be read now.

    :ivar index: its number
    :ivar by: who fed it; None if peers brought it
    """

    index: int
    by: str | None


class Torrent:
    """A torrent whose file is filled, or seeded. Thread-safe.

    :param meta: the torrent
    :param path: its file
    :param group: the options of the driver
    :param have: pieces that are in the file and right
    :param wanted: whether to ask peers for all that is missing; else only
        for what is asked for by :meth:`want`
    :param trackers: URLs to announce to
    :raises ConfigurationError: an option cannot work
    :raises CapabilityMissing: libtorrent cannot use the path
    """

    def __init__(
        self,
        meta: metainfo.Metainfo,
        path: str,
        group: typing.Any,
        *,
        have: Collection[int],
        wanted: bool,
        trackers: Iterable[str] = (),
    ) -> None:
        self.meta = meta
        self._changed = threading.Condition()
        self._state = bytearray(meta.piece_count)
        for index in have:
            self._state[index] = _READABLE
        self._readable: list[Piece] = []
        self._fed: dict[int, str] = {}
        self._unflushed: set[int] = set()
        self._flushing: set[int] | None = None
        self._error: exceptions.TransferError | None = None
        self._rate: int | None = None
        self._closed = False
        self._before = _NOTHING
        self._parameters_of = functools.partial(
            self._parameters, path, wanted, tuple(trackers)
        )
        parameters = self._parameters_of()
        self._session = _session.acquire(group, meta.info_hash)
        try:
            self._handle = self._session.add(parameters, self)
        except BaseException:
            _session.release(self._session, meta.info_hash)
            raise

    def _parameters(
        self,
        path: str,
        wanted: bool,
        trackers: Iterable[str],
    ) -> typing.Any:
        directory, name = os.path.split(os.path.abspath(path))
        try:
            path.encode()
        except UnicodeEncodeError as exc:
            raise exceptions.CapabilityMissing(
                'libtorrent needs paths in UTF-8'
            ) from exc
        found = _session.parameters(self.meta, directory, name)
        found.trackers = list(trackers)
        # The pieces that are there were checked by us.
        found.flags |= libtorrent.torrent_flags.no_verify_files
        found.have_pieces = [bool(each) for each in self._state]
        if not wanted:
            found.piece_priorities = [_IDLE] * self.meta.piece_count
        return found

    # Peers

    def connect(self, found: Iterable[_peers.Address]) -> None:
        """Try to connect to peers; the session's filter holds."""
        for address in found:
            self._handle.connect_peer(address)

    def limit(self, rate: int | None) -> None:
        """Set the most bytes per second that peers may bring."""
        if rate != self._rate:
            self._rate = rate
            self._handle.set_download_limit(rate or 0)

    def availability(self) -> list[int]:
        """How many connected peers have each piece. Blocks for a moment."""
        return list(self._handle.piece_availability())

    def stats(self) -> Stats:
        """Figures of now. Blocks for a moment."""
        found, before = self._handle.status(0), self._before
        return Stats(
            peers=found.num_peers,
            seeds=found.num_seeds,
            from_peers=before.from_peers + found.total_payload_download,
            down_rate=found.download_payload_rate,
            up_rate=found.upload_payload_rate,
            failed=before.failed + found.total_failed_bytes,
            redundant=before.redundant + found.total_redundant_bytes,
        )

    def forgive(self) -> bool:
        """Begin anew with what is there: nobody is banned any more.

        libtorrent bans all who had a part in some wrong pieces, though one
        of them alone may have spoiled those. Who is connected is left, and
        what is asked for by :meth:`want` is forgotten.

        :returns: False if that has to wait until all is written
        """
        before = self.stats()
        with self._changed:
            if self._closed or self._unflushed or self._flushing is not None:
                return False
            # What was fed and is not checked is fed again.
            self._fed.clear()
            parameters = self._parameters_of()
        self._session.remove(self._handle)
        self._handle = self._session.add(parameters, self)
        self._before = before
        self._rate = None
        return True

    # Pieces

    def want(self, indices: Iterable[int]) -> None:
        """Have peers asked for pieces now, in this order."""
        for number, index in enumerate(indices):
            if self._state[index] == _MISSING:
                self._handle.set_piece_deadline(index, 10 * number)

    def forget(self, indices: Iterable[int]) -> None:
        """Ask nobody for these pieces any more."""
        for index in indices:
            if self._state[index] == _MISSING:
                self._handle.reset_piece_deadline(index)
                self._handle.piece_priority(index, _IDLE)

    def missing(self, index: int) -> bool:
        """Whether a piece is neither there nor fed and on its way."""
        return self._state[index] == _MISSING and index not in self._fed

    def have(self) -> list[bool]:
        """Which pieces are there, or fed and on their way."""
        with self._changed:
            found = [bool(each) for each in self._state]
            for index in self._fed:
                found[index] = True
        return found

    def readable(self, index: int) -> bool:
        """Whether a piece can be read from the file."""
        return self._state[index] == _READABLE

    @property
    def checked(self) -> int:
        """How many pieces are there with the right hash."""
        return len(self._state) - self._state.count(_MISSING)

    @property
    def complete(self) -> bool:
        """Whether all pieces can be read from the file."""
        return self._state.count(_READABLE) == len(self._state)

    def feed(self, index: int, data: bytes, by: str) -> None:
        """Bring a piece that is not from a peer, and that is right.

        :param by: names who gave it
        """
        with self._changed:
            if self._state[index] != _MISSING or self._closed:
                return
            self._fed[index] = by
        self._handle.add_piece(index, data, _OVERWRITE)

    @property
    def on_its_way(self) -> int:
        """How many pieces were fed and are not in the file yet."""
        return len(self._fed)

    def collect(self) -> list[Piece]:
        """Pieces that have become readable since the last call."""
        with self._changed:
            found, self._readable = self._readable, []
        return found

    def wait(self, seconds: float) -> None:
        """Wait until something changes, but not longer than this."""
        with self._changed:
            self._changed.wait(seconds)

    def wait_readable(self, seconds: float) -> None:
        """Wait until there is something to collect, or an error."""
        with self._changed:
            if not (self._readable or self._error):
                self._changed.wait(seconds)

    def check(self) -> None:
        """Raise what libtorrent has complained about."""
        if self._error is not None:
            raise self._error

    # Called by the session's thread

    def alert(self, alert: typing.Any) -> None:
        """Note what libtorrent says."""
        match type(alert):
            case libtorrent.piece_finished_alert:
                self._finished(alert.piece_index)
            case libtorrent.cache_flushed_alert:
                self._flushed()
            case libtorrent.hash_failed_alert:
                self._wrong(alert.piece_index)
            case libtorrent.file_error_alert | libtorrent.torrent_error_alert:
                self._broken(alert)
            case libtorrent.tracker_error_alert:
                # Not its message: the URL may hold a key.
                LOG.warning(
                    '%s: a tracker failed: %s %r',
                    self.meta.name,
                    alert.error.message(),
                    alert.failure_reason()[:_MOST_REASON],
                )

    def tick(self) -> None:
        """Have what was checked written to the file."""
        with self._changed:
            if not self._unflushed or self._flushing is not None:
                return
            self._flushing, self._unflushed = self._unflushed, set()
        self._handle.flush_cache()

    def _finished(self, index: int) -> None:
        with self._changed:
            if self._state[index] != _MISSING:
                return
            self._state[index] = _CHECKED
            self._unflushed.add(index)
            last = self._state.count(_MISSING) == 0
            self._changed.notify_all()
        if last:
            self.tick()

    def _flushed(self) -> None:
        with self._changed:
            for index in self._flushing or ():
                self._state[index] = _READABLE
                self._readable.append(Piece(index, self._fed.pop(index, None)))
            self._flushing = None
            self._changed.notify_all()
        if not self._state.count(_MISSING):
            self.tick()

    def _wrong(self, index: int) -> None:
        """A hash was wrong; the piece is asked for again."""
        with self._changed:
            self._fed.pop(index, None)
            self._changed.notify_all()

    def _broken(self, alert: typing.Any) -> None:
        code = alert.error
        message = f'libtorrent: {alert.message()}'
        error: exceptions.TransferError
        if code.value() in (errno.ENOSPC, errno.EDQUOT):
            error = exceptions.NoSpace(message)
        else:
            error = exceptions.StorageError(message)
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def close(self) -> None:
        """Leave the swarm; the file stays. Idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._session.remove(self._handle)
        _session.release(self._session, self.meta.info_hash)
