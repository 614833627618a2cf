# SPDX-License-Identifier: Apache-2.0
"""The role ``proxy``: serves origins to the hosts of a place."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import ipaddress
import logging
import os
import typing

from oslo_transfer import call as _call
from oslo_transfer import exceptions
from oslo_transfer.export import http_server
from oslo_transfer.export import listening
from oslo_transfer.export import nbd
from oslo_transfer import opts as _core_opts
from oslo_transfer.service.proxy import api as _api
from oslo_transfer.service.proxy import catalog as _catalog
from oslo_transfer.service.proxy import opts
from oslo_transfer.service.proxy import prefetch as _prefetch
from oslo_transfer.service import role
from oslo_transfer import tls

if typing.TYPE_CHECKING:
    from oslo_config import cfg


LOG = logging.getLogger(__name__)


class _Gate:
    """Images by the catalog, and pages by the API; see :class:`.gate.Gate`.

    :param catalog: the images
    :param api: the pages
    """

    def __init__(self, catalog: _catalog.Catalog, api: _api.Api) -> None:
        self.find = catalog.find
        self.admit = catalog.admit
        self.is_page = api.is_page
        self.page = api.page


class ProxyRole(role.Role):
    """Fetches what is asked of it once, keeps it, and serves it to all.

    What is here, what is pinned and what is to be prefetched is known again
    after a restart. Clients of NBD connect again then.

    :param conf: the configuration
    """

    name = 'proxy'

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        self._stack = contextlib.ExitStack()
        self._http: http_server.HttpServer | None = None
        self._nbd: nbd.NbdServer | None = None

    # Life

    def start(self) -> None:
        with contextlib.ExitStack() as stack:
            call = _call.Call(self._conf, None, None, None)
            ctx = call.ctx
            context = tls.server_context(self._conf, opts.GROUP)
            self._catalog = _catalog.Catalog(self._conf)
            stack.callback(self._catalog.close)
            self._check()
            self._load(call.driver)
            state = (
                self._conf.oslo_transfer.state_path
                or _core_opts.default_state_path()
            )
            prefetches = _prefetch.Prefetches(
                self._catalog, os.path.join(state, 'prefetches'), ctx
            )
            stack.callback(prefetches.close)
            self._api = _api.Api(
                self._catalog,
                prefetches,
                counts=self._counts,
                datacenter=self._conf.oslo_transfer.datacenter,
                nbd_port=self._conf[opts.GROUP].nbd_port,
            )
            self._serve(stack, context)
            prefetches.start()
            self._stack = stack.pop_all()

    def _load(self, open_driver: Callable[[str], object]) -> None:
        """Import what origins need: else all who come first wait for it."""
        group = self._conf[opts.GROUP]
        urls = (*group.origins, *group.names.values())
        for scheme in {url.partition('://')[0] for url in urls}:
            try:
                open_driver(scheme)
            except exceptions.TransferError as exc:
                LOG.warning('nothing can be asked by %s: %s', scheme, exc)

    def _check(self) -> None:
        group = self._conf[opts.GROUP]
        if group.nbd_port and self._catalog.needs_tokens and not group.ca_file:
            raise exceptions.ConfigurationError(
                f'[{opts.GROUP}] nbd_port with tokens_file needs ca_file: '
                f'NBD has no tokens, so that clients show certificates'
            )
        if group.origin_identity != 'own' and (
            self._conf.oslo_transfer_http.netrc_file
        ):
            raise exceptions.ConfigurationError(
                '[oslo_transfer_http] netrc_file would be used for everybody '
                f'who asks the proxy; unset it, or set origin_identity = own '
                f'in [{opts.GROUP}]'
            )
        if not (group.origins or group.names):
            LOG.warning(
                '[%s] origins and names are empty: whatever is asked for is '
                'refused',
                opts.GROUP,
            )
        if not (group.http_port or group.nbd_port):
            LOG.warning(
                '[%s] http_port and nbd_port are 0: nobody can read from it',
                opts.GROUP,
            )
        elif not (
            self._catalog.needs_tokens
            or group.ca_file
            or _is_loopback(group.listen_address)
        ):
            LOG.warning(
                '[%s] whoever can connect to %s may read: set ca_file, or '
                'tokens_file, unless a firewall decides',
                *(opts.GROUP, group.listen_address),
            )

    def _serve(
        self, stack: contextlib.ExitStack, context: tls.ServerContext | None
    ) -> None:
        group = self._conf[opts.GROUP]
        if group.http_port:
            self._http = http_server.HttpServer(
                {},
                listening.Address(
                    host=group.listen_address, port=group.http_port
                ),
                tls=context,
                most=group.max_connections,
                gate=_Gate(self._catalog, self._api),
            )
            stack.enter_context(self._http)
        if group.nbd_port:
            self._nbd = nbd.NbdServer(
                {},
                listening.Address(
                    host=group.listen_address, port=group.nbd_port
                ),
                tls=context,
                most=group.max_connections,
                find=self._catalog.export,
            )
            stack.enter_context(self._nbd)

    def tick(self) -> None:
        self._catalog.tick()
        self._api.tick()

    def stop(self) -> None:
        self._stack.close()

    # What can be asked

    def _counts(self) -> _api.Counts:
        found = [
            each.statistics()
            for each in (self._http, self._nbd)
            if each is not None
        ]
        return _api.Counts(
            requests=sum(each.get('requests', 0) for each in found),
            connections=sum(each.get('connections', 0) for each in found),
        )

    def status(self) -> Mapping[str, typing.Any]:
        return self._api.summary()

    def routes(self) -> Sequence[role.Route]:
        return (*self._api.routes(), self._catalog.scrubber.route)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'
