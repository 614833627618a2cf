# SPDX-License-Identifier: Apache-2.0
"""The images that the service has open, each once for all who read it."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import typing

from oslo_transfer.cache import hydrate
from oslo_transfer.cache import image as _image
from oslo_transfer.cache import opts
from oslo_transfer.cache import store as _store
from oslo_transfer.cache import trace as _trace
from oslo_transfer.cache import version as _version
from oslo_transfer import call as _call
from oslo_transfer import digest as _digest
from oslo_transfer.drivers import base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import opening

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.service import cached

LOG = logging.getLogger(__name__)


class Shared:
    """An image, and who uses it.

    :ivar image: to be read
    :ivar key: its name in the store
    :ivar recorder: notes what is read first
    :ivar users: how many exports it has
    :ivar hydration: brings the rest; None before that was asked for
    """

    def __init__(
        self,
        key: str,
        image: _image.CachedImage,
        recorder: _trace.Recorder,
        path: str,
        kept: _trace.Trace,
        unused: list[base.Source],
    ) -> None:
        self.key = key
        self.image = image
        self.recorder = recorder
        self.users = 1
        self.hydration: hydrate.Hydration | None = None
        self._unused = unused
        # Before anybody reads it.
        self._was_here = image.blocks.present > 0
        self._path = path
        self._saved = kept
        self._lock = threading.Lock()

    @property
    def hydrated(self) -> bool:
        """Whether all of it is here, and right."""
        found = self.hydration
        return found is not None and found.state == hydrate.VERIFIED

    @property
    def here(self) -> int:
        """Bytes of it that are on this host."""
        blocks = self.image.blocks
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
                self.image.blocks.stays = True
                self.hydration = self.image.hydrate(
                    delay=delay, rate=rate, expected=expected
                )

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
    """

    def __init__(
        self,
        call: _call.Call,
        ctx: _context.Context,
        store: _store.Store,
        traces: str,
    ) -> None:
        self._call = call
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
        source = opening.alone(self._end(record), self._ctx)
        try:
            size = _version.size_of(source, record.where, record.digest)
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
            if shared is not None:
                shared.users += 1
            else:
                first = [source] if source is not None else []
                source = None
                shared = self._open[key] = self._make(key, end, record, first)
        if source is not None:
            source.close()
        return shared

    def _make(
        self,
        key: str,
        end: ends.LocationEnd,
        record: cached.Record,
        first: list[base.Source],
    ) -> Shared:
        def open_source(ctx: _context.Context) -> base.Source:
            return first.pop() if first else opening.alone(end, ctx)

        group = self._call.conf[opts.GROUP]
        path = self._trace_path(end)
        blocks = self._store.open(key, record.size, record.identity)
        try:
            recorder = _trace.Recorder(
                record.size, blocks.block_bytes, group.trace_seconds
            )
            image = _image.CachedImage(
                blocks,
                open_source,
                self._ctx,
                streams=group.streams,
                validator=record.version,
                on_touch=recorder.touch,
            )
        except BaseException:
            self._store.release(key)
            raise
        kept = _load(path)
        shared = Shared(key, image, recorder, path, kept, first)
        if kept.touches:
            image.prefetch(
                kept.plan(image.size, blocks.block_bytes),
                group.prefetch_bytes_per_second or None,
            )
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

    def release(self, shared: Shared) -> None:
        """One uses it no more; the last one closes it."""
        with self._lock:
            shared.users -= 1
            if shared.users:
                return
            del self._open[shared.key]
            shared.close()
            self._store.release(shared.key)

    def take(self, shared: Shared) -> bool:
        """Have the store forget an image that only one uses.

        Its data file is the caller's then; it stays open.

        :returns: False if others use it, too
        """
        with self._lock:
            if shared.users > 1:
                return False
            self._store.take(shared.key)
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
