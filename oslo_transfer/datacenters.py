# SPDX-License-Identifier: Apache-2.0
"""Which datacenter a host is in, and how far away that is."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import dataclasses
import ipaddress
import math
import typing

from oslo_transfer import exceptions
from oslo_transfer import opts

if typing.TYPE_CHECKING:
    from oslo_config import cfg

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclasses.dataclass(frozen=True)
class Datacenter:
    """The hosts of one datacenter.

    :ivar name: its name
    :ivar names: host names, and domains that begin with a dot
    :ivar networks: for numeric hosts
    """

    name: str
    names: frozenset[str]
    networks: tuple[_Network, ...]

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

    :raises ConfigurationError: a network is malformed, or a name is not
        one of a datacenter
    """
    group = conf.oslo_transfer
    centers = []
    distances: dict[str, float] = {}
    for name in group.datacenters:
        section = f'{opts.DATACENTER_GROUP}{name}'
        conf.register_opts(opts.DATACENTER_OPTIONS, group=section)
        centers.append(_datacenter(name, section, conf[section].hosts))
        if name == group.datacenter:
            distances = conf[section].distances
            _check_names(distances, section, 'distances', group.datacenters)
    if group.datacenter:
        _check_names(
            [group.datacenter], opts.GROUP, 'datacenter', group.datacenters
        )
    return Map(group.datacenter or None, tuple(centers), distances)


def _datacenter(
    name: str, section: str, hosts: typing.Iterable[str]
) -> Datacenter:
    names: set[str] = set()
    networks: list[_Network] = []
    for host in hosts:
        try:
            networks.append(ipaddress.ip_network(host))
        except ValueError as exc:
            if '/' in host:
                raise exceptions.ConfigurationError(
                    f'[{section}] hosts: {exc}'
                ) from exc
            names.add(host.lower())
    return Datacenter(name, frozenset(names), tuple(networks))


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
