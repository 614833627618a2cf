# SPDX-License-Identifier: Apache-2.0
"""Proxies that ask each other in a circle."""

from __future__ import annotations

import secrets

from oslo_transfer import exceptions

# Proxies that one request may come through, and the text of each.
_MOST_HOPS, _MOST_NAME = 8, 256


class Via:
    """Tells requests that go around in a circle: RFC 9110, 7.6.3."""

    def __init__(self) -> None:
        self._name = f'oslo-transfer-{secrets.token_hex(8)}'

    def through(self, field: str | None) -> str:
        """What to send on for a request that came with a field.

        :raises InvalidEndpoint: it was here before
        """
        hops = [hop.strip() for hop in (field or '').split(',') if hop.strip()]
        if (
            len(hops) >= _MOST_HOPS
            or max(map(len, hops), default=0) > _MOST_NAME
            or any(self._name in hop.split() for hop in hops)
        ):
            raise exceptions.InvalidEndpoint(
                'the request goes around in a circle of proxies, or through '
                'too many of them'
            )
        return ', '.join((*hops, f'1.1 {self._name}'))
