# SPDX-License-Identifier: Apache-2.0
"""Rows on this host: files, and clones of files."""

from __future__ import annotations

from collections.abc import Iterator
import fcntl
import os
import pathlib
import shutil
import subprocess

from demo import images
from demo import scene
import oslo_transfer

_FICLONE = 0x40049409  # linux/fs.h


@scene.act('files')
def files(here: scene.Scene) -> Iterator[scene.Row]:
    """Full copies; holes stay holes."""
    for image in here.images:
        yield here.copy(
            'file',
            image.kind,
            image.path,
            here.target(image),
            image,
            strategy='full_copy',
        )


@scene.act('clones')
def clones(here: scene.Scene) -> Iterator[scene.Row]:
    """Copies that share their blocks, where the file system can."""
    directory = here.copies
    if not _can_clone(directory):
        directory = here.root / 'xfs'
        directory.mkdir()
        _mount_xfs(here, directory)
    for image in here.images:
        src = directory / image.path.name
        dst = directory / f'clone.{image.kind}'
        # Sparse as it is.
        oslo_transfer.copy(
            image.path, src, strategy='full_copy', conf=here.conf
        )
        yield here.copy(
            'file', f'{image.kind}, cloned', src, dst, image, strategy='clone'
        )
        src.unlink()
        dst.unlink()


def _can_clone(directory: pathlib.Path) -> bool:
    old, new = directory / 'old', directory / 'new'
    old.write_bytes(bytes(4096))
    try:
        with open(old, 'rb') as source, open(new, 'wb') as file:
            fcntl.ioctl(file, _FICLONE, source.fileno())
    except OSError:
        return False
    finally:
        old.unlink()
        new.unlink()
    return True


def _mount_xfs(here: scene.Scene, directory: pathlib.Path) -> None:
    """Make a file system with reflinks, until the end.

    :raises Waits: that cannot be done here
    """
    if os.geteuid() != 0 or shutil.which('mkfs.xfs') is None:
        raise scene.Waits(
            'a temporary directory on XFS or btrfs, or root with the '
            'package xfsprogs'
        )
    disk = here.root / 'xfs.disk'
    with open(disk, 'wb') as file:
        file.truncate(3 * here.raw.size + 512 * images.MIB)
    for command in (
        ['mkfs.xfs', '-q', '-m', 'reflink=1', str(disk)],
        ['mount', '-o', 'loop', str(disk), str(directory)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise scene.Waits(
                f'a host where this works: {" ".join(command[:1])} says '
                f'{done.stderr.strip()}'
            )
    here.undo(lambda: subprocess.run(['umount', str(directory)], check=True))
