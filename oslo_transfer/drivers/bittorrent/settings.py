# SPDX-License-Identifier: Apache-2.0
"""The settings of libtorrent's session, for a datacentre.

Only what differs from libtorrent's own default, which is meant for homes.
See https://libtorrent.org/reference-Settings.html.
"""

from __future__ import annotations

import typing

# libtorrent's enc_policy and enc_level.
_FORCED, _ENABLED, _DISABLED = 0, 1, 2
_PLAIN, _RC4, _BOTH = 1, 2, 3
_RATE_BASED = 2  # Of choking_algorithm.

_ANY = ('0.0.0.0', '::')  # noqa: S104

# What each peer of a seed gets at least before a further one is served.
_SEED_BYTES_PER_SECOND = 4 << 20

_ENCRYPTION: dict[str, dict[str, object]] = {
    'disabled': {
        'in_enc_policy': _DISABLED,
        'out_enc_policy': _DISABLED,
        'allowed_enc_level': _PLAIN,
    },
    'allowed': {
        'in_enc_policy': _ENABLED,
        'out_enc_policy': _DISABLED,
        'allowed_enc_level': _BOTH,
    },
    'required': {
        'in_enc_policy': _FORCED,
        'out_enc_policy': _FORCED,
        'allowed_enc_level': _RC4,
    },
}

_DATACENTRE: dict[str, object] = {
    # It gives way to all other traffic; TCP is what the network knows.
    'enable_outgoing_utp': False,
    'enable_incoming_utp': False,
    # Who fetches gives to all: nobody here takes without giving.
    'unchoke_slots_limit': -1,
    # All peers here are local; slots and rates are meant for them.
    'ignore_limits_on_local_network': False,
    # A whole rack at once; the default takes seconds for it.
    'connection_speed': 200,
    'torrent_connect_boost': 200,
    'smooth_connects': False,
    'listen_queue_size': 128,
    # The service of a host and its copies have one address.
    'allow_multiple_connections_per_ip': True,
    'close_redundant_connections': False,
    # Peers are connected to at a tick, in milliseconds: the default is half
    # a second of doing nothing.
    'tick_interval': 100,
    # Answers take milliseconds here: who gives none for seconds is dead,
    # and others have what was asked of him.
    'peer_connect_timeout': 5,
    'handshake_timeout': 5,
    'piece_timeout': 5,
    'request_timeout': 10,
    'peer_timeout': 30,
    # A tracker that knows a hybrid torrent by both hashes makes libtorrent
    # hang up on a peer at times; twice this later it comes back.
    'min_reconnect_time': 1,
    # With many seeds all would ask for the same pieces first.
    'auto_sequential': False,
    # One that is lost is a piece that nobody hears of.
    'alert_queue_size': 100_000,
    # One tracker may die.
    'announce_to_all_trackers': True,
    'announce_to_all_tiers': True,
    'stop_tracker_timeout': 1,
    # A copy is not to wait for other programs.
    'low_prio_disk': False,
    # By pwrite(2): a full disk is an error then, and no signal.
    'disk_write_mode': 0,
}

_SEEDING: dict[str, object] = {
    # Hosts that are served at once ask for the same pieces, as they do not
    # know yet what the others are getting. Few at a time, each for a
    # moment, then know what is there, and pass it on: with eight hosts on
    # a line of 100 Mbit/s the seed sends 1.2 copies, else 1.8. The faster
    # the line the more are served.
    'choking_algorithm': _RATE_BASED,
    'rate_choker_initial_threshold': _SEED_BYTES_PER_SECOND,
    'unchoke_interval': 1,
    # With one the last host that is left waits for seconds.
    'num_optimistic_unchoke_slots': 2,
    'optimistic_unchoke_interval': 1,
}


def session_settings(
    group: typing.Any, seeding: bool = False
) -> dict[str, object]:
    """Settings for the options of the driver.

    :param seeding: the session is there to seed, not to fetch
    """
    address = group.listen_address
    host = f'[{address}]' if ':' in address else address
    return {
        **_DATACENTRE,
        **_ENCRYPTION[group.encryption],
        **(_SEEDING if seeding else {}),
        'listen_interfaces': f'{host}:{group.port}',
        # Others let nobody in who comes from another network.
        'outgoing_interfaces': '' if address in _ANY else address,
        'connections_limit': group.max_connections,
        'enable_dht': group.dht,
        'enable_lsd': group.lsd,
        'enable_upnp': group.upnp,
        'enable_natpmp': group.natpmp,
    }
