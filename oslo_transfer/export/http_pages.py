# SPDX-License-Identifier: Apache-2.0
"""Whether a file's bytes are in memory: sendfile(2) waits for the disk.

A socket that does not block does not help there. So somebody else reads
first what the disk has to be asked for, and one turns to others meanwhile.
"""

from __future__ import annotations

import errno
import os

_BYTE = bytearray(1)
_MOST = 1 << 20


def is_cached(fd: int, offset: int) -> bool | None:
    """Whether a byte can be read at once; None if nobody can tell.

    Who reads in order has the pages before it in memory, too.
    """
    try:
        return os.preadv(fd, [_BYTE], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            # tmpfs, whose bytes are in memory, and some that are rare.
            return None
        # Whoever reads it is told.
        return True


def load(fd: int, offset: int, length: int, ahead: int) -> None:
    """Wait until bytes are in memory; what fails is left to who reads.

    :param ahead: how many bytes behind them are needed next
    """
    sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if ahead:
            os.posix_fadvise(
                fd, offset, length + ahead, os.POSIX_FADV_WILLNEED
            )
        end = offset + length
        while offset < end:
            # Pages are not copied on this way.
            count = os.sendfile(sink, fd, offset, min(end - offset, _MOST))
            if not count:
                return
            offset += count
    except OSError:
        return
    finally:
        os.close(sink)
