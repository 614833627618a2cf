# SPDX-License-Identifier: Apache-2.0
"""Python file objects as sources and sinks."""

from __future__ import annotations

import io
import os
import typing

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import oserrors


class FileObjectSource(base.Source):
    """Reads a file object from where it stands, once and in order.

    The object is the caller's and is not closed. Its reads are not
    interrupted by a cancel.

    :param file: has ``readinto`` or ``read``
    """

    capabilities = base.Capability.READ
    size = None

    def __init__(self, file: typing.Any) -> None:
        self._file = file
        self._start = _position(file)
        self._used = False

    def rewind(self) -> None:
        """Go back to where it stood, if it can, to be read again."""
        if self._used and self._start is not None:
            with oserrors.os_errors('rewinding the source'):
                self._file.seek(self._start)
            self._used = False

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """The one stream that there is.

        :raises CapabilityMissing: it was read already
        """
        if offset or self._used:
            raise exceptions.CapabilityMissing(
                'a file object can be read once only, from where it stands'
            )
        self._used = True
        return _FileObjectStream(self._file, length)

    def close(self) -> None:
        """Nothing: the object is the caller's."""


class _FileObjectStream(base.Stream):
    def __init__(self, file: typing.Any, length: int | None) -> None:
        super().__init__()
        self._file = file
        self._left = length

    def readinto(self, buffer: typing.Any) -> int:
        view = memoryview(buffer).cast('B')
        if self._left is not None:
            view = view[: self._left]
        if not view:
            return 0
        count: int | None = None
        with oserrors.os_errors('reading the source'):
            # A read of all at once may block for all of it, but a raw or
            # socket file returns what is there.
            if hasattr(self._file, 'readinto1'):
                count = self._file.readinto1(view)
            elif hasattr(self._file, 'readinto'):
                count = self._file.readinto(view)
            else:
                data = self._file.read(len(view))
                if data is not None:
                    count = len(data)
                    view[:count] = data
        if count is None:
            # Which is not the end: nothing is there yet.
            raise exceptions.InvalidEndpoint(
                'a file object in non-blocking mode cannot be read from'
            )
        if self._left is not None:
            self._left -= count
        return count


class FileObjectSink(base.Sink):
    """Writes to a file object from where it stands, in order.

    The object is the caller's and is not closed; what was written before a
    failure stays in it.

    :param file: has ``write``
    """

    capabilities = base.Capability.WRITE

    def __init__(self, file: typing.Any) -> None:
        self._file = file
        self._wrote = False
        self._start = _position(file)
        with oserrors.os_errors('looking at the destination'):
            # What the caller has behind it must not be cut off.
            if self._start is not None and not (
                hasattr(file, 'truncate') and _is_at_end(file, self._start)
            ):
                self._start = None

    def rewind(self) -> None:
        """Take back what was written, to begin again.

        :raises CapabilityMissing: the object cannot do that
        """
        if not self._wrote:
            return
        if self._start is None:
            raise exceptions.CapabilityMissing(
                'the file object was written to and cannot be rewound'
            )
        with oserrors.os_errors('rewinding the destination'):
            self._file.seek(self._start)
            self._file.truncate()
        self._wrote = False

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Write what comes next."""
        self._wrote = True
        # Only real files are known not to keep a borrowed buffer.
        real = isinstance(self._file, io.IOBase)
        with oserrors.os_errors(f'writing byte {offset} of the destination'):
            while buffer:
                count = self._file.write(buffer if real else bytes(buffer))
                # Not every writer says how much it took; None means all.
                if count is None:
                    return
                buffer = buffer[count:]

    def sync(self) -> None:
        """Flush Python's buffer, and the file where it is one.

        :raises StorageError: it failed
        """
        with oserrors.os_errors('flushing the destination'):
            if hasattr(self._file, 'flush'):
                self._file.flush()

    def commit(self, size: int) -> None:
        """Nothing more: the object is the caller's."""

    def abort(self, keep: bool) -> None:
        """Nothing: the object is the caller's."""


def _position(file: typing.Any) -> int | None:
    """Where a file object stands, or None if it cannot return there."""
    try:
        return int(file.tell()) if file.seekable() else None
    except (AttributeError, OSError):
        return None


def _is_at_end(file: typing.Any, position: int) -> bool:
    """Whether nothing is behind the position, where the object stands."""
    end = file.seek(0, os.SEEK_END)
    file.seek(position)
    return bool(end == position)


def is_readable(value: typing.Any) -> bool:
    """Whether it can be read like a file."""
    return hasattr(value, 'read') or hasattr(value, 'readinto')


def is_writable(value: typing.Any) -> bool:
    """Whether it can be written like a file."""
    return hasattr(value, 'write')
