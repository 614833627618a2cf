# SPDX-License-Identifier: Apache-2.0
"""Configuration options; registered on the ``conf`` that is passed in."""

from __future__ import annotations

from collections.abc import Sequence
import copy
import os

from oslo_config import cfg
from oslo_config import types

from oslo_transfer.cache import opts as cache_opts
from oslo_transfer.drivers.bittorrent import opts as bittorrent_opts
from oslo_transfer.drivers import dd_opts
from oslo_transfer.drivers.ftp import opts as ftp_opts
from oslo_transfer.drivers.http import opts as http_opts
from oslo_transfer.drivers.iscsi import opts as iscsi_opts
from oslo_transfer.drivers.nbd import opts as nbd_opts
from oslo_transfer.drivers.nfs import opts as nfs_opts
from oslo_transfer.drivers.sftp import opts as sftp_opts
from oslo_transfer.service import opts as service_opts
from oslo_transfer.service.proxy import opts as proxy_opts

GROUP = 'oslo_transfer'

_MIB = 1 << 20


def default_state_path() -> str:
    """Where records live that outlive a process.

    The system's place for root, the user's own for anybody else.
    """
    if os.geteuid() == 0:
        return '/var/lib/oslo-transfer'
    home = os.environ.get('XDG_STATE_HOME') or os.path.expanduser(
        '~/.local/state'
    )
    return os.path.join(home, 'oslo-transfer')


