# SPDX-License-Identifier: Apache-2.0
"""Options of the service and of its roles; listing them imports no more."""

from __future__ import annotations

from oslo_config import cfg
from oslo_config import types

SERVICE_GROUP = 'oslo_transfer_service'
SEED_GROUP = 'oslo_transfer_seed'

SERVICE_OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.ListOpt(
        'roles',
        item_type=types.String(choices=['attach', 'cache', 'proxy', 'seed']),
        default=['seed'],
        help='What the service does on this host, if "oslo-transfer serve" '
        'is not told by --role.',
    ),
    cfg.StrOpt(
        'control_socket',
        default='/run/oslo-transfer/control.sock',
        help='Unix socket on which the service is asked. The service makes '
        'it, and copies and commands look for the service there.',
    ),
    cfg.StrOpt(
        'control_socket_group',
        help='Group whose members may ask the service, by name or number. '
        'Unset means that only the user that the service runs as, and '
        'root, may.',
    ),
)

SEED_OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.ListOpt(
        'seed_paths',
        default=[],
        mutable=True,
        help='Directories whose files may be seeded, with all below them. '
        'Empty means any file that the service can read. A file is sent to '
        'nobody unless it has the hashes of its torrent, so that nothing '
        'else can be made public.',
    ),
    cfg.FloatOpt(
        'seed_ratio',
        default=0.0,
        min=0.0,
        max=1e6,
        mutable=True,
        help='Seeding of a file ends when it was sent this many times over. '
        '0 means no limit.',
    ),
    cfg.IntOpt(
        'seed_seconds',
        default=3600,
        min=0,
        max=365 * 24 * 3600,
        mutable=True,
        help='Seeding of a file ends this many seconds after it was handed '
        'to the service for the last time. 0 means no limit.',
    ),
    cfg.IntOpt(
        'max_seeds',
        default=100,
        min=1,
        max=10000,
        mutable=True,
        help='The most files that are seeded at once. A further one takes '
        'the place of the one that was handed over first. Each takes two '
        'file descriptors.',
    ),
)
