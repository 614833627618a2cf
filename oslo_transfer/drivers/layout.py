# SPDX-License-Identifier: Apache-2.0
"""What a source says of itself: its version, its shape, its pieces."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass(frozen=True)
class Validator:
    """What tells one version of an object from another.

    :ivar value: compared as a whole, for equality only
    :ivar strong: equal values promise equal bytes (RFC 9110, 8.8.1)
    :ivar fresh: it may have changed just now, and may again without another
        value; that passes within seconds
    """

    value: str
    strong: bool
    fresh: bool = dataclasses.field(default=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a source wants to be read.

    :ivar align: offsets and lengths should be multiples of this, in bytes
    :ivar preferred: a good size of one read, in bytes
    :ivar max_request: the most bytes that one stream may cover, or None
    :ivar first_streams: how many streams to begin with, where their bytes
        may be joined; no more than ``max_streams``
    :ivar max_streams: how many streams to read with at once; more bring
        nothing, or are refused. Two work on any source with RANDOM_READ.
    """

    align: int = 1
    preferred: int = 1 << 20
    max_request: int | None = None
    first_streams: int = 1
    max_streams: int = 16


@dataclasses.dataclass(frozen=True)
class Extent:
    """A run of bytes that is all data, or reads as zeros.

    :ivar offset: in bytes
    :ivar length: in bytes, never 0
    :ivar data: False if it is known to read as zeros
    """

    offset: int
    length: int
    data: bool


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Digests of equal parts of a source.

    :ivar algorithm: a ``hashlib`` name
    :ivar length: the length of each piece but the last, in bytes
    :ivar digests: one for each piece, in order
    """

    algorithm: str
    length: int
    digests: Sequence[bytes]
