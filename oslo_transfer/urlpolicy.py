# SPDX-License-Identifier: Apache-2.0
"""Which URLs an untrusted location, or a redirect, may lead to.

Names are checked before anything is resolved; after resolution every
*address* is checked in whatever form it hides, and the connector connects
to the checked address and to no other, so that a name which resolves
differently the next time (rebinding) gains nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import re
import socket
import typing

from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer import endpoint as _endpoint

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Prefixes whose low bits are an IPv4 address that a gateway connects to.
_NAT64 = (
    ipaddress.IPv6Network('64:ff9b::/96'),
    ipaddress.IPv6Network('64:ff9b:1::/48'),
)
_COMPATIBLE = ipaddress.IPv6Network('::/96')


def embedded(address: Address) -> list[Address]:
    """The address itself and every IPv4 address that it stands for."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.ipv4_mapped is not None:
            found.append(address.ipv4_mapped)
        if address.sixtofour is not None:
            found.append(address.sixtofour)
        if address.teredo is not None:
            found.extend(address.teredo)
        if address in _COMPATIBLE or any(address in net for net in _NAT64):
            found.append(low)
    return found


def _is_public(address: Address) -> bool:
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or (
            isinstance(address, ipaddress.IPv6Address)
            and address.is_site_local
        )
    )


def _is_ours(address: Address) -> bool:
    """Whether an interface of this host has the address.

    A datagram socket that is connected sends nothing, but shows which of
    our addresses would be the sender: to ourselves it is the same one. To
    a further IPv4 address in one network it is the first one, so that one
    is looked up in the routing table, see proc_net(5).
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with (
        contextlib.suppress(OSError),
        socket.socket(family, socket.SOCK_DGRAM) as probe,
    ):
        probe.connect((str(address), 9))
        if probe.getsockname()[0] == str(address):
            return True
    with (
        contextlib.suppress(OSError),
        open('/proc/net/fib_trie') as table,
    ):
        return address.version == 4 and bool(
            re.search(
                rf'\|-- {re.escape(str(address))}\n\s+/32 host LOCAL',
                table.read(),
            )
        )
    return False


@dataclasses.dataclass(frozen=True)
class UrlPolicy:
    """The deployer's allow-lists for URLs that are not trusted.

    :ivar schemes: URL schemes that may be used
    :ivar ports: TCP ports that may be connected to
    :ivar hosts: if not empty, the only host names that may be used
    :ivar refused_hosts: host names that may not be used
    :ivar networks: networks that may be used though they are not public
    :ivar refused_networks: networks that may not be used
    """

    schemes: frozenset[str] = frozenset({'https', 'http'})
    ports: frozenset[int] = frozenset({80, 443})
    hosts: frozenset[str] = frozenset()
    refused_hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    refused_networks: tuple[Network, ...] = ()

    def check_endpoint(self, endpoint: _endpoint.Endpoint) -> None:
        """Check what is known before the name is resolved.

        :raises PolicyRefused: the scheme, port or host is not allowed
        """
        scheme, host, port = endpoint.origin
        if scheme not in self.schemes:
            self._refuse(f'scheme "{scheme}"', 'schemes')
        if port is not None and port not in self.ports:
            self._refuse(f'port {port}', 'ports')
        if host in self.refused_hosts:
            self._refuse(f'host "{host}"', 'refused_hosts')
        if self.hosts and host not in self.hosts:
            self._refuse(f'host "{host}"', 'hosts')

    def check_address(self, host: str, text: str) -> None:
        """Check an address that a name was resolved to.

        :param host: the name, for the message: what it resolves to is not
            told to whoever gave the URL
        :param text: the numeric address, perhaps with a zone
        :raises PolicyRefused: the address is not allowed
        """
        address = ipaddress.ip_address(text.partition('%')[0])
        for each in embedded(address):
            if any(each in net for net in self.refused_networks):
                self._refuse(f'address of "{host}"', 'refused_networks')
        if any(
            each in net for each in embedded(address) for net in self.networks
        ):
            return
        if '%' in text or not all(
            _is_public(each) for each in embedded(address)
        ):
            self._refuse(f'non-public address of "{host}"', 'networks')
        if _is_ours(address):
            self._refuse(f'address of "{host}"', 'networks')

    @staticmethod
    def _refuse(what: str, option: str) -> typing.NoReturn:
        raise exceptions.PolicyRefused(
            f'{what} is not allowed for untrusted URLs and redirects; an '
            f'operator decides with [oslo_transfer] untrusted_{option}'
        )


def from_conf(conf: cfg.ConfigOpts) -> UrlPolicy:
    """The policy that the deployer configured.

    :raises ConfigurationError: a network is malformed
    """
    group = conf.oslo_transfer

    def networks(name: str) -> tuple[Network, ...]:
        try:
            return tuple(
                ipaddress.ip_network(text)
                for text in group[f'untrusted_{name}']
            )
        except ValueError as exc:
            raise exceptions.ConfigurationError(
                f'[oslo_transfer] untrusted_{name}: {exc}'
            ) from exc

    def names(name: str) -> frozenset[str]:
        return frozenset(text.lower() for text in group[f'untrusted_{name}'])

    return UrlPolicy(
        schemes=names('schemes'),
        ports=frozenset(group.untrusted_ports),
        hosts=names('hosts'),
        refused_hosts=names('refused_hosts'),
        networks=networks('networks'),
        refused_networks=networks('refused_networks'),
    )
