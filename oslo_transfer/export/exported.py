# SPDX-License-Identifier: Apache-2.0
"""What an export serves: an image of a known size, read at any place."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import threading
import typing

from oslo_transfer import exceptions


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
    #: What is between the quotes of its ETag (RFC 9110, 8.8.3); strong:
    #: changes whenever the bytes could.
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


class Exports:
    """The images that a server has, by name. Thread-safe.

    :ivar images: those of now; it is replaced when one comes or goes
    """

    def __init__(self, images: Mapping[str, Exported]) -> None:
        self.images: Mapping[str, Exported] = dict(images)
        self._lock = threading.Lock()

    def add(self, name: str, image: Exported) -> None:
        """Have one more.

        :raises AlreadyExists: the name is taken
        """
        with self._lock:
            if name in self.images:
                raise exceptions.AlreadyExists(
                    f'there is an export "{name}" already'
                )
            self.images = {**self.images, name: image}

    def remove(self, name: str) -> Exported | None:
        """Have one less; returns it."""
        with self._lock:
            images = dict(self.images)
            image = images.pop(name, None)
            self.images = images
        return image
