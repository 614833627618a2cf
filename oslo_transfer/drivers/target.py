# SPDX-License-Identifier: Apache-2.0
"""What a source with FILL is given to fill."""

from __future__ import annotations

import abc
from collections.abc import Sequence
import typing

from oslo_transfer import ranges

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers import base
    from oslo_transfer import exceptions


class Helper(abc.ABC):
    """Another location of the same data, to take bytes from.

    What it gives is not verified: whoever uses it has digests of pieces.
    """

    #: The redacted location.
    name: str

    @abc.abstractmethod
    def open(self, ctx: _context.Context, start: int) -> base.Source:
        """Open it; its streams retry, and keep the limits.

        Blocks until its size and version are known.

        :param ctx: ends waits
        :param start: where reading will probably begin, in bytes
        :raises TransferError: it cannot be used
        """

    @abc.abstractmethod
    def failed(self, error: exceptions.TransferError) -> None:
        """It was given up; the caller of the copy is told."""


class Target(abc.ABC):
    """The part file or device to fill, and what is to be known about it.

    Thread-safe.
    """

    #: The part file. It exists and has the size of the source. It MUST
    #: stay the same file. Or the block device, which may be larger.
    path: str

    #: Whether it is a block device; only where
    #: :attr:`~oslo_transfer.drivers.base.Source.fills_devices` is true.
    device: bool = False

    #: The first byte to fill, in bytes: what comes before is not touched.
    #: 0 unless it is a device.
    start: int = 0

    #: What an earlier copy has left in it. It may be wrong, and anything
    #: may stand between. If nothing is held, the file is all zeros; of a
    #: device nothing is known.
    held: ranges.RangeSet

    #: Other locations of the same data, in order of preference.
    helpers: Sequence[Helper]

    @property
    @abc.abstractmethod
    def rate(self) -> int | None:
        """The most bytes per second that peers may bring now."""

    @abc.abstractmethod
    def arrived(
        self, offset: int, length: int, origin: str, by: str | None = None
    ) -> None:
        """Bytes are in place: verified, and anybody who reads sees them.

        Each byte is reported once.

        :param offset: of the run, in bytes
        :param length: of the run
        :param origin: a key of ``bytes_by_origin``; ``resumed`` for what
            was held and is right
        :param by: the name of the helper that gave them, if one did
        """

    @abc.abstractmethod
    def left_out(self, count: int) -> None:
        """Bytes that have arrived are zeros, and take up no space.

        :param count: of those reported with another origin than ``zeros``
        """

    @abc.abstractmethod
    def checked(self) -> None:
        """What was held and is right has been reported as arrived."""

    @abc.abstractmethod
    def moved(self, count: int) -> float:
        """Bytes came from peers; helpers count theirs by themselves.

        :returns: seconds to wait before more come, to keep limits that
            others use, too
        """

    @abc.abstractmethod
    def waste(self, count: int) -> None:
        """Bytes came that were wrong, or that were there already."""

    @abc.abstractmethod
    def note(self, **figures: int) -> None:
        """Tell figures for whoever watches: peers, rates (bytes/s)."""
