# SPDX-License-Identifier: Apache-2.0
"""The images that the proxy knows, and who may read them."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import typing

from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer.export import exported
    from oslo_transfer.service import images


class Opened:
    """One version of an image that the proxy has blocks of. Thread-safe.

    :ivar id: hexadecimal; the same for the same version of the same origin,
        also after a restart
    :ivar url: of the origin; never to be shown, for it may be signed
    :ivar where: the same without its secrets
    :ivar size: in bytes
    :ivar block_bytes: size of a block; the last one may be shorter
    :ivar pinned: its blocks are not let go of
    :ivar used: when somebody last asked for it, by the Unix clock
    :ivar shared: its blocks, trace and origin; None while nobody reads it:
        see :meth:`Catalog.using`
    :ivar image: what is served; None while nobody reads it
    """

    id: str
    url: str
    where: str
    size: int
    block_bytes: int
    pinned: bool
    used: float
    shared: images.Shared | None
    image: exported.Exported | None

    @property
    def blocks(self) -> int:
        """How many blocks it has."""
        return -(-self.size // self.block_bytes)

    @property
    def here(self) -> int:
        """Bytes of it that are on this host."""
        raise NotImplementedError

    @property
    def problem(self) -> str:
        """Why it cannot be fetched or kept just now, or ''."""
        raise NotImplementedError

    def statistics(self) -> Mapping[str, int]:
        """Counts since the proxy has started.

        They are ``readers`` (of now), ``hits``, ``misses``,
        ``bytes_served`` and ``bytes_fetched``.
        """
        raise NotImplementedError


class Origin(typing.NamedTuple):
    """What was asked of one origin since the proxy has started.

    :ivar origin: scheme, host and port
    :ivar bytes_fetched: from it, or by an upstream
    :ivar requests: that were made
    :ivar failures: of these
    :ivar problem: what went wrong last, or '' where it went well since
    """

    origin: str
    bytes_fetched: int
    requests: int
    failures: int
    problem: str


class Catalog:
    """All images of a proxy. Thread-safe.

    It is most of a :class:`oslo_transfer.export.gate.Gate`: see there.
    """

    #: How often somebody was refused.
    refused: int

    def find(self, asked: typing.Any) -> exported.Exported | None:
        """What one who asked before may have at once; never blocks."""
        raise NotImplementedError

    def admit(self, asked: typing.Any) -> exported.Exported:
        """Ask the origin whether he may have it; blocks.

        :raises TransferError: he may not, or it cannot be had
        """
        raise NotImplementedError

    def may_manage(self, headers: Mapping[str, str], *, change: bool) -> bool:
        """Whether one may use the control API over TCP; never blocks.

        :param headers: as they came, with names in lower case
        :param change: it is about to change something
        :raises AccessDenied: he may not
        """
        raise NotImplementedError

    def open(self, url: str, proof: Mapping[str, str] | None = None) -> Opened:
        """Have an image, asking its origin; blocks.

        :param url: of the origin, or one of the names
        :param proof: headers for the origin that say who asks
        :raises PolicyRefused: it is none of those that may be asked for
        :raises TransferError: the origin refuses it, or cannot be reached
        """
        raise NotImplementedError

    def all(self) -> list[Opened]:
        """Those of which there are blocks, those used last first."""
        raise NotImplementedError

    def get(self, identifier: str) -> Opened:
        """One of them.

        :raises NotFound: there is none
        """
        raise NotImplementedError

    def using(
        self, opened: Opened
    ) -> contextlib.AbstractContextManager[images.Shared]:
        """Have its blocks open for as long as a context lasts.

        Blocks for the disk, but asks no origin.

        :raises TransferError: they cannot be read
        """
        raise NotImplementedError

    def evict(self, identifier: str) -> None:
        """Let go of all its blocks that nobody is just being sent.

        :raises NotFound: there is no such image
        :raises DetachError: it is pinned
        """
        raise NotImplementedError

    def pin(self, identifier: str, pinned: bool) -> None:
        """Say whether its blocks stay, also over a restart.

        :raises NotFound: there is no such image
        :raises TransferError: that cannot be noted
        """
        raise NotImplementedError

    def origins(self) -> list[Origin]:
        """What was asked of each origin."""
        raise NotImplementedError

    def statistics(self) -> Mapping[str, int]:
        """Of the store: see :meth:`oslo_transfer.cache.store.Store`."""
        raise NotImplementedError

    @property
    def problem(self) -> str:
        """Why nothing can be kept, or ''."""
        raise exceptions.CapabilityMissing

    def tick(self) -> None:
        """Do what is due; called about once a second."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all, within seconds; idempotent."""
        raise NotImplementedError
