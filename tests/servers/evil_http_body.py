# SPDX-License-Identifier: Apache-2.0
"""Bodies that are short, long, slow, coded, or no image at all."""

from __future__ import annotations

import functools
import gzip
import struct
import zlib

from tests.servers import lab
from tests.servers import wire

ENDLESS_LIMIT = 64 << 20
BOMB_SIZE = 64 << 20

Connection = wire.Connection
Request = wire.Request


def _length(data: bytes) -> dict[str, str]:
    return {'Content-Length': str(len(data)), 'ETag': '"v1"'}


@lab.handler('H-01', 'a right answer (control)', lab.OK)
def right(request: Request, conn: Connection, data: bytes) -> None:
    lab.good(data)(request, conn)


@lab.handler('H-01-chunked', 'a right answer, chunked (control)', lab.OK)
def right_chunked(request: Request, conn: Connection, data: bytes) -> None:
    lab.good(data, chunked=True)(request, conn)


@lab.handler('H-01-plain', 'right, no ranges, no ETag (control)', lab.OK)
def right_plain(request: Request, conn: Connection, data: bytes) -> None:
    lab.good(data, ranges=False, etag=None)(request, conn)


@lab.handler('H-02', 'Content-Length N, half sent, FIN', lab.FAIL)
def half_fin(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(200, _length(data))
    conn.send(data[: len(data) // 2])
    conn.close()


@lab.handler('H-03', 'Content-Length N, half sent, RST', lab.FAIL)
def half_rst(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(200, _length(data))
    conn.send(data[: len(data) // 2])
    conn.reset()


@lab.handler(
    'H-04',
    'Content-Length half of the body sent',
    lab.UNDETECTABLE,
    with_size=lab.FAIL,
)
def length_too_small(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(200, _length(data[: len(data) // 2]))
    conn.send(data)
    conn.close()


@lab.handler(
    'H-05',
    'no length, half sent, FIN',
    lab.UNDETECTABLE,
    with_size=lab.FAIL,
)
def no_length_fin(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(200)
    conn.send(data[: len(data) // 2])
    conn.close()


@lab.handler('H-06', 'no length, half sent, RST', lab.FAIL)
def no_length_rst(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(200)
    conn.send(data[: len(data) // 2])
    conn.reset()


def _half_chunked(conn: Connection, data: bytes) -> None:
    conn.send_head(200, {'Transfer-Encoding': 'chunked'})
    middle = len(data) // 2
    for offset in range(0, middle, 10_000):
        conn.send_chunk(data[offset : min(offset + 10_000, middle)])


@lab.handler('H-07', 'half the chunks and no last chunk, FIN', lab.FAIL)
def no_last_chunk(request: Request, conn: Connection, data: bytes) -> None:
    _half_chunked(conn, data)
    conn.close()


def _bad_chunk(key: str, size: bytes) -> None:
    @lab.handler(key, f'a chunk size of {size!r}', lab.FAIL)
    def answer(request: Request, conn: Connection, data: bytes) -> None:
        _half_chunked(conn, data)
        conn.send_raw(size + b'\r\n')
        conn.send(data[len(data) // 2 :])
        conn.send_raw(b'\r\n')
        conn.end_chunks()
        conn.close()


_bad_chunk('H-08', b'zz')
_bad_chunk('H-09', b'-5')
_bad_chunk('H-10', b'1FFFFFFFFFFFFFFFFF')


@lab.handler('H-16', 'coded with gzip though not asked for', lab.FAIL)
def unasked_gzip(request: Request, conn: Connection, data: bytes) -> None:
    packed = gzip.compress(data, 1)
    conn.send_head(200, {**_length(packed), 'Content-Encoding': 'gzip'})
    conn.send(packed)


@functools.cache
def _bomb() -> bytes:
    # One packed MiB, repeated: packing all of it takes a second.
    zeros, count = bytes(1 << 20), BOMB_SIZE >> 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    check = 0
    for _ in range(count):
        check = zlib.crc32(zeros, check)
    head = b'\x1f\x8b\x08' + bytes(6) + b'\xff'
    end = b'\x03\x00' + struct.pack('<II', check, BOMB_SIZE)
    return head + block * count + end


@lab.handler('H-17', 'a gzip bomb: 64 KiB for 64 MiB', lab.FAIL)
def gzip_bomb(request: Request, conn: Connection, data: bytes) -> None:
    packed = _bomb()
    conn.send_head(200, {**_length(packed), 'Content-Encoding': 'gzip'})
    conn.send(packed)


@lab.handler('H-18', 'Content-Encoding: gzip of a plain body', lab.FAIL)
def false_gzip(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(200, {**_length(data), 'Content-Encoding': 'gzip'})
    conn.send(data)


@lab.handler('H-19', 'half a gzip stream with the right length', lab.FAIL)
def half_gzip(request: Request, conn: Connection, data: bytes) -> None:
    packed = gzip.compress(data, 1)
    packed = packed[: len(packed) // 2]
    conn.send_head(200, {**_length(packed), 'Content-Encoding': 'gzip'})
    conn.send(packed)


@lab.handler('H-20', '206 of half without a Range', lab.OK_OR_FAIL)
def unasked_206(request: Request, conn: Connection, data: bytes) -> None:
    if request.range is not None or request.method == 'HEAD':
        lab.good(data)(request, conn)
        return
    half = data[: len(data) // 2]
    span = f'bytes 0-{len(half) - 1}/{len(data)}'
    conn.send_head(206, {**_length(half), 'Content-Range': span})
    conn.send(half)


@lab.handler('H-22', '204 for an image', lab.FAIL)
def no_content(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(204, {'ETag': '"v1"'})


@lab.handler(
    'H-23',
    '200 with Content-Length 0',
    lab.OK_OR_FAIL,
    with_size=lab.FAIL,
    versions=lambda data: (b'',),
)
def empty(request: Request, conn: Connection, data: bytes) -> None:
    conn.reply(200)


@lab.handler('H-24', 'one stall after half, then right', lab.OK)
def stall_once(request: Request, conn: Connection, data: bytes) -> None:
    first = request.nth == 0
    middle = len(data) // 2
    if lab.good(data).answer(request, conn, middle if first else None):
        conn.stall()


@lab.handler('H-24-always', 'a stall after half, always', lab.FAIL)
def stall_always(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(200, _length(data))
    conn.send(data[: len(data) // 2])
    conn.stall()


@lab.handler('H-24-head', 'no answer at all', lab.FAIL)
def stall_head(request: Request, conn: Connection, data: bytes) -> None:
    conn.stall()


@lab.handler('H-25', '1 byte a second', lab.FAIL)
def slow(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(200, _length(data))
    conn.trickle(data, 1)


@lab.handler('H-25-head', 'a head of 1 byte a second', lab.FAIL)
def slow_head(request: Request, conn: Connection, data: bytes) -> None:
    conn.trickle(b'HTTP/1.1 200 OK\r\nX-Slow: ' + b's' * len(data), 1)


@lab.handler(
    'H-35',
    '200 with the page of a login portal',
    lab.UNDETECTABLE,
    with_size=lab.FAIL,
)
def portal(request: Request, conn: Connection, data: bytes) -> None:
    page = b'<!DOCTYPE html><html><body>Please log in.</body></html>\n'
    conn.reply(200, page, {'Content-Type': 'text/html'})


@lab.handler(
    'H-44',
    f'no length and no end (here {ENDLESS_LIMIT >> 20} MiB)',
    lab.UNDETECTABLE,
    with_size=lab.OK_OR_FAIL,
)
def endless(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(200)
    for _ in range(ENDLESS_LIMIT // len(data)):
        conn.send(data)
    conn.close()


@lab.handler('H-46', 'chunked without the last CRLF', lab.OK_OR_FAIL)
def no_last_crlf(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_head(200, {'Transfer-Encoding': 'chunked'})
    conn.send_chunk(data)
    conn.send_raw(b'0\r\n')
    conn.close()


@lab.handler('H-49', '200 chained Content-Encodings', lab.FAIL)
def many_codings(request: Request, conn: Connection, data: bytes) -> None:
    chain = ', '.join(['gzip'] * 200)
    conn.send_head(200, {**_length(data), 'Content-Encoding': chain})
    conn.send(data)


@lab.handler('T-25', 'stuttered: 1,000 bytes each 10 ms', lab.OK)
def stutter(request: Request, conn: Connection, data: bytes) -> None:
    resource = lab.good(data)
    status, headers, start, stop = resource.plan(request)
    headers['Content-Length'] = str(stop - start)
    conn.send_head(status, headers)
    conn.trickle(data[start:stop], 100_000, piece=1000)
