# SPDX-License-Identifier: Apache-2.0
"""Reading files of an SFTP server."""

from __future__ import annotations

import threading
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


# No file system has larger files: offsets have a sign.
_MAX_SIZE = (1 << 63) - 1
# Seconds for a read to notice that its stream was closed.
_PATIENCE = 0.5


class _Open(typing.NamedTuple):
    """An open file of a session."""

    session: _session.Session
    handle: bytes


class SFTPSource(base.Source):
    """A file behind an sftp URL.

    All streams share one connection, for one thread decrypts whatever the
    number of connections. A stream connects again where the connection is
    gone.
    """

    capabilities = base.Capability.READ | base.Capability.RANDOM_READ
    geometry = base.Geometry(max_streams=1)

    def __init__(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> None:
        self._endpoint = endpoint
        self._where = str(endpoint)
        self._ctx = ctx
        self._path = remote.path_of(endpoint)
        self._lock = threading.Lock()
        self._closed = False
        self._open: _Open | None = None
        self._version = protocol.Attributes()
        opened = self._connect()
        self.size = self._version.size
        if self._version.mtime is not None:
            # Two changes within a second look the same.
            self.validator = base.Validator(
                f'{self.size}/{self._version.mtime}', False
            )
        self._open = opened

    def _connect(self) -> _Open:
        """Connect and open the file; notes its version the first time."""
        session = connect.connect(self._endpoint, self._ctx)
        try:
            files = remote.Files(session, self._waiter())
            # Before it is opened: opening a pipe may wait for its writer.
            files.check_regular(files.stat(self._path))
            handle = files.open(self._path, protocol.Open.READ)
            found = files.fstat(handle)
            files.check_regular(found)
            if found.size is None or found.size > _MAX_SIZE:
                raise exceptions.ProtocolError(
                    f'{self._where}: the server says that its size is '
                    f'{found.size}'
                )
            if self._version.size is None:
                self._version = found
            self.check_version(found)
        except BaseException:
            session.close()
            raise
        return _Open(session, handle)

    def _waiter(self) -> _session.Waiter:
        return _session.Waiter(self._ctx, self._where)

    def check_version(self, found: protocol.Attributes) -> None:
        """Compare the file with what was opened.

        :raises SourceChanged: it is another one
        """
        was = self._version
        if (found.size, found.mtime) != (was.size, was.mtime):
            raise exceptions.SourceChanged(
                f'{self._where}: it had {was.size} bytes of {was.mtime} and '
                f'has {found.size} of {found.mtime} now (seconds since 1970)'
            )

    def stream(self, offset: int, length: int | None) -> SFTPStream:
        """Read from the open file; blocks for one round trip."""
        assert self.size is not None
        end = self.size if length is None else offset + length
        if not 0 <= offset <= end <= self.size:
            raise exceptions.SourceChanged(
                f'{self._where} has {self.size} bytes; {offset}..{end} were '
                f'asked for'
            )
        session, handle = self._live()
        files = remote.Files(session, self._waiter())
        return SFTPStream(self, files, handle, offset, end - offset)

    def _live(self) -> _Open:
        """The open file, on a new connection if the old one is gone."""
        with self._lock:
            if self._closed:
                raise exceptions.TransferCancelled(
                    f'{self._where}: the source was closed'
                )
            if self._open is not None and not self._open.session.alive:
                self._open.session.close()
                self._open = None
            if self._open is None:
                self._open = self._connect()
                if self._closed:
                    self._open.session.close()
            return self._open

    def close(self) -> None:
        """End the connection."""
        self._closed = True
        opened = self._open
        if opened is not None:
            opened.session.close()


class SFTPStream(base.Stream):
    """A run of bytes, asked for ahead."""

    def __init__(
        self,
        source: SFTPSource,
        files: remote.Files,
        handle: bytes,
        offset: int,
        length: int,
    ) -> None:
        super().__init__()
        self._source = source
        self._files = files
        self._handle = handle
        self._end = offset + length
        # Closing waits for a read that it has woken up.
        self._reading = threading.Lock()
        self._last: list[_session.Request] | None = None
        version = self._ask_version()
        self._reads = pipeline.Reads(files, handle, offset, length)
        self._reads.fill()
        self._check_version(version)

    def _ask_version(self) -> _session.Request:
        return self._files.session.submit(
            self._files.waiter,
            protocol.Type.FSTAT,
            protocol.string(self._handle),
        )

    def _check_version(self, request: _session.Request) -> None:
        reply = self._files.session.reply(request, self._files.waiter)
        self._source.check_version(self._files.attributes(reply))

    @property
    def waited(self) -> float:  # type: ignore[override]
        """Seconds spent waiting for the server."""
        return self._files.waiter.waited

    def readinto(self, buffer: typing.Any) -> int:
        """Copy what has come, at least one byte."""
        view = memoryview(buffer).cast('B')
        with self._reading:
            self._files.waiter.check()
            count = self._reads.read_into(view)
            if self._last is None and self._reads.all_asked:
                # Behind the last reads, so that there is nothing to wait
                # for at the end.
                self._last = [self._ask_version(), self._ask_beyond()]
            # With the last bytes: not everybody reads on to the end.
            if view and self._reads.finished:
                self._check_end()
        return count

    def _ask_beyond(self) -> _session.Request:
        """Ask for a byte more: there has to be none behind the size."""
        return self._reads.ask(self._end, 1)

    def _check_end(self) -> None:
        """See that the run is one of the version that was opened."""
        if not self._last:
            return
        version, beyond = self._last
        self._check_version(version)
        self._files.session.wait(beyond, self._files.waiter)
        if self._end == self._source.size and beyond.received:
            raise exceptions.SourceChanged(
                f'{self._files.session.where}: it is longer than the server '
                f'says'
            )
        self._last = []

    def close(self) -> None:
        """Drop what was asked for; ends a read in another thread."""
        self._files.waiter.close()
        if self._reading.acquire(timeout=_PATIENCE):
            self._reads.drop()
            self._reading.release()
        super().close()
