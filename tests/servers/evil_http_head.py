# SPDX-License-Identifier: Apache-2.0
"""Heads that are broken, huge, missing, or full of bait."""

from __future__ import annotations

import pathlib

from tests.servers import lab
from tests.servers import wire

Connection = wire.Connection
Request = wire.Request


def _raw(conn: Connection, data: bytes, *lines: bytes) -> None:
    end = b'\r\n'.join([b'HTTP/1.1 200 OK', *lines, b'', b''])
    conn.send_raw_head(end)
    conn.send(data)
    conn.close()


def _length(data: bytes) -> bytes:
    return b'Content-Length: %d' % len(data)


@lab.handler('H-13', 'Content-Length: -5, half sent', lab.FAIL)
def negative(request: Request, conn: Connection, data: bytes) -> None:
    _raw(conn, data[: len(data) // 2], b'Content-Length: -5')


@lab.handler('H-15', 'two equal Content-Length', lab.OK_OR_FAIL)
def twice(request: Request, conn: Connection, data: bytes) -> None:
    _raw(conn, data, _length(data), _length(data))


@lab.handler('H-15-differ', 'two Content-Length that differ', lab.FAIL)
def differ(request: Request, conn: Connection, data: bytes) -> None:
    half = data[: len(data) // 2]
    _raw(conn, half, _length(half), _length(data))


@lab.handler('H-26', '10 MB of headers', lab.FAIL)
def huge(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_raw(b'HTTP/1.1 200 OK\r\n')
    for number in range(10_000):
        conn.send_raw(b'X-Filler-%d: %s\r\n' % (number, b'f' * 1000))
    conn.send_raw_head(_length(data) + b'\r\n\r\n')
    conn.send(data)


@lab.handler('H-26-one', 'one header of 10 MB', lab.FAIL)
def huge_line(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_raw(b'HTTP/1.1 200 OK\r\nX-Filler: ')
    for _ in range(10):
        conn.send_raw(b'f' * 1_000_000)
    conn.send_raw_head(b'\r\n' + _length(data) + b'\r\n\r\n')
    conn.send(data)


@lab.handler('H-27', '2000 times 100 Continue', lab.OK_OR_FAIL)
def continues(request: Request, conn: Connection, data: bytes) -> None:
    for _ in range(2000):
        conn.send_raw(b'HTTP/1.1 100 Continue\r\n\r\n')
    lab.good(data)(request, conn)


@lab.handler('H-34', 'a body without any head', lab.FAIL)
def no_head(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_raw(data)
    conn.close()


@lab.handler('H-37', 'lines that end in a bare LF', lab.OK_OR_FAIL)
def bare_lf(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_raw_head(b'HTTP/1.1 200 OK\n' + _length(data) + b'\n\n')
    conn.send(data)
    conn.close()


@lab.handler('H-38', 'a folded Content-Length', lab.OK_OR_FAIL)
def folded(request: Request, conn: Connection, data: bytes) -> None:
    _raw(conn, data, b'Content-Length:\r\n %d' % len(data))


@lab.handler('H-39', 'NUL in a header', lab.OK_OR_FAIL)
def nul(request: Request, conn: Connection, data: bytes) -> None:
    _raw(conn, data, b'X-Nul: a\0b', _length(data))


@lab.handler('H-47', 'a head that is cut off', lab.FAIL)
def cut_head(request: Request, conn: Connection, data: bytes) -> None:
    conn.send_raw(b'HTTP/1.1 200 OK\r\n' + _length(data) + b'\r\nETag: "v')
    conn.close()


@lab.handler('H-51', 'accepted, then closed without a byte', lab.FAIL)
def no_byte(request: Request, conn: Connection, data: bytes) -> None:
    conn.close()


@lab.handler('H-51-once', 'the same twice, then right', lab.OK)
def no_byte_once(request: Request, conn: Connection, data: bytes) -> None:
    if request.serial < 2:
        conn.close()
        return
    lab.good(data)(request, conn)


# T-14: HEAD lies


def _lying_head(key: str, title: str, expect: str, factor: float) -> None:
    @lab.handler(key, title, expect)
    def answer(request: Request, conn: Connection, data: bytes) -> None:
        if request.method == 'HEAD':
            size = str(int(len(data) * factor))
            headers = {'Content-Length': size, 'ETag': '"v1"'}
            conn.send_head(200, {**headers, 'Accept-Ranges': 'bytes'})
        lab.good(data, ranges=factor != 1)(request, conn)


_lying_head('T-14-big', 'HEAD says twice the size', lab.OK_OR_FAIL, 2)
_lying_head('T-14-small', 'HEAD says half the size', lab.OK_OR_FAIL, 0.5)
_lying_head('T-14-ranges', 'HEAD promises ranges, GET has none', lab.OK, 1)


@lab.handler('T-14-405', 'HEAD is refused, GET is right', lab.OK)
def no_head_method(request: Request, conn: Connection, data: bytes) -> None:
    if request.method == 'HEAD':
        conn.send_head(405, {'Content-Length': '0', 'Allow': 'GET'})
    lab.good(data)(request, conn)


# T-23: names that must never be used


def _touched(world: lab.Lab) -> list[str]:
    bait = pathlib.Path(_bait(world))
    found = [bait, world.directory.parent / bait.name, pathlib.Path(bait.name)]
    return [f'a file was made: {path}' for path in found if path.exists()]


def _bait(world: lab.Lab) -> str:
    return str(world.directory / 'bait')


def _disposition(key: str, name: str, expect: str = lab.OK) -> None:
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        text = name.replace('BAIT', _bait(world))
        headers = {'Content-Disposition': f'attachment; filename="{text}"'}
        return world.a.put(path, data, headers=headers)

    title = f'Content-Disposition names {name[:16]!r}'
    lab.behaviour(key, title, expect, check=_touched)(install)


_disposition('T-23-parent', '../../bait')
_disposition('T-23-absolute', 'BAIT')
_disposition('T-23-nul', 'BAIT\0.img', lab.OK_OR_FAIL)
_disposition('T-23-long', 'n' * 4096)
_disposition('T-23-device', '/dev/null')


@lab.behaviour('T-24', 'dates that make no sense', lab.OK)
def dates(world: lab.Lab, path: str, data: bytes) -> str:
    headers = {
        'Date': 'Thu, 99 Foo 9999 99:99:99 GMT',
        'Expires': '-1',
        'Age': '99999999999999999999',
    }
    modified = 'Fri, 31 Dec 9999 23:59:59 GMT'
    return world.a.put(path, data, last_modified=modified, headers=headers)


# T-33, T-34: URLs that two parsers read differently


def _smuggled(world: lab.Lab) -> list[str]:
    return [
        f'{request.path} with {sorted(request.headers)}'
        for request in world.requests
        if 'x-injected' in request.headers or request.path == '/smuggled'
    ]


def _injected(key: str, text: str) -> None:
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        return world.a.put(path, data) + text

    title = f'a URL that ends in {text[:24]!r}'
    lab.behaviour(key, title, lab.FAIL, check=_smuggled)(install)


_injected('T-33-url', '?x HTTP/1.1\r\nX-Injected: yes\r\nY: z')
_injected('T-33-lf', '?x HTTP/1.1\nX-Injected: yes\nY: z')
_injected('T-33-split', ' HTTP/1.1\r\n\r\nGET /smuggled HTTP/1.1\r\nY: z')


@lab.behaviour(
    'T-33-header',
    'a header value with CRLF, from the caller',
    lab.FAIL,
    needs=('headers',),
    headers={'X-Test': 'a\r\nX-Injected: yes'},
    check=_smuggled,
)
def header_injection(world: lab.Lab, path: str, data: bytes) -> str:
    return world.a.put(path, data)


def _parsers(key: str, form: str, expect: str) -> None:
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        world.a.put('/', data)
        world.a.put(path, data)
        world.b.put(path, lab.other(data))
        address = f'127.0.0.1:{world.b.port}'
        text = form.replace('A', f'127.0.0.1:{world.a.port}')
        return text.replace('B', address).replace('/P', path)

    def check(world: lab.Lab) -> list[str]:
        return [f'{r.path} at the wrong host' for r in world.b.requests]

    title = f'a URL of the form {form!r}'
    lab.behaviour(key, title, expect, check=check)(install)


_parsers('T-34-hash', 'http://A#@B/P', lab.OK_OR_FAIL)
_parsers('T-34-backslash', 'http://A\\@B/P', lab.FAIL)
_parsers('T-34-at', 'http://x@A@B/P', lab.FAIL)
_parsers('T-34-tab', 'http://A\t@B/P', lab.FAIL)
_parsers('T-34-inner-tab', 'ht\ttp://A/P', lab.OK_OR_FAIL)


@lab.behaviour(
    'T-34-dots', 'ideographic full stops in the address', lab.OK_OR_FAIL
)
def wide_dots(world: lab.Lab, path: str, data: bytes) -> str:
    world.a.put(path, data)
    host = '127.0.0.1'.replace('.', '\u3002')
    return f'http://{host}:{world.a.port}{path}'


@lab.behaviour('T-34-zone', 'an IPv6 address with a zone', lab.FAIL)
def zone(world: lab.Lab, path: str, data: bytes) -> str:
    # Nothing listens there: the origin is bound to 127.0.0.1.
    return f'http://[::1%25lo]:{world.a.port}{path}'


@lab.handler('T-36', '403 that echoes every secret', lab.FAIL)
def echo(request: Request, conn: Connection, data: bytes) -> None:
    names = ('authorization', 'x-auth-token', 'cookie')
    seen = ' '.join(request.headers.get(name, '') for name in names)
    seen = f'{request.target} {seen}'
    conn.send_head(
        403,
        {'Content-Length': str(len(seen)), 'X-Echo': seen},
        reason=f'Forbidden {seen}',
    )
    conn.send(seen.encode('latin-1'))


@lab.behaviour(
    'T-36-url', '403 to a URL with a password and a signature', lab.FAIL
)
def echo_url(world: lab.Lab, path: str, data: bytes) -> str:
    world.secrets |= {'s3cr3t-password', 's3cr3t-signature'}
    world.a.serve(path, lambda request, conn: echo(request, conn, data))
    return (
        f'http://user:s3cr3t-password@127.0.0.1:{world.a.port}{path}'
        '?X-Amz-Signature=s3cr3t-signature'
    )
