# SPDX-License-Identifier: Apache-2.0
"""A destination, from the first look at it to its commit.

Whatever strategy brings the bytes: one flight per destination, nothing
visible before it is verified, durable before it is visible.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import logging
import os
import stat
import typing

from oslo_transfer import buffers
from oslo_transfer import context as _context
from oslo_transfer import digest as _digest
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import flight as _flight
from oslo_transfer import journal as _journal
from oslo_transfer import oserrors
from oslo_transfer import ranges
from oslo_transfer import readback

if typing.TYPE_CHECKING:
    from oslo_transfer import request as _request

LOG = logging.getLogger(__name__)

_READ = 1 << 20


class Landing:
    """Holds the right to write the destination of one call.

    A context manager; entering it may wait for another process that
    copies to the same destination.

    :param request: what the caller asked for
    :param ctx: bounds waits
    """

    def __init__(
        self, request: _request.Request, ctx: _context.Context
    ) -> None:
        self._request = request
        self._ctx = ctx
        self._flight: _flight.Flight | None = None
        self._keep = False
        self._shown = False
        #: An observer did not like what it saw.
        self.refused = False
        #: Digest of a destination that matched already; no copy is needed.
        self.reused: str | None = None
        #: The size of what was there.
        self.reused_size = 0

    def __enter__(self) -> typing.Self:
        path = self._request.destination.local_path
        if path is None:
            return self
        device = _flight.is_device(path)
        if not device:
            try:
                done = self._look(path)
            except exceptions.AlreadyExists:
                self._tidy(path)
                raise
            if done:
                self._tidy(path)
                return self
        self._hold(_flight.Flight(path, self._ctx))
        try:
            if not device:
                self._look_again(path)
                if self.reused is None:
                    self._announce()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _hold(self, flight: _flight.Flight) -> None:
        """Have the right; what can be gone on with is kept by default."""
        self._flight = flight
        record = self._record()
        self._keep = record is not None and record.held.total > 0

    def _tidy(self, path: str) -> None:
        """Take away what a copy left that was killed at its very end."""
        part = _flight.part_path(path)
        if not any(
            os.path.lexists(each)
            for each in (part, _flight.journal_path(part))
        ):
            return
        # Whoever is at work there now does it himself.
        with contextlib.suppress(exceptions.TransferError):
            self._hold(_flight.Flight(path, self._ctx, wait=False))
            self.__exit__()

    def __exit__(self, *_exc: object) -> None:
        if self._flight is None:
            return
        if not self._keep and not self._flight.device:
            with contextlib.suppress(OSError):
                os.unlink(_flight.journal_path(self._flight.part_path))
        self._flight.release(remove=not self._keep)
        self._flight = None

    def _look(self, path: str) -> bool:
        """Whether the destination is there and right.

        :raises AlreadyExists: it is there, not known to be right, and may
            not be replaced
        """
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise oserrors.translate(exc, f'looking at {path}') from exc
        if stat.S_ISLNK(found.st_mode):
            raise exceptions.InvalidEndpoint(
                f'{path} is a symbolic link; name the file that it should '
                f'lead to'
            )
        if not stat.S_ISREG(found.st_mode):
            raise exceptions.InvalidEndpoint(
                f'{path} is neither a regular file nor a block device'
            )
        expected = self._request.digest
        if (
            expected is not None
            and expected.value is not None
            and self._request.expected_size in (None, found.st_size)
            and self._hash_file(path, expected) == expected.value
        ):
            self._reuse(path, str(expected))
            return True
        if not self._request.overwrite:
            raise exceptions.AlreadyExists(
                f'{path} exists; ask for overwriting it, or name another '
                f'destination'
            )
        return False

    def _look_again(self, path: str) -> None:
        """Look after waiting for the lock: it may have been completed."""
        assert self._flight is not None
        landed = self._flight.landed
        expected = self._request.digest
        if (
            landed is not None
            and self._is_ours(landed)
            and self._request.expected_size in (None, _size(path))
        ):
            # The file is the one that we waited for: it was verified
            # under our own digest, or is what our location gives.
            digest = landed.digest or ''
            if expected is not None and expected.value is None:
                value = self._hash_file(path, expected)
                digest = f'{expected.algorithm}:{value}'
            self._reuse(path, digest)
        else:
            self._look(path)

    def _is_ours(self, identity: _journal.Identity) -> bool:
        """Whether a copy of it is as good as a copy of what we want."""
        return any(
            self.identity(end.identity, None, None).same_data(identity)
            for end in self._request.sources
        )

    def _reuse(self, path: str, digest: str) -> None:
        """Be content with what is there; the observers see it, too."""
        if self._request.observers:
            for chunk in self._read_file(path):
                self.observe(bytes(chunk))
        self.reused = digest
        self.reused_size = _size(path)

    def _hash_file(self, path: str, expected: _digest.Expected) -> str:
        state = _digest.new(expected.algorithm)
        for chunk in self._read_file(path):
            state.update(chunk)
        return str(state.hexdigest())

    def _read_file(self, path: str) -> Iterator[memoryview]:
        buffer = buffers.aligned(_READ)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with oserrors.os_errors(f'opening {path}'):
            fd = os.open(path, flags)
        try:
            while True:
                self._ctx.breathe()
                with oserrors.os_errors(f'reading {path}'):
                    count = os.readv(fd, [buffer])
                if not count:
                    return
                yield buffer[:count]
        finally:
            oserrors.close(fd)

    # What strategies use

    @property
    def part_path(self) -> str:
        """The part file to fill.

        :raises CapabilityMissing: the destination is no file on this host
        """
        if self._flight is None or self._flight.device:
            raise exceptions.CapabilityMissing(
                'the destination is not a file on this host'
            )
        return self._flight.part_path

    def identity(
        self, source: str, validator: str | None, size: int | None
    ) -> _journal.Identity:
        """What a part file with bytes of this source is bytes of."""
        digest = self._request.digest
        return _journal.Identity(
            source=source,
            validator=validator,
            digest=str(digest) if digest and digest.value else None,
            size=size,
        )

    def held_hint(self, source: str) -> int:
        """Where an earlier copy that may be gone on with has stopped.

        :param source: identity of the location; that it has not changed
            since is taken for granted here, and found out later
        """
        record = self._record()
        if record is None:
            return 0
        was = record.identity
        now = self.identity(source, was.validator, was.size)
        return record.held.frontier() if now.continues(was) else 0

    def _journal_path(self) -> str | None:
        needed = base.Capability.RESUME | base.Capability.LOCAL_PATH
        if (
            needed not in self._request.destination.capabilities
            or self._flight is None
            or self._flight.device
        ):
            return None
        return _flight.journal_path(self._flight.part_path)

    def _record(self) -> _journal.Record | None:
        path = self._journal_path()
        if path is None or self._flight is None:
            return None
        return _journal.load(path, self._flight.inode, self._flight.length)

    def journal(
        self, identity: _journal.Identity, resume: bool
    ) -> tuple[_journal.Journal | None, ranges.RangeSet]:
        """The part file's journal, and what the part file holds of ours.

        What it holds of something else is dropped with the next sink that
        does not resume.

        :param identity: what will be copied
        :param resume: False to start from nothing in any case
        """
        path = self._journal_path()
        if path is None or self._flight is None:
            return None, ranges.RangeSet()
        record = self._record()
        held = ranges.RangeSet()
        if resume and record and identity.continues(record.identity):
            try:
                # All of it counts as durable from now on. It may be of a
                # process that was killed before it could flush.
                self._ctx.call(self._flight.sync, 'flushing the part file')
                held = record.held
            except (
                exceptions.TransferCancelled,
                exceptions.DeadlineExceeded,
            ):
                raise
            except exceptions.TransferError as exc:
                LOG.warning('starting again: %s', exc)
        journal = _journal.Journal(path, self._flight.inode, identity, record)
        # Before the bytes change that the earlier note speaks of.
        durable = record is not None and record.held.total > 0
        try:
            journal.save(held, held, durable)
        except BaseException:
            journal.close()
            raise
        self._keep = held.total > 0
        return journal, held

    def _announce(self) -> None:
        """Tell whoever waits for the lock what is being copied.

        An earlier copy's note would tell them of something else.
        """
        record = self._record()
        if record is not None and self._is_ours(record.identity):
            return
        journal, _held = self.journal(
            self.identity(self._request.sources[0].identity, None, None),
            resume=False,
        )
        if journal is not None:
            journal.close()

    @contextlib.contextmanager
    def filling(self, identity: _journal.Identity) -> Iterator[None]:
        """For the time in which other bytes get into the part file.

        What can be gone on with stays if it could not be filled at all.

        :param identity: what is filled in
        """
        earlier = self._record()
        journal, _held = self.journal(identity, resume=False)
        if journal is None or self._flight is None:
            yield
            return
        with contextlib.closing(journal):
            try:
                yield
            except (exceptions.CapabilityMissing, exceptions.NotFound):
                if earlier is not None:
                    journal.reinstate(earlier)
                    self._keep = earlier.held.total > 0
                raise

    def open_sink(self, *, size: int | None, resume: bool) -> base.Sink:
        """Open the destination for writing."""
        return self._request.destination.open_sink(
            self._ctx,
            size=size,
            resume=resume,
            overwrite=self._request.overwrite,
        )

    def keep_part(self, keep: bool) -> None:
        """Whether a part file is left for a later copy to go on with."""
        self._keep = keep

    def hash_sink(self, sink: base.Sink, size: int) -> str | None:
        """Read a filled sink once for its digest, if one is wanted."""
        if self._request.digest is None:
            return None
        state = _digest.new(self._request.digest.algorithm)
        for chunk in readback.chunks(sink, 0, size, self._ctx):
            state.update(chunk)
        return str(state.hexdigest())

    def verify(self, size: int, digest: str | None, where: str) -> bool:
        """Compare with what the caller expects.

        :param digest: of what was copied, in hex; None if not computed
        :returns: whether a digest was compared
        :raises SizeMismatch: it has another size
        :raises DigestMismatch: it has another digest
        """
        wanted = self._request.expected_size
        if wanted is not None and size != wanted:
            raise exceptions.SizeMismatch(wanted, size, where)
        expected = self._request.digest
        if expected is None or expected.value is None or digest is None:
            return False
        if digest != expected.value:
            raise exceptions.DigestMismatch(
                expected.algorithm, expected.value, digest, where
            )
        return True

    def tap(self) -> tuple[_request.Observer, ...]:
        """Let the observers see bytes as they are sent.

        For sinks that cannot be read back; at most one attempt can do it.

        :raises CapabilityMissing: they have seen bytes of another attempt
        """
        if self._shown:
            raise exceptions.CapabilityMissing(
                'the observers have seen bytes of another attempt'
            )
        return (_Tap(self),) if self._request.observers else ()

    def observe(self, data: bytes) -> None:
        """Show the next bytes to the observers."""
        self._shown = self.refused = True
        for observer in self._request.observers:
            observer.update(data)
        self.refused = False

    def show(self, sink: base.Sink, size: int) -> None:
        """Let the observers see each byte of a verified sink, in order."""
        if not self._request.observers:
            return
        for chunk in readback.chunks(sink, 0, size, self._ctx):
            self.observe(bytes(chunk))


class _Tap:
    """Passes bytes on to the observers of a landing."""

    def __init__(self, landing: Landing) -> None:
        self._landing = landing

    def update(self, data: bytes) -> None:
        self._landing.observe(data)


def _size(path: str) -> int:
    with oserrors.os_errors(f'looking at {path}'):
        return os.lstat(path).st_size
