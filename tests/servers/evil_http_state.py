# SPDX-License-Identifier: Apache-2.0
"""Servers with a memory: retries, tokens, drops, kept connections."""

from __future__ import annotations

from collections.abc import Callable
import email.utils
import time

from tests.servers import lab
from tests.servers import wire

Connection = wire.Connection
Request = wire.Request

HUGE = '99999999'
POISON = b'E'


@lab.handler('H-43', f'503 with Retry-After: {HUGE}, always', lab.FAIL)
def busy(request: Request, conn: Connection, data: bytes) -> None:
    conn.reply(503, b'busy', {'Retry-After': HUGE})


# T-04, T-05: the environment must not matter


def _netrc(world: lab.Lab) -> dict[str, str]:
    netrc = world.directory / '.netrc'
    netrc.write_text(
        'machine 127.0.0.1 login evil password s3cr3t-netrc\n'
        'default login evil password s3cr3t-netrc\n'
    )
    netrc.chmod(0o600)
    return {'HOME': str(world.directory), 'NETRC': str(netrc)}


def _basic(world: lab.Lab) -> list[str]:
    return [
        f'{r.headers["authorization"]} at {r.path}'
        for r in world.requests
        if r.headers.get('authorization', '').startswith('Basic')
    ]


def _netrc_row(key: str, title: str, expect: str, tokens: bool) -> None:
    @lab.behaviour(
        key,
        title,
        expect,
        needs=('env',),
        environ=_netrc,
        leak_check=_basic,
    )
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        if tokens:
            world.a.require_header(path, 'Authorization', set())
        return world.a.put(path, data)


_netrc_row('T-04', 'a .netrc for the host', lab.OK, False)
_netrc_row('T-04-401', 'a .netrc, and 401', lab.FAIL, True)


def _proxy(world: lab.Lab) -> dict[str, str]:
    url = f'http://evil:s3cr3t-proxy@127.0.0.1:{world.b.port}'
    names = ('http_proxy', 'https_proxy', 'all_proxy')
    found = dict.fromkeys(names, url)
    return {**found, **{k.upper(): url for k in names}, 'no_proxy': ''}


def _proxied(world: lab.Lab) -> list[str]:
    found = [f'{r.target} went to the proxy' for r in world.b.requests]
    for request in world.a.requests:
        if 'proxy-authorization' in request.headers:
            found.append(f'Proxy-Authorization at {request.path}')
    return found


@lab.behaviour(
    'T-05',
    'a proxy in the environment that nobody configured',
    lab.OK,
    needs=('env', 'second_origin'),
    environ=_proxy,
    leak_check=_proxied,
)
def proxy(world: lab.Lab, path: str, data: bytes) -> str:
    return world.a.put(path, data)


# T-11, T-13: connections that are kept


@lab.handler('T-11', 'closed after each answer, without a word', lab.OK)
def silent_close(request: Request, conn: Connection, data: bytes) -> None:
    try:
        lab.good(data)(request, conn)
    finally:
        conn.close()


@lab.behaviour(
    'T-11-late', 'the second request on a connection is not answered', lab.OK
)
def stale(world: lab.Lab, path: str, data: bytes) -> str:
    used: set[int] = set()

    def answer(request: Request, conn: Connection) -> None:
        if conn.serial in used:
            conn.close()
            return
        used.add(conn.serial)
        lab.good(data)(request, conn)

    return world.a.serve(path, answer)


def _reused(world: lab.Lab) -> list[str]:
    seen: set[int] = set()
    found = []
    for request in world.a.requests:
        if request.connection in seen:
            found.append(f'connection {request.connection} used again')
        seen.add(request.connection)
    return found


@lab.handler(
    'T-13', 'a second answer after the body', lab.OK_OR_FAIL, check=_reused
)
def splitting(request: Request, conn: Connection, data: bytes) -> None:
    resource = lab.good(data)
    _, _, start, stop = resource.plan(request)
    poison = POISON * (stop - start)
    try:
        resource(request, conn)
    finally:
        last = min(len(data), stop + len(poison)) - 1
        head = f'HTTP/1.1 200 OK\r\nContent-Length: {len(poison)}\r\n'
        if request.range:
            span = f'bytes {stop}-{last}/{len(data)}'
            head = head.replace('200 OK', '206 Partial Content')
            head += f'Content-Range: {span}\r\n'
        conn.send_raw(f'{head}ETag: "v1"\r\n\r\n'.encode() + poison)


# T-18, T-19: asked to wait, asked for a new token


