# SPDX-License-Identifier: Apache-2.0
"""What an export serves: an image of a known size, read at any place."""

from __future__ import annotations

from collections.abc import Iterable
import typing


class Reader(typing.Protocol):
    """One who reads an image: each connection has its own.

    Used by one thread at a time.
    """

    #: Of the data file, which has the bytes where the origin has them.
    fd: int

    def claim(self, offset: int, length: int) -> int:
        """How many bytes from an offset on may go out of :attr:`fd` now.

        They are there, were checked, and stay until :meth:`release` or the
        next claim. Never blocks; takes about a microsecond.

        :returns: 0 where the first block is not there, or not checked yet
        """

    def release(self) -> None:
        """Give the claim up; idempotent."""

    def bring(self, offset: int, length: int) -> bool:
        """Block until the first byte of a run can be claimed.

        The rest of the run is on its way then.

        :returns: False where it cannot be kept: :meth:`read` is the way
        :raises TransferError: it cannot be had
        """

    def read(self, view: memoryview, offset: int) -> None:
        """Fill a buffer; blocks until all of it is there.

        :raises TransferError: it cannot be had
        """

    def extents(self, offset: int, length: int) -> Iterable[tuple[int, bool]]:
        """Lengths, and whether they read as zeros: in order, no gap.

        Asks nobody: what is not known is not zero.
        """

    def close(self) -> None:
        """End it; idempotent."""


class Exported(typing.Protocol):
    """An image that can be exported. Thread-safe."""

    #: In bytes.
    size: int
    #: Hexadecimal; strong: changes whenever the bytes could.
    etag: str

    @property
    def stays(self) -> bool:
        """Whether nothing that is there is evicted any more.

        Only then may it go out by sendfile(2): the socket then has pages of
        the file, not what was in them, until the peer has read them - long
        after the claim. Where the kernel keeps several pages as one (large
        folios: XFS, newer ext4) making a hole makes zeros of its part of
        them in place. Once true it MUST NOT change.
        """

    def reader(self) -> Reader:
        """Begin to read.

        :raises TransferError: it cannot be read
        """
