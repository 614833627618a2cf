# SPDX-License-Identifier: Apache-2.0
"""Bytes per second lately, and sums that never go back."""

from __future__ import annotations

import collections
from collections.abc import Hashable
from collections.abc import Mapping
import threading
import time
import typing

#: Seconds over which a rate is averaged.
WINDOW = 10.0
# Seconds between two samples, at least: more of them tell no more.
_INTERVAL = 0.5


class Sums(typing.NamedTuple):
    """What was done for one image, or for all."""

    bytes_served: int = 0
    bytes_fetched: int = 0
    hits: int = 0
    misses: int = 0

    @property
    def bytes_saved(self) -> int:
        """What did not have to cross the WAN."""
        return max(0, self.bytes_served - self.bytes_fetched)


class Rates(typing.NamedTuple):
    """Bytes per second: from origins, and to those who read."""

    incoming: float = 0.0
    outgoing: float = 0.0

    def fields(self) -> dict[str, float]:
        """As the control API has them."""
        return {'in': round(self.incoming, 1), 'out': round(self.outgoing, 1)}


class Meter:
    """Turns the sums of one thing into rates. Not thread-safe.

    :param begun: when there was nothing of it yet
    """

    def __init__(self, begun: float) -> None:
        self._samples: collections.deque[tuple[float, Sums]] = (
            collections.deque([(begun, Sums())])
        )

    def add(self, now: float, sums: Sums) -> None:
        """Note the sums at a time of ``time.monotonic()``."""
        samples = self._samples
        if samples and sums.bytes_served < samples[-1][1].bytes_served:
            samples.clear()  # It was evicted, and begins anew.
        if len(samples) > 1 and now - samples[-2][0] < _INTERVAL:
            samples.pop()
        samples.append((now, sums))
        while len(samples) > 2 and samples[1][0] <= now - WINDOW:
            samples.popleft()

    @property
    def rates(self) -> Rates:
        """Those of the window; 0 while there is too little to tell."""
        if len(self._samples) < 2:
            return Rates()
        (begun, first), (ended, last) = self._samples[0], self._samples[-1]
        seconds = max(ended - begun, _INTERVAL)
        return Rates(
            max(0, last.bytes_fetched - first.bytes_fetched) / seconds,
            max(0, last.bytes_served - first.bytes_served) / seconds,
        )


class Accounts:
    """Sums and rates of all images. Thread-safe.

    An image that goes takes its own counts with it; what they have come to
    stays in the sums of all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[Hashable, Sums] = {}
        self._meters: dict[Hashable, Meter] = {}
        # When it was looked at last.
        self._noted = time.monotonic()
        self._all = Meter(self._noted)
        self._total = Sums()

    def note(self, images: Mapping[typing.Any, Sums]) -> None:
        """Note the counts of the images that there are now."""
        now, seen = time.monotonic(), {}
        with self._lock:
            for key, sums in images.items():
                before = self._seen.get(key, Sums())
                if sums[:2] < before[:2]:
                    before = Sums()  # It went, and came back.
                # Hits are those that were no miss before, so they waver.
                sums = seen[key] = Sums(*map(max, sums, before))
                self._total = Sums(
                    *(
                        total + new - old
                        for total, new, old in zip(self._total, sums, before)
                    )
                )
                meter = self._meters.setdefault(key, Meter(self._noted))
                meter.add(now, sums)
            self._seen, self._noted = seen, now
            for key in self._meters.keys() - images.keys():
                del self._meters[key]
            self._all.add(now, self._total)

    @property
    def total(self) -> Sums:
        """The sums of all images since the start."""
        with self._lock:
            return self._total

    def rates(self, key: Hashable = None) -> Rates:
        """Those of one image; of all together for None."""
        with self._lock:
            if key is None:
                return self._all.rates
            meter = self._meters.get(key)
            return Rates() if meter is None else meter.rates
