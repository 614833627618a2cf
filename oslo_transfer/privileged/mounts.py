# SPDX-License-Identifier: Apache-2.0
"""Take away a mount of a network file system."""

from __future__ import annotations

import ctypes
import os

from oslo_transfer.drivers import inuse
from oslo_transfer import privileged

_MNT_DETACH = 2  # sys/mount.h
_UMOUNT_NOFOLLOW = 8
_NETWORK = ('nfs', 'nfs4')


@privileged.default.entrypoint
def unmount(path: str, lazy: bool = False) -> None:
    """Unmount an NFS file system.

    :param path: exactly where it is mounted
    :param lazy: take it out of sight also where its server is dead
        (MNT_DETACH)
    """
    kinds = [each.kind for each in inuse.mounts() if each.path == path]
    if not kinds or kinds[-1] not in _NETWORK:
        raise ValueError(f'{path} is no mount of NFS')
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if libc.umount2(os.fsencode(path), flags):
        error = ctypes.get_errno()
        # Not as OSError(errno, text, path): only args of plain types pass.
        raise OSError(error, os.strerror(error))
