# SPDX-License-Identifier: Apache-2.0
"""Locks between processes, by files that go with their last holder."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import fcntl
import os
import time

from oslo_transfer import context as _context
from oslo_transfer import exceptions
from oslo_transfer import flight
from oslo_transfer import oserrors

_PAUSE = 0.02
# Seconds. Each holder is done in some, but hundreds of them may queue.
_PATIENCE = 1800.0


@contextlib.contextmanager
def held(path: str, ctx: _context.Context) -> Iterator[None]:
    """Hold a lock while a block runs; the kernel drops it with the process.

    Waits for other processes and threads, for half an hour at most; not
    reentrant.

    :param path: the lock file; it is there while somebody wants the lock
    :param ctx: ends the wait
    :raises TransferCancelled: told to stop while it waited
    :raises DeadlineExceeded: the deadline passed while it waited
    :raises Unavailable: it waited too long
    """
    fd = _take(path, ctx)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        oserrors.close(fd)


def _take(path: str, ctx: _context.Context) -> int:
    given_up = time.monotonic() + _PATIENCE
    while True:
        with oserrors.os_errors(f'locking {path}'):
            fd = os.open(
                path,
                os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= given_up:
                        raise exceptions.Unavailable(
                            f'other processes have held {path} for more '
                            f'than {_PATIENCE:g} seconds'
                        ) from None
                    ctx.sleep(_PAUSE)
            # Who held it last took the name away: then this locks nothing.
            if flight.same_file(fd, path):
                return fd
        except BaseException:
            oserrors.close(fd)
            raise
        oserrors.close(fd)
