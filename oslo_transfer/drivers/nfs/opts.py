# SPDX-License-Identifier: Apache-2.0
"""Options of the NFS driver; apart, so that listing them imports less."""

from __future__ import annotations

from oslo_config import cfg

GROUP = 'oslo_transfer_nfs'

OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        'mount_options',
        default='softerr,timeo=50,retrans=2,actimeo=1',
        regex=r'[^\s\'"\\]*',
        help='Options for mounting exports, see nfs(5), with commas in '
        'between. The default gives up a server that is silent for half a '
        'minute, with an error; with "hard" whatever uses a file waits for '
        'its server for as long as it takes, also where nobody can be told '
        'to stop, which may be what instances want that run from an '
        'attached image. The newest version of NFS that both sides know is '
        'used unless there is a "vers=". What Cinder says of a volume is '
        'added, and nosuid, nodev and noexec always are, and ro where '
        'nothing is to be written.',
    ),
    cfg.StrOpt(
        'mount_base',
        help='Directory under which exports are mounted, each attachment in '
        'a directory of its own. Who is to read what is attached has to be '
        'able to enter it. Unset means "mounts" in the state directory.',
    ),
    cfg.IntOpt(
        'mount_timeout',
        default=30,
        min=1,
        max=3600,
        help='Seconds that mounting, and unmounting, may take.',
    ),
)
