# SPDX-License-Identifier: Apache-2.0
"""Turns errors of the operating system into the library's own."""

from __future__ import annotations

import contextlib
import errno
import os
import typing

from oslo_transfer import exceptions


@contextlib.contextmanager
def os_errors(what: str) -> typing.Iterator[None]:
    """Turn ``OSError`` into the library's errors.

    :param what: what was being done to what, for the message
    """
    try:
        yield
    except OSError as exc:
        raise translate(exc, what) from exc


def translate(exc: OSError, what: str) -> exceptions.TransferError:
    """The library's error for an ``OSError`` of local storage."""
    text = f'{what}: {exc.strerror or exc}'
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return exceptions.NoSpace(text)
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return exceptions.NotFound(text)
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return exceptions.AccessDenied(text)
    if exc.errno == errno.EEXIST:
        return exceptions.AlreadyExists(text)
    if exc.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR):
        return exceptions.InvalidEndpoint(text)
    if exc.errno in (errno.EBUSY, errno.EMFILE, errno.ENFILE):
        return exceptions.Unavailable(text)
    return exceptions.StorageError(text)


def close(fd: int) -> None:
    """Close a descriptor of what was only read, or flushed before.

    An error would say nothing, and the descriptor is gone in any case.
    """
    with contextlib.suppress(OSError):
        os.close(fd)
