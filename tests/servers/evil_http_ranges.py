# SPDX-License-Identifier: Apache-2.0
"""Wrong answers to a client that holds a part and asks for the rest."""

from __future__ import annotations

from collections.abc import Callable
import gzip
from typing import Any

from tests.servers import lab
from tests.servers import resource
from tests.servers import wire

Connection = wire.Connection
Request = wire.Request
Rest = Callable[[Request, Connection, bytes], Any]
Answer = Callable[[Request, Connection], Any]
Restart = Callable[[bytes], resource.Resource]

SMALL = 50 * 1024


class Interrupted:
    """The first answer is cut after HELD bytes; then the row's turn."""

    def __init__(
        self,
        data: bytes,
        rest: Answer,
        first: resource.Resource | None = None,
        restart: Answer | None = None,
    ) -> None:
        self.first = first or lab.good(data)
        #: Answers all that do not begin at 0.
        self.rest = rest
        #: Answers what begins at 0, after the cut.
        self.restart: Answer = restart or self.first
        self.cut = False

    def __call__(self, request: Request, conn: Connection) -> None:
        """Answer a request."""
        if request.start:
            self.rest(request, conn)
        elif self.cut:
            self.restart(request, conn)
        elif self.first.answer(request, conn, lab.HELD):
            self.cut = True
            conn.reset()


def resumed(
    key: str,
    title: str,
    expect: str,
    *,
    first: Restart | None = None,
    restart: Restart | None = None,
    **fields: Any,
) -> Callable[[Rest], Rest]:
    """Register what answers a resumed request."""

    def register(rest: Rest) -> Rest:
        def install(world: lab.Lab, path: str, data: bytes) -> str:
            return world.a.serve(
                path,
                Interrupted(
                    data,
                    lambda request, conn: rest(request, conn, data),
                    first(data) if first else None,
                    restart(data) if restart else None,
                ),
            )

        lab.behaviour(key, title, expect, resume=True, **fields)(install)
        return rest

    return register


def _span(request: Request, data: bytes) -> tuple[int, int]:
    last = request.range[1] if request.range else None
    stop = len(data) if last is None else min(len(data), last + 1)
    return request.start, stop


def _partial(
    conn: Connection, body: bytes, span: str | None, **headers: str
) -> None:
    pairs = {'Content-Length': str(len(body)), 'ETag': '"v1"'}
    if span:
        pairs['Content-Range'] = f'bytes {span}'
    pairs.update({k.replace('_', '-'): v for k, v in headers.items()})
    conn.send_head(206, pairs)
    conn.send(body)


def _v2(data: bytes) -> resource.Resource:
    return lab.good(lab.other(data), etag='"v2"')


@resumed('R-01', 'a right 206 (control)', lab.OK)
def right(request: Request, conn: Connection, data: bytes) -> None:
    lab.good(data)(request, conn)


@resumed('R-02', 'Range ignored: 200 and the whole', lab.OK)
def ignored(request: Request, conn: Connection, data: bytes) -> None:
    lab.good(data, ranges=False)(request, conn)


@resumed('R-03', '206 that begins at 0', lab.OK_OR_FAIL)
def other_start(request: Request, conn: Connection, data: bytes) -> None:
    _partial(conn, data, f'0-{len(data) - 1}/{len(data)}')


@resumed('R-04', '206 without Content-Range', lab.OK_OR_FAIL)
def no_span(request: Request, conn: Connection, data: bytes) -> None:
    start, stop = _span(request, data)
    _partial(conn, data[start:stop], None)


@resumed('R-05', 'a right head, a body shifted by 1', lab.UNDETECTABLE)
def shifted(request: Request, conn: Connection, data: bytes) -> None:
    start, stop = _span(request, data)
    span = f'{start}-{stop - 1}/{len(data)}'
    _partial(conn, data[start - 1 : stop - 1], span)


@resumed('R-06', '206 with another total', lab.OK)
def other_total(request: Request, conn: Connection, data: bytes) -> None:
    longer = lab.other(data) + bytes(1000)
    start, stop = _span(request, longer)
    _partial(conn, longer[start:stop], f'{start}-{stop - 1}/{len(longer)}')


def _newer(key: str, title: str, **options: Any) -> None:
    @resumed(
        key,
        title,
        lab.OK,
        with_digest=lab.FAIL,
        versions=lab.newer,
        restart=_v2,
    )
    def rest(request: Request, conn: Connection, data: bytes) -> None:
        lab.good(lab.other(data), etag='"v2"', **options)(request, conn)


_newer('R-07', 'a new version with a new ETag')
_newer('T-22', 'the same, and If-Range is ignored', if_range=False)


def _shrunk(data: bytes) -> bytes:
    return lab.other(data)[:SMALL]


def _refuse(request: Request, conn: Connection, data: bytes) -> None:
    conn.reply(416, b'', {'Content-Range': f'bytes */{SMALL}'})


resumed(
    'R-10',
    '416: now smaller than what is held',
    lab.OK,
    with_size=lab.FAIL,
    versions=lambda data: (_shrunk(data),),
    restart=lambda data: lab.good(_shrunk(data), etag='"v2"'),
)(_refuse)
resumed('R-10-lies', '416, though the whole is as before', lab.OK)(_refuse)


