# SPDX-License-Identifier: Apache-2.0
"""Options of the block cache; listing them imports nothing else."""

from __future__ import annotations

import typing

from oslo_config import cfg
from oslo_config import types

GROUP = 'oslo_transfer_cache'

_MOST = 1 << 60
_WEEK = 7 * 24 * 3600.0


class PowerOfTwo(types.Integer):
    """A number that blocks of the disk fit into."""

    def __call__(self, value: typing.Any) -> int:
        """Check it.

        :raises ValueError: it is none, or out of bounds
        """
        number: int = super().__call__(value)  # type: ignore[assignment]
        if number & (number - 1):
            raise ValueError(f'{number} is not a power of two')
        return number


OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        'directory',
        sample_default='/var/lib/oslo-transfer/cache',
        help='Where blocks of images are kept. Unset means "cache" in the '
        'state_path of [oslo_transfer]. One process has it at a time. On the '
        'file system of the destinations an image that is complete becomes '
        'one by a rename; from another one it has to be copied.',
    ),
    cfg.IntOpt(
        'max_bytes',
        default=0,
        min=0,
        max=_MOST,
        help='The most bytes of disk that the cache takes. Blocks that were '
        'not read for the longest time go first, those being read never. '
        'Where nothing can go, images are served on without keeping more. 0 '
        'means as much as the file system has.',
    ),
    cfg.Opt(
        'block_bytes',
        type=PowerOfTwo(min=4096, max=4 << 20),
        default=64 * 1024,
        help='Size of the blocks that are fetched and kept, in bytes: a '
        'power of two. Small ones bring less that nobody asked for, large '
        'ones cost less for each byte. Images that were kept with another '
        'size are fetched again.',
    ),
    cfg.IntOpt(
        'streams',
        default=8,
        min=1,
        max=64,
        help='The most streams by which the blocks of one image are fetched '
        'at once.',
    ),
    cfg.StrOpt(
        'form',
        default='overlay',
        choices=[
            (
                'overlay',
                'a qcow2 image over the NBD export of the cache; it takes '
                'writes, and survives a restart of the service',
            ),
            (
                'path',
                'a file, read-only until it is complete, and an ordinary '
                'one from then on',
            ),
        ],
        help='What the strategy copy_on_read makes of a destination, where '
        'the call does not say by accept= that it can use only the other.',
    ),
    cfg.BoolOpt(
        'hydrate',
        default=True,
        mutable=True,
        help='Whether the rest of an image that copy_on_read serves is '
        'fetched in the background. Once it is complete and verified it '
        'becomes a file of its own, and its origin is not needed any more.',
    ),
    cfg.FloatOpt(
        'hydrate_delay',
        default=30.0,
        min=0.0,
        max=_WEEK,
        mutable=True,
        help='Seconds after which that begins: hosts that boot hundreds of '
        'guests at once have better things to do at first.',
    ),
    cfg.IntOpt(
        'hydrate_bytes_per_second',
        default=0,
        min=0,
        max=_MOST,
        mutable=True,
        help='The most bytes per second that are fetched for it, for each '
        'image. What somebody waits for goes before, and is not held back. '
        '0 means no limit.',
    ),
    cfg.IntOpt(
        'prefetch_bytes_per_second',
        default=0,
        min=0,
        max=_MOST,
        mutable=True,
        help='The most bytes per second that are fetched ahead for what an '
        'earlier reader of the image has needed. 0 means no limit.',
    ),
    cfg.FloatOpt(
        'trace_seconds',
        default=300.0,
        min=0.0,
        max=24 * 3600.0,
        help='Seconds for which it is noted what is read of an image first, '
        'from its first read on; a pause counts ten at most. The next who '
        'reads the image, also another version of it, has that brought before '
        'he asks. 0 means never.',
    ),
    cfg.StrOpt(
        'socket_owner',
        help='User, by name or number, who owns the sockets of the exports. '
        'Unset means the user that the service runs as.',
    ),
    cfg.StrOpt(
        'socket_group',
        help='Group, by name or number, of the sockets of the exports; '
        'QEMU has to be able to open them (libvirt-qemu or kvm on Debian).',
    ),
    cfg.Opt(
        'socket_mode',
        type=types.String(regex='^0?[0-7]{3}$'),
        default='0660',
        help='Mode of the sockets of the exports, as an octal number.',
    ),
    cfg.HostAddressOpt(
        'listen_address',
        default='127.0.0.1',
        help='Address at which exports can be had by TCP, too, for readers '
        'on other hosts; see nbd_port and http_port. Whoever can connect '
        'can read all images, unless ca_file is set.',
    ),
    cfg.PortOpt(
        'nbd_port',
        default=0,
        help='TCP port at which all exports can be had by NBD, each under '
        'its ID. 0 means that they cannot; 10809 is usual.',
    ),
    cfg.PortOpt(
        'http_port',
        default=0,
        help='TCP port at which all exports can be had by HTTP, with ranges, '
        'each as /ID. 0 means that they cannot.',
    ),
    cfg.StrOpt(
        'cert_file',
        help='PEM file with the certificate of these two ports, and those '
        'between it and the CA: they have TLS then, and nothing else. This '
        'file, key_file and ca_file are read again when they change, with '
        'the next connection.',
    ),
    cfg.StrOpt(
        'key_file',
        help='PEM file with the key. Unset means that it is in cert_file.',
    ),
    cfg.StrOpt(
        'ca_file',
        help='PEM file with CA certificates: only clients with a certificate '
        'of one of them get in. Needs cert_file.',
    ),
)
