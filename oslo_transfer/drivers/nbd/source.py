# SPDX-License-Identifier: Apache-2.0
"""Reading exports of an NBD server."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import logging
import threading
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer.drivers.nbd import allocation
from oslo_transfer.drivers.nbd import connection
from oslo_transfer.drivers.nbd import reading
from oslo_transfer import exceptions
from oslo_transfer import nbd_wire as wire
from oslo_transfer import sockets

if typing.TYPE_CHECKING:
    from oslo_transfer import endpoint as _endpoint

LOG = logging.getLogger(__name__)

# The most connections to one export, where its server allows several.
_CONNECTIONS = 4
# Seconds for a read to notice that its stream was closed.
_PATIENCE = 0.5


class NBDSource(base.Source):
    """An export of an NBD server.

    Each stream has a connection of its own where the server allows it, up
    to four; further ones share. A stream connects again where its
    connection is gone.
    """

    in_place = True

    def __init__(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> None:
        self._endpoint = endpoint
        self._where = str(endpoint)
        self._ctx = ctx
        self._changed = threading.Condition()
        # How many are connecting just now.
        self._coming = 0
        # For what is no stream's, and ended with the source.
        self._waiter = sockets.Waiter(ctx, self._where)
        self._closed = False
        link = connection.Connection(endpoint, ctx, self._waiter)
        self._export = link.export
        self._links = [link]
        # The last connection broke, and nobody was told.
        self._lost = False
        self.size = link.export.size
        self._most = _CONNECTIONS if link.export.shared else 1
        self.geometry = base.Geometry(
            align=link.export.align,
            preferred=min(reading.REQUEST, link.export.most),
            # One stores while the other receives.
            first_streams=min(2, self._most),
            max_streams=self._most,
        )
        self.capabilities = base.Capability.READ | base.Capability.RANDOM_READ
        self._allocation: allocation.Allocation | None = None
        if link.export.context is not None:
            self.capabilities |= base.Capability.EXTENTS
            self._allocation = allocation.Allocation(self._ask_extents)

    def stream(self, offset: int, length: int | None) -> NBDStream:
        """Read a run; may block for a connection to be made."""
        size = self._export.size
        end = size if length is None else offset + length
        if not 0 <= offset <= end <= size:
            raise exceptions.SourceChanged(
                f'{self._where} has {size} bytes; {offset}..{end} were '
                f'asked for'
            )
        with self._changed:
            self._bury()
            lost, self._lost = self._lost, False
        if lost:
            # Whether what comes now fits what came is not ours to say.
            raise exceptions.Unavailable(
                f'{self._where}: the connection broke'
            )
        waiter = sockets.Waiter(self._ctx, self._where)
        return NBDStream(self, waiter, offset, end - offset)

    def data_behind(self, offset: int) -> Iterator[base.Extent]:
        """Runs of data that are probably read behind one that ends here."""
        if self._allocation is None:
            return iter(())
        return self._allocation.data_behind(offset)

    def take_link(self, offset: int | None = None) -> connection.Connection:
        """A connection to use; give it back.

        :param offset: where reading begins: one that is there already is
            the best

        :raises Unavailable: none can be made
        :raises SourceChanged: the export has another size now
        """
        while True:
            with self._changed:
                self._check_open()
                self._bury()
                found = min(
                    self._links,
                    key=lambda each: (each.users, not each.is_at(offset)),
                    default=None,
                )
                known = len(self._links) + self._coming
                if found is not None and (
                    not found.users or known >= self._most
                ):
                    found.users += 1
                    return found
                if found is None and self._coming:
                    # Who connects already does it for all.
                    self._changed.wait(_context.TICK)
                    continue
                self._coming += 1
            self._add_link(needed=found is None)

    def give_back(self, link: connection.Connection) -> None:
        """A connection is not used any more."""
        with self._changed:
            link.users -= 1

    def _check_open(self) -> None:
        self._ctx.check()
        if self._closed:
            raise exceptions.TransferCancelled(
                f'{self._where}: the source was closed'
            )

    def _bury(self) -> None:
        """Forget connections that have ended."""
        for dead in [each for each in self._links if not each.alive]:
            dead.close()
            self._links.remove(dead)
            # Whose use has failed has told of it.
            self._lost |= not self._links and not dead.told

    def _add_link(self, needed: bool) -> None:
        """Connect once more.

        :param needed: there is no other connection to share
        """
        try:
            link = self._connect()
            with self._changed:
                self._links.append(link)
        except exceptions.SourceChanged:
            raise
        except exceptions.TransferError as exc:
            self._check_open()
            if needed:
                raise
            # Not every server that says so takes several.
            LOG.info('%s: no further connection: %s', self._where, exc)
            self._most = max(1, len(self._links))
            return
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify_all()
        if self._closed:
            link.close()

    def _connect(self) -> connection.Connection:
        link = connection.Connection(self._endpoint, self._ctx, self._waiter)
        if link.export.size != self._export.size:
            link.close()
            raise exceptions.SourceChanged(
                f'{self._where}: it had {self._export.size} bytes and has '
                f'{link.export.size} now'
            )
        return link

    # Extents

    def extents(
        self, offset: int, length: int
    ) -> Iterator[base.Extent] | None:
        """Tell data from what reads as zeros; asks as it is iterated."""
        if self._allocation is None:
            return None
        return self._allocation.runs(offset, length)

    def _ask_extents(self, offset: int, length: int) -> list[base.Extent]:
        align = self._export.align
        start = offset - offset % align
        count = min(
            -(-(offset + length) // align) * align - start, allocation.MOST
        )
        payload = self._ask_status(start, count)
        if payload is None:
            # All of it may be data; reading it shows what is wrong.
            return [base.Extent(offset, length, True)]
        try:
            return allocation.extents(payload, start, count)
        except ValueError as exc:
            raise exceptions.ProtocolError(
                f'{self._where}: the server sends {exc}'
            ) from None

    def _ask_status(self, offset: int, length: int) -> bytes | None:
        """What the server tells; None where it cannot, or is gone."""
        request = None
        try:
            with self._taken() as link, link.use(self._waiter):
                request = link.submit(
                    wire.Command.BLOCK_STATUS, offset, length
                )
                link.wait(request)
        except (exceptions.Unavailable, exceptions.Stalled) as exc:
            LOG.info('%s: no extents: %s', self._where, exc)
            with self._changed:
                self._lost = True
            return None
        except exceptions.TransferError as exc:
            if request is None or request.failure is None:
                raise
            LOG.info('%s: no extents: %s', self._where, exc)
            return None
        return request.status

    @contextlib.contextmanager
    def _taken(self) -> Iterator[connection.Connection]:
        link = self.take_link()
        try:
            yield link
        finally:
            self.give_back(link)

    def close(self) -> None:
        """End all connections."""
        self._closed = True
        self._waiter.close()
        with self._changed:
            links, self._links = self._links, []
        connection.close_all(links)


class NBDStream(base.Stream):
    """A run of bytes, asked for ahead."""

    def __init__(
        self,
        source: NBDSource,
        waiter: sockets.Waiter,
        offset: int,
        length: int,
    ) -> None:
        super().__init__()
        self._source = source
        self._waiter = waiter
        # Closing waits for a read that it has woken up.
        self._reading = threading.Lock()
        self._link = source.take_link(offset)
        self._reads = reading.Reads(
            self._link, offset, length, source.data_behind
        )

    @property
    def waited(self) -> float:  # type: ignore[override]
        """Seconds spent waiting for the server."""
        return self._waiter.waited

    def readinto(self, buffer: typing.Any) -> int:
        """Read at least one byte."""
        view = memoryview(buffer).cast('B')
        with self._reading:
            self._waiter.check()
            if not view:
                return 0
            with self._link.use(self._waiter):
                return self._reads.read_into(view)

    def close(self) -> None:
        """Drop what was asked for; ends a read in another thread."""
        self._waiter.close()
        if self._reading.acquire(timeout=_PATIENCE):
            if not self.closed:
                self._reads.drop()
                self._source.give_back(self._link)
            super().close()
            self._reading.release()
