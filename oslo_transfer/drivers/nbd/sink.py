# SPDX-License-Identifier: Apache-2.0
"""Writing exports of an NBD server."""

from __future__ import annotations

import collections
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.nbd import connection
from oslo_transfer.drivers.nbd import reading
from oslo_transfer.drivers.nbd import replies
from oslo_transfer import exceptions
from oslo_transfer import nbd_wire as wire
from oslo_transfer import sockets

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint

# What one request zeroes at most: a server may do it by writing.
_ZERO_STEP = 64 << 20
# Requests without data count as much as so many bytes in flight.
_LEAST_COST = 64 * 1024


class NBDSink(base.Sink):
    """Writes an export, as a device: what was there is there before.

    Writes are sent ahead of their replies; what is wrong with one shows
    with a later call.

    :param size: bytes that will be written, None if unknown
    """

    capabilities = (
        base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.READBACK
    )
    form = 'device'

    def __init__(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        size: int | None,
    ) -> None:
        self._where = str(endpoint)
        self._waiter = sockets.Waiter(ctx, self._where)
        self._link = connection.Connection(endpoint, ctx, self._waiter)
        export = self._link.export
        self.capacity = export.size
        self._align = export.align
        self._step = min(reading.REQUEST, export.most)
        self._can_zero = wire.Flag.SEND_WRITE_ZEROES in export.flags
        self._queue: collections.deque[replies.Request] = collections.deque()
        self._error: exceptions.TransferError | None = None
        self._ended = False
        try:
            self._check(size or 0)
            if export.read_only:
                raise exceptions.AccessDenied(f'{endpoint} is read-only')
        except BaseException:
            self._link.close()
            raise

    def _check(self, end: int) -> None:
        if self._ended:
            raise exceptions.TransferCancelled(
                f'{self._where}: it was committed or aborted before'
            )
        assert self.capacity is not None
        if end > self.capacity:
            raise exceptions.NoSpace(
                f'{self._where} has {self.capacity} bytes, {end} are needed'
            )

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Send it; an error may show by a later call."""
        end = offset + len(buffer)
        self._check(end)
        if not buffer:
            return
        with self._link.use(self._waiter):
            self._raise_earlier()
            # Blocks that are not written whole are read first.
            first = min(end, -(-offset // self._align) * self._align)
            last = max(first, end - end % self._align)
            self._mend(buffer[: first - offset], offset)
            self._write(buffer[first - offset : last - offset], first)
            self._mend(buffer[last - offset :], last)

    def _write(self, view: memoryview, offset: int) -> None:
        while view:
            part = view[: self._step]
            self._submit(wire.Command.WRITE, offset, len(part), part)
            view = view[len(part) :]
            offset += len(part)

    def _mend(self, part: memoryview, offset: int) -> None:
        """Write a part of a block."""
        if not part:
            return
        start = offset - offset % self._align
        block = memoryview(bytearray(self._align))
        self._read(block, start)
        block[offset - start : offset - start + len(part)] = part
        self._write(block, start)

    # Requests in flight

    def _submit(
        self,
        kind: wire.Command,
        offset: int,
        length: int,
        data: memoryview | None = None,
    ) -> replies.Request:
        """Send a request when there is room for it.

        Writes of the same bytes may be done in any order, so that there
        is never more than one of them.
        """
        room = reading.WINDOW - _cost(kind, length)
        while self._queue and (
            sum(_cost(each.kind, each.length) for each in self._queue) > room
            or any(
                each.offset < offset + length
                and offset < each.offset + each.length
                for each in self._queue
            )
        ):
            self._take_reply()
        request = self._link.submit(kind, offset, length, data)
        self._queue.append(request)
        return request

    def _take_reply(self) -> None:
        """Wait for the oldest request."""
        request = self._queue.popleft()
        try:
            self._link.wait(request)
        except exceptions.TransferError as exc:
            self._error = self._error or exc
            raise

    def _settle(self) -> None:
        """Wait until the server has done all that was sent before."""
        self._raise_earlier()
        while self._queue:
            self._take_reply()

    def _raise_earlier(self) -> None:
        if self._error is not None:
            raise type(self._error)(*self._error.args)

    # The rest

    def zero(self, offset: int, length: int) -> bool:
        """Have the server zero whole blocks; the rest is written."""
        self._check(offset + length)
        end = offset + length
        first = -(-offset // self._align) * self._align
        last = end - end % self._align
        if not self._can_zero or first >= last:
            return False
        with self._link.use(self._waiter):
            self._raise_earlier()
            self._mend(memoryview(bytes(first - offset)), offset)
            self._mend(memoryview(bytes(end - last)), last)
            while first < last and self._can_zero:
                count = min(_ZERO_STEP, last - first)
                self._can_zero = self._zero(first, count)
                first += count
        return self._can_zero

    def _zero(self, offset: int, length: int) -> bool:
        """Zero a run; whether the server could."""
        self._submit(wire.Command.WRITE_ZEROES, offset, length)
        request = self._queue.pop()
        try:
            self._link.wait(request)
        except exceptions.TransferError:
            failure = request.failure
            if failure is not None and failure.code in (
                wire.Error.EINVAL,
                wire.Error.EOVERFLOW,
                wire.Error.ENOTSUP,
            ):
                return False
            raise
        return True

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Read what is there; waits for the writes first."""
        self._check(0)
        with self._link.use(self._waiter):
            return self._read(buffer, offset)

    def _read(self, view: memoryview, offset: int) -> int:
        self._settle()
        assert self.capacity is not None
        length = min(len(view), max(0, self.capacity - offset))
        reads = reading.Reads(self._link, offset, length)
        done = 0
        while done < length:
            done += reads.read_into(view[done:length])
        return done

    def sync(self) -> None:
        """Wait for all writes, and for the server's disk."""
        self._check(0)
        with self._link.use(self._waiter):
            self._settle()
            self._link.flush()

    def commit(self, size: int) -> None:
        """Make it durable; it was visible all the time."""
        self._check(size)
        self.sync()
        self.abort(keep=True)

    def abort(self, keep: bool) -> None:
        """End the connection; what was written stays."""
        self._ended = True
        self._waiter.close()
        self._link.close()


def _cost(kind: wire.Command, length: int) -> int:
    return (
        max(_LEAST_COST, length)
        if kind == wire.Command.WRITE
        else (_LEAST_COST)
    )
