# SPDX-License-Identifier: Apache-2.0
"""Block devices: open one, make it read-only, see who has it open."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import struct

from oslo_transfer.drivers import openers
from oslo_transfer import privileged

_BLKROSET = 0x125D  # linux/fs.h
_FLAGS = os.O_ACCMODE | os.O_EXCL | os.O_NONBLOCK | os.O_DIRECT
_NAME = re.compile(r'/dev/(sd[a-z]+|dm-[0-9]+)')


@privileged.default.entrypoint
def send(path: str, flags: int, address: bytes) -> None:
    """Open a SCSI or device-mapper device, and pass the descriptor on.

    :param path: ``/dev/sdX`` or ``/dev/dm-N``
    :param flags: for open(2)
    :param address: an abstract unix socket that takes it (SCM_RIGHTS)
    """
    fd = _open(path, flags)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(b'\0' + address)
            socket.send_fds(sock, [b'\0'], [fd])
    finally:
        os.close(fd)


@privileged.default.entrypoint
def set_read_only(path: str, read_only: bool) -> None:
    """Have the kernel refuse to write to a device, or take it again.

    :param path: ``/dev/sdX`` or ``/dev/dm-N``
    """
    fd = _open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _BLKROSET, struct.pack('i', read_only))
    finally:
        os.close(fd)


@privileged.default.entrypoint
def of_device(number: int) -> list[str]:
    """The processes that have a block device open.

    :param number: as in ``st_rdev``
    """
    return openers.of_device(number)


@privileged.default.entrypoint
def of_mount(number: int) -> list[str]:
    """The processes that have files of a mount open.

    :param number: of the mount
    """
    return openers.of_mount(number)


def _open(path: str, flags: int) -> int:
    if not _NAME.fullmatch(path) or flags & ~_FLAGS:
        raise ValueError(f'{path} is not opened')
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError(f'{path} is no block device')
    return fd
