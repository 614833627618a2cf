# SPDX-License-Identifier: Apache-2.0
"""Finds out which of several locations gave wrong bytes, and mends them.

Digests of pieces tell which bytes are wrong. Without them only the digest
of the whole is known: then each location's bytes are compared with those
of the others, and replaced, until the whole is right.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import hashlib
import typing

from oslo_transfer import buffers
from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import ranges
from oslo_transfer import readback

if typing.TYPE_CHECKING:
    from oslo_transfer.wrappers import mirror as _mirror
    from oslo_transfer.wrappers import mirrors as _mirrors

_STEP = 1 << 20


def _can_mend(sink: base.Sink) -> bool:
    """Whether a sink lets its bytes be compared and replaced."""
    needed = base.Capability.READBACK | base.Capability.RANDOM_WRITE
    return needed in sink.capabilities


def check_pieces(
    source: base.Source,
    mirrored: _mirrors.MirroredSource | None,
    sink: base.Sink,
    size: int,
    ctx: _context.Context,
) -> tuple[bool, int]:
    """Compare the pieces whose digests the source knows; mend wrong ones.

    :param source: has the digests, if there are any
    :param mirrored: the locations to mend them from, if there are several
    :param sink: holds the whole
    :returns: whether some had to be mended, and the bytes fetched for it
    :raises IntegrityError: some are wrong and stay so
    """
    pieces = source.pieces
    if pieces is None or base.Capability.READBACK not in sink.capabilities:
        return False, 0
    wrong = _wrong_pieces(sink, size, pieces, ctx)
    if not wrong:
        return False, 0
    if mirrored is not None and _can_mend(sink):
        work = Repair(mirrored, sink, size, ctx)
        if work.by_pieces(pieces, wrong):
            return True, work.fetched
    raise exceptions.IntegrityError(
        f'{len(wrong)} of {len(pieces.digests)} pieces are wrong, the first '
        f'at byte {wrong[0][0]}'
    )


def mend_whole(
    mirrored: _mirrors.MirroredSource | None,
    sink: base.Sink,
    size: int,
    ctx: _context.Context,
    is_right: Callable[[], bool],
) -> tuple[bool, int]:
    """Mend what has not the right digest, if it can be mended.

    :returns: whether it is right now, and the bytes fetched for it
    """
    if mirrored is None or not _can_mend(sink):
        return False, 0
    work = Repair(mirrored, sink, size, ctx)
    return work.by_comparison(is_right), work.fetched


def _wrong_pieces(
    sink: base.Sink, size: int, pieces: base.Pieces, ctx: _context.Context
) -> list[tuple[int, int]]:
    """The (start, end) of each piece that has not the digest it should."""
    found = []
    for index, digest in enumerate(pieces.digests):
        start = index * pieces.length
        end = min(start + pieces.length, size)
        state = hashlib.new(pieces.algorithm, usedforsecurity=False)
        for data in readback.chunks(sink, start, end, ctx):
            state.update(data)
        if state.digest() != digest:
            found.append((start, end))
    return found


class Repair:
    """Replaces the wrong bytes of one finished copy.

    :param source: the locations that they came from
    :param sink: what they were written to; can be read and written anywhere
    :param size: of the whole in bytes
    :param ctx: interrupts it
    """

    def __init__(
        self,
        source: _mirrors.MirroredSource,
        sink: base.Sink,
        size: int,
        ctx: _context.Context,
    ) -> None:
        self._source = source
        self._sink = sink
        self._size = size
        self._ctx = ctx
        #: Bytes that were fetched once more.
        self.fetched = 0

    def by_pieces(
        self, pieces: base.Pieces, wrong: Iterable[tuple[int, int]]
    ) -> bool:
        """Fetch wrong pieces from other locations.

        :returns: whether all are right now
        """
        return all(
            self._mend_piece(pieces, start, end) for start, end in wrong
        )

    def _mend_piece(self, pieces: base.Pieces, start: int, end: int) -> bool:
        digest = pieces.digests[start // pieces.length]
        tried = {
            mirror
            for mirror, given in self._source.ledger.given().items()
            if any(first < end and last > start for first, last in given)
        }
        while True:
            data = bytearray()
            givers = set()
            try:
                for _offset, part, mirror in self._others(start, end, tried):
                    data += part
                    givers.add(mirror)
            except _NobodyElse:
                return False
            state = hashlib.new(pieces.algorithm, usedforsecurity=False)
            state.update(data)
            if state.digest() == digest:
                self._blame_for(start, memoryview(data))
                self._sink.pwrite(memoryview(data), start)
                self._source.ledger.note(start, end, givers.pop())
                return True
            if len(givers) == 1:
                (giver,) = givers
                self._blame(giver, f'the piece at byte {start} is wrong')
            tried |= givers

    def _blame_for(self, start: int, right: memoryview) -> None:
        """Drop the locations that gave other bytes than these."""
        held = memoryview(bytearray(len(right)))
        readback.fill(self._sink, held, start)
        for mirror, given in self._source.ledger.given().items():
            for first, last in given:
                part = slice(max(first - start, 0), max(last - start, 0))
                if held[part] != right[part]:
                    self._blame(mirror, f'the piece at byte {start} is wrong')

    def by_comparison(self, is_right: Callable[[], bool]) -> bool:
        """Replace each location's bytes by those of others, till it fits.

        Begins with the location that gave least. It takes one wrong
        location to be found; with more the whole stays wrong, and reading
        from one location after the other has to tell.

        :param is_right: whether the whole is right; asked after a change
        :returns: whether it is right now
        """
        shares = self._shares()
        for suspect in sorted(shares, key=lambda each: shares[each].total):
            # What was replaced before may be of this one now.
            given = self._shares().get(suspect, ranges.RangeSet())
            try:
                changed = self._compare(given, {suspect} if suspect else set())
            except _NobodyElse:
                continue
            if changed and is_right():
                if suspect is not None:
                    self._blame(
                        suspect,
                        f'{changed} of its {given.total} bytes are wrong',
                    )
                return True
        return False

    def _shares(self) -> dict[_mirror.Mirror | None, ranges.RangeSet]:
        """Who gave what; None for what was there before, and holes."""
        known = self._source.ledger.known()
        shares: dict[_mirror.Mirror | None, ranges.RangeSet] = {}
        for mirror, given in self._source.ledger.given().items():
            shares[mirror] = given
        if known.total < self._size:
            shares[None] = ranges.RangeSet(known.gaps(self._size))
        return shares

    def _compare(
        self, given: ranges.RangeSet, without: set[_mirror.Mirror]
    ) -> int:
        """Take others' bytes; returns how many were different."""
        changed = 0
        mine = buffers.aligned(_STEP)
        for start, end in given:
            for offset, theirs, mirror in self._others(start, end, without):
                held = mine[: len(theirs)]
                readback.fill(self._sink, held, offset)
                if held != theirs:
                    changed += _differences(held, theirs)
                    self._sink.pwrite(theirs, offset)
                    self._source.ledger.note(
                        offset, offset + len(theirs), mirror
                    )
        return changed

    def _others(
        self, start: int, end: int, without: set[_mirror.Mirror]
    ) -> Iterator[tuple[int, memoryview, _mirror.Mirror]]:
        """Bytes of other locations: (offset, bytes, location).

        :raises _NobodyElse: there is no other that gives them
        """
        buffer = buffers.aligned(_STEP)
        without = set(without)
        while start < end:
            self._ctx.check()
            try:
                stream = self._source.stream(start, end - start, without)
            except exceptions.TransferError as exc:
                self._ctx.check()
                raise _NobodyElse from exc
            with contextlib.closing(stream):
                try:
                    while start < end:
                        count = stream.readinto(buffer[: end - start])
                        if not count:
                            break
                        self.fetched += count
                        yield start, buffer[:count], stream.mirror
                        start += count
                except exceptions.TransferError:
                    self._ctx.check()
            if start < end:
                without.add(stream.mirror)

    def _blame(self, mirror: _mirror.Mirror, why: str) -> None:
        mirror.gone = True
        mirror.error = exceptions.IntegrityError(f'{mirror.name}: {why}')


class _NobodyElse(Exception):
    """No other location gives these bytes."""


def _differences(one: memoryview, other: memoryview) -> int:
    mine = int.from_bytes(one, 'little') ^ int.from_bytes(other, 'little')
    found = mine.to_bytes(len(one), 'little')
    return len(found) - found.count(0)
