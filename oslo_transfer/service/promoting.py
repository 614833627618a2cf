# SPDX-License-Identifier: Apache-2.0
"""Makes a cached image that is complete a file of its own.

Every step can be done again: what a restart finds half done goes on.
"""

from __future__ import annotations

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
# In front of and behind the name of one that has to be copied.
_COPY = ('.', '.promoted')


def target(form: str, destination: str) -> str:
    """The path of the file that an image becomes."""
    return destination if form == 'path' else destination + BASE


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


def move(data: str, fd: int, path: str, link: str | None) -> bool:
    """Rename a data file to a file of its own, durably.

    :param data: the data file
    :param fd: it is open there
    :param path: what it becomes
    :param link: what the symbolic link at ``path`` leads to, which is
        replaced; None where nothing may be there
    :returns: False where it would have to be copied
    :raises AlreadyExists: something else has the name
    :raises TransferError: it does not work
    """
    with oserrors.os_errors(f'making {path} of {data}'):
        _check_link(path, link)
        os.fchmod(fd, 0o666 & ~localfs.current_umask())
        os.fsync(fd)
        try:
            localfs.rename(data, path, overwrite=link is not None)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            os.fchmod(fd, 0o600)
            return False
        localfs.sync_directory(os.path.dirname(path))
        localfs.sync_directory(os.path.dirname(data))
    return True


def copied(
    data: str, path: str, conf: cfg.ConfigOpts, **limits: typing.Any
) -> str:
    """Copy a data file beside a file of its own, durably.

    Blocks for as long as that takes.

    :param limits: ``cancel`` and the like, see :func:`oslo_transfer.copy`
    :returns: the path of the copy, for :func:`show`
    :raises TransferError: it does not work
    """
    directory, name = os.path.split(path)
    before, behind = _COPY
    part = os.path.join(directory, f'{before}{name}{behind}')
    api.copy(data, part, conf=conf, overwrite=True, **limits)
    return part


def show(part: str, path: str, link: str | None) -> None:
    """Give a copy its name, durably.

    :param link: see :func:`move`
    :raises AlreadyExists: something else has the name
    :raises TransferError: it does not work
    """
    with oserrors.os_errors(f'making {path}'):
        _check_link(path, link)
        localfs.rename(part, path, overwrite=link is not None)
        localfs.sync_directory(os.path.dirname(path))


def _check_link(path: str, link: str | None) -> None:
    """See that what is replaced is the link that was made for it.

    :raises AlreadyExists: it is something else
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        # Who has removed it does not want it back.
        if link is None:
            return
    else:
        if (
            link is not None
            and stat.S_ISLNK(found.st_mode)
            and os.readlink(path) == link
        ):
            return
    raise exceptions.AlreadyExists(
        f'{path} is not the link any more that was made for it'
        if link is not None
        else f'{path} exists already'
    )


def repoint(overlay: str, socket: str, base: str) -> None:
    """Have an overlay lead to the file instead of the export; idempotent.

    :param socket: of the export
    :raises DetachError: a guest uses it
    :raises TransferError: it is not the overlay any more, or another error
    """
    found = qcow2.backing(overlay)
    if found is not None and found.name == base:
        return
    if found is None or socket not in found.name:
        raise exceptions.StorageError(
            f'{overlay} is not the overlay any more that was made of it'
        )
    qemu_img.rebase(overlay, base, found.format)
