# SPDX-License-Identifier: Apache-2.0
"""What a transfer has done."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import typing

if typing.TYPE_CHECKING:
    from oslo_transfer.drivers.base import Attachment

#: Where bytes can come from, the keys of ``bytes_by_origin``. ``zeros`` were
#: known to be zeros, so that nobody was asked for them.
ORIGINS = ('origin', 'proxy', 'peer', 'cache', 'resumed', 'zeros')


@dataclasses.dataclass(frozen=True)
class Attempt:
    """Something that was tried, or passed over, and given up.

    :ivar strategy: the strategy's name
    :ivar location: the redacted source, '' where none was chosen yet
    :ivar reason: why it was given up, for an operator
    :ivar error: the name of the exception's class
    :ivar retryable: whether the same may succeed later
    """

    strategy: str
    location: str
    reason: str
    error: str
    retryable: bool = False

    def __str__(self) -> str:
        place = f' {self.location}' if self.location else ''
        return f'{self.strategy}{place}: {self.reason}'


@dataclasses.dataclass(frozen=True)
class TransferResult:
    """The outcome of one ``copy()``.

    :ivar strategy: the strategy that did it; None if nothing had to be
        done because the destination matched already
    :ivar driver: the source's driver; None as above
    :ivar source: the redacted source; the one that gave most of several
    :ivar destination: the redacted destination
    :ivar form: what the destination is: ``file``, ``overlay``, ``device``
        or ``path``
    :ivar verified: the data was compared with an expected digest
    :ivar attachment: what must be detached in the end, or None
    :ivar bytes_written: bytes stored at the destination; less than its
        size where holes and zero runs were left out
    :ivar bytes_by_origin: bytes by where they came from (see
        :data:`ORIGINS`); they sum to the size of the data
    :ivar bytes_by_location: bytes by the redacted location that gave them,
        where several were used
    :ivar wasted: bytes that were fetched and could not be used
    :ivar digest: ``algorithm:hex`` if a digest was computed
    :ivar seconds: the time that the call took
    :ivar attempts: each strategy or location given up before, with why
    :ivar method: how the bytes were moved: ``read``, ``splice``,
        ``reflink``, ``server-copy`` or ``fill``, by a transport of the
        driver's own
    :ivar seeding: whether the service of this host goes on giving the file
        to peers; False if that ended with the copy, None where peers are
        not what the driver has
    """

    strategy: str | None
    driver: str | None
    source: str
    destination: str
    form: str
    verified: bool
    attachment: Attachment | None
    bytes_written: int
    bytes_by_origin: Mapping[str, int]
    wasted: int
    digest: str | None
    seconds: float
    attempts: tuple[Attempt, ...]
    method: str = 'read'
    bytes_by_location: Mapping[str, int] = dataclasses.field(
        default_factory=dict
    )
    seeding: bool | None = None

    @property
    def size(self) -> int:
        """The size of the data in bytes."""
        return sum(self.bytes_by_origin.values())

    @property
    def reused(self) -> bool:
        """Whether the destination matched already."""
        return self.strategy is None
