# SPDX-License-Identifier: Apache-2.0
"""Who may be a peer, and how peers are found."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from collections.abc import Sequence
import ipaddress
import logging
import socket
import typing
import urllib.parse

from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers.bittorrent import metainfo

LOG = logging.getLogger(__name__)

Address = tuple[str, int]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SCHEMES = ('http', 'https', 'udp')
# Trackers of one torrent: more would only cost time and traffic.
_MOST_TRACKERS = 16
_MOST_ADDRESSES = 8


class Allowed:
    """The networks that peers and trackers are in; immutable.

    :param networks: in CIDR form
    :raises ConfigurationError: one is malformed
    """

    def __init__(self, networks: Iterable[str]) -> None:
        try:
            self.networks: tuple[Network, ...] = tuple(
                ipaddress.ip_network(text) for text in networks
            )
        except ValueError as exc:
            raise exceptions.ConfigurationError(
                f'[oslo_transfer_bittorrent] peer_networks: {exc}'
            ) from exc

    def __contains__(self, address: str) -> bool:
        """Whether a numeric address is in one of them."""
        found = ipaddress.ip_address(address.partition('%')[0])
        return any(found in network for network in self.networks)


class Finder(abc.ABC):
    """A way to find peers of a torrent."""

    @abc.abstractmethod
    def peers(self, info_hash: str, ctx: _context.Context) -> list[Address]:
        """Peers that may have it: numeric addresses and ports.

        Asked once when a torrent starts. Blocks no longer than
        ``ctx.connect_timeout`` seconds, and does not raise what another
        finder could make up for.
        """


class GivenPeers(Finder):
    """The peers of the configuration.

    :param peers: as HOST:PORT
    :raises ConfigurationError: one is malformed
    """

    def __init__(self, peers: Iterable[str]) -> None:
        self._peers = [_host_and_port(text) for text in peers]

    def peers(self, info_hash: str, ctx: _context.Context) -> list[Address]:
        """All addresses of all of them."""
        found: list[Address] = []
        for host, port in self._peers:
            try:
                found += [(each, port) for each in resolve(host, ctx)]
            except exceptions.Unavailable as exc:
                LOG.warning('a peer cannot be used: %s', exc)
        return found


def _host_and_port(text: str) -> Address:
    host, colon, port = text.strip().rpartition(':')
    if colon and host and port.isdecimal() and 0 < int(port) < 65536:
        return host.removeprefix('[').removesuffix(']'), int(port)
    raise exceptions.ConfigurationError(
        f'[oslo_transfer_bittorrent] peers: "{text}" is not HOST:PORT'
    )


def resolve(host: str, ctx: _context.Context) -> list[str]:
    """The addresses of a host.

    :raises Unavailable: it has none, or that took too long
    """
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass  # A name.
    try:
        found = ctx.call(
            lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM),
            f'resolving {host}',
            ctx.connect_timeout,
        )
    except (OSError, UnicodeError) as exc:
        raise exceptions.Unavailable(f'resolving {host}: {exc}') from exc
    addresses = dict.fromkeys(str(each[4][0]) for each in found)
    return list(addresses)[:_MOST_ADDRESSES]


def trackers(
    torrent: metainfo.Metainfo,
    configured: Sequence[str],
    allowed: Allowed,
    ctx: _context.Context,
) -> list[str]:
    """The trackers to announce to: only those with allowed addresses.

    libtorrent has the same filter for what it connects to; this keeps it
    from resolving names that somebody else has put into the torrent.

    :param configured: of this host; named in the configuration
    :raises ConfigurationError: one of those is malformed
    """
    if any(_tracker_host(url) is None for url in configured):
        raise exceptions.ConfigurationError(
            '[oslo_transfer_bittorrent] trackers: http, https and udp URLs '
            'with a host are needed'
        )
    named = [url for tier in torrent.trackers for url in tier]
    found: list[str] = []
    for url in list(dict.fromkeys([*configured, *named]))[:_MOST_TRACKERS]:
        host = _tracker_host(url)
        if host is None:
            LOG.info('a tracker is left out: not http, https or udp')
            continue
        try:
            addresses = resolve(host, ctx)
        except exceptions.Unavailable as exc:
            LOG.warning('a tracker is left out: %s', exc)
            continue
        if addresses and all(each in allowed for each in addresses):
            found.append(url)
        else:
            LOG.info('a tracker is left out: %s not in peer_networks', host)
    return found


def _tracker_host(url: str) -> str | None:
    """The host of a tracker's URL; None if it is of no use."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.port != 0
    except ValueError:
        return None
    return parts.hostname if usable and parts.scheme in _SCHEMES else None
