# SPDX-License-Identifier: Apache-2.0
"""Who copies which bytes, when several streams share a source."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import threading

# Neither half of a claim that is split gets smaller than this.
_SMALLEST_HALF = 256 * 1024
_ALIGN = 64 * 1024


@dataclasses.dataclass
class Claim:
    """A run of bytes that one stream is to copy.

    :ivar position: the next byte that is not in place
    :ivar reserved: bytes up to here are being read just now
    :ivar end: the first byte behind; None if only the source knows
    """

    position: int
    reserved: int
    end: int | None


def _strips(
    start: int, end: int | None, strip: int | None
) -> Iterator[tuple[int, int | None]]:
    """Cut a run at multiples of a length."""
    while end is not None and strip is not None and end - start > strip:
        middle = start - start % strip + strip
        yield start, middle
        start = middle
    yield start, end


class WorkList:
    """The bytes that are still to be copied.

    Thread-safe. A stream that runs out of work takes the second half of
    the largest rest of another one, which then simply ends earlier.

    :param gaps: (start, end) of what has to be copied; end None for all
        that the source has
    :param strip: bytes after which streams take turns, or None
    """

    def __init__(
        self,
        gaps: Iterable[tuple[int, int | None]],
        strip: int | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._pending = [
            Claim(start, start, end)
            for gap in gaps
            for start, end in _strips(*gap, strip)
        ]
        self._pending.reverse()
        #: How many runs it was to begin with.
        self.count = len(self._pending)
        self._active: list[Claim] = []
        self._retired = 0

    def take(self, split: bool) -> Claim | None:
        """Something to do, or None.

        :param split: whether to take from others if nothing is left
        """
        with self._lock:
            if self._retired:
                self._retired -= 1
                return None
            claim = self._pending.pop() if self._pending else None
            if claim is None and split:
                claim = self._split()
            if claim is not None:
                self._active.append(claim)
            return claim

    def retire(self) -> None:
        """End one stream: the newest, and leave its rest to the others."""
        with self._lock:
            if len(self._active) < 2:
                return
            claim = self._active[-1]
            self._retired += 1
            if claim.end is not None and claim.reserved < claim.end:
                rest = Claim(claim.reserved, claim.reserved, claim.end)
                claim.end = claim.reserved
                self._pending.append(rest)

    def can_share(self) -> bool:
        """Whether there is work for one more stream."""
        with self._lock:
            return bool(self._pending) or self._largest() is not None

    def _largest(self) -> Claim | None:
        best, most = None, 2 * _SMALLEST_HALF
        for claim in self._active:
            if claim.end is not None and claim.end - claim.reserved >= most:
                best, most = claim, claim.end - claim.reserved
        return best

    def _split(self) -> Claim | None:
        victim = self._largest()
        if victim is None or victim.end is None:
            return None
        middle = (victim.reserved + victim.end) // 2
        middle -= middle % _ALIGN
        if middle <= victim.reserved:
            return None
        claim = Claim(middle, middle, victim.end)
        victim.end = middle
        return claim

    def reserve(self, claim: Claim, most: int) -> int:
        """How many bytes to read next, 0 when the claim is done."""
        with self._lock:
            if claim.end is not None:
                most = min(most, claim.end - claim.position)
            claim.reserved = claim.position + most
            return most

    def advance(self, claim: Claim, count: int) -> None:
        """Bytes are in place."""
        with self._lock:
            claim.position += count

    def finish(self, claim: Claim) -> None:
        """Nothing is left of it."""
        with self._lock:
            self._active.remove(claim)

    def give_back(self, claim: Claim) -> None:
        """Somebody else is to do the rest."""
        with self._lock:
            self._active.remove(claim)
            claim.reserved = claim.position
            if claim.end is None or claim.position < claim.end:
                self._pending.append(claim)

    @property
    def unfinished(self) -> bool:
        """Whether anything is still to be copied."""
        with self._lock:
            return bool(self._pending or self._active)