@resumed('R-12', '206 coded with gzip', lab.OK_OR_FAIL)
def coded(request: Request, conn: Connection, data: bytes) -> None:
    start, stop = _span(request, data)
    packed = gzip.compress(data[start:stop], 1)
    span = f'{start}-{stop - 1}/{len(data)}'
    _partial(conn, packed, span, Content_Encoding='gzip')


@resumed('R-14', '200 with Content-Range and the rest', lab.OK_OR_FAIL)
def span_in_200(request: Request, conn: Connection, data: bytes) -> None:
    start, stop = _span(request, data)
    span = f'bytes {start}-{stop - 1}/{len(data)}'
    conn.reply(200, data[start:stop], {'Content-Range': span, 'ETag': '"v1"'})


def _mirror(key: str, title: str, **options: Any) -> None:
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        changed = lab.other(data)
        url = world.b.put(path, changed, etag='"v2"', **options)

        def redirect(request: Request, conn: Connection) -> None:
            conn.reply(302, b'', {'Location': url})

        answer = Interrupted(data, redirect)
        answer.restart = redirect
        return world.a.serve(path, answer)

    lab.behaviour(
        key,
        title,
        lab.OK,
        resume=True,
        with_digest=lab.FAIL,
        versions=lab.newer,
        needs=('second_origin',),
        leak_check=lambda world: world.leaked(world.b),
    )(install)


_mirror('R-17', 'redirected to a mirror with another version')
_mirror('R-17-ignores', 'the same, If-Range ignored', if_range=False)


@resumed('R-18', '206 whose end is beyond its total', lab.OK_OR_FAIL)
def beyond(request: Request, conn: Connection, data: bytes) -> None:
    start, stop = _span(request, data)
    _partial(conn, data[start:stop], f'{start}-{len(data) + 6}/{len(data)}')


@resumed('R-21', 'two 206 cut in half, then right', lab.OK)
def truncated(request: Request, conn: Connection, data: bytes) -> None:
    start, stop = _span(request, data)
    cut = (start + stop) // 2 if request.nth < 3 else None
    if lab.good(data).answer(request, conn, cut):
        conn.close()


@lab.handler(
    'R-21-always',
    'every 206 ends before its first byte',
    lab.FAIL,
    resume=True,
)
def nothing(request: Request, conn: Connection, data: bytes) -> None:
    stop = request.start or lab.HELD
    if lab.good(data).answer(request, conn, stop):
        conn.reset()


@resumed(
    'R-22',
    '206 with one byte damaged (no row in the notes: our reading)',
    lab.UNDETECTABLE,
)
def damaged(request: Request, conn: Connection, data: bytes) -> None:
    bad = bytearray(data)
    bad[len(bad) * 3 // 4] ^= 1
    lab.good(bytes(bad))(request, conn)


@resumed(
    'R-23',
    '404 on resume',
    lab.FAIL,
    restart=lambda data: lab.good(b'gone', status=404, etag=None),
)
def gone(request: Request, conn: Connection, data: bytes) -> None:
    conn.reply(404, b'gone')


@resumed(
    'R-24',
    'changed under the same strong ETag',
    lab.UNDETECTABLE,
    with_digest=lab.FAIL,
    versions=lab.newer,
    restart=lambda data: lab.good(lab.other(data)),
)
def lying(request: Request, conn: Connection, data: bytes) -> None:
    lab.good(lab.other(data))(request, conn)


def _dated(data: bytes) -> resource.Resource:
    return lab.good(
        data,
        etag=None,
        last_modified=lab.MODIFIED,
        headers={'Date': lab.MODIFIED},
    )


@resumed(
    'T-21',
    'Last-Modified only, changed within that second',
    lab.OK,
    with_digest=lab.FAIL,
    versions=lab.newer,
    first=_dated,
    restart=lambda data: _dated(lab.other(data)),
)
def weak_date(request: Request, conn: Connection, data: bytes) -> None:
    _dated(lab.other(data))(request, conn)


@resumed(
    'T-21-weak',
    'a weak ETag only, changed under it',
    lab.OK,
    with_digest=lab.FAIL,
    versions=lab.newer,
    first=lambda data: lab.good(data, etag='W/"v1"'),
    restart=lambda data: lab.good(lab.other(data), etag='W/"v1"'),
)
def weak_etag(request: Request, conn: Connection, data: bytes) -> None:
    changed = lab.good(lab.other(data), etag='W/"v1"', if_range=False)
    changed(request, conn)


@lab.handler('T-17', 'the range in the middle always fails', lab.FAIL)
def bad_range(request: Request, conn: Connection, data: bytes) -> None:
    middle = len(data) // 2
    start, stop = _span(request, data)
    if start == middle or (request.range and start < middle < stop):
        conn.reply(500)
    elif lab.good(data).answer(
        request, conn, middle if start < middle else None
    ):
        conn.reset()


@lab.behaviour(
    'T-16',
    'three mirrors, one with another version',
    lab.OK,
    needs=('second_origin',),
    versions=lab.newer,
)
def mirrors(world: lab.Lab, path: str, data: bytes) -> list[str]:
    return [
        world.a.put(path, data),
        world.b.put(path, lab.other(data), etag='"v2"'),
        world.host2.put(path, data),
    ]
