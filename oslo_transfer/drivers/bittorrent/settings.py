# SPDX-License-Identifier: Apache-2.0
"""The settings of libtorrent's session."""

from __future__ import annotations

import typing


def session_settings(group: typing.Any) -> dict[str, object]:
    """Settings for the options of the driver."""
    return {
        'listen_interfaces': f'{group.listen_address}:{group.port}',
        'enable_dht': group.dht,
        'enable_lsd': group.lsd,
        'enable_upnp': group.upnp,
        'enable_natpmp': group.natpmp,
        'enable_outgoing_utp': False,
        'enable_incoming_utp': False,
        'allow_multiple_connections_per_ip': True,
        'close_redundant_connections': False,
    }
