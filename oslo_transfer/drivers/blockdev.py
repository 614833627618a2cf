# SPDX-License-Identifier: Apache-2.0
"""Opens block devices that only root may open."""

from __future__ import annotations

from collections.abc import Callable
import os
import secrets
import socket
import stat
import typing

from oslo_transfer.drivers import brick

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer.drivers import base

# Seconds; the descriptor has been sent already.
_TIMEOUT = 10


def open_device(path: str, flags: int, conf: cfg.ConfigOpts) -> int:
    """Open a device, by the privileged daemon if this process may not.

    Blocks as open(2) does.

    :param path: ``/dev/sdX`` or ``/dev/dm-N``
    :param flags: for open(2)
    :raises OSError: it cannot be opened
    """
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except PermissionError:
        if os.geteuid() == 0:
            raise
    devices = brick.module('oslo_transfer.privileged.devices', conf)
    name = f'oslo-transfer-{secrets.token_hex(16)}'.encode()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b'\0' + name)
        listener.listen(1)
        listener.settimeout(_TIMEOUT)
        devices.send(path, flags & ~os.O_CLOEXEC, name)
        connection, _address = listener.accept()
        with connection:
            connection.settimeout(_TIMEOUT)
            _data, fds, _flags, _from = socket.recv_fds(connection, 1, 1)
    return _checked(fds, path)


def opener(conf: cfg.ConfigOpts) -> Callable[[str, int], int]:
    """:func:`open_device`, in the form of ``os.open``."""
    return lambda path, flags: open_device(path, flags, conf)


def opener_of(
    attachment: base.Attachment, conf: cfg.ConfigOpts
) -> Callable[[str, int], int]:
    """What opens the path of an attachment: root's help is for devices."""
    return opener(conf) if attachment.form == 'device' else os.open


def set_read_only(path: str, read_only: bool, conf: cfg.ConfigOpts) -> None:
    """Have the kernel refuse to write to a device.

    :raises OSError: it cannot be set
    """
    devices = brick.module('oslo_transfer.privileged.devices', conf)
    devices.set_read_only(path, read_only)


def _checked(fds: list[int], path: str) -> int:
    """The one descriptor, if it is of the device: anybody may connect."""
    wanted = os.stat(path).st_rdev
    if len(fds) == 1:
        found = os.fstat(fds[0])
        if stat.S_ISBLK(found.st_mode) and found.st_rdev == wanted:
            os.set_inheritable(fds[0], False)
            return fds[0]
    for fd in fds:
        os.close(fd)
    raise PermissionError(f'{path} was not opened')
