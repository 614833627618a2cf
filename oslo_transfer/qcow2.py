# SPDX-License-Identifier: Apache-2.0
"""What a qcow2 image leads to (docs/interop/qcow2.rst of QEMU)."""

from __future__ import annotations

import os
import stat
import struct
import typing

from oslo_transfer import exceptions
from oslo_transfer import oserrors

_MAGIC = b'QFI\xfb'
_HEAD = struct.Struct('>4sIQI')
_LENGTH = struct.Struct('>I')
_EXTENSION = struct.Struct('>II')
_FORMAT = 0xE2792ACA
# What version 2 has; later ones say how long their header is.
_SHORT = 72
_LENGTH_AT = 100
# All is in the first cluster, and that has at most 2 MiB.
_MOST = 2 << 20
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Backing(typing.NamedTuple):
    """What is under an overlay.

    :ivar name: a path, or how QEMU is told
    :ivar format: ``raw`` or ``qcow2``
    """

    name: str
    format: str


def backing(path: str) -> Backing | None:
    """What an image leads to; None if it is no overlay.

    It may be in use: the header changes by rebasing only.

    :raises TransferError: it cannot be read
    :raises IntegrityError: its header makes no sense
    """
    with oserrors.os_errors(f'reading {path}'):
        # Whatever may be there by now, such as a FIFO.
        fd = os.open(path, _FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            data = os.pread(fd, _MOST, 0)
        finally:
            oserrors.close(fd)
    try:
        magic, version, offset, length = _HEAD.unpack_from(data)
        if magic != _MAGIC or not offset:
            return None
        (at,) = (
            (_SHORT,) if version < 3 else _LENGTH.unpack_from(data, _LENGTH_AT)
        )
        form = None
        while at < offset:
            kind, size = _EXTENSION.unpack_from(data, at)
            at += _EXTENSION.size
            if not kind:
                break
            if kind == _FORMAT:
                form = data[at : at + size].decode('ascii')
            at += -(-size // 8) * 8
        name = data[offset : offset + length]
        if form is None or len(name) != length:
            raise ValueError
        return Backing(os.fsdecode(name), form)
    except (struct.error, ValueError) as exc:
        raise exceptions.IntegrityError(
            f'{path} is damaged: its header makes no sense'
        ) from exc
