# SPDX-License-Identifier: Apache-2.0
"""Shows how far a copy has come."""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import logging
import threading
import time
import typing

from oslo_transfer.cli import units

if typing.TYPE_CHECKING:
    from oslo_transfer.cli import console
    from oslo_transfer.cli import main

LOG = logging.getLogger(__name__)

_WINDOW = 5.0  # Seconds over which the rate is averaged.
_BAR_INTERVAL = 0.2
_LOG_INTERVAL = 10.0
_LONGEST_BAR = 40
_SHORTEST_BAR = 8


class Meter:
    """Turns totals into a rate."""

    def __init__(self) -> None:
        # The times at which the total was seen to change.
        self._changes: collections.deque[tuple[float, int]] = (
            collections.deque()
        )
        self._first = (0.0, 0)
        self._now = 0.0

    def add(self, now: float, total: int) -> None:
        """Note the bytes in place at a time."""
        changes = self._changes
        self._now = now
        if changes and total < changes[-1][1]:
            changes.clear()  # A new attempt has begun.
        if not changes:
            # What an earlier copy left in place is no part of the rate.
            self._first = (now, total)
        if not changes or total != changes[-1][1]:
            changes.append((now, total))
        # Totals come in large steps: over a slow line they are far apart,
        # and then two of them say more than the last few seconds.
        while len(changes) > 2 and changes[1][0] <= now - _WINDOW:
            changes.popleft()

    @property
    def rate(self) -> float | None:
        """Bytes per second lately; None if there is too little to tell."""
        return self._since(self._changes[0]) if self._changes else None

    @property
    def average(self) -> float | None:
        """Bytes per second over all; None if there is too little to tell."""
        return self._since(self._first)

    def _since(self, then: tuple[float, int]) -> float | None:
        if len(self._changes) < 2 or self._now <= then[0]:
            return None
        return (self._changes[-1][1] - then[1]) / (self._now - then[0])


def describe(
    total: int, size: int | None, rate: float | None, elapsed: float
) -> list[str]:
    """The parts of a progress message."""
    done = units.human_size(total)
    parts = [f'{done} / {units.human_size(size)}' if size else done]
    if rate is not None:
        parts.append(f'{units.human_size(rate)}/s')
    if not size or rate is None:
        parts.append(units.human_time(elapsed))
    elif total >= size:
        parts.append('finishing')
    elif rate < 1:
        parts.append('waiting')
    else:
        parts.append(f'ETA {units.human_time((size - total) / rate)}')
    return parts


def describe_peers(figures: Mapping[str, int]) -> list[str]:
    """The parts that tell of peers, if there are any."""
    if not figures:
        return []
    parts = [f'{figures["peers"]} peers']
    for direction in ('from', 'to'):
        rate = figures[f'{direction}_peers_per_second']
        if rate:
            parts.append(f'{direction} peers {units.human_size(rate)}/s')
    given = figures['origin_bytes'] + figures['peer_bytes']
    if given:
        parts.append(f'origin {100 * figures["origin_bytes"] // given}%')
    return parts


def bar(parts: list[str], total: int, size: int | None, width: int) -> str:
    """One line of at most so many columns, with a bar if it fits."""
    text = '  '.join(parts)
    if not size:
        return text[:width]
    share = min(1.0, total / size)
    percent = f'{int(share * 100):3}%'
    length = min(_LONGEST_BAR, width - len(percent) - len(text) - 5)
    if length < _SHORTEST_BAR:
        return f'{percent}  {text}'[:width]
    filled = int(share * length)
    return f'{percent} [{"#" * filled:-<{length}}]  {text}'


class Reporter:
    """Shows the progress of one copy; a context manager.

    An object of this class is the ``progress=`` of the copy. It draws from
    a thread of its own, for the callback only comes when bytes do.

    :param output: where to
    :param size: asked for the size of the data, None if it is not known
    :param log: write log lines now and then instead of a status line
    """

    def __init__(
        self,
        output: console.Console,
        size: Callable[[], int | None],
        log: bool = False,
    ) -> None:
        self._output = output
        self._size = size
        self._log = log
        self._total: int | None = None
        #: What a driver tells beside the bytes.
        self.figures: Mapping[str, int] = {}
        self._meter = Meter()
        self._started = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name='oslo-transfer-progress', daemon=True
        )

    def __call__(self, chunk_bytes: int, total_bytes: int) -> None:
        """Note the progress."""
        self._total = total_bytes

    def __enter__(self) -> typing.Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end.set()
        # A terminal that was stopped with Ctrl-S must not hold us up.
        self._thread.join(1.0)
        if not self._log:
            self._show(last=True)
            self._output.end_status()

    def _run(self) -> None:
        interval = _LOG_INTERVAL if self._log else _BAR_INTERVAL
        while not self._end.wait(interval):
            self._show()

    def _show(self, last: bool = False) -> None:
        total = self._total
        if total is None:
            return
        now = time.monotonic()
        size = self._size()
        self._meter.add(now, total)
        elapsed = now - self._started
        if last:
            parts = describe(total, None, self._meter.average, elapsed)
        else:
            parts = describe(total, size, self._meter.rate, elapsed)
        parts += describe_peers(self.figures)
        if self._log:
            LOG.info('%s', ', '.join(parts))
        else:
            # The last column stays free: some terminals would wrap.
            self._output.status(
                bar(parts, total, size, self._output.width - 1)
            )


def shown(
    app: main.TransferApp, size: Callable[[], int | None], wanted: bool
) -> contextlib.AbstractContextManager[Reporter | None]:
    """A reporter where there is somebody to see it; else nothing.

    :param size: as for :class:`Reporter`
    :param wanted: whether a status line is welcome
    """
    if app.options.quiet:
        return contextlib.nullcontext()
    if app.console.terminal and wanted:
        return Reporter(app.console, size)
    if app.verbosity:
        return Reporter(app.console, size, log=True)
    return contextlib.nullcontext()
