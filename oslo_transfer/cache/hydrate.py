# SPDX-License-Identifier: Apache-2.0
"""Brings blocks that nobody waits for: what was foreseen, and all the rest.

An image that has all its blocks is read once from its data file: each is
compared with its checksum, and all together with a digest where one is
known.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import logging
import threading

from oslo_transfer import buffers
from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import demand as _demand
from oslo_transfer.cache import fetcher as _fetcher
from oslo_transfer import context as _context
from oslo_transfer import digest as _digest
from oslo_transfer import exceptions
from oslo_transfer import limiter as _limiter

LOG = logging.getLogger(__name__)

#: What becomes of an image: blocks are missing; none is; all are right; or
#: they are not what the digest says.
HYDRATING, COMPLETE = 'hydrating', 'complete'
VERIFIED, DAMAGED = 'verified', 'damaged'

# The most that is handed over in advance, in bytes.
_AHEAD = 2 * _demand.RUN_BYTES
_AHEAD_FORESEEN = 16 << 20
# Seconds of a limit's bytes that make a run.
_TURN = 0.5
# Seconds between tries while the origin or the disk does not work.
_SHORTEST, _LONGEST = 1.0, 60.0
_READ = 1 << 20


class Background:
    """A thread that brings blocks. Thread-safe.

    :param blocks: where they go
    :param fetcher: brings them
    :param ctx: ends it
    :param limiter: takes its bytes per second; its rate may be changed
    """

    _level: int
    _most: int

    def __init__(
        self,
        blocks: _blocks.Blocks,
        fetcher: _fetcher.Fetcher,
        ctx: _context.Context,
        limiter: _limiter.Limiter,
    ) -> None:
        self._blocks = blocks
        self._fetcher = fetcher
        self._ctx = ctx.replace(deadline=None)
        self.limiter = limiter
        #: Why it does not get on now, or has ended; None if nothing is wrong.
        self.error: exceptions.TransferError | None = None
        self._thread = threading.Thread(
            target=self._run, name='oslo-transfer-hydrate', daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; returns whether it has come."""
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work()
        except exceptions.TransferCancelled:
            pass
        except exceptions.TransferError as exc:
            LOG.error('%s: %s', self._blocks.path, exc)
            self.error = exc

    def _work(self) -> None:
        raise NotImplementedError

    def _feed(self, runs: Iterable[tuple[int, int]]) -> None:
        """Have runs of blocks brought, no faster than the limit says.

        Ends early where nothing can be kept.
        """
        size = self._blocks.block_bytes
        for first, end in runs:
            while first < end:
                self._fetcher.wait_until_owed(
                    self._level, self._most, self._ctx
                )
                rate = self.limiter.rate
                step = max(1, int((rate or 0) * _TURN) // size)
                stop = min(end, first + step) if rate else end
                stop = min(stop, first + _demand.RUN_BYTES // size + 1)
                missing = sum(
                    not self._blocks.has(index) for index in range(first, stop)
                )
                while not self._fetcher.later(first, stop, self._level):
                    if self._fetcher.bypassed is not None:
                        return
                    self._ctx.sleep(_SHORTEST)
                self._ctx.sleep(self.limiter.moved(missing * size))
                first = stop


class Prefetch(Background):
    """Brings what was foreseen, in its order.

    :param ranges: offsets and lengths in bytes, inside of the image
    """

    _level = _demand.SOON
    _most = _AHEAD_FORESEEN

    def __init__(
        self,
        blocks: _blocks.Blocks,
        fetcher: _fetcher.Fetcher,
        ctx: _context.Context,
        limiter: _limiter.Limiter,
        ranges: Iterable[tuple[int, int]],
    ) -> None:
        super().__init__(blocks, fetcher, ctx, limiter)
        self._ranges = ranges

    def _work(self) -> None:
        size = self._blocks.block_bytes
        self._feed(
            (offset // size, -(-(offset + length) // size))
            for offset, length in self._ranges
        )
        self._fetcher.wait_until_owed(self._level, 0, self._ctx)


class Hydration(Background):
    """Brings all that is missing, then looks at the whole.

    :param delay: seconds before it begins
    :param expected: the digest of the whole, or how to compute one
    :param on_state: called with this at each change of :attr:`state`, in
        its thread
    """

    _level = _demand.SOMEDAY
    _most = _AHEAD

    def __init__(
        self,
        blocks: _blocks.Blocks,
        fetcher: _fetcher.Fetcher,
        ctx: _context.Context,
        limiter: _limiter.Limiter,
        *,
        delay: float,
        expected: _digest.Expected | None,
        on_state: Callable[[Hydration], None] | None,
    ) -> None:
        super().__init__(blocks, fetcher, ctx, limiter)
        self._delay = delay
        self._expected = expected
        self._on_state = on_state
        #: What has become of the image.
        self.state = HYDRATING
        #: The digest in hex, once it was computed.
        self.digest: str | None = None

    def _become(self, state: str) -> None:
        self.state = state
        LOG.info('%s is %s', self._blocks.path, state)
        if self._on_state is not None:
            self._on_state(self)

    def _work(self) -> None:
        if any(self._missing()):
            self._ctx.sleep(self._delay)
        while True:
            self._fill()
            self._blocks.flush()
            if self.state == HYDRATING:
                self._become(COMPLETE)
            if self._verify():
                return
            self._become(HYDRATING)

    def _fill(self) -> None:
        """Go on until nothing is missing."""
        pause = _SHORTEST
        before = None
        while missing := sum(end - first for first, end in self._missing()):
            if before is not None:
                full = self._fetcher.bypassed
                self.error = self._fetcher.error or full
                if missing < before and full is None:
                    pause = _SHORTEST
                self._ctx.sleep(pause)
                pause = min(2 * pause, _LONGEST)
            before = missing
            self._feed(self._missing())
            self._fetcher.wait_until_owed(self._level, 0, self._ctx)
        self.error = None

    def _missing(self) -> Iterator[tuple[int, int]]:
        """Runs of blocks that are not there."""
        first = None
        for index in range(self._blocks.count):
            if not self._blocks.has(index):
                first = index if first is None else first
            elif first is not None:
                yield first, index
                first = None
        if first is not None:
            yield first, self._blocks.count

    def _verify(self) -> bool:
        """Read all of it; returns False if a block turns out damaged."""
        expected = self._expected
        hashing = _digest.new(expected.algorithm) if expected else None
        buffer = buffers.aligned(_READ)
        offset = 0
        while offset < self._blocks.size:
            self._ctx.check()
            view = buffer[: self._blocks.size - offset]
            count = self._blocks.read(view, offset)
            if not count:
                return False
            if hashing is not None:
                hashing.update(view[:count])
            offset += count
        if expected is not None and hashing is not None:
            self.digest = hashing.hexdigest()
            if expected.value not in (None, self.digest):
                self.error = exceptions.IntegrityError(
                    f'{self._blocks.path}: the image has the digest '
                    f'{expected.algorithm}:{self.digest}, and {expected} is '
                    f'expected'
                )
                self._become(DAMAGED)
                return True
        self._become(VERIFIED)
        return True
