# SPDX-License-Identifier: Apache-2.0
"""The engine dd: has dd(1) copy what is attached to this host."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers import blockdev
from oslo_transfer.drivers import dd_slices
from oslo_transfer.drivers import dd_watch
from oslo_transfer.drivers import file
from oslo_transfer.drivers import nbdfuse
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers import target as _target

LOG = logging.getLogger(__name__)

# Seconds that a fill has to end, which looks up every 0.2 of them.
_PATIENCE = 8.0
# Seconds that closing a file may take that was only read.
_CLOSING = 1.0


class DdSource(base.Source):
    """What is attached: read like a file, or copied by dd(1).

    A device, a file, or an NBD export, which nbdfuse(1) makes a file of.

    :param attachment: owned only once this has returned
    :param ctx: the limits
    :param on_close: called once, when nothing uses the attachment any more;
        takes it away
    :param check: called when all was copied; raises if what is attached is
        not what it was
    :raises NotFound: there is nothing at the attachment's path
    :raises SourceChanged: it has another size than the attachment says
    :raises CapabilityMissing: nbdfuse(1) is needed, and is missing
    :raises TransferError: it cannot be opened
    """

    #: Also a device can be the target of :meth:`fill`.
    fills_devices = True

    def __init__(
        self,
        attachment: base.Attachment,
        ctx: _context.Context,
        on_close: Callable[[], object] = lambda: None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self._ctx = ctx
        self._where = attachment.source
        self._check = check
        self._closed = threading.Event()
        self._lock = threading.Lock()
        # Held by a fill for as long as it works.
        self._idle = threading.Lock()
        self._mount: nbdfuse.Mount | None = None
        # nbdfuse gave no answer, and was ended.
        self._hangs = False
        with contextlib.ExitStack() as stack:
            path = attachment.path
            if attachment.form == 'nbd':
                self._mount = stack.enter_context(nbdfuse.mounted(path, ctx))
                path = self._mount.path
            opener = blockdev.opener_of(attachment, ctx.conf)
            self._file = stack.enter_context(
                file.FileSource(path, ctx, opener)
            )
            if attachment.size not in (None, self._file.size):
                raise exceptions.SourceChanged(
                    f'{self._where}: {path} has {self._file.size} bytes, '
                    f'{attachment.size} when it was attached'
                )
            self._stack = stack.pop_all()
        self._on_close: Callable[[], object] | None = on_close
        self.size = self._file.size
        self.validator = self._file.validator
        self.geometry = self._file.geometry
        self.capabilities = self._file.capabilities | base.Capability.FILL

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """Read a run of bytes, without dd."""
        found = self._file.stream(offset, length)
        return found if self._mount is None else _MountStream(found, self)

    def extents(
        self, offset: int, length: int
    ) -> Iterator[base.Extent] | None:
        """Holes and data, where the file system tells them."""
        return self._file.extents(offset, length)

    def fill(self, target: _target.Target) -> None:
        """Have dd(1) copy it in slices.

        Blocks until all is in place; each wait ends within a second.

        :raises CapabilityMissing: dd(1) is missing, or is not GNU's
        :raises Unavailable: the source cannot be read any more; what has
            arrived can be gone on with
        :raises SourceChanged: the source has become shorter
        :raises Stalled: too little was read for too long
        :raises NoSpace: nothing more fits
        :raises StorageError: the target cannot be written
        :raises TransferCancelled: the context says stop, or the source was
            closed
        :raises IntegrityError: something else was attached meanwhile
        """
        with self._idle:
            with self.watched() as watch:
                dd_slices.Filling(
                    self._file,
                    self._where,
                    target,
                    self._ctx,
                    self._closed,
                    self._abort,
                    watch.beat,
                ).run()
            try:
                self._check()
            except exceptions.AttachError as exc:
                raise exceptions.IntegrityError(str(exc)) from exc

    @contextlib.contextmanager
    def watched(self) -> Iterator[dd_watch.Watch]:
        """Keep the limits of the call where the kernel does not.

        :raises Stalled: nothing was read for too long
        :raises TransferCancelled: or DeadlineExceeded, before that
        """
        seconds = self._ctx.stall.seconds
        watch = dd_watch.Watch(seconds, self._abort, self._is_over)
        with watch:
            try:
                yield watch
            except exceptions.TransferError as exc:
                self._hangs |= watch.fired
                if not self._hangs:
                    raise
                # What it has met comes of the abort.
                self._ctx.check()
                raise exceptions.Stalled(
                    f'{self._where}: nothing was read for {seconds:g} seconds'
                ) from exc

    def _is_over(self) -> bool:
        try:
            self._ctx.check()
        except exceptions.TransferError:
            return True
        return self._closed.is_set()

    def _abort(self) -> None:
        if self._mount is not None:
            self._mount.kill()

    def close(self) -> None:
        """End what runs, and let the attachment go."""
        self._closed.set()
        if not self._idle.acquire(timeout=_PATIENCE):
            LOG.warning('%s: dd does not end', self._where)
        else:
            self._idle.release()
        with self._lock:
            on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        try:
            with dd_watch.Watch(_CLOSING, self._abort):
                self._stack.close()
            on_close()
        except exceptions.TransferError as exc:
            LOG.warning('%s is still attached: %s', self._where, exc)


class _MountStream(base.Stream):
    """A run of what nbdfuse(1) serves."""

    def __init__(self, stream: base.Stream, source: DdSource) -> None:
        super().__init__()
        self._stream = stream
        self._source = source

    def readinto(self, buffer: typing.Any) -> int:
        """Read at least one byte."""
        with self._source.watched():
            try:
                return self._stream.readinto(buffer)
            except exceptions.StorageError as exc:
                # It is not our storage.
                raise exceptions.Unavailable(str(exc)) from exc

    def close(self) -> None:
        """Close it."""
        self._stream.close()
        super().close()
