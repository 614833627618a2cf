# SPDX-License-Identifier: Apache-2.0
"""Copies one location, or several of the same bytes, into a landing."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import dataclasses
import threading
import typing

from oslo_transfer import context as _context
from oslo_transfer import copier
from oslo_transfer import digest as _digest
from oslo_transfer.drivers import base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import filler
from oslo_transfer import holdback
from oslo_transfer import journal as _journal
from oslo_transfer import landing as _landing
from oslo_transfer import opening
from oslo_transfer import ranges
from oslo_transfer import repair
from oslo_transfer import request as _request
from oslo_transfer.wrappers import retry

if typing.TYPE_CHECKING:
    from oslo_transfer.wrappers import mirror as _mirror


# No file can be larger.
_MOST = (1 << 63) - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Received:
    """What came of a copy.

    :ivar source: the location that gave most
    :ivar bytes_by_location: what each has given
    :ivar size: of the data in bytes
    :ivar form: what the destination is
    :ivar verified: a digest was compared
    :ivar digest: ``algorithm:hex`` or None
    :ivar bytes_written: stored at the destination
    :ivar bytes_by_origin: they sum to the size
    :ivar wasted: bytes fetched again
    :ivar method: how they moved
    :ivar seeding: see the result's
    """

    source: ends.End
    bytes_by_location: dict[str, int]
    size: int
    form: str
    verified: bool
    digest: str | None
    bytes_written: int
    bytes_by_origin: dict[str, int]
    wasted: int
    method: str
    seeding: bool | None


class Receiver:
    """Makes one copy, once, from opening its source to the commit.

    :param locations: one, or several of the same bytes that may be used
        together: a digest has to be known then
    :param helpers: further locations that the source takes bytes from
        where it fills the destination by itself
    :param request: what the caller asked for
    :param landing: the destination
    :param ctx: the call's limits
    """

    def __init__(
        self,
        locations: Sequence[ends.End],
        request: _request.Request,
        landing: _landing.Landing,
        ctx: _context.Context,
        helpers: Sequence[ends.End] = (),
    ) -> None:
        # By a proxy it is the same data as without.
        self._identity = (locations[0].origin or locations[0]).identity
        self._request = request
        self._landing = landing
        # Its own ``stop``: a failure here must not stop the next location.
        self._ctx = ctx.replace(stop=threading.Event())
        self._hosts = [locations[0].host, request.destination.host]
        #: How each helper did.
        self.helpers = [filler.Helper(end, self._hosts) for end in helpers]
        self._opening = opening.Opening(locations, request, self._ctx)
        self._where = self._opening.where
        #: Whether the bytes that failed came from more than one request.
        self.joined = False
        #: Whether copying had begun, as opposed to opening the source.
        self.started = False
        #: Bytes that were fetched and then dropped.
        self.wasted = 0
        # The destination has a file descriptor.
        self._local = True
        # The system said once that bytes which were written are lost.
        self._lost = False

    @property
    def mirrors(self) -> Sequence[_mirror.Mirror]:
        """How each of several locations did."""
        mirrored = self._opening.mirrored
        return mirrored.mirrors if mirrored else ()

    def run(self, *, patient: bool, resume: bool) -> Received:
        """Copy, verify, commit.

        :param patient: retry opening the source; not worth it while there
            are other locations
        :param resume: go on with what is there
        :raises TransferError: it failed; what may be resumed is kept
        """
        hint = self._landing.held_hint(self._identity) if resume else 0
        source = self._opening.open(hint, patient)
        with contextlib.closing(source):
            self._check_promises(source)
            identity = self._landing.identity(
                self._identity,
                source.validator.value
                if source.validator and source.validator.strong
                else None,
                source.size,
            )
            # What is held is of no use if it cannot be read on from there.
            resume &= base.Capability.RANDOM_READ in source.capabilities
            journal, held = self._landing.journal(identity, resume)
            try:
                return self._into_sink(source, identity, journal, held)
            finally:
                if journal is not None:
                    journal.close()

    def _check_promises(self, source: base.Source) -> None:
        """Compare what the source says of itself, before any byte."""
        expected = self._request.expected_size
        if source.doubt is not None and not self._request.has_digest:
            raise exceptions.IntegrityError(
                f'{self._where}: {source.doubt}; give a digest'
            )
        if source.size is not None and source.size > _MOST:
            raise exceptions.ProtocolError(
                f'{self._where} says that it has {source.size} bytes'
            )
        if source.size is not None:
            if expected is not None and source.size != expected:
                raise exceptions.SizeMismatch(
                    expected, source.size, self._where
                )
        elif (
            not source.delimited
            and expected is None
            and not self._request.has_digest
        ):
            raise exceptions.IntegrityError(
                f'{self._where} does not say where it ends, so a broken '
                f'connection could not be told from the end; give an '
                f'expected size or a digest'
            )

    @staticmethod
    def _expect_held(
        source: retry.RetryingSource, sink: base.Sink, held: ranges.RangeSet
    ) -> None:
        """Have the end of what is held compared with the source's bytes."""
        for start, end in held:
            if end == source.size:
                continue
            tail = memoryview(bytearray(min(retry.OVERLAP, end - start)))
            count = sink.pread(tail, end - len(tail))
            if count == len(tail):
                source.expect_before(end, bytes(tail))

    def _into_sink(
        self,
        source: retry.RetryingSource,
        identity: _journal.Identity,
        journal: _journal.Journal | None,
        held: ranges.RangeSet,
    ) -> Received:
        sink = self._landing.open_sink(
            size=source.size, resume=bool(held.total)
        )
        self._local = sink.fd is not None
        # What is held stays held if the copy does not even begin.
        keep = held.total > 0
        digester: _digest.Digester | None = None
        work: copier.Copier | filler.Filler | None = None
        try:
            self._check_space(source, sink)
            sink = self._guard(sink, source.size)
            fills = self._fills(source, sink)
            if not fills:
                self._expect_held(source, sink, held)
            digester = self._digester(
                sink, ranges.RangeSet() if fills else held
            )
            taps: tuple[_request.Observer, ...] = ()
            if base.Capability.READBACK not in sink.capabilities:
                taps = self._landing.tap()
            self._request.progress.restart(held.total)
            job = copier.Job(
                source=source,
                sink=sink,
                size=source.size,
                limit=self._limit(),
                held=held,
                digester=digester,
                taps=taps,
                journal=journal,
                progress=self._request.progress,
                joinable=source.joinable,
            )
            work = (
                filler.Filler(
                    job,
                    self._fill_path(sink),
                    self.helpers,
                    self._hosts,
                    self._ctx,
                )
                if fills
                else copier.Copier(job, self._ctx)
            )
            resumed = held.total
            keep = (
                journal is not None
                and source.joinable
                and source.size is not None
            )
            self.started = True
            try:
                size = work.run()
            finally:
                self.joined = resumed > 0 or source.requests > 1
            mended, fetched = repair.check_pieces(
                source, self._opening.mirrored, sink, size, self._ctx
            )
            self.wasted += fetched
            hexdigest = digester.finish(size) if digester else None
            if mended:
                hexdigest = self._landing.hash_sink(sink, size)
            try:
                verified, hexdigest = self._verify(sink, size, hexdigest)
            except exceptions.IntegrityError:
                keep = False
                self.wasted += size - resumed
                raise
            self._flush(sink)
            if not taps:
                self._landing.show(sink, size)
            self._ctx.check()
            self._commit(sink, size)
            keep = False
            seeding = source.landed(self._local_path()) if fills else None
        except (
            exceptions.SourceChanged,
            exceptions.IntegrityError,
            exceptions.StorageError,
        ):
            # The bytes are of two versions, or wrong, or some are lost.
            keep = False
            raise
        finally:
            if digester is not None:
                digester.stop()
            if (
                self._landing.refused
                or self._lost
                or (work is not None and (work.damaged or not work.total))
            ):
                keep = False
            sink.abort(keep)
            self._landing.keep_part(keep)
        algorithm = self._request.digest
        return Received(
            size=size,
            form=sink.form,
            verified=verified,
            digest=f'{algorithm.algorithm}:{hexdigest}' if algorithm else None,
            bytes_written=work.bytes_written,
            wasted=source.wasted + self.wasted,
            method=work.method,
            seeding=seeding,
            **(
                self._opening.shared(work.shares)
                if isinstance(work, filler.Filler)
                else self._opening.accounts(source.origin, size, held)
            ),
        )

    def _fills(self, source: base.Source, sink: base.Sink) -> bool:
        """Whether the source is to fill the destination by itself."""
        return (
            base.Capability.FILL in source.capabilities
            and base.Capability.READBACK in sink.capabilities
            and (sink.form == 'file' or source.fills_devices)
            and self._local
            and source.size is not None
        )

    def _fill_path(self, sink: base.Sink) -> str:
        if sink.form == 'device':
            return self._local_path()
        return self._landing.part_path

    def _local_path(self) -> str:
        path = self._request.destination.local_path
        assert path is not None
        return path

    def _verify(
        self, sink: base.Sink, size: int, hexdigest: str | None
    ) -> tuple[bool, str | None]:
        """Compare with what is expected; mend what can be mended.

        :returns: whether a digest was compared, and the digest
        """
        try:
            verified = self._landing.verify(size, hexdigest, self._where)
        except exceptions.DigestMismatch as exc:
            expected = exc.expected
            mended, fetched = repair.mend_whole(
                self._opening.mirrored,
                sink,
                size,
                self._ctx,
                lambda: self._landing.hash_sink(sink, size) == expected,
            )
            self.wasted += fetched
            if not mended:
                raise
            return True, expected
        return verified, hexdigest

    def _flush(self, sink: base.Sink) -> None:
        try:
            self._ctx.call(
                sink.sync,
                'flushing the destination',
                # Only fsync blocks in C; what is remote waits by sockets.
                cooperative=not self._local,
            )
        except (exceptions.TransferCancelled, exceptions.DeadlineExceeded):
            raise
        except exceptions.TransferError:
            self._lost = True
            raise

    def _guard(self, sink: base.Sink, size: int | None) -> base.Sink:
        if base.Capability.ATOMIC in sink.capabilities:
            return sink
        if base.Capability.RANDOM_WRITE in sink.capabilities:
            return holdback.HoldFirst(sink, size)
        if self._request.has_digest:
            return holdback.HoldLast(sink)
        return sink

    def _check_space(self, source: base.Source, sink: base.Sink) -> None:
        size = source.size
        if size is None:
            size = self._request.expected_size
        if size is None:
            return
        if sink.capacity is not None and size > sink.capacity:
            raise exceptions.NoSpace(
                f'{self._request.destination} has {sink.capacity} bytes, '
                f'{size} are needed'
            )
        free = sink.free
        if free is None or free >= size:
            return
        needed = size
        extents = source.extents(0, size)
        if extents is not None:
            needed = sum(e.length for e in extents if e.data)
        if needed > free:
            raise exceptions.NoSpace(
                f'{self._request.destination} can take {free} more bytes, '
                f'{needed} are needed'
            )

    def _digester(
        self, sink: base.Sink, held: ranges.RangeSet
    ) -> _digest.Digester | None:
        expected = self._request.digest
        if expected is None:
            return None
        group = self._ctx.conf.oslo_transfer
        readable = base.Capability.READBACK in sink.capabilities
        digester = _digest.Digester(
            expected.algorithm,
            self._ctx,
            buffer_bytes=group.buffer_bytes,
            queue_bytes=group.digest_queue_bytes,
            read_back=sink.pread if readable else None,
        )
        for start, end in held:
            digester.in_place(start, end - start)
        return digester

    def _limit(self) -> int:
        if self._request.expected_size is not None:
            return self._request.expected_size
        return int(self._ctx.conf.oslo_transfer.max_size_bytes)

    def _commit(self, sink: base.Sink, size: int) -> None:
        if sink.capacity is not None and not sink.zeroed:
            self._clear_tail(sink, size, sink.capacity)
        sink.commit(size)

    def _clear_tail(self, sink: base.Sink, size: int, end: int) -> None:
        """Let nothing old show behind the data on a device."""
        step = 256 << 20
        zeros = memoryview(bytes(1 << 20))
        while size < end:
            self._ctx.check()
            # Up to the next whole block by hand, the rest by the device.
            count = min(-size % 4096 or step, end - size)
            if count < 4096 or not sink.zero(size, count):
                count = min(count, len(zeros))
                sink.pwrite(zeros[:count], size)
            size += count
