# SPDX-License-Identifier: Apache-2.0
"""Options of the engine dd; listing them imports no more."""

from __future__ import annotations

from oslo_config import cfg

GROUP = 'oslo_transfer_dd'

OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.IntOpt(
        'parallel',
        default=4,
        min=1,
        max=32,
        help='The most processes of dd(1) that work on one copy at once, '
        'each on a slice of its own. With direct input and output each of '
        'them has one request under way, so that more of them are faster '
        'where requests take long, as over a network; 1 is best for disks '
        'that rotate.',
    ),
    cfg.IntOpt(
        'block_bytes',
        default=1 << 20,
        min=1 << 16,
        max=64 << 20,
        help='What dd(1) reads and writes at once, in bytes, rounded down '
        'to whole 4096. A copy into a new file leaves out the blocks of '
        'this size that are all zeros, so that smaller ones save space and '
        'larger ones save requests.',
    ),
)
