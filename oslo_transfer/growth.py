# SPDX-License-Identifier: Apache-2.0
"""When one more stream pays.

A stream that spends its time waiting for bytes is limited by its peer or
by the network, and another one may help; one that is busy storing bytes is
not. Streams are added quickly at first, then each addition is judged by
what it brought, and taken back if that was too little: two streams that
share a full line, or a busy processor, only get in each other's way.
"""

from __future__ import annotations

from collections.abc import Sequence
import time

# How long to watch before a decision, in seconds: short at first, for a
# short copy should profit too.
_QUICK = 0.03
_CAREFUL = 1.0
_MOSTLY = 0.8  # The share of waiting from which a stream counts as idle.
_PAYS = 0.5  # The share of a fair part that an added stream must bring.


class Growth:
    """Decides about the number of streams of one copy.

    Not thread-safe.

    :param most: the most streams allowed
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._interval = _QUICK
        self._since = time.monotonic()
        self._total = 0
        self._waited = 0.0
        self._settling = False
        self._added = 0.0
        self._rate_before: float | None = None
        #: The last one added did not pay: it should be taken back.
        self.too_many = False

    def refused(self) -> None:
        """The source does not take more streams than it has."""
        self._most = 0

    def wants_more(
        self, *, streams: int, waited: Sequence[float], total: int
    ) -> bool:
        """Whether to add a stream now; call it every few milliseconds.

        :param streams: how many there are
        :param waited: what each that is connected has waited for its peer,
            in seconds
        :param total: bytes that have arrived
        """
        if streams >= self._most:
            return False
        now = time.monotonic()
        if not self._total:
            self._begin(now, waited, total)
            return False
        if len(waited) < streams and now - self._added < _CAREFUL:
            # The new one is still connecting: too early to judge it.
            self._begin(now, waited, total)
            return False
        elapsed = now - self._since
        if elapsed < self._interval or total == self._total:
            return False
        rate = (total - self._total) / elapsed
        idle = (sum(waited) - self._waited) / (elapsed * max(1, streams))
        self._begin(now, waited, total)
        if self._settling:
            self._settling = False
            return False
        if self._rate_before is not None:
            fair = 1 + _PAYS / max(1, streams - 1)
            if rate < self._rate_before * fair:
                self._disappoint()
                return False
        if idle < _MOSTLY:
            return False
        self._rate_before = rate
        self._added = now
        return True

    def _begin(self, now: float, waited: Sequence[float], total: int) -> None:
        self._since = now
        self._total = total
        self._waited = sum(waited)

    def _disappoint(self) -> None:
        """The last one brought too little."""
        self._rate_before = None
        self.too_many = True
        if self._interval == _CAREFUL:
            self._most = 0  # Also when watched for long: this is enough.
        # A first look can be wrong, for many servers begin with a burst.
        # The next window may have some of it, too, and does not count.
        self._settling = self._interval == _QUICK
        self._interval = _CAREFUL
