# SPDX-License-Identifier: Apache-2.0
"""libtorrent's session: one for a process, shared by all its torrents.

It has the listening port, the connections and their limits. It begins with
the first torrent and ends with the last one.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import threading
import time
import typing

import libtorrent

from oslo_transfer.drivers.bittorrent import peers
from oslo_transfer.drivers.bittorrent import settings
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer.drivers.bittorrent import metainfo

LOG = logging.getLogger(__name__)

# Seconds between two looks of the pump at what has to be flushed.
_TICK = 0.1
_ALERTS = (
    libtorrent.alert_category.error
    | libtorrent.alert_category.status
    | libtorrent.alert_category.storage
    | libtorrent.alert_category.tracker
    | libtorrent.alert_category.piece_progress
)
# The default of 2.1.1 stops for good now and then when it is flushed while
# pieces are hashed. Files are written by pwrite(2) here, see settings.
_DISK_IO = 'mmap_disk_io_constructor'
_BLOCKED = 1
# Seconds for telling trackers that it ends; a bit more than the time that
# libtorrent gives them (stop_tracker_timeout).
_FAREWELL = 1.2
_EVERYBODY = (
    ('0.0.0.0', '255.255.255.255'),  # noqa: S104
    ('::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'),
)


class Listener(typing.Protocol):
    """What a torrent of the session has to understand."""

    def alert(self, alert: typing.Any) -> None:
        """libtorrent says something of it; must not block."""

    def tick(self) -> None:
        """Called several times in a second; must not block."""


class Session:
    """One session of libtorrent. Thread-safe.

    :param group: the options of the driver
    :param seeding: it is there to seed, not to fetch
    """

    def __init__(self, group: typing.Any, seeding: bool = False) -> None:
        self.allowed = peers.Allowed(group.peer_networks)
        found: typing.Any = settings.session_settings(group, seeding)
        found['alert_mask'] = _ALERTS
        options = libtorrent.session_params()
        options.settings = found
        options.disk_io_constructor = _DISK_IO
        self._flags = _flags(group)
        self._session: typing.Any = libtorrent.session(options)
        self._limit(group.upload_rate_limit_bytes_per_second)
        self._session.set_ip_filter(_filter(self.allowed))
        self._lock = threading.Lock()
        self._listeners: dict[typing.Any, Listener] = {}
        self._announced = False
        self._ended = False
        self._wakeup, self._alerts = socket.socketpair()
        self._alerts.setblocking(False)
        self._session.set_alert_fd(self._alerts.fileno())
        self._pump = threading.Thread(
            target=self._run, name='oslo-transfer-bittorrent', daemon=True
        )
        self._pump.start()

    def _limit(self, rate: int) -> None:
        """Have local peers keep the limits, too: they are all we have."""
        for number in (
            self._session.local_peer_class_id,
            self._session.global_peer_class_id,
        ):
            found = self._session.get_peer_class(number)
            found['upload_limit'] = rate
            self._session.set_peer_class(number, found)

    @property
    def port(self) -> int:
        """The TCP port on which peers connect."""
        return int(self._session.listen_port())

    def add(self, found: typing.Any, listener: Listener) -> typing.Any:
        """Add a torrent; returns its handle.

        Blocks for a moment.

        :param found: what :func:`parameters` gives, completed
        :raises ProtocolError: libtorrent does not take it
        """
        found.flags |= self._flags
        with self._lock:
            try:
                handle = self._session.add_torrent(found)
            except RuntimeError as exc:
                raise exceptions.ProtocolError(
                    f'libtorrent refuses the torrent: {exc}'
                ) from exc
            self._listeners[handle] = listener
            self._announced |= bool(found.trackers)
        return handle

    def remove(self, handle: typing.Any) -> None:
        """Take a torrent away; its file stays."""
        with self._lock:
            if self._listeners.pop(handle, None) is None:
                return
            self._session.remove_torrent(handle)

    def close(self) -> None:
        """End it. Trackers are told within a bounded time, beside this."""
        self._wakeup.shutdown(socket.SHUT_RDWR)
        self._ended = True
        if not self._announced:
            self._pump.join()

    def _run(self) -> None:
        """Pass on what libtorrent says."""
        self._wakeup.settimeout(_TICK)
        ticked = time.monotonic()
        while not self._ended:
            try:
                self._wakeup.recv(4096)
            except TimeoutError:
                pass
            except OSError:
                break
            for alert in self._session.pop_alerts():
                self._pass_on(alert)
            if time.monotonic() >= ticked + _TICK:
                ticked = time.monotonic()
                with self._lock:
                    listeners = list(self._listeners.values())
                for listener in listeners:
                    listener.tick()
        # libtorrent must not write to a descriptor that is somebody else's.
        session, self._session = self._session, None
        session.set_alert_fd(-1)
        self._alerts.close()
        self._wakeup.close()
        if self._announced:
            # Its end waits until trackers have been told, and nothing in
            # Python goes on meanwhile: give it the time before.
            time.sleep(_FAREWELL)
        del session

    def _pass_on(self, alert: typing.Any) -> None:
        handle = getattr(alert, 'handle', None)
        listener = self._listeners.get(handle) if handle else None
        if listener is not None:
            listener.alert(alert)
        elif isinstance(alert, libtorrent.listen_failed_alert):
            LOG.warning('%s', alert.message())


def parameters(
    meta: metainfo.Metainfo, directory: str, name: str
) -> typing.Any:
    """What libtorrent needs to know of a torrent, and nobody to ask.

    Whom to ask is not for the torrent to say.

    :param directory: that its file is in
    :param name: of its file
    :raises ProtocolError: libtorrent does not take it
    """
    try:
        found = libtorrent.load_torrent_buffer(meta.data)
    except RuntimeError as exc:
        raise exceptions.ProtocolError(
            f'libtorrent refuses the torrent: {exc}'
        ) from exc
    found.save_path = directory
    found.renamed_files = {0: name}
    found.trackers = []
    found.tracker_tiers = []
    found.url_seeds = []
    found.http_seeds = []
    found.dht_nodes = []
    flags = libtorrent.torrent_flags
    found.flags = flags.override_trackers | flags.override_web_seeds
    return found


def _flags(group: typing.Any) -> typing.Any:
    """What keeps torrents from looking for peers where nobody wants it."""
    flags = libtorrent.torrent_flags
    found = flags.apply_ip_filter
    for wanted, flag in (
        (group.dht, flags.disable_dht),
        (group.lsd, flags.disable_lsd),
        (group.pex, flags.disable_pex),
    ):
        if not wanted:
            found |= flag
    return found


def _filter(allowed: peers.Allowed) -> typing.Any:
    """libtorrent's filter: nobody but the allowed networks."""
    found = libtorrent.ip_filter()
    for first, last in _EVERYBODY:
        found.add_rule(first, last, _BLOCKED)
    for network in allowed.networks:
        found.add_rule(
            str(network.network_address), str(network.broadcast_address), 0
        )
        if isinstance(network, ipaddress.IPv4Network):
            # A socket for both families shows IPv4 peers like this.
            found.add_rule(
                f'::ffff:{network.network_address}',
                f'::ffff:{network.broadcast_address}',
                0,
            )
    return found


