# SPDX-License-Identifier: Apache-2.0
"""What a destination leads to, and how it becomes a file of its own.

Every step can be done again: what a restart finds half done goes on. The
directory of a destination may be its owner's to change at any time; nothing
is opened there by following a link.
"""

from __future__ import annotations

from collections.abc import Collection
import errno
import os
import stat
import typing

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
# In front of and behind the name of one that has to be copied, or of a link.
_COPY = ('.', '.promoted')
_LINK = '.link'
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
    """
    path = target(form, destination)
    if path != destination and os.path.lexists(path):
        raise exceptions.AlreadyExists(
            f'{path} exists; the image of {destination} needs that name when '
            f'it is complete'
        )


def identity(path: str) -> tuple[int, int] | None:
    """Tells a regular file from all others; None if it is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_dev, found.st_ino


def leads_to(
    form: str, destination: str, socket: str, files: Collection[str]
) -> bool:
    """Whether a destination still is what was made of it.

    :param socket: of the export, for an overlay
    :param files: what a link may lead to
    """
    try:
        if form == 'path':
            return os.readlink(destination) in files
        found = qcow2.backing(destination)
    except (OSError, exceptions.TransferError):
        return False
    return found is not None and socket in found.name


def divert(link: str, path: str) -> None:
    """Have a symbolic link lead elsewhere, with no moment in between.

    :raises TransferError: it cannot be changed
    """
    new = copy_path(link) + _LINK
    with oserrors.os_errors(f'changing {link}'):
        try:
            os.unlink(new)
        except FileNotFoundError:
            pass
        os.symlink(path, new)
        os.rename(new, link)


def place(data: str, path: str, replace: bool) -> bool:
    """Give a complete file its name, durably.

    :param replace: a link is there, which is replaced
    :returns: False where it is on another file system
    :raises AlreadyExists: something has the name
    :raises TransferError: it does not work
    """
    with oserrors.os_errors(f'making {path}'):
        fd = os.open(data, _FLAGS)
        try:
            os.fsync(fd)
            os.fchmod(fd, 0o666 & ~localfs.current_umask())
            try:
                localfs.rename(data, path, overwrite=replace)
            except OSError as exc:
                if exc.errno != errno.EXDEV:
                    raise
                return False
        finally:
            oserrors.close(fd)
        localfs.sync_directory(os.path.dirname(path))
    return True


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
