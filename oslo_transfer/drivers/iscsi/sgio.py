# SPDX-License-Identifier: Apache-2.0
"""Asks a SCSI disk of the kernel what it really is.

The kernel keeps what a disk said when it was found. If the target has put
another LUN in its place since then, only the disk itself tells (SG_IO,
linux/scsi/sg.h; SPC-4 6.6, SBC-3 5.16). Needs no privileges beyond the open
descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

_SG_IO = 0x2285
_FROM_DEVICE = -3  # SG_DXFER_FROM_DEV
# Milliseconds; a path that is down answers when its session is given up.
_TIMEOUT = 30000


class _Header(ctypes.Structure):
    """``struct sg_io_hdr``."""

    _fields_ = (
        ('interface_id', ctypes.c_int),
        ('dxfer_direction', ctypes.c_int),
        ('cmd_len', ctypes.c_ubyte),
        ('mx_sb_len', ctypes.c_ubyte),
        ('iovec_count', ctypes.c_ushort),
        ('dxfer_len', ctypes.c_uint),
        ('dxferp', ctypes.c_void_p),
        ('cmdp', ctypes.c_void_p),
        ('sbp', ctypes.c_void_p),
        ('timeout', ctypes.c_uint),
        ('flags', ctypes.c_uint),
        ('pack_id', ctypes.c_int),
        ('usr_ptr', ctypes.c_void_p),
        ('status', ctypes.c_ubyte),
        ('masked_status', ctypes.c_ubyte),
        ('msg_status', ctypes.c_ubyte),
        ('sb_len_wr', ctypes.c_ubyte),
        ('host_status', ctypes.c_ushort),
        ('driver_status', ctypes.c_ushort),
        ('resid', ctypes.c_int),
        ('duration', ctypes.c_uint),
        ('info', ctypes.c_uint),
    )


def ask(fd: int, command: bytes, length: int) -> bytes:
    """Send a command that reads, and take its answer.

    Blocks for as long as the disk does, half a minute at most.

    :param command: see :mod:`~oslo_transfer.drivers.iscsi.scsi`
    :param length: bytes that are wanted at most
    :returns: nothing if the disk does not know the command
    :raises OSError: the disk cannot be reached
    """
    data = ctypes.create_string_buffer(length)
    sense = ctypes.create_string_buffer(64)
    cdb = ctypes.create_string_buffer(command, len(command))
    header = _Header(
        interface_id=ord('S'),
        dxfer_direction=_FROM_DEVICE,
        cmd_len=len(command),
        mx_sb_len=len(sense),
        dxfer_len=length,
        dxferp=ctypes.addressof(data),
        cmdp=ctypes.addressof(cdb),
        sbp=ctypes.addressof(sense),
        timeout=_TIMEOUT,
    )
    fcntl.ioctl(fd, _SG_IO, header)
    if header.host_status:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    if header.status:
        return b''
    return data.raw[: length - header.resid]
