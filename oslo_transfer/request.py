# SPDX-License-Identifier: Apache-2.0
"""What one call asks for, checked and resolved."""

from __future__ import annotations

import dataclasses
import typing

from oslo_transfer import digest as _digest
from oslo_transfer import ends
from oslo_transfer import progress as _progress
from oslo_transfer import result as _result


class Observer(typing.Protocol):
    """Sees each byte once, in order: a hash, or a signature verifier."""

    def update(self, data: bytes) -> object:
        """The next bytes; raising aborts the transfer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One call of ``copy()``; what strategies plan with.

    :ivar sources: where the data is, in the order to try
    :ivar destination: where it goes
    :ivar unusable: locations that were passed over already, with why
    :ivar accept: the forms that the caller can live with
    :ivar expected_size: in bytes, or None
    :ivar digest: the algorithm, and the value expected of it, or None
    :ivar observers: see each byte
    :ivar progress: counts bytes
    :ivar overwrite: an existing destination may be replaced
    """

    sources: tuple[ends.End, ...]
    destination: ends.End
    unusable: tuple[_result.Attempt, ...] = ()
    accept: frozenset[str] = frozenset({'file'})
    expected_size: int | None = None
    digest: _digest.Expected | None = None
    observers: tuple[Observer, ...] = ()
    progress: _progress.Progress
    overwrite: bool = False

    @property
    def has_digest(self) -> bool:
        """Whether the digest of the data is known in advance."""
        return self.digest is not None and self.digest.value is not None