def _after(seconds: float) -> Callable[[lab.Lab], list[str]]:
    def check(world: lab.Lab) -> list[str]:
        times = [r.time for r in world.a.requests if r.method == 'GET']
        early = len(times) > 1 and times[1] - times[0] < seconds
        return ['Retry-After was not honoured'] if early else []

    return check


def _retry(
    key: str,
    title: str,
    value: Callable[[], str],
    expect: str,
    status: int = 503,
    seconds: float = 0.0,
) -> None:
    @lab.handler(key, title, expect, check=_after(seconds), elapsed_limit=20.0)
    def answer(request: Request, conn: Connection, data: bytes) -> None:
        if request.serial < 1:
            conn.reply(status, b'wait', {'Retry-After': value()})
            return
        lab.good(data)(request, conn)


def _soon() -> str:
    # A date has whole seconds: 1 to 2 s from now.
    return email.utils.formatdate(time.time() + 2, usegmt=True)


_retry('T-18-date', 'Retry-After: a date', _soon, lab.OK, 503, 0.9)
_retry('T-18-seconds', 'Retry-After: 1', lambda: '1', lab.OK, 429, 0.95)
_retry('T-18-negative', 'Retry-After: -5', lambda: '-5', lab.OK)
_retry('T-18-huge', 'Retry-After huge', lambda: HUGE, lab.OK_OR_FAIL, 429)
_retry('T-18-text', 'Retry-After: soon', lambda: 'soon', lab.OK)


def _expires(key: str, title: str, expect: str, again: bool) -> None:
    @lab.behaviour(key, title, expect, needs=('token',), check=_refreshes)
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        world.a.require_token(path, {world.token})
        expired = False

        def answer(request: Request, conn: Connection) -> None:
            nonlocal expired
            resource = lab.good(data)
            if expired:
                resource(request, conn)
            elif resource.answer(request, conn, len(data) // 2):
                expired = True
                world.token = 's3cr3t-token-2'
                valid = {world.token} if again else set()
                world.a.require_token(path, valid)
                conn.reset()

        return world.a.serve(path, answer)


def _refreshes(world: lab.Lab) -> list[str]:
    refused = [r for r in world.a.requests if r.status == 401]
    return [f'{len(refused)} times 401'] if len(refused) > 4 else []


_expires('T-19', 'the token expires in mid-copy', lab.OK, True)
_expires('T-19-never', 'and no new one is taken', lab.FAIL, False)


# T-26 .. T-28: drops


def drop_at(
    k: int, *, always: bool = False, fin: bool = False
) -> lab.Behaviour:
    """Return a row: the first answer ends after k bytes, or all do.

    With always, a client gets on only if it reads again less than k bytes.
    """

    def install(world: lab.Lab, path: str, data: bytes) -> str:
        def answer(request: Request, conn: Connection) -> None:
            resource = lab.good(data)
            stop = None
            if always or request.nth == 0:
                stop = request.start + k
            if resource.answer(request, conn, stop):
                if fin:
                    conn.close()
                else:
                    conn.reset()

        return world.a.serve(path, answer)

    how = ('FIN' if fin else 'RST') + (', always' if always else '')
    key = f'T-26-{k}' + ('-fin' if fin else '') + ('-always' * always)
    return lab.Behaviour(key, f'dropped at byte {k} ({how})', install, lab.OK)


def sweep(size: int) -> list[int]:
    """Return the powers of 2 and their neighbours, below a size."""
    near = {2**n + d for n in range(size.bit_length()) for d in (-1, 0, 1)}
    return sorted(k for k in near | {size - 1} if 0 <= k < size)


for _k in (0, 1, 4095, 4096, 4097, 65536, lab.SIZE - 1):
    for _fin in (False, True):
        _row = drop_at(_k, fin=_fin)
        lab.BEHAVIOURS[_row.id] = _row


@lab.handler('T-27', 'ten drops with progress', lab.OK)
def progress(request: Request, conn: Connection, data: bytes) -> None:
    # By offset: a client may read again some of what it holds.
    stop = (request.nth + 1) * len(data) // 11 if request.nth < 10 else None
    if lab.good(data).answer(request, conn, stop):
        conn.reset()


@lab.handler('T-27-stuck', 'drops without progress, always', lab.FAIL)
def stuck(request: Request, conn: Connection, data: bytes) -> None:
    lab.good(data).answer(request, conn, request.start)
    conn.reset()


@lab.handler('T-28', 'RST while the client writes slowly', lab.OK)
def slow_writer(request: Request, conn: Connection, data: bytes) -> None:
    # Everything is in flight when the RST overtakes it.
    stop = len(data) * 3 // 4 if request.nth == 0 else None
    if lab.good(data).answer(request, conn, stop):
        conn.reset(drain=False)
