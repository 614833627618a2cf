# SPDX-License-Identifier: Apache-2.0
"""Who uses a block device or a mount, in words an operator can act on."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import typing

from oslo_transfer.drivers import brick
from oslo_transfer.drivers.iscsi import sysfs as _sysfs
from oslo_transfer.drivers import openers

if typing.TYPE_CHECKING:
    from oslo_config import cfg

_MOUNTINFO = '/proc/self/mountinfo'
_SWAPS = '/proc/swaps'
# It has every path of every map open, and lets go when the path goes.
_MINDERS = ('multipathd ',)


@dataclasses.dataclass(frozen=True)
class Mount:
    """A mounted file system (proc(5)).

    :ivar number: of the mount
    :ivar device: ``major:minor`` of the file system
    :ivar path: where it is mounted
    :ivar kind: as ``ext4``
    :ivar source: what is mounted
    """

    number: int
    device: str
    path: str
    kind: str
    source: str


def mounts() -> list[Mount]:
    """All mounts that this process sees, in the order they were made."""
    with open(_MOUNTINFO, errors='surrogateescape') as file:
        return [_mount(line) for line in file]


def _mount(line: str) -> Mount:
    before, _dash, after = line.partition(' - ')
    fields, more = before.split(' '), after.split(' ')
    return Mount(
        int(fields[0]),
        fields[2],
        _unescaped(fields[4]),
        more[0],
        _unescaped(more[1]),
    )


def _unescaped(text: str) -> str:
    return re.sub(r'\\([0-7]{3})', lambda m: chr(int(m[1], 8)), text)


def users_of_device(
    name: str, conf: cfg.ConfigOpts, sysfs: _sysfs.Sysfs | None = None
) -> list[str]:
    """Who has a disk open, mounted, as swap or as a part of something.

    Its partitions count. Blocks for as long as it takes to look through
    ``/proc``; asks the privileged daemon if this is not root's process.

    :param name: as ``sda`` or ``dm-0``
    :returns: nothing where the disk is gone, or nobody uses it
    """
    sysfs = sysfs or _sysfs.Sysfs()
    found = [
        f'/dev/{holder} is made of /dev/{name}'
        for holder in sysfs.holders(name)
    ]
    for each in (name, *sysfs.partitions(name)):
        found += _users_of_node(each, conf, sysfs)
    return found


def _users_of_node(
    name: str, conf: cfg.ConfigOpts, sysfs: _sysfs.Sysfs
) -> list[str]:
    number = sysfs.number(name)
    if number is None:
        return []
    path = f'/dev/{name}'
    found = [
        f'{path} is mounted at {mount.path}'
        for mount in mounts()
        if mount.device == number
    ]
    # Names of the same thing: /dev/mapper/..., /dev/disk/by-id/...
    found += [
        f'{path} is used as swap' for swap in _swaps() if _same(swap, path)
    ]
    found += [
        f'/dev/{loop} is made of {path}'
        for loop, behind in sysfs.loops().items()
        if _same(behind, path)
    ]
    major, minor = number.split(':')
    device = os.makedev(int(major), int(minor))
    found += [
        f'{who} has {path} open'
        for who in _privileged(conf).of_device(device)
        if not who.startswith(_MINDERS)
    ]
    if not found and _claimed(path):
        found.append(f'{path} is in use by the kernel')
    return found


def users_of_mount(path: str, conf: cfg.ConfigOpts) -> list[str]:
    """Which processes have files of a file system open.

    :param path: exactly where it is mounted
    """
    found = []
    for mount in mounts():
        if mount.path == path:
            who = _privileged(conf).of_mount(mount.number)
            found += [f'{each} has files open in {path}' for each in who]
    return found


def _privileged(conf: cfg.ConfigOpts) -> typing.Any:
    """Looks at processes: itself if it is root, or the daemon that is."""
    if os.geteuid() == 0:
        return openers
    return brick.module('oslo_transfer.privileged.devices', conf)


def _swaps() -> list[str]:
    with open(_SWAPS) as file:
        return [line.split()[0] for line in file][1:]


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _claimed(path: str) -> bool:
    """Whether somebody has claimed it (open(2), O_EXCL).

    A target of this host, or a mount in another namespace.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as exc:
        return exc.errno == errno.EBUSY
    return False