class _Pool:
    """The sessions of a process: one, but for odd cases.

    Another one is made where calls have different options, or where the
    same torrent is wanted twice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used: dict[Session, tuple[typing.Any, set[str]]] = {}

    def acquire(
        self, group: typing.Any, info_hash: str, seeding: bool
    ) -> Session:
        options = sorted((name, repr(group[name])) for name in group)
        key = (seeding, *options)
        with self._lock:
            for session, (theirs, hashes) in self._used.items():
                if theirs == key and info_hash not in hashes:
                    hashes.add(info_hash)
                    return session
            session = Session(group, seeding)
            self._used[session] = key, {info_hash}
            return session

    def release(self, session: Session, info_hash: str) -> None:
        with self._lock:
            _options, hashes = self._used[session]
            hashes.discard(info_hash)
            if hashes:
                return
            del self._used[session]
        session.close()


_pools: dict[int, _Pool] = {}


def _pool() -> _Pool:
    """That of this process: nothing of a session survives a fork."""
    return _pools.setdefault(os.getpid(), _Pool())


def acquire(
    group: typing.Any, info_hash: str, seeding: bool = False
) -> Session:
    """The process's session, for one torrent; give it back in the end.

    :param group: the options of the driver
    :param info_hash: of the torrent
    :param seeding: for a torrent that is complete
    :raises ConfigurationError: an option cannot work
    """
    return _pool().acquire(group, info_hash, seeding)


def release(session: Session, info_hash: str) -> None:
    """Give a session back; the last one ends it."""
    _pool().release(session, info_hash)
