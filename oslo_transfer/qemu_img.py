# SPDX-License-Identifier: Apache-2.0
"""Runs qemu-img(1) where nothing does it better."""

from __future__ import annotations

import functools

from oslo_transfer import children
from oslo_transfer import context as _context
from oslo_transfer import exceptions

# A hostile image can have qemu-img use up both (CVE-2015-5162).
_ADDRESS_SPACE = 1 << 30  # bytes
_CPU = 30  # seconds
_TIMEOUT = 60.0


def create_overlay(
    path: str,
    backing: str,
    backing_format: str,
    virtual_size: int,
    ctx: _context.Context,
) -> None:
    """Make a qcow2 image whose unwritten parts are those of another.

    Opens nothing but the overlay itself. Blocks for well under a second.

    :param path: the overlay; what is there is replaced
    :param backing: an absolute path or a URL of QEMU's
    :param backing_format: its format; it is never guessed
    :param virtual_size: in bytes
    :param ctx: ends it
    :raises CapabilityMissing: qemu-img is not installed
    :raises StorageError: it did not work; the message is qemu-img's
    """
    program = children.find('qemu-img', 'qemu-utils')
    limits = children.find('prlimit', 'util-linux')
    command = [
        *(limits, f'--as={_ADDRESS_SPACE}', f'--cpu={_CPU}', '--'),
        *(program, 'create', '-q', '-f', 'qcow2', '-u'),
        *('-b', backing, '-F', backing_format, path, str(virtual_size)),
    ]
    status, told = ctx.call(
        functools.partial(children.run, command, _TIMEOUT), f'making {path}'
    )
    if status:
        raise exceptions.StorageError(f'making {path}: {told.strip()}')
