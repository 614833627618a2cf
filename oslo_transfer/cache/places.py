# SPDX-License-Identifier: Apache-2.0
"""What is in a cache directory: a directory for each object."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil

from oslo_transfer.cache import blockmap
from oslo_transfer.cache import owner
from oslo_transfer import oserrors

LOG = logging.getLogger(__name__)

#: Names of the files of an object, in its directory.
DATA, MAP = 'data', 'map'
#: A directory for data files that were given away, and not fetched yet.
TAKEN = '.taken'
_KEY = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,127}')


def is_key(name: str) -> bool:
    """Whether an object can have a name."""
    return bool(_KEY.fullmatch(name)) and name != owner.NAME


def find(directory: str) -> dict[str, blockmap.Header]:
    """The objects that are there, those used last at the end.

    Those that are of no use are removed: cut short, or of another version
    of this library. What no cache has made is left alone.

    :raises TransferError: it cannot be read
    """
    found = []
    with oserrors.os_errors(f'reading {directory}'):
        names = os.listdir(directory)
    for name in names:
        path = os.path.join(directory, name)
        if name in (owner.NAME, TAKEN, 'lost+found'):
            continue
        if not _is_ours(path, name):
            LOG.warning('%s is not of the cache, and left alone', path)
            continue
        header = header_of(path)
        if header is None:
            LOG.info('%s is of no use to the cache, and removed', path)
            remove(path)
        else:
            found.append((used(path), name, header))
    return {name: header for _used, name, header in sorted(found)}


def _is_ours(path: str, name: str) -> bool:
    """Whether a directory holds nothing but what an object has."""
    try:
        return (
            is_key(name)
            and not os.path.islink(path)
            and {DATA, MAP} >= set(os.listdir(path))
        )
    except OSError:
        return False


def header_of(path: str) -> blockmap.Header | None:
    """What a directory has blocks of; None if it is of no use."""
    if not os.path.exists(os.path.join(path, DATA)):
        return None
    return blockmap.read_header(os.path.join(path, MAP))


def remove(path: str) -> None:
    """Remove an object; what cannot be is found by the next process."""
    shutil.rmtree(path, ignore_errors=True)


def used(path: str) -> float:
    """When an object was used last, by ``time.time()``."""
    try:
        return os.lstat(os.path.join(path, MAP)).st_mtime
    except OSError:
        return 0.0


def touch(path: str, used: float) -> None:
    """Note when an object was used last."""
    with contextlib.suppress(OSError):
        os.utime(os.path.join(path, MAP), (used, used))


def disk_bytes(path: str) -> int:
    """How much of the disk an object takes."""
    size = 0
    for name in (DATA, MAP):
        with contextlib.suppress(OSError):
            size += os.lstat(os.path.join(path, name)).st_blocks * 512
    return size
