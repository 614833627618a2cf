# SPDX-License-Identifier: Apache-2.0
"""Files of an export that is mounted for as long as they are open."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import logging
import os
import secrets
import stat
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers import file
from oslo_transfer.drivers import file_sink
from oslo_transfer import exceptions
from oslo_transfer import flight

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

LOG = logging.getLogger(__name__)

# So that the temporary name is not longer than file systems allow.
_NAME_BYTES = 200
_SILENT = (errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH)


class NFSSource(file.FileSource):
    """A file of a server; its mount ends with it.

    :param attachment: recorded, and nobody else's
    """

    def __init__(
        self, attachment: base.Attachment, ctx: _context.Context
    ) -> None:
        self._attachment = attachment
        try:
            with server_errors(attachment.source):
                super().__init__(attachment.path, ctx, _open)
        except BaseException:
            detach(attachment)
            raise

    def version(self, found: os.stat_result) -> str:
        """Without the device, which is another at each mount."""
        return f'{found.st_ino}:{found.st_size}:{found.st_mtime_ns}'

    def stream(self, offset: int, length: int | None) -> NFSStream:
        """Read a run of bytes."""
        super().stream(offset, length).close()
        assert self.size is not None
        end = self.size if length is None else offset + length
        return NFSStream(self, offset, end)

    def close(self) -> None:
        """Close the file, and unmount it; idempotent."""
        super().close()
        detach(self._attachment)


class NFSStream(file.FileStream):
    """A run of bytes of a file of a server."""

    def readinto(self, buffer: typing.Any) -> int:
        """Read; blocks for as long as the mount waits for its server."""
        with server_errors(self._source.path):
            return super().readinto(buffer)


class NFSSink(file_sink.FileSink):
    """A file beside the target that is renamed; its mount ends with it.

    :param attachment: recorded, and nobody else's
    """

    # Its name tells nobody else, on whichever host, what to go on with.
    capabilities = file_sink.FileSink.capabilities & ~base.Capability.RESUME

    def __init__(
        self,
        attachment: base.Attachment,
        *,
        size: int | None,
        overwrite: bool,
        preallocate: bool,
    ) -> None:
        self._attachment = attachment
        path = attachment.path
        try:
            with server_errors(attachment.source):
                _check_target(path, attachment.source, overwrite)
                super().__init__(
                    path,
                    size=size,
                    resume=False,
                    overwrite=overwrite,
                    preallocate=preallocate,
                    part=_part(path),
                )
        except BaseException:
            detach(attachment)
            raise

    def commit(self, size: int) -> None:
        """Give the file its name, and unmount it."""
        super().commit(size)
        detach(self._attachment)

    def abort(self, keep: bool) -> None:
        """Remove what was written, and unmount; idempotent."""
        if self.fd is not None and not flight.same_file(self.fd, self._path):
            with contextlib.suppress(OSError):
                os.unlink(self._part)
        super().abort(True)
        detach(self._attachment)


def _open(path: str, flags: int) -> int:
    # A server could name any file of this host by a symbolic link.
    return os.open(path, flags | os.O_NOFOLLOW)


def _part(path: str) -> str:
    folder, name = os.path.split(path)
    short = os.fsdecode(os.fsencode(name)[:_NAME_BYTES])
    return os.path.join(folder, f'.{short}.oslo-part-{secrets.token_hex(6)}')


def _check_target(path: str, where: str, overwrite: bool) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise exceptions.InvalidEndpoint(f'{where} is no regular file')
    if not overwrite:
        raise exceptions.AlreadyExists(f'{where} exists')


def detach(attachment: base.Attachment) -> None:
    """Detach without a fuss: what is left stays recorded."""
    try:
        attachment.detach()
    except exceptions.TransferError as exc:
        LOG.warning('%s', exc)


@contextlib.contextmanager
def server_errors(where: str) -> Iterator[None]:
    """Tell errors of the server from those of a disk of this host.

    :raises Unavailable: it does not answer
    :raises SourceChanged: the file is no longer there
    """
    try:
        yield
    except (OSError, exceptions.TransferError) as exc:
        cause = exc if isinstance(exc, OSError) else exc.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        if number in _SILENT:
            raise exceptions.Unavailable(f'{where} does not answer') from exc
        if number == errno.ESTALE:
            raise exceptions.SourceChanged(
                f'{where} was taken away or replaced on the server'
            ) from exc
        raise
