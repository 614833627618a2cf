# SPDX-License-Identifier: Apache-2.0
"""Any other driver's URLs, through a proxy that keeps what was read."""

from __future__ import annotations

import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.http import source
from oslo_transfer import exceptions

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
    capabilities = base.Capability.READ | base.Capability.RANDOM_READ

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> source.HTTPSource:
        """Send the first GET."""
        found = source.HTTPSource(_carried(endpoint), ctx)
        found.origin = 'proxy'
        return found


def _carried(endpoint: _endpoint.Endpoint) -> _endpoint.Endpoint:
    carried = endpoint.carried
    if carried is None or carried.scheme not in ('http', 'https'):
        raise exceptions.InvalidEndpoint(
            f'{endpoint} does not say how to ask the proxy; write '
            f'proxy+https://PROXY:PORT/SCHEME/HOST/PATH'
        )
    return carried
