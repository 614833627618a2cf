# SPDX-License-Identifier: Apache-2.0
"""An image that is read through a cache of this process."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import typing
import uuid

from oslo_transfer.cache import image as _image
from oslo_transfer.cache import opts
from oslo_transfer.cache import reader as _reader
from oslo_transfer.cache import store as _store
from oslo_transfer.cache import version
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.export import listening
from oslo_transfer.export import nbd
from oslo_transfer import opening

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import ends


class CachedSource(base.Source):
    """A source whose blocks are fetched once, and kept.

    Threads may read at once. Closing it ends its exports, too.

    :param end: the location
    :param directory: for the blocks; no other process has it
    :param ctx: the limits of all that is fetched
    :raises Unavailable: another process has the directory
    :raises TransferError: the location cannot be read in blocks
    """

    capabilities = base.Capability.READ | base.Capability.RANDOM_READ
    in_place = True

    def __init__(
        self, end: ends.LocationEnd, directory: str, ctx: _context.Context
    ) -> None:
        group = ctx.conf[opts.GROUP]
        ctx = ctx.replace(piecemeal=True)
        self.origin = 'cache'
        with contextlib.ExitStack() as stack:
            source = opening.alone(end, ctx)
            first: list[base.Source] = [source]
            stack.callback(source.close)
            self.size: int = version.size_of(source, str(end), None)
            identity = version.identity(
                self.size, source.validator, None, uuid.uuid4().hex
            )
            store = _store.Store(
                directory,
                quota_bytes=group.max_bytes,
                block_bytes=group.block_bytes,
                owner='',
            )
            stack.callback(store.close)
            key = version.key(end.identity, identity)
            blocks = store.open(key, self.size, identity)
            stack.callback(store.release, key)

            def open_source(ctx: _context.Context) -> base.Source:
                return first.pop() if first else opening.alone(end, ctx)

            self._image = _image.CachedImage(
                blocks,
                open_source,
                ctx,
                streams=group.streams,
                validator=source.validator,
            )
            stack.callback(self._image.close)
            self._stack = stack.pop_all()
        self.validator = base.Validator(self._image.etag, strong=True)

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """Read a run through the cache."""
        length = self.size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > self.size:
            raise exceptions.SourceChanged(
                f'there are no {length} bytes at {offset}: the image has '
                f'{self.size}'
            )
        return _CachedStream(
            self._image.reader(),
            offset,
            length,
            self._image.blocks.block_bytes,
        )

    @contextlib.contextmanager
    def export(self, path: str) -> Iterator[str]:
        """Serve it by NBD while the context is open.

        :param path: of the unix socket; nothing is there, and only this
            user may connect to it
        :returns: the NBD URI
        :raises TransferError: it cannot be served
        """
        address = listening.Address(path=path)
        with nbd.NbdServer({'': self._image}, address) as server:
            yield server.uri

    def statistics(self) -> dict[str, int]:
        """What was fetched and served since it was opened."""
        return dict(self._image.statistics())

    def close(self) -> None:
        """Let go of all; idempotent."""
        self._stack.close()


# What is read with one claim at most.
_AT_ONCE = 1 << 20


class _CachedStream(base.Stream):
    def __init__(
        self, reader: _reader.Reader, offset: int, length: int, block: int
    ) -> None:
        super().__init__()
        self._reader = reader
        self._offset = offset
        self._left = length
        self._block = block

    def readinto(self, buffer: typing.Any) -> int:
        view = memoryview(buffer).cast('B')[: min(self._left, _AT_ONCE)]
        if view:
            # What is here at once, else what comes first.
            reader, offset = self._reader, self._offset
            here = reader.claim(offset, len(view))
            if not here and reader.bring(offset, len(view)):
                here = reader.claim(offset, len(view))
            view = view[: here or self._block]
            reader.read(view, offset)
            self._offset += len(view)
            self._left -= len(view)
        return len(view)

    def close(self) -> None:
        self._reader.close()
        super().close()
