# SPDX-License-Identifier: Apache-2.0
"""Runs qemu-img(1) where nothing does it better."""

from __future__ import annotations

import time

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
    process = children.start(
        [
            limits,
            f'--as={_ADDRESS_SPACE}',
            f'--cpu={_CPU}',
            '--',
            program,
            'create',
            '-q',
            '-f',
            'qcow2',
            '-u',
            '-b',
            backing,
            '-F',
            backing_format,
            path,
            str(virtual_size),
        ]
    )
    ended = time.monotonic() + _TIMEOUT
    try:
        while process.poll() is None:
            ctx.sleep(0.005)
            if time.monotonic() > ended:
                raise exceptions.StorageError(
                    f'qemu-img took more than {_TIMEOUT:g} seconds to make '
                    f'{path}'
                )
        assert process.stderr is not None
        said = process.stderr.read(children.MOST_OUTPUT)
    finally:
        children.end(process)
    if process.returncode:
        text = said.decode('utf-8', 'replace').strip()
        raise exceptions.StorageError(f'making {path}: {text}')