CORE_OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.ListOpt(
        'enabled_drivers',
        default=[],
        help='URL schemes that may be used. Empty means every installed '
        'driver. Paths count as the scheme "file".',
    ),
    cfg.ListOpt(
        'driver_order',
        default=[],
        help='URL schemes in the order in which locations of the same data '
        'are tried, whatever location_selector says: one whose scheme stands '
        'earlier comes first, one whose scheme is not in the list comes '
        'last. Empty means no preference.',
    ),
    cfg.StrOpt(
        'location_selector',
        default='order',
        choices=[
            ('order', 'as the call gives them'),
            ('weight', 'those of the highest weight first'),
            (
                'nearest',
                'by the distance of their datacenter, then by the time that '
                'connecting takes; files on this host first',
            ),
        ],
        help='How locations of the same data are ordered.',
    ),
    cfg.FloatOpt(
        'location_backoff',
        default=60.0,
        min=0.0,
        max=600.0,
        help='Seconds for which a location goes behind all others after it '
        'failed in a way that may pass, or had wrong bytes. Doubled with '
        'each failure in a row, up to 600 seconds; forgotten when it works. '
        '0 means that failures are forgotten at once.',
    ),
    cfg.StrOpt(
        'datacenter',
        help='Name of the datacenter that this host is in, one of '
        'datacenters. Unset means that it is in none of them.',
    ),
    cfg.ListOpt(
        'datacenters',
        default=[],
        help='Names of datacenters. Each one has a group of its own, '
        '[oslo_transfer_datacenter_NAME].',
    ),
    cfg.ListOpt(
        'strategy_order',
        default=['clone', 'full_copy'],
        help='Strategies in the order in which they are tried when a call '
        'names none. One that cannot serve a call is passed over, and the '
        'result says why.',
    ),
    cfg.StrOpt(
        'zero_copy_form',
        default='overlay',
        choices=[
            (
                'overlay',
                'a qcow2 image over what is attached; it takes writes',
            ),
            ('device', 'a symbolic link to the device or file; read-only'),
        ],
        help='What the strategy zero_copy makes of a destination, where the '
        'call does not say by accept= that it can use only the other.',
    ),
    cfg.ListOpt(
        'zero_copy_formats',
        default=['raw', 'qcow2'],
        item_type=types.String(choices=['raw', 'qcow2']),
        help='Formats that an image may have under an overlay. The format is '
        'found out by looking at the image; with "raw" alone, what looks '
        'like qcow2 is refused, and not taken for one. A qcow2 image that '
        'leads to a backing or data file is refused in any case.',
    ),
    cfg.IntOpt(
        'zero_copy_nbd_reconnect_delay',
        default=30,
        min=0,
        max=3600,
        help='Seconds for which QEMU lets a guest wait where an overlay is '
        'over an NBD export and that is gone: what holds it is restarted, or '
        'the network is cut. After that what the guest reads fails until the '
        'export is back. It is written into the overlay when that is made. '
        'A guest that does not give up its disk earlier (SCSI disks of Linux '
        'do after 30 seconds, virtio disks never) can have more; 0 means '
        'that reading fails at once.',
    ),
    cfg.StrOpt(
        'state_path',
        sample_default='/var/lib/oslo-transfer',
        help='Directory for records of attachments, which outlive the '
        'process that made them. Unset means /var/lib/oslo-transfer for '
        "root, and oslo-transfer in the user's state directory for others.",
    ),
    cfg.IntOpt(
        'max_streams',
        default=4,
        min=1,
        max=64,
        help='The most streams that one copy opens to a source at once. '
        'Streams are added one by one, only while each makes the copy '
        'faster.',
    ),
    cfg.IntOpt(
        'max_locations',
        default=4,
        min=1,
        max=64,
        help='The most locations of the same data that one copy reads from '
        'at once. More than one is used only where a digest of the data is '
        'known, and while that is faster. With 1 a further location is '
        'used only when the one before it fails.',
    ),
    cfg.IntOpt(
        'buffer_bytes',
        default=_MIB,
        min=64 * 1024,
        max=16 * _MIB,
        help='Size of one transfer buffer in bytes. A copy uses one for '
        'each stream.',
    ),
    cfg.IntOpt(
        'digest_queue_bytes',
        default=8 * _MIB,
        min=_MIB,
        max=256 * _MIB,
        help='The most bytes that wait to be hashed beside a copy.',
    ),
    cfg.IntOpt(
        'segment_bytes',
        default=8 * _MIB,
        min=_MIB,
        max=1 << 30,
        help='After this many bytes of one stream its progress is noted, '
        'so that a killed copy fetches no more than this again for each '
        'stream.',
    ),
    cfg.IntOpt(
        'sync_bytes',
        default=64 * _MIB,
        min=_MIB,
        max=16 << 30,
        help='After this many bytes the data is made durable while the '
        'copy goes on, so that a power cut loses no more than about this.',
    ),
    cfg.IntOpt(
        'max_size_bytes',
        default=16 << 40,
        min=1,
        max=1 << 60,
        help='The most bytes that are taken from a source whose size is '
        'not known in advance.',
    ),
    cfg.BoolOpt(
        'detect_zeros',
        default=True,
        help='Look for runs of zeros in data and leave them out of files. '
        'Without it only the holes that a source reports are left out, and '
        'plain HTTP without a digest is moved by the kernel alone '
        '(splice), which is faster.',
    ),
    cfg.BoolOpt(
        'preallocate',
        default=False,
        help='Reserve the whole size of a file before the first byte. The '
        'file is then not sparse, and a full disk is noticed at once.',
    ),
    cfg.FloatOpt(
        'connect_timeout',
        default=10.0,
        min=0.1,
        max=600.0,
        help='Seconds for resolving a name, for connecting, and for a TLS '
        'handshake, each.',
    ),
    cfg.FloatOpt(
        'stall_timeout',
        default=30.0,
        min=0.1,
        max=3600.0,
        help='Seconds of waiting for a peer after which its rate is '
        'judged, see stall_bytes_per_second.',
    ),
    cfg.IntOpt(
        'stall_bytes_per_second',
        default=1024,
        min=1,
        max=1 << 30,
        help='A peer that moves fewer bytes per second than this, while it '
        'is waited for, is given up.',
    ),
    cfg.IntOpt(
        'max_retries',
        default=5,
        min=0,
        max=1000,
        help='How many times in a row a location is tried again without '
        'progress before it is given up. Progress starts the count again.',
    ),
    cfg.FloatOpt(
        'retry_delay',
        default=0.5,
        min=0.0,
        max=60.0,
        help='Seconds before the first retry; each further one waits twice '
        'as long, with jitter.',
    ),
    cfg.FloatOpt(
        'max_retry_delay',
        default=30.0,
        min=0.0,
        max=3600.0,
        help='The most seconds before a retry, also where a server asks '
        'for more (Retry-After).',
    ),
    cfg.IntOpt(
        'rate_limit_bytes_per_second',
        default=0,
        min=0,
        max=1 << 60,
        help='The most bytes per second that one copy moves if the call '
        'does not say. 0 means no limit.',
    ),
    cfg.IntOpt(
        'max_concurrent_copies',
        default=0,
        min=0,
        max=10000,
        help='The most copies that one process makes at once; a further one '
        'waits its turn, first come, first served. 0 means no limit.',
    ),
    cfg.IntOpt(
        'max_connections_per_host',
        default=32,
        min=0,
        max=10000,
        help='The most connections that one process has to one port of a '
        'host at once; a further one waits its turn. Data connections of '
        'FTP do not count. 0 means no limit.',
    ),
    cfg.FloatOpt(
        'queue_timeout',
        default=600.0,
        min=0.1,
        max=7 * 24 * 3600.0,
        help='Seconds for which a copy waits its turn, see '
        'max_concurrent_copies and max_connections_per_host, before it is '
        'given up.',
    ),
    cfg.IntOpt(
        'process_rate_limit_bytes_per_second',
        default=0,
        min=0,
        max=1 << 60,
        help='The most bytes per second that all copies of one process move '
        'together; each gets an equal part. 0 means no limit.',
    ),
    cfg.IntOpt(
        'host_rate_limit_bytes_per_second',
        default=0,
        min=0,
        max=1 << 60,
        help='The most bytes per second that all copies of one process move '
        'from and to one host, whatever the protocol. 0 means no limit.',
    ),
    cfg.ListOpt(
        'untrusted_schemes',
        default=['https', 'http'],
        help='URL schemes that untrusted URLs and redirects may use. Local '
        'files and block storage are refused whatever stands here.',
    ),
    cfg.ListOpt(
        'untrusted_ports',
        item_type=types.Integer(min=1, max=65535),
        default=[80, 443],
        help='TCP ports that untrusted URLs and redirects may use.',
    ),
    cfg.ListOpt(
        'untrusted_hosts',
        default=[],
        help='If not empty, the only host names or addresses that '
        'untrusted URLs and redirects may use.',
    ),
    cfg.ListOpt(
        'untrusted_refused_hosts',
        default=[],
        help='Host names or addresses that untrusted URLs and redirects '
        'may not use.',
    ),
    cfg.ListOpt(
        'untrusted_networks',
        default=[],
        help='Networks (CIDR) that untrusted URLs and redirects may reach '
        'although they are not public, for example 10.1.0.0/16.',
    ),
    cfg.ListOpt(
        'untrusted_refused_networks',
        default=[],
        help='Networks (CIDR) that untrusted URLs and redirects may not '
        'reach although they are public.',
    ),
)

