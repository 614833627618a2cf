# SPDX-License-Identifier: Apache-2.0
"""Options of the BitTorrent driver; listing them imports nothing else."""

from __future__ import annotations

from oslo_config import cfg

OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.ListOpt(
        'peer_networks',
        default=[],
        help='Networks (CIDR) that peers and trackers are in, for example '
        '10.1.0.0/16. Nobody else is connected to, and nobody else may '
        'connect. Empty means that there are no peers: a torrent is then '
        'read from its web seeds and the other locations only.',
    ),
    cfg.ListOpt(
        'peers',
        default=[],
        help='Peers that are always tried, as HOST:PORT; a seeder that '
        'every host knows, for example. They have to be in peer_networks.',
    ),
    cfg.ListOpt(
        'trackers',
        default=[],
        help='URLs of trackers (http, https, udp) that every torrent is '
        'announced to, beside those that it names itself. They have to be '
        'in peer_networks.',
    ),
    cfg.StrOpt(
        'listen_address',
        default='0.0.0.0',  # noqa: S104
        help='Address of this host on which peers connect, and from which '
        'they are connected to: 0.0.0.0 or :: for all, better that of the '
        'storage network.',
    ),
    cfg.PortOpt(
        'port',
        default=0,
        help='TCP port on which peers connect. 0 means any that is free; '
        'if it is taken, for example by the service of this host, any free '
        'one is used, too.',
    ),
    cfg.IntOpt(
        'max_connections',
        default=200,
        min=2,
        max=10000,
        help='The most connections to peers, over all torrents of one '
        'process.',
    ),
    cfg.IntOpt(
        'upload_rate_limit_bytes_per_second',
        default=0,
        min=0,
        max=1 << 60,
        help='The most bytes per second that one process gives to peers. 0 '
        'means no limit.',
    ),
    cfg.StrOpt(
        'encryption',
        default='allowed',
        choices=[
            ('disabled', 'only plain connections'),
            ('allowed', 'plain, and encrypted if the peer asks for it'),
            ('required', 'only encrypted connections'),
        ],
        help='Encryption between peers (MSE). It hides what is transferred '
        'from a look at the traffic, and proves nobody to be who he is.',
    ),
    cfg.BoolOpt(
        'dht',
        default=False,
        help='Find peers by the public distributed hash table. It talks to '
        'hosts outside of peer_networks.',
    ),
    cfg.BoolOpt(
        'lsd',
        default=False,
        help='Find peers by multicast in the local network.',
    ),
    cfg.BoolOpt(
        'pex',
        default=False,
        help='Let peers tell each other of peers. Those have to be in '
        'peer_networks, too.',
    ),
    cfg.BoolOpt(
        'upnp',
        default=False,
        help='Ask routers by UPnP to forward the port.',
    ),
    cfg.BoolOpt(
        'natpmp',
        default=False,
        help='Ask routers by NAT-PMP to forward the port.',
    ),
    cfg.StrOpt(
        'work_path',
        help='Directory for the pieces of torrents that are not copied to '
        'a file but read in another way. They are gone when the source is '
        'closed. Unset means the directory for temporary files.',
    ),
    cfg.IntOpt(
        'readahead_bytes',
        default=16 << 20,
        min=1 << 20,
        max=1 << 30,
        help='How far ahead of a reader pieces are asked for, in bytes.',
    ),
    cfg.IntOpt(
        'origin_rate_bytes_per_second',
        default=0,
        min=0,
        max=1 << 60,
        help='The bytes per second that the origin can send, for the lower '
        'bound that a copy reports beside its time. 0 means that it is not '
        'known, and there is no bound.',
    ),
    cfg.IntOpt(
        'host_rate_bytes_per_second',
        default=0,
        min=0,
        max=1 << 60,
        help='The bytes per second that each host can send and receive, for '
        'the lower bound. 0 means that it is not known.',
    ),
    cfg.IntOpt(
        'swarm_hosts',
        default=0,
        min=0,
        max=1 << 20,
        help='How many hosts fetch the same at once, for the lower bound. 0 '
        'means the number of peers that were seen, and this host.',
    ),
)
