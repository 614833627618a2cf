# SPDX-License-Identifier: Apache-2.0
"""Writing files of an SFTP server: beside the target, then renamed."""

from __future__ import annotations

import contextlib
import logging
import posixpath
import secrets
import threading
import time
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.sftp import connect
from oslo_transfer.drivers.sftp import pipeline
from oslo_transfer.drivers.sftp import protocol
from oslo_transfer.drivers.sftp import remote
from oslo_transfer.drivers.sftp import session as _session
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint

LOG = logging.getLogger(__name__)

# Seconds that cleaning up after a failure may take.
_CLEAN_UP = 2.0
# So that the temporary name is not longer than file systems allow.
_NAME_BYTES = 200


class SFTPSink(base.Sink):
    """Writes a temporary file and renames it when it is complete.

    :param size: bytes that will be written, None if unknown
    :param overwrite: what is there may be replaced
    """

    capabilities = (
        base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.ATOMIC
        | base.Capability.READBACK
    )
    zeroed = True

    def __init__(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        size: int | None,
        overwrite: bool,
    ) -> None:
        self._endpoint = endpoint
        self._where = str(endpoint)
        self._ctx = ctx
        self._size = size
        self._overwrite = overwrite
        self._path = remote.path_of(endpoint)
        folder, name = posixpath.split(self._path)
        self._folder = folder or b'.'
        self._part = posixpath.join(
            folder,
            b'.%s.oslo-part-%s'
            % (name[:_NAME_BYTES], secrets.token_hex(6).encode()),
        )
        self._lock = threading.Lock()
        self._ended = False
        self._created = False
        session = connect.connect(endpoint, ctx)
        self._files = remote.Files(session, _session.Waiter(ctx, self._where))
        try:
            self._handle = self._create()
        except BaseException:
            self.abort(keep=False)
            raise
        self._writes = pipeline.Writes(self._files, self._handle)

    def _create(self) -> bytes:
        files = self._files
        mode = self._check_target()
        if self._size:
            free = files.free(self._folder)
            if free is not None and free < self._size:
                raise exceptions.NoSpace(
                    f'{self._where}: {free} bytes are free, '
                    f'{self._size} are needed'
                )
        handle = files.open(
            self._part,
            protocol.Open.READ
            | protocol.Open.WRITE
            | protocol.Open.CREAT
            | protocol.Open.EXCL,
            protocol.Attributes(mode=mode),
        )
        self._created = True
        if self._size:
            # So that what was not written yet reads as zeros.
            files.set_size(handle, self._size)
        return handle

    def _check_target(self) -> int | None:
        """See what has the name; returns the mode to keep."""
        try:
            found = self._files.stat(self._path)
        except exceptions.NotFound:
            return None
        if not self._overwrite:
            raise exceptions.AlreadyExists(f'{self._where} exists')
        self._files.check_regular(found)
        return found.mode

    def _check_open(self) -> None:
        if self._ended:
            raise exceptions.TransferCancelled(
                f'{self._where}: the upload has ended'
            )

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Send it; an error may show by a later call."""
        self._check_open()
        self._files.waiter.check()
        with self._explained():
            self._writes.write(buffer, offset)

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Read what was written; waits for the writes first."""
        self._check_open()
        with self._explained():
            self._writes.flush()
            size = self._files.fstat(self._handle).size or 0
        length = min(len(buffer), max(0, size - offset))
        reads = pipeline.Reads(self._files, self._handle, offset, length)
        reads.fill()
        done = 0
        while done < length:
            done += reads.read_into(buffer[done:length])
        return done

    def sync(self) -> None:
        """Wait for all writes, and for the server's disk if it can."""
        self._check_open()
        with self._explained():
            self._writes.flush()
            self._files.extended(b'fsync@openssh.com', self._handle)

    @contextlib.contextmanager
    def _explained(self) -> typing.Iterator[None]:
        """Tell a full disk from other failures: version 3 does not."""
        try:
            yield
        except exceptions.StorageError as exc:
            free = None
            with contextlib.suppress(exceptions.TransferError):
                free = self._files.free(self._folder)
            if free is not None and free < pipeline.WINDOW:
                raise exceptions.NoSpace(f'{exc}; the disk is full') from exc
            raise

    def commit(self, size: int) -> None:
        """Make it durable, and give it the name."""
        self._check_open()
        files = self._files
        with self._explained():
            self._writes.flush()
            if size != self._size:
                files.set_size(self._handle, size)
        self.sync()
        found = files.fstat(self._handle).size
        if found != size:
            raise exceptions.SizeMismatch(size, found or 0, self._where)
        files.close(self._handle)
        if self._overwrite:
            self._replace()
        else:
            self._take_name()
        self._ended = True
        files.session.close()

    def _replace(self) -> None:
        files = self._files
        if files.extended(b'posix-rename@openssh.com', self._part, self._path):
            return
        # Without it the name is free for a moment.
        with contextlib.suppress(exceptions.NotFound):
            files.remove(self._path)
        files.rename(self._part, self._path)

    def _take_name(self) -> None:
        files = self._files
        try:
            files.rename(self._part, self._path)
        except exceptions.StorageError as exc:
            # Version 3 has no word for it.
            with contextlib.suppress(exceptions.NotFound):
                files.lstat(self._path)
                raise exceptions.AlreadyExists(
                    f'{self._where} has come into being meanwhile'
                ) from exc
            raise

    def abort(self, keep: bool) -> None:
        """Remove the temporary file, if the server can be reached."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._files.waiter.close()
        if self._created:
            try:
                self._clean_up()
            except exceptions.TransferError as exc:
                LOG.warning(
                    '%s: the temporary file %s may be left (%s)',
                    self._where,
                    posixpath.basename(self._part).decode('utf-8', 'replace'),
                    exc,
                )
        self._files.session.close()

    def _clean_up(self) -> None:
        ctx = self._ctx.replace(
            cancel=None,
            stop=threading.Event(),
            deadline=time.monotonic() + _CLEAN_UP,
        )
        waiter = _session.Waiter(ctx, self._where)
        session = self._files.session
        if not session.alive:
            session.close()
            session = connect.connect(self._endpoint, ctx)
        files = remote.Files(session, waiter)
        try:
            files.remove(self._part)
        finally:
            session.close()
