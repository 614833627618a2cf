# SPDX-License-Identifier: Apache-2.0
"""A destination, from the first look at it to its commit.

Whatever strategy brings the bytes: one flight per destination, nothing
visible before it is verified, durable before it is visible.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import stat
import typing

from oslo_transfer import context as _context
from oslo_transfer import digest as _digest
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import flight as _flight
from oslo_transfer import journal as _journal
from oslo_transfer import oserrors
from oslo_transfer import ranges

if typing.TYPE_CHECKING:
    from oslo_transfer import request as _request

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
        #: Digest of a destination that matched already; no copy is needed.
        self.reused: str | None = None
        #: The size of what was there.
        self.reused_size = 0

    def __enter__(self) -> typing.Self:
        path = self._request.destination.local_path
        if path is None:
            return self
        device = _flight.is_device(path)
        if not device and self._look(path):
            return self
        self._flight = _flight.Flight(path, self._ctx)
        try:
            if not device:
                self._look_again(path, self._flight)
                if self.reused is None:
                    self._announce()
        except BaseException:
            self.__exit__()
            raise
        return self

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
            self.reused = str(expected)
            self.reused_size = found.st_size
            return True
        if not self._request.overwrite:
            raise exceptions.AlreadyExists(
                f'{path} exists; ask for overwriting it, or name another '
                f'destination'
            )
        return False

    def _look_again(self, path: str, flight: _flight.Flight) -> None:
        """Look after waiting for the lock: it may have been completed."""
        landed = flight.landed
        if landed is None:
            self._look(path)
            return
        ours = [
            self.identity(end.identity, None, None)
            for end in self._request.sources
        ]
        if any(each.same_data(landed) for each in ours):
            # The file is the one that we waited for: it was verified
            # under our own digest, or is what our location gives.
            self.reused = landed.digest or ''
            self.reused_size = os.lstat(path).st_size
        else:
            self._look(path)

    def _hash_file(self, path: str, expected: _digest.Expected) -> str:
        with (
            oserrors.os_errors(f'reading {path}'),
            open(path, 'rb', buffering=0) as file,
        ):
            state = _digest.new(expected.algorithm)
            buffer = memoryview(bytearray(_READ))
            while count := file.readinto(buffer):
                self._ctx.check()
                state.update(buffer[:count])
            return str(state.hexdigest())

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

    @property
    def held_hint(self) -> int:
        """Where an earlier copy probably stopped, in bytes."""
        record = self._record()
        return record.held.frontier() if record else 0

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
            held = record.held
        journal = _journal.Journal(path, self._flight.inode, identity, record)
        # Before the bytes change that the earlier note speaks of.
        journal.save(held, held, durable=record is not None)
        return journal, held

    def _announce(self) -> None:
        """Tell whoever waits for the lock what is being copied."""
        path = self._journal_path()
        if path is None or self._record() or self._flight is None:
            return
        nothing = ranges.RangeSet()
        journal = _journal.Journal(
            path,
            self._flight.inode,
            self.identity(self._request.sources[0].identity, None, None),
            None,
        )
        journal.save(nothing, nothing)
        journal.close()

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
        for chunk in self._chunks(sink, size):
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

    def show(self, sink: base.Sink, size: int) -> None:
        """Let the observers see each byte of a verified sink, in order."""
        observers = self._request.observers
        if not observers:
            return
        for chunk in self._chunks(sink, size):
            data = bytes(chunk)
            for observer in observers:
                observer.update(data)

    def _chunks(self, sink: base.Sink, size: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(_READ))
        offset = 0
        while offset < size:
            self._ctx.check()
            most = min(_READ, size - offset)
            count = sink.pread(buffer[:most], offset)
            if count == 0:
                # The rest of a file that ends in a hole.
                count = most
                buffer[:count] = bytes(count)
            yield buffer[:count]
            offset += count
