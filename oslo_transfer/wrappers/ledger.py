# SPDX-License-Identifier: Apache-2.0
"""Which location gave which bytes."""

from __future__ import annotations

import threading

from oslo_transfer import ranges
from oslo_transfer.wrappers import mirror as _mirror


class Ledger:
    """Notes who gave what; the last one to give a byte counts.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[tuple[int, int, _mirror.Mirror]] = []

    def note(self, start: int, end: int, mirror: _mirror.Mirror) -> None:
        """A location gave the bytes from ``start`` to before ``end``."""
        if start < end:
            with self._lock:
                self._entries.append((start, end, mirror))

    def given(self) -> dict[_mirror.Mirror, ranges.RangeSet]:
        """What is of each location."""
        found: dict[_mirror.Mirror, ranges.RangeSet] = {}
        later = ranges.RangeSet()
        with self._lock:
            entries = list(self._entries)
        for start, end, mirror in reversed(entries):
            mine = found.setdefault(mirror, ranges.RangeSet())
            for first, last in later.gaps(end):
                if last > start:
                    mine.add(max(first, start), last)
            later.add(start, end)
        return found

    def known(self) -> ranges.RangeSet:
        """What is of any location."""
        with self._lock:
            entries = list(self._entries)
        return ranges.RangeSet((start, end) for start, end, _who in entries)
