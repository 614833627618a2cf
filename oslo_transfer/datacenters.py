# SPDX-License-Identifier: Apache-2.0
"""Which datacenter a host is in, how far that is, and its proxies."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import dataclasses
import ipaddress
import math
import typing

from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import opts

if typing.TYPE_CHECKING:
    from oslo_config import cfg

# In front of the URL of a proxy that is any HTTP cache.
_PLAIN = 'plain'

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclasses.dataclass(frozen=True)
class Proxy:
    """A proxy that keeps what the hosts of a datacenter read.

    :ivar base: what its URLs begin with
    :ivar plain: it is any HTTP cache, and knows http and https only;
        otherwise it is the service of this library
    """

    base: _endpoint.Endpoint
    plain: bool = False

    def __str__(self) -> str:
        return str(self.base)


@dataclasses.dataclass(frozen=True)
class Datacenter:
    """One datacenter.

    :ivar name: its name
    :ivar names: of its hosts, and domains that begin with a dot
    :ivar networks: for numeric hosts
    :ivar proxies: in the order in which its hosts ask them
    :ivar token_file: what its hosts show these proxies, or None
    :ivar link_rate: what its link carries, in bytes per second; 0 if nobody
        has said so
    """

    name: str
    names: frozenset[str]
    networks: tuple[_Network, ...]
    proxies: tuple[Proxy, ...] = ()
    token_file: str | None = None
    link_rate: int = 0

    def __contains__(self, host: str) -> bool:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(host)
            return any(address in each for each in self.networks)
        parts = host.split('.')
        return host in self.names or any(
            '.' + '.'.join(parts[index:]) in self.names
            for index in range(1, len(parts))
        )


@dataclasses.dataclass(frozen=True)
class Map:
    """All datacenters, as they are seen from here.

    :ivar own: the name of the one that this host is in, or None
    :ivar centers: all of them; the first that has a host counts
    :ivar distances: from here, by name
    """

    own: str | None = None
    centers: tuple[Datacenter, ...] = ()
    distances: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def find(self, host: str) -> str | None:
        """The name of the datacenter that a host is in, if it is known."""
        for center in self.centers:
            if host in center:
                return center.name
        return None

    @property
    def here(self) -> Datacenter | None:
        """The one that this host is in."""
        return self.get(self.own)

    def get(self, name: str | None) -> Datacenter | None:
        """The one of a name."""
        for center in self.centers:
            if center.name == name:
                return center
        return None

    def distance(self, name: str | None) -> float:
        """How far a datacenter is; infinity if nobody knows."""
        if name is None:
            return math.inf
        if name == self.own:
            return 0.0
        return self.distances.get(name, math.inf)


def from_conf(conf: cfg.ConfigOpts) -> Map:
    """The map that the deployer configured.

    Registers the options of each datacenter.

    :raises ConfigurationError: a network or a proxy is malformed, or a name
        is not one of a datacenter
    """
    group = conf.oslo_transfer
    centers = []
    distances: dict[str, float] = {}
    for name in group.datacenters:
        section = f'{opts.DATACENTER_GROUP}{name}'
        conf.register_opts(opts.DATACENTER_OPTIONS, group=section)
        centers.append(_datacenter(name, section, conf[section]))
        if name == group.datacenter:
            distances = conf[section].distances
            _check_names(distances, section, 'distances', group.datacenters)
    if group.datacenter:
        _check_names(
            [group.datacenter], opts.GROUP, 'datacenter', group.datacenters
        )
    return Map(group.datacenter or None, tuple(centers), distances)


def _datacenter(
    name: str, section: str, group: cfg.ConfigOpts.GroupAttr
) -> Datacenter:
    names: set[str] = set()
    networks: list[_Network] = []
    for host in group.hosts:
        try:
            networks.append(ipaddress.ip_network(host))
        except ValueError as exc:
            if '/' in host:
                raise exceptions.ConfigurationError(
                    f'[{section}] hosts: {exc}'
                ) from exc
            names.add(host.lower())
    return Datacenter(
        name,
        frozenset(names),
        tuple(networks),
        tuple(_proxy(url, section) for url in group.proxies),
        group.proxy_token_file,
        group.link_bytes_per_second,
    )


def _proxy(url: str, section: str) -> Proxy:
    try:
        found = _endpoint.parse(url)
    except exceptions.InvalidEndpoint as exc:
        raise exceptions.ConfigurationError(
            f'[{section}] proxies: {exc}'
        ) from exc
    plain = found.scheme == _PLAIN
    base = found.carried if plain else found
    if (
        base is None
        or base.scheme not in ('http', 'https')
        or base.query is not None
        or base.username is not None
        or (base.path.strip('/') and not plain)
    ):
        raise exceptions.ConfigurationError(
            f'[{section}] proxies: {found} is no http://HOST:PORT or '
            f'https://HOST:PORT, nor the URL of an HTTP cache behind '
            f'"{_PLAIN}+"'
        )
    return Proxy(base, plain)


def _check_names(
    names: typing.Iterable[str],
    section: str,
    option: str,
    known: typing.Collection[str],
) -> None:
    for name in names:
        if name not in known:
            raise exceptions.ConfigurationError(
                f'[{section}] {option}: "{name}" is not in [oslo_transfer] '
                f'datacenters'
            )
