# SPDX-License-Identifier: Apache-2.0
"""What the role ``seed`` needs of BitTorrent."""

from __future__ import annotations

import dataclasses
import typing

from oslo_transfer.drivers.bittorrent import metainfo


@dataclasses.dataclass(frozen=True)
class Stats:
    """How the seeding of one file goes.

    :ivar uploaded: bytes sent since it began
    :ivar upload_rate: bytes per second at the moment
    :ivar peers: connected
    :ivar error: why it cannot go on, or '': the file has other bytes than
        the torrent, or cannot be read
    """

    uploaded: int = 0
    upload_rate: int = 0
    peers: int = 0
    error: str = ''


class Seeding(typing.Protocol):
    """One file that is offered to peers."""

    def stats(self) -> Stats:
        """How it goes; waits for the network thread only."""

    def remove(self) -> None:
        """End it, within a few seconds; may be called twice.

        Afterwards the descriptor is used no more.
        """


class Seeder(typing.Protocol):
    """Offers files to peers; methods may be called by any thread."""

    def add(self, meta: metainfo.Metainfo, fd: int) -> Seeding:
        """Offer a file.

        No piece is sent before it was found to have its hash. The file is
        read only.

        :param meta: its torrent
        :param fd: leads to it, and stays open until :meth:`Seeding.remove`
        :raises TransferError: it does not work
        """

    def close(self) -> None:
        """End all, within a few seconds."""