#: The options of one datacenter; its group ends with its name.
DATACENTER_OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.ListOpt(
        'hosts',
        default=[],
        help='Hosts in this datacenter: names, domains that begin with a '
        'dot, and addresses or networks (CIDR) for URLs with numeric hosts. '
        'Names are not resolved.',
    ),
    cfg.Opt(
        'distances',
        type=types.Dict(types.Float(min=0.0, max=1e9)),
        default={},
        help='How far it is from here to other datacenters, as NAME:NUMBER. '
        'Only the order of the numbers counts. This datacenter is at 0; '
        'what is not in the list is farther away than what is.',
    ),
    cfg.ListOpt(
        'proxies',
        default=[],
        help='Proxies that the hosts of this datacenter ask for what is in '
        'other ones, in order; the origin is asked if none of them works. '
        'http://HOST:PORT or https://HOST:PORT is an "oslo-transfer serve '
        '--role proxy"; with plain+ in front of it, it is any HTTP cache '
        'that fetches http://HOST/PATH when it is asked for /http/HOST/PATH.',
    ),
    cfg.StrOpt(
        'proxy_token_file',
        help='File with the token that these proxies want to see, if they '
        'do. It is read again for each call. Over http anybody on the way '
        'can read it.',
    ),
    cfg.IntOpt(
        'link_bytes_per_second',
        default=0,
        min=0,
        max=1 << 60,
        help='Bytes per second that the link to this datacenter carries. '
        '"oslo-transfer prefetch" sends no more there than that, all '
        'together, unless it is told by --rate-limit. 0 means that it is not '
        'known.',
    ),
)

DATACENTER_GROUP = 'oslo_transfer_datacenter_'
#: Stands for each of them in a sample of the configuration.
DATACENTER_SAMPLE = f'{DATACENTER_GROUP}example'

_OPTIONS: tuple[tuple[str, Sequence[cfg.Opt]], ...] = (
    (GROUP, CORE_OPTIONS),
    ('oslo_transfer_bittorrent', bittorrent_opts.OPTIONS),
    (cache_opts.GROUP, cache_opts.OPTIONS),
    (dd_opts.GROUP, dd_opts.OPTIONS),
    ('oslo_transfer_ftp', ftp_opts.OPTIONS),
    ('oslo_transfer_http', http_opts.OPTIONS),
    (iscsi_opts.GROUP, iscsi_opts.OPTIONS),
    ('oslo_transfer_nbd', nbd_opts.OPTIONS),
    (nfs_opts.GROUP, nfs_opts.OPTIONS),
    (proxy_opts.GROUP, proxy_opts.OPTIONS),
    (service_opts.SEED_GROUP, service_opts.SEED_OPTIONS),
    (service_opts.SERVICE_GROUP, service_opts.SERVICE_OPTIONS),
    ('oslo_transfer_sftp', sftp_opts.OPTIONS),
)


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options of the core and of the in-tree drivers.

    May be called any number of times.

    :param conf: the configuration to register them on
    """
    for group, options in _OPTIONS:
        conf.register_opts(options, group=group)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """All options by group, for ``oslo-config-generator``."""
    return [
        (group, [copy.deepcopy(option) for option in options])
        for group, options in (
            *_OPTIONS,
            (DATACENTER_SAMPLE, DATACENTER_OPTIONS),
        )
    ]
