# SPDX-License-Identifier: Apache-2.0
"""Which processes have a device or a file system open (``/proc``, proc(5)).

Sees what the caller may see: root's all, or one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import os
import stat

_PROC = '/proc'


def of_device(number: int) -> list[str]:
    """The processes that have a block device open, as ``dd (pid 5)``.

    :param number: the device, as in ``st_rdev``
    """

    def matches(pid: str, fd: str) -> bool:
        link = f'{_PROC}/{pid}/fd/{fd}'
        # To look closer at anything else might wait for a dead NFS server.
        if not os.readlink(link).startswith('/dev/'):
            return False
        found = os.stat(link)
        return stat.S_ISBLK(found.st_mode) and found.st_rdev == number

    return _processes(matches)


def of_mount(number: int) -> list[str]:
    """The processes that have files of a mount open.

    :param number: the mount, as in the first field of
        ``/proc/self/mountinfo``
    """

    def matches(pid: str, fd: str) -> bool:
        with open(f'{_PROC}/{pid}/fdinfo/{fd}') as file:
            return f'mnt_id:\t{number}\n' in file.read(4096)

    return _processes(matches)


def _processes(matches: Callable[[str, str], bool]) -> list[str]:
    return [
        f'{_name(pid)} (pid {pid})'
        for pid in os.listdir(_PROC)
        if pid.isdigit() and any(_matching(pid, matches))
    ]


def _matching(pid: str, matches: Callable[[str, str], bool]) -> Iterator[bool]:
    try:
        fds = os.listdir(f'{_PROC}/{pid}/fd')
    except OSError:
        return
    for fd in fds:
        try:
            yield matches(pid, fd)
        except OSError:
            # Closed meanwhile, or not ours to see.
            continue


def _name(pid: str) -> str:
    try:
        with open(f'{_PROC}/{pid}/comm', errors='replace') as file:
            return file.read().strip()
    except OSError:
        return 'a process'
