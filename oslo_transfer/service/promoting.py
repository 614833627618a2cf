# SPDX-License-Identifier: Apache-2.0
"""What a destination leads to, and how it becomes a file of its own.

Every step can be done again: what a restart finds half done goes on. The
directory of a destination may be its owner's to change at any time; nothing
is opened there by following a link.
"""

from __future__ import annotations

import os
import stat
import typing

from oslo_transfer import accounts
from oslo_transfer import api
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors
from oslo_transfer import qcow2
from oslo_transfer import qemu_img

if typing.TYPE_CHECKING:
    from oslo_config import cfg

#: Behind the name of an overlay: the image that it leads to in the end.
BASE = '.base'
# In front of and behind the name of one that has to be copied.
_COPY = ('.', '.promoted')
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Readers(typing.NamedTuple):
    """Who may read an image, as the options say.

    :ivar gid: number of a group, or None
    :ivar mode: whose bits count
    """

    gid: int | None
    mode: int


def target(form: str, destination: str) -> str:
    """The path of the file that an image becomes."""
    return destination if form == 'path' else destination + BASE


def copy_path(path: str) -> str:
    """Where a copy is made that gets a name later."""
    directory, name = os.path.split(path)
    before, behind = _COPY
    return os.path.join(directory, f'{before}{name}{behind}')


def check(form: str, destination: str) -> None:
    """See that the image can become a file later on.

    :raises AlreadyExists: something has the name
    :raises AccessDenied: this process may not make files there
    """
    directory = os.path.dirname(destination)
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise exceptions.AccessDenied(
            f'the service may not write to {directory}, where the image of '
            f'{destination} is to become a file'
        )
    path = target(form, destination)
    if path != destination and os.path.lexists(path):
        raise exceptions.AlreadyExists(
            f'{path} exists; the image of {destination} needs that name when '
            f'it is complete'
        )


def look_at(path: str) -> os.stat_result | None:
    """What a regular file is; None if it is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def leads_to(form: str, destination: str, socket: str, file: str) -> bool:
    """Whether a destination still is what was made of it.

    :param socket: of the export, for an overlay
    :param file: what a link leads to
    :raises TransferError: it cannot be looked at
    """
    try:
        if form == 'path':
            with oserrors.os_errors(f'reading {destination}'):
                if not stat.S_ISLNK(os.lstat(destination).st_mode):
                    return False
                return os.readlink(destination) == file
        found = qcow2.backing(destination)
    except (exceptions.NotFound, exceptions.IntegrityError):
        return False
    return found is not None and socket in found.name


def place(data: str, path: str, replace: bool, readers: Readers) -> None:
    """Give a complete file its name, durably.

    :param replace: a link is there, which is replaced
    :param readers: who may read it, besides those who may read any new file
    :raises AlreadyExists: something has the name
    :raises TransferError: it does not work
    """
    with oserrors.os_errors(f'making {path}'):
        fd = os.open(data, _FLAGS)
        try:
            mode = 0o666 & ~localfs.current_umask() | readers.mode & 0o444
            accounts.give(fd, None, readers.gid)
            os.fchmod(fd, mode)
            os.fsync(fd)
            localfs.rename(data, path, overwrite=replace)
        finally:
            oserrors.close(fd)
        localfs.sync_directory(os.path.dirname(path))


def same_file_system(path: str, other: str) -> bool:
    """Whether a file can be renamed to a name beside another one.

    :raises TransferError: it cannot be looked at
    """
    with oserrors.os_errors(f'looking at {path}'):
        device = os.stat(os.path.dirname(other)).st_dev
        return os.lstat(path).st_dev == device


def copied(
    data: str, path: str, conf: cfg.ConfigOpts, **limits: typing.Any
) -> str:
    """Copy a file beside where it is to be, durably.

    Blocks for as long as that takes.

    :param limits: ``cancel`` and the like, see :func:`oslo_transfer.copy`
    :returns: the path of the copy, for :func:`place`
    :raises TransferError: it does not work
    """
    part = copy_path(path)
    api.copy(data, part, conf=conf, overwrite=True, **limits)
    return part


def repoint(overlay: str, base: str) -> None:
    """Have an overlay lead to the file instead of the export.

    :raises DetachError: a guest uses it
    :raises TransferError: it cannot be changed
    """
    found = qcow2.backing(overlay)
    assert found is not None
    qemu_img.rebase(overlay, base, found.format)
