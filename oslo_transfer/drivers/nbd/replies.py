# SPDX-License-Identifier: Apache-2.0
"""Reads replies, simple and structured; knows no socket.

What a server says counts only when it has vouched for it: bytes of a read
are handed out when the chunk that ends the reply has begun, for an error
may follow any other chunk and make it worthless (proto.md, "Structured
reply types").
"""

from __future__ import annotations

from collections.abc import Generator
import struct
import typing

from oslo_transfer import buffers
from oslo_transfer import exceptions
from oslo_transfer import nbd_wire as wire
from oslo_transfer import ranges

Chunk = wire.Chunk
Command = wire.Command

# The largest list of extents, and more than any error takes.
_MOST_STATUS = 4 + 8 * (1 << 20)
_MOST_ERROR = 64 * 1024
# Servers should send parts of at least so many bytes.
_LEAST_PART = 512
_SCRATCH = 256 * 1024
# How many buffers are kept to park data in.
_MOST_SPARE = 4


class Failure(typing.NamedTuple):
    """Why a request failed.

    :ivar code: one of :class:`wire.Error`, or some other number
    :ivar offset: the byte that it is about, if the server says so
    :ivar text: what the server says
    """

    code: int
    offset: int | None
    text: str


class Request:
    """A request and what came of it.

    :ivar kind: the command
    :ivar offset: the first byte that it is about
    :ivar length: how many
    :ivar taken: of a READ, bytes that were handed out
    :ivar parked: of a READ, room for those that cannot be yet
    :ivar status: of a BLOCK_STATUS, the payload
    :ivar failure: why it failed
    :ivar final: of a READ: what was received is right
    :ivar done: nothing more will come
    :ivar dropped: nobody wants it any more
    """

    __slots__ = (
        '_covered',
        'done',
        'dropped',
        'failure',
        'final',
        'kind',
        'length',
        'offset',
        'parked',
        'status',
        'taken',
    )

    def __init__(self, kind: wire.Command, offset: int, length: int) -> None:
        self.kind = kind
        self.offset = offset
        self.length = length
        self.taken = 0
        self.parked: memoryview | None = None
        self.status: bytes | None = None
        self.failure: Failure | None = None
        self.final = False
        self.done = False
        self.dropped = False
        self._covered: ranges.RangeSet | None = None

    def cover(self, offset: int, length: int) -> int:
        """Note that a part of the run comes; returns where it begins.

        :raises ValueError: it does not belong there
        """
        start = offset - self.offset
        if not (0 <= start and length and start + length <= self.length):
            raise ValueError(
                f'bytes {offset} to {offset + length} where '
                f'{self.offset} to {self.offset + self.length} were asked for'
            )
        if self._covered is None:
            self._covered = ranges.RangeSet()
        covered = self._covered
        total = covered.total + length
        covered.add(start, start + length)
        if covered.total != total:
            raise ValueError(f'bytes at {offset} twice')
        if len(list(covered)) > max(64, self.length // _LEAST_PART):
            raise ValueError('a reply in tiny parts')
        return start

    @property
    def complete(self) -> bool:
        """Whether all of the run came, or is coming."""
        return self._covered is not None and list(self._covered) == [
            (0, self.length)
        ]

    def drop(self) -> None:
        """Nobody wants it: what still comes is thrown away."""
        self.dropped = True
        self.parked = None


class Payload:
    """Data of a READ that is coming just now.

    :ivar request: what it belongs to
    :ivar position: where in the request's run the next byte belongs
    :ivar left: how many bytes are still to come
    """

    __slots__ = ('left', 'position', 'request')

    def __init__(self, request: Request, position: int, left: int) -> None:
        self.request = request
        self.position = position
        self.left = left


class Replies:
    """Takes the bytes that a server sends, and settles requests.

    Not thread-safe. Bytes go where :meth:`room` says, then
    :meth:`advance`.

    :param structured: structured replies were negotiated
    :param context: the ID of the metadata context, None without
    """

    def __init__(self, structured: bool, context: int | None) -> None:
        self._structured = structured
        self._context = context
        self._scratch = buffers.aligned(_SCRATCH)
        self._control = memoryview(b'')
        self._have = 0
        self._spare: list[memoryview] = []
        #: Requests without a complete reply, by cookie.
        self.pending: dict[int, Request] = {}
        #: Data that comes now; None between.
        self.payload: Payload | None = None
        self._steps = self._run()
        self._next()

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        payload = self.payload
        if payload is None:
            return self._control[self._have :]
        if payload.request.dropped or payload.request.failure is not None:
            return self._scratch[: payload.left]
        end = payload.position + payload.left
        return self._park(payload.request)[payload.position : end]

    def take(self, request: Request, view: memoryview, end: int) -> int:
        """Hand out bytes that are parked; at least one is.

        :param end: where they end in the request's run
        """
        assert request.parked is not None
        start = request.taken
        count = min(len(view), end - start)
        view[:count] = request.parked[start : start + count]
        request.taken += count
        if request.taken == request.length:
            if len(self._spare) < _MOST_SPARE:
                self._spare.append(request.parked)
            request.parked = None
        return count

    def _park(self, request: Request) -> memoryview:
        if request.parked is None:
            # A new one would cost more than what is copied by it.
            spare = self._spare.pop() if self._spare else None
            if spare is None or len(spare) != request.length:
                spare = buffers.aligned(request.length)
            request.parked = spare
        return request.parked

    def advance(self, count: int) -> None:
        """So many bytes are there.

        :raises ProtocolError: they make no sense
        """
        payload = self.payload
        if payload is not None:
            payload.position += count
            payload.left -= count
            if not payload.left:
                self._next()
            return
        self._have += count
        if self._have == len(self._control):
            self._next()

    def _next(self) -> None:
        """Go on: with data, or with so many bytes of something else."""
        try:
            due = next(self._steps)
        except ValueError as exc:
            raise exceptions.ProtocolError(f'the server sends {exc}') from None
        if isinstance(due, Payload):
            self.payload = due
        else:
            self.payload = None
            self._control = memoryview(bytearray(due))
            self._have = 0

    # Each ``yield`` is a wait for what it names.

    def _run(self) -> Generator[int | Payload]:
        while True:
            # All of a simple reply, most of a structured one's header.
            yield 16
            (magic,) = struct.unpack_from('>I', self._control)
            if magic == wire.SIMPLE_MAGIC:
                yield from self._simple()
            elif magic == wire.STRUCTURED_MAGIC and self._structured:
                yield from self._chunk()
            else:
                raise ValueError(f'no reply but {magic:#010x}')

    def _request(self, cookie: int) -> Request:
        request = self.pending.get(cookie)
        if request is None:
            raise ValueError('a reply that nothing was asked for')
        return request

    def _settle(self, cookie: int) -> None:
        request = self.pending.pop(cookie)
        request.done = True
        if request.failure is not None:
            return
        if request.kind == Command.READ and not request.complete:
            raise ValueError('less than was asked for, and no error')
        if request.kind == Command.BLOCK_STATUS and request.status is None:
            raise ValueError('no extents, and no error')

    def _simple(self) -> Generator[int | Payload]:
        _magic, code, cookie = struct.unpack('>IIQ', self._control)
        request = self._request(cookie)
        if self._structured and request.kind in (
            Command.READ,
            Command.BLOCK_STATUS,
        ):
            raise ValueError('a simple reply where a structured one is due')
        if code:
            request.failure = Failure(code, None, '')
        elif request.kind == Command.READ:
            start = request.cover(request.offset, request.length)
            request.final = True
            yield Payload(request, start, request.length)
        self._settle(cookie)

    def _chunk(self) -> Generator[int | Payload]:
        _magic, flags, kind, cookie = struct.unpack('>IHHQ', self._control)
        request = self._request(cookie)
        last = bool(flags & wire.DONE)
        if kind in (Chunk.OFFSET_DATA, Chunk.OFFSET_HOLE):
            if request.kind != Command.READ:
                raise _unfit(kind, request)
            # The offset, too: each read from a socket counts.
            yield 12
            length, offset = struct.unpack('>IQ', self._control)
            if kind == Chunk.OFFSET_DATA:
                yield from self._data(request, offset, length, last)
            else:
                yield from self._hole(request, offset, length)
        else:
            yield 4
            (length,) = struct.unpack('>I', self._control)
            yield from self._other(request, kind, length, last)
        if last:
            self._settle(cookie)
            request.final = request.failure is None

    def _other(
        self, request: Request, kind: int, length: int, last: bool
    ) -> Generator[int]:
        if kind & wire.IS_ERROR:
            yield from self._error(request, kind, length)
        elif kind == Chunk.NONE:
            if length or not last:
                raise ValueError('an empty chunk that is not the last one')
        elif (
            kind == Chunk.BLOCK_STATUS and request.kind == Command.BLOCK_STATUS
        ):
            yield from self._status(request, length)
        else:
            raise _unfit(kind, request)

    def _data(
        self, request: Request, offset: int, length: int, last: bool
    ) -> Generator[Payload]:
        if length < 9:
            raise ValueError('a chunk of data without any')
        start = request.cover(offset, length - 8)
        if last and request.failure is None:
            if not request.complete:
                raise ValueError('less than was asked for, and no error')
            request.final = True
        yield Payload(request, start, length - 8)

    def _hole(
        self, request: Request, offset: int, length: int
    ) -> Generator[int]:
        if length != 12:
            raise ValueError(f'a hole in {length} bytes')
        yield 4
        (size,) = struct.unpack('>I', self._control)
        start = request.cover(offset, size)
        if not request.dropped:
            self._park(request)[start : start + size] = bytes(size)

    def _status(self, request: Request, length: int) -> Generator[int]:
        if not 12 <= length <= _MOST_STATUS or (length - 4) % 8:
            raise ValueError(f'a list of extents in {length} bytes')
        yield length
        (context,) = struct.unpack_from('>I', self._control)
        if context != self._context or request.status is not None:
            raise ValueError('extents that were not asked for')
        request.status = bytes(self._control[4:])

    def _error(
        self, request: Request, kind: int, length: int
    ) -> Generator[int]:
        if not 6 <= length <= _MOST_ERROR:
            raise ValueError(f'an error in {length} bytes')
        yield length
        code, said = struct.unpack_from('>IH', self._control)
        text = bytes(self._control[6 : 6 + said])
        rest = self._control[6 + said :]
        if not code or len(text) < said:
            raise ValueError('a malformed error')
        offset = None
        if kind == Chunk.ERROR_OFFSET:
            if len(rest) != 8:
                raise ValueError('a malformed error')
            (offset,) = struct.unpack('>Q', rest)
            if not 0 <= offset - request.offset < max(1, request.length):
                raise ValueError('an error of bytes that were not asked for')
        if request.failure is None:
            request.failure = Failure(code, offset, wire.printable(text))


def _unfit(kind: int, request: Request) -> ValueError:
    return ValueError(
        f'a chunk of type {kind} to a request of type {request.kind}'
    )
