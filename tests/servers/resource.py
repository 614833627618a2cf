# SPDX-License-Identifier: Apache-2.0
"""Well-behaved resources and uploads for the scripted server."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import os
import random
from typing import Protocol
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.servers import http
    from tests.servers import wire

PIECE = 1 << 18
BLOCK = 1 << 16


class Generated(Protocol):
    """Bytes that are made when asked for."""

    def __call__(self, offset: int, length: int) -> bytes:
        """Return exactly the bytes of a range."""


Data = bytes | bytearray | memoryview | Generated


class Virtual:
    """Repeatable pseudo-random bytes of any size, held nowhere."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed

    def __call__(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range."""
        stop = min(offset + length, self.size)
        first, last = offset // BLOCK, -(-stop // BLOCK)
        data = b''.join(
            random.Random(f'{self.seed}/{block}').randbytes(BLOCK)
            for block in range(first, last)
        )
        skip = offset - first * BLOCK
        return data[skip : skip + stop - offset]


def pattern(size: int, seed: int = 0) -> bytes:
    """Return repeatable pseudo-random bytes."""
    return Virtual(size, seed)(0, size)


def write_sparse(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that has holes where whole pages are zero."""
    with open(path, 'wb') as file:
        for start in range(0, len(data), 4096):
            block = data[start : start + 4096]
            if any(block):
                file.seek(start)
                file.write(block)
        file.truncate(len(data))


@dataclasses.dataclass
class Resource:
    """Answers GET and HEAD as RFC 9110 wants it."""

    data: Data
    size: int
    etag: str | None = '"v1"'
    last_modified: str | None = None
    ranges: bool = True
    #: Whether If-Range is looked at.
    if_range: bool = True
    chunked: bool = False
    content_length: bool = True
    #: Bytes per second on each connection.
    rate: float | None = None
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __call__(self, request: wire.Request, conn: wire.Connection) -> None:
        """Answer a request."""
        self.answer(request, conn)

    def unchanged(self, request: wire.Request) -> bool:
        """Return whether If-Range, if any, still fits."""
        wanted = request.headers.get('if-range')
        if wanted is None or not self.if_range:
            return True
        if wanted.startswith('"'):
            return wanted == self.etag
        return wanted == self.last_modified

    def plan(
        self, request: wire.Request
    ) -> tuple[int, dict[str, str], int, int]:
        """Return status, headers, and the bytes from and to."""
        headers = dict(self.headers)
        if self.etag:
            headers['ETag'] = self.etag
        if self.last_modified:
            headers['Last-Modified'] = self.last_modified
        if self.ranges:
            headers['Accept-Ranges'] = 'bytes'
        status, start, stop = self.status, 0, self.size
        wanted = request.headers.get('if-match', '*')
        if wanted != '*' and wanted != self.etag:
            return 412, headers, 0, 0
        span = request.range
        if (
            span is not None
            and self.ranges
            and status == 200
            and self.unchanged(request)
        ):
            start = span[0] if span[0] >= 0 else max(0, self.size + span[0])
            if span[1] is not None:
                stop = min(stop, span[1] + 1)
            if start >= self.size or stop <= start:
                headers['Content-Range'] = f'bytes */{self.size}'
                return 416, headers, 0, 0
            status = 206
            headers['Content-Range'] = f'bytes {start}-{stop - 1}/{self.size}'
        return status, headers, start, stop

    def answer(
        self,
        request: wire.Request,
        conn: wire.Connection,
        stop_at: int | None = None,
    ) -> bool:
        """Answer, with nothing from an offset on; tell if that cut it."""
        if request.method not in ('GET', 'HEAD'):
            conn.reply(405, b'', {'Allow': 'GET, HEAD'})
            return False
        status, headers, start, stop = self.plan(request)
        chunked = self.chunked and request.version != 'HTTP/1.0'
        if chunked and start < stop:
            headers['Transfer-Encoding'] = 'chunked'
        elif self.content_length or start == stop:
            headers['Content-Length'] = str(stop - start)
        conn.send_head(status, headers)
        end = stop if stop_at is None else max(start, min(stop, stop_at))
        for piece in self.pieces(start, end):
            if chunked:
                conn.send_chunk(piece)
                if self.rate:
                    conn.wait(len(piece) / self.rate)
            elif self.rate:
                conn.trickle(piece, self.rate)
            else:
                conn.send(piece)
        if chunked and start < stop and end == stop:
            conn.end_chunks()
        return end < stop

    def pieces(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """Yield the bytes of a range piece by piece."""
        step = max(1, min(PIECE, int((self.rate or PIECE * 20) // 20)))
        for offset in range(start, stop, step):
            length = min(step, stop - offset)
            if callable(self.data):
                yield self.data(offset, length)
            else:
                yield memoryview(self.data)[offset : offset + length]


@dataclasses.dataclass
class Upload:
    """Takes PUT as Glance's PUT /v2/images/ID/file does."""

    server: http.ScriptedHTTPServer
    status: int = 204
    #: (status, n): answer with an error after n bytes of the body.
    early_error: tuple[int, int] | None = None
    #: End with RST after the early error, with the body unread.
    early_reset: bool = False
    #: Whether a body without Content-Length is taken (else 411).
    chunked: bool = True
    #: Read no faster than this many bytes per second.
    rate: float | None = None
    #: Serve what was uploaded to a later GET.
    readable: bool = False

    def __call__(self, request: wire.Request, conn: wire.Connection) -> None:
        """Take one upload."""
        body = request.body
        if body.chunked and not self.chunked:
            conn.reply(411)
            return
        limit = self.early_error[1] if self.early_error else None
        data = bytearray()
        try:
            while limit is None or len(data) < limit:
                want = BLOCK if limit is None else limit - len(data)
                piece = body.read(min(BLOCK, want))
                if not piece:
                    break
                data += piece
                if self.rate:
                    conn.wait(len(piece) / self.rate)
        finally:
            if not body.done:
                self.server.partial_uploads[request.path] = bytes(data)
        if self.early_error is not None:
            conn.reply(self.early_error[0], b'no')
            if self.early_reset:
                conn.reset()
            return
        self.server.uploads[request.path] = bytes(data)
        if self.readable:
            self.server.put(request.path, bytes(data))
        conn.reply(self.status)
