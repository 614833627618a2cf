# SPDX-License-Identifier: Apache-2.0
"""Directories for sockets and mount points, gone with who uses them.

Each is locked by its process for as long as it is used; what a killed one
has left is found by its lock, and taken away by the next that looks.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import fcntl
import os
import shutil
import tempfile
import typing

from oslo_transfer import opts
from oslo_transfer import oserrors

if typing.TYPE_CHECKING:
    from oslo_config import cfg

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def made(
    conf: cfg.ConfigOpts, kind: str, tidy: Callable[[str], object]
) -> Iterator[str]:
    """Make one for the time of a context, and take away stale ones.

    :param kind: the name of the directory of them in the state directory
    :param tidy: takes away what cannot simply be removed from one, such
        as a mount; called for stale ones, and at the end
    :raises TransferError: it cannot be made, or not be removed
    """
    state = conf.oslo_transfer.state_path or opts.default_state_path()
    parent = os.path.join(state, kind)
    with oserrors.os_errors(f'making a directory in {parent}'):
        os.makedirs(parent, mode=0o700, exist_ok=True)
        # A new one is not to be taken for a stale one.
        with _locked(parent):
            _sweep(parent, tidy)
            path = tempfile.mkdtemp(dir=parent, prefix='')
            fd = os.open(path, _FLAGS)
            fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        try:
            tidy(path)
            with oserrors.os_errors(f'removing {path}'):
                shutil.rmtree(path)
        finally:
            oserrors.close(fd)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    fd = os.open(path, _FLAGS)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        oserrors.close(fd)


def _sweep(parent: str, tidy: Callable[[str], object]) -> None:
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        # What fails is for the next one to try.
        with contextlib.suppress(Exception):
            fd = os.open(path, _FLAGS)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                tidy(path)
                shutil.rmtree(path)
            finally:
                oserrors.close(fd)
