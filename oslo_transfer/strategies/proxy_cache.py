# SPDX-License-Identifier: Apache-2.0
"""All bytes, from a proxy of this datacenter where that can be."""

from __future__ import annotations

import typing

from oslo_transfer import exceptions
from oslo_transfer.strategies import base
from oslo_transfer.strategies import full_copy

if typing.TYPE_CHECKING:
    from oslo_transfer import request as _request


class ProxyCache(full_copy.FullCopy):
    """Copies every byte, so that it crosses the link between datacenters once.

    As ``full_copy``, but only where a proxy of this host's datacenter leads
    to a location. The next proxy is asked if one fails, then the location
    itself. Wherever the bytes come from, they are verified here.
    """

    name = 'proxy_cache'

    def plan(self, request: _request.Request) -> base.Plan:
        """Use what proxies lead to, then the locations themselves."""
        if not any(end.origin for end in request.sources):
            raise exceptions.CapabilityMissing(
                'no proxy of this datacenter leads to any location; see '
                'datacenter in [oslo_transfer], and proxies in the group of '
                'that datacenter'
            )
        return super().plan(request)
