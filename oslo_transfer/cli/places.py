# SPDX-License-Identifier: Apache-2.0
"""The datacenters that a command line names, and their proxies."""

from __future__ import annotations

import argparse
import os
import typing

from oslo_transfer.cli import base
from oslo_transfer.cli import credentials
from oslo_transfer import datacenters
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer.service import proxy_client

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer import call as _call

_UNIX = 'unix'


class Places:
    """The datacenters that are named, and how to ask their proxies.

    :param command: says where to write to
    :param parsed_args: names them
    :param conf: has the map
    :raises ConfigurationError: there are no such datacenters, or one has
        no proxies
    """

    def __init__(
        self,
        command: base.Lister,
        parsed_args: argparse.Namespace,
        conf: cfg.ConfigOpts,
    ) -> None:
        self._where = datacenters.from_conf(conf)
        self.keyring = credentials.Keyring(
            parsed_args.auth_file, os.environ, command.app.console
        )
        self._conf = conf
        names = dict.fromkeys(parsed_args.datacenter)
        self.centers = [self.get(name) for name in names] or [_here(conf)]

    def get(self, name: str) -> datacenters.Datacenter:
        """One with proxies."""
        found = self._where.get(name)
        if found is None:
            known = ', '.join(each.name for each in self._where.centers)
            raise exceptions.ConfigurationError(
                f'"{name}" is not in [oslo_transfer] datacenters; known are: '
                f'{known or "none"}'
            )
        if not found.proxies:
            raise exceptions.ConfigurationError(
                f'datacenter {name} has no proxies'
            )
        return found

    def ask(
        self, proxy: datacenters.Proxy, call: _call.Call
    ) -> proxy_client.ProxyApi:
        """What asks a proxy."""
        if is_here(proxy):
            return proxy_client.HostProxy(self._conf, call.ctx)
        location = self.keyring.location(proxy.base.text())
        token = None
        if location.credentials is not None:
            token = next(iter(location.credentials.headers().values()), None)
        return proxy_client.ProxyClient(proxy.base, call.ctx, token=token)


def is_here(proxy: datacenters.Proxy) -> bool:
    """Whether it is the one of this host, which is asked by a socket."""
    return proxy.base.scheme == _UNIX


def _here(conf: cfg.ConfigOpts) -> datacenters.Datacenter:
    path = conf.oslo_transfer_service.control_socket
    return datacenters.Datacenter(
        name='',
        names=frozenset(),
        networks=(),
        proxies=(datacenters.Proxy(endpoint.Endpoint(_UNIX, path=path)),),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Have a command take what :class:`Places` needs."""
    parser.add_argument(
        '--datacenter',
        metavar='NAME',
        action='append',
        default=[],
        help='one of the option datacenters; may be repeated. Without it the '
        'proxy of this host is asked, by the socket of the service',
    )
    parser.add_argument(
        '--auth-file',
        metavar='FILE',
        help='file with tokens and logins by server, see "copy --help"',
    )
