# SPDX-License-Identifier: Apache-2.0
"""Any other driver's URLs, through a proxy that keeps what was read."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import typing
import urllib.parse

from oslo_transfer.drivers import base
from oslo_transfer.drivers.http import source
from oslo_transfer.drivers.nbd import driver as nbd
from oslo_transfer import exceptions
from oslo_transfer.service import proxy_client

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint


class ProxyDriver(base.Driver):
    """``proxy+http`` and ``proxy+https`` URLs: an "oslo-transfer serve".

    ``proxy+https://PROXY:8480/SCHEME/HOST/PATH`` is SCHEME://HOST/PATH, read
    through the role ``proxy`` of the service on another host. Usually
    nobody has to write them: the map of datacenters leads there.
    """

    name = 'proxy'
    schemes = ('proxy',)
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.ATTACH
    )

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> source.HTTPSource:
        """Send the first GET."""
        found = source.HTTPSource(_carried(endpoint), ctx)
        found.origin = 'proxy'
        return found

    def attach(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        record: Callable[[Mapping[str, typing.Any]], None],
    ) -> base.Attachment:
        """Have the proxy's export of it by NBD; there is nothing to undo.

        The proxy asks the origin as itself, for NBD hands on no proof.

        :raises CapabilityMissing: the proxy exports nothing by NBD, or the
            URL is signed and would stand in what uses the export
        """
        carried = _carried(endpoint)
        if carried.query is not None:
            raise exceptions.CapabilityMissing(
                f'{endpoint}: an export by NBD has its URL for a name, which '
                f'everybody sees; a query may be a secret'
            )
        if ctx.writing:
            raise exceptions.CapabilityMissing(
                f'{endpoint}: what a proxy has is read-only'
            )
        proxy = dataclasses.replace(carried, path='')
        shown = ctx.credentials.headers() if ctx.credentials else {}
        asked = proxy_client.ProxyClient(
            proxy,
            ctx.replace(credentials=None),
            token=shown.get('Proxy-Authorization', '')[len('Bearer ') :]
            or None,
        )
        port = asked.summary().get('nbd_port')
        if not isinstance(port, int) or not 0 < port < 65536:
            raise exceptions.CapabilityMissing(
                f'{proxy} exports nothing by NBD; see nbd_port in '
                f'[oslo_transfer_proxy] there'
            )
        scheme, _, rest = carried.path.lstrip('/').partition('/')
        name = urllib.parse.quote(f'{scheme}://{rest}', safe='')
        export = dataclasses.replace(
            proxy,
            scheme='nbd' if proxy.scheme == 'http' else 'nbds',
            port=port,
            path=f'/{name}',
        )
        made = nbd.NBDDriver(ctx.conf).attach(
            export, ctx.replace(credentials=None), record
        )
        return dataclasses.replace(
            made, driver=self.name, source=str(endpoint)
        )

    def detach(
        self, attachment: base.Attachment, ctx: _context.Context, force: bool
    ) -> None:
        """Nothing: nothing was done."""


def _carried(endpoint: _endpoint.Endpoint) -> _endpoint.Endpoint:
    carried = endpoint.carried
    if carried is None or carried.scheme not in ('http', 'https'):
        raise exceptions.InvalidEndpoint(
            f'{endpoint} does not say how to ask the proxy; write '
            f'proxy+https://PROXY:PORT/SCHEME/HOST/PATH'
        )
    return carried
