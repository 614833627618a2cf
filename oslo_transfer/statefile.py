# SPDX-License-Identifier: Apache-2.0
"""Small files of state: replaced whole, or left as they were."""

from __future__ import annotations

import os

from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions

#: Behind the name of one that is being written. What is cut short leaves it.
NEW = '.new'
#: What reading JSON and taking a record out of it raises when it is damaged.
UNUSABLE = (
    exceptions.TransferError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RecursionError,
)


def write(path: str, data: bytes, *, durable: bool = True) -> None:
    """Replace a file; only its owner can read it.

    Blocks for as long as the disk takes.

    :param durable: it, and its name, are on the disk afterwards
    :raises OSError: it is as it was
    """
    temporary = path + NEW
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(temporary, flags, 0o600), 'wb') as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.rename(temporary, path)
    if durable:
        localfs.sync_directory(os.path.dirname(path))
