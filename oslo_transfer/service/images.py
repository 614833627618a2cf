# SPDX-License-Identifier: Apache-2.0
"""The images that the service has open, each once for all who read it."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import logging
import os
import threading
import typing

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import hydrate
from oslo_transfer.cache import image as _image
from oslo_transfer.cache import opts
from oslo_transfer.cache import origin as _origin
from oslo_transfer.cache import store as _store
from oslo_transfer.cache import trace as _trace
from oslo_transfer.cache import version as _version
from oslo_transfer import call as _call
from oslo_transfer import digest as _digest
from oslo_transfer.drivers import base
from oslo_transfer import ends
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.service import cached

LOG = logging.getLogger(__name__)

#: Opens a location; of several ways to it, one that has this version.
Opener = Callable[
    [ends.LocationEnd, '_context.Context', base.Validator | None], base.Source
]


# Bytes of an image that a boot may read all of.
_SMALL = 256 << 20


class Shared:
    """An image, and who uses it.

    :param key: its name in the store
    :param blocks: what is here of it
    :param path: where its trace is kept
    :param ctx: the limits of what is fetched
    :param opener: opens its location
    :ivar image: to be read; made by :meth:`begin`
    :ivar recorder: notes what is read first
    :ivar ends: its location as each of its users has named it, by export
    :ivar hydration: brings the rest; None before that was asked for
    :ivar taken: it has left the store
    """

    image: _image.CachedImage

    def __init__(
        self,
        key: str,
        blocks: _blocks.Blocks,
        path: str,
        ctx: _context.Context,
        opener: Opener,
    ) -> None:
        self.key = key
        self.blocks = blocks
        self.recorder = _trace.Recorder(
            blocks.size,
            blocks.block_bytes,
            ctx.conf[opts.GROUP].trace_seconds,
        )
        self.ends: dict[str, ends.LocationEnd] = {}
        self.hydration: hydrate.Hydration | None = None
        self.taken = False
        self._ctx = ctx
        self._opener = opener
        self._version: base.Validator | None = None
        self._unused: list[base.Source] = []
        self._rate: int | None = None
        self._expected: _digest.Expected | None = None
        # Who reads most of a large one copies it: that tells of no boot.
        self._most_hot = max(_SMALL, blocks.size // 2)
        # Before anybody reads it.
        self._was_here = blocks.present > 0
        self._path = path
        self._saved = _load(path)
        self._lock = threading.Lock()

    def begin(self, record: cached.Record, source: base.Source | None) -> None:
        """Open the image for its first user.

        :param source: what is open of the origin, and is taken over
        """
        group = self._ctx.conf[opts.GROUP]
        self._version = record.version
        if source is not None:
            self._unused.append(source)
        self.image = _image.CachedImage(
            self.blocks,
            self._open_source,
            self._ctx,
            streams=group.streams,
            validator=record.version,
            on_touch=self.recorder.touch,
        )
        if self._saved.touches:
            self.image.prefetch(
                self._saved.plan(self.blocks.size, self.blocks.block_bytes),
                group.prefetch_bytes_per_second or None,
            )

    def _open_source(self, ctx: _context.Context) -> base.Source:
        """Open the origin as any of the users who may still read it."""
        if self._unused:
            return self._unused.pop()
        refused: exceptions.TransferError | None = None
        # Those who came last first: what proved who they are is the newest.
        for end in reversed(list(self.ends.values())):
            try:
                return self._opener(end, ctx, self._version)
            except exceptions.TransferError as exc:
                if not _origin.is_refusal(exc):
                    raise
                refused = exc
        raise refused or exceptions.TransferCancelled('nobody reads it')

    @property
    def whole(self) -> bool:
        """Whether no block is missing."""
        return self.blocks.present == self.blocks.count

    @property
    def damaged(self) -> bool:
        """Whether it has not the digest that it should have."""
        found = self.hydration
        return found is not None and found.state == hydrate.DAMAGED

    @property
    def hydrated(self) -> bool:
        """Whether all of it is here, and right."""
        found = self.hydration
        return found is not None and found.state == hydrate.VERIFIED

    @property
    def here(self) -> int:
        """Bytes of it that are on this host."""
        blocks = self.blocks
        return min(blocks.present * blocks.block_bytes, blocks.size)

    def hydrate(
        self, delay: float, rate: int | None, expected: _digest.Expected | None
    ) -> None:
        """Have the rest brought, if that is not done already.

        For the arguments see :meth:`~.image.CachedImage.hydrate`.
        """
        with self._lock:
            if self.hydration is None:
                # What was fetched for that is not to be let go of again.
                self.blocks.stays = True
                self._rate, self._expected = rate, expected
                self.hydration = self.image.hydrate(
                    delay=delay, rate=rate, expected=expected
                )

    def hydrate_again(self) -> None:
        """Something has turned out to be damaged since."""
        with self._lock:
            self.hydration = self.image.hydrate(
                rate=self._rate, expected=self._expected
            )

    def trace(self) -> _trace.Trace:
        """What the next who reads it will have brought; is kept, too."""
        self.save_trace()
        return self._saved

    def hot(self) -> bytearray:
        """A byte for each block: 1 where it is of the trace."""
        size = self.blocks.block_bytes
        found = self.recorder.seen()
        if found.count(1) * size > self._most_hot:
            found = bytearray(len(found))
        for touch in self._saved.clipped(self.blocks.size).touches:
            first = touch.offset // size
            end = -(-(touch.offset + touch.length) // size)
            found[first:end] = b'\1' * (end - first)
        return found

    def close(self) -> None:
        """End all reading, and keep the trace; never raises."""
        self.save_trace()
        self.image.close()
        for source in self._unused:
            source.close()

    def save_trace(self) -> None:
        """Keep what was noted for the next reader; never raises."""
        with self._lock:
            noted = self.recorder.trace()
            if noted == self._saved:
                return
            new, old = _bytes(noted), _bytes(self._saved)
            if new > self._most_hot:
                return
            # A mere look at an image is not to replace what a boot has read,
            # nor what a guest reads later on, when the service was started
            # again.
            if 2 * new < old or (self._was_here and old and new < 2 * old):
                return
            try:
                noted.save(self._path, 'image')
                self._saved = noted
            except exceptions.TransferError as exc:
                LOG.warning('the trace of an image is not kept: %s', exc)


class Images:
    """The open images. Thread-safe.

    :param call: with the options and the drivers
    :param ctx: the limits of all that is fetched
    :param store: where blocks are; closed with it
    :param traces: the directory of traces
    :param opener: opens the locations
    :param empty: whether images without a byte are served, too
    """

    def __init__(
        self,
        call: _call.Call,
        ctx: _context.Context,
        store: _store.Store,
        traces: str,
        opener: Opener,
        *,
        empty: bool = False,
    ) -> None:
        self._call = call
        self._empty = empty
        self._opener = opener
        # What nobody asked for is not to be sent.
        self._ctx = ctx.replace(piecemeal=True)
        self._store = store
        self._traces = traces
        self._lock = threading.Lock()
        self._open: dict[str, Shared] = {}

    def find(self, record: cached.Record) -> tuple[cached.Record, base.Source]:
        """Open the origin, as the one who asks.

        :returns: the record with the size and version that it has, and what
            was opened
        :raises CapabilityMissing: it cannot be read in blocks
        :raises TransferError: it cannot be opened
        """
        source = self._opener(self._end(record), self._ctx, None)
        try:
            size = _version.size_of(
                source, record.where, record.digest, empty=self._empty
            )
        except BaseException:
            source.close()
            raise
        found = source.validator
        return dataclasses.replace(
            record,
            size=size,
            validator=found.value if found else None,
            strong=found.strong if found else False,
        ), source

    def _end(self, record: cached.Record) -> ends.LocationEnd:
        return ends.end_of(record.location, self._call.driver)

    def acquire(
        self, record: cached.Record, source: base.Source | None = None
    ) -> Shared:
        """Have an image open; the origin is opened when it is needed.

        :param source: one that is open already, and taken over
        :raises TransferError: the store cannot be used
        """
        end = self._end(record)
        key = _version.key(end.identity, record.identity)
        with self._lock:
            shared = self._open.get(key)
            if shared is not None and shared.damaged:
                raise exceptions.IntegrityError(
                    f'{record.where}: what is here of it has not the digest '
                    f'{record.digest}; detach who reads it, and try again'
                )
            if shared is None:
                blocks = self._store.open(key, record.size, record.identity)
                shared = Shared(
                    key,
                    blocks,
                    self._trace_path(end),
                    self._ctx,
                    self._opener,
                )
                shared.ends[record.id] = end
                shared.begin(record, source)
                source = None
                self._open[key] = shared
            # Those who came last are at the end.
            shared.ends.pop(record.id, None)
            shared.ends[record.id] = end
        if source is not None:
            source.close()
        return shared

    def _trace_path(self, end: ends.LocationEnd) -> str:
        # Also for another version of it.
        name = _version.key(end.identity, b'')
        return os.path.join(self._traces, f'{name}.iolog')

    def trace(self, record: cached.Record) -> _trace.Trace:
        """What the next who reads an image will have brought.

        :raises NotFound: nothing was noted yet
        :raises TransferError: it cannot be read
        """
        end = self._end(record)
        with self._lock:
            shared = self._open.get(
                _version.key(end.identity, record.identity)
            )
        if shared is not None:
            shared.save_trace()
        try:
            return _trace.Trace.load(self._trace_path(end))
        except exceptions.NotFound:
            raise exceptions.NotFound(
                f'nobody has noted yet what is read of {record.where}'
            ) from None

    def release(self, shared: Shared, record: cached.Record) -> None:
        """One uses it no more; the last one closes it."""
        with self._lock:
            shared.ends.pop(record.id, None)
            if shared.ends:
                return
            if self._open.get(shared.key) is shared:
                del self._open[shared.key]
        shared.close()
        shared.blocks.close()
        # Nobody would find what belongs to one export alone, nor want what
        # is wrong.
        if not shared.taken and (
            shared.damaged or not (record.validator or record.digest)
        ):
            self._store.discard(shared.key)

    @property
    def taken(self) -> str:
        """A directory for what was taken out of the store."""
        return self._store.taken

    def is_shared(self, shared: Shared) -> bool:
        """Whether it has several users."""
        return len(shared.ends) > 1

    def take(self, shared: Shared, path: str) -> bool:
        """Have the store forget an image that only one uses.

        :param path: what its data file is then; it stays open
        :returns: False if others use it, too, or something is missing
        :raises TransferError: it cannot be renamed
        """
        with self._lock:
            if self.is_shared(shared) or not shared.whole:
                return False
            self._store.take(shared.key, path)
            shared.taken = True
            # The next one begins with nothing.
            del self._open[shared.key]
            return True

    def all(self) -> list[Shared]:
        """What is open now."""
        with self._lock:
            return list(self._open.values())


def _load(path: str) -> _trace.Trace:
    """What an earlier reader has needed; nothing where that is not known."""
    try:
        return _trace.Trace.load(path)
    except exceptions.NotFound:
        pass
    except exceptions.TransferError as exc:
        LOG.warning('the trace %s is of no use: %s', path, exc)
    return _trace.Trace()


def _bytes(trace: _trace.Trace) -> int:
    return sum(touch.length for touch in trace.touches)
