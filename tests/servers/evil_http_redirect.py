# SPDX-License-Identifier: Apache-2.0
"""Redirects: to nowhere, for ever, and to whom secrets do not belong."""

from __future__ import annotations

import base64

from tests.servers import http
from tests.servers import lab
from tests.servers import wire

Connection = wire.Connection
Request = wire.Request


def to(location: str | None, status: int = 302) -> http.Handler:
    """Return a handler that redirects."""

    def answer(request: Request, conn: Connection) -> None:
        pairs = {} if location is None else {'Location': location}
        conn.reply(status, b'', pairs)

    return answer


def _leak_b(world: lab.Lab) -> list[str]:
    return world.leaked(world.b)


def _loop(key: str, title: str, grow: bool) -> None:
    @lab.handler(key, title, lab.FAIL, check=_too_many)
    def answer(request: Request, conn: Connection, data: bytes) -> None:
        hop = f'?hop={request.nth + 1}' if grow else ''
        conn.reply(302, b'', {'Location': request.path + hop})


def _too_many(world: lab.Lab) -> list[str]:
    seen = len(world.a.requests)
    return [f'{seen} redirects followed'] if seen > 60 else []


_loop('H-28', 'endless redirects, each to a new URL', True)
_loop('H-28-loop', 'redirected to itself', False)


@lab.behaviour('H-29', 'redirected to file:///', lab.FAIL)
def to_file(world: lab.Lab, path: str, data: bytes) -> str:
    return world.a.serve(path, to('file:///etc/passwd'))


@lab.behaviour('H-30', 'redirected to ftp', lab.FAIL, needs=('second_origin',))
def to_ftp(world: lab.Lab, path: str, data: bytes) -> str:
    # What listens there never sends an FTP greeting.
    return world.a.serve(path, to(f'ftp://127.0.0.1:{world.b.port}{path}'))


def _across(key: str, title: str, status: int) -> None:
    @lab.behaviour(
        key,
        title,
        lab.OK,
        needs=('second_origin',),
        leak_check=_leak_b,
    )
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        return world.a.serve(path, to(world.b.put(path, data), status))


_across('H-31', 'redirected to another port', 302)
for _status in (301, 303, 307, 308):
    _across(f'H-31-{_status}', f'the same with {_status}', _status)


@lab.behaviour(
    'H-32',
    'redirected to another host',
    lab.OK,
    needs=('second_origin',),
    leak_check=lambda world: world.leaked(world.host2),
)
def other_host(world: lab.Lab, path: str, data: bytes) -> str:
    return world.a.serve(path, to(world.host2.put(path, data)))


def _left_the_origin(world: lab.Lab) -> list[str]:
    back = world.a.seen('/back')
    names = [n for r in back for n in r.headers if n in lab.CREDENTIALS]
    return world.leaked(world.b) + [f'{name} after a detour' for name in names]


@lab.behaviour(
    'H-32-back',
    'to another origin and back: credentials stay dropped',
    lab.OK,
    needs=('second_origin',),
    leak_check=_left_the_origin,
)
def there_and_back(world: lab.Lab, path: str, data: bytes) -> str:
    url = world.a.put('/back', data)
    return world.a.serve(path, to(world.b.serve(path, to(url))))


def _split(world: lab.Lab) -> list[str]:
    return [
        f'header injected into {request.path}'
        for request in world.requests
        if 'x-injected' in request.headers
    ]


@lab.behaviour('H-33', 'Location with %0d%0a', lab.OK_OR_FAIL, check=_split)
def encoded_crlf(world: lab.Lab, path: str, data: bytes) -> str:
    target = f'{path}%20HTTP/1.1%0d%0aX-Injected:%20yes%0d%0aY:%20z'
    world.a.put(target, data)
    return world.a.serve(path, to(target))


# T-01 .. T-03: schemes and userinfo


@lab.behaviour(
    'T-01',
    'https redirected to http',
    lab.FAIL,
    needs=('tls', 'second_origin'),
    leak_check=_leak_b,
)
def downgrade(world: lab.Lab, path: str, data: bytes) -> str:
    return world.tls.serve(path, to(world.b.put(path, data)))


@lab.behaviour(
    'T-02',
    'http redirected to https on another port: the token is dropped',
    lab.OK,
    needs=('tls', 'second_origin'),
    leak_check=lambda world: world.leaked(world.tls),
)
def upgrade(world: lab.Lab, path: str, data: bytes) -> str:
    return world.a.serve(path, to(world.tls.put(path, data)))


@lab.behaviour(
    'T-02-ftp',
    'a token, and a redirect to ftp',
    lab.FAIL,
    needs=('second_origin',),
    leak_check=_leak_b,
)
def token_to_ftp(world: lab.Lab, path: str, data: bytes) -> str:
    return to_ftp(world, path, data)


def _userinfo(world: lab.Lab) -> list[str]:
    wanted = base64.b64encode(b'evil:s3cr3t-userinfo').decode()
    found = world.leaked(world.host2)
    found += world.leaked(world.b, names=())
    for request in world.a.requests + world.host2.requests:
        if wanted in request.headers.get('authorization', ''):
            found.append(f'userinfo used at {request.path}')
        if 's3cr3t-userinfo' in request.headers.get('referer', ''):
            found.append(f'userinfo in the Referer at {request.path}')
    return found


@lab.behaviour(
    'T-03',
    'a redirect with userinfo, then one more hop',
    lab.OK_OR_FAIL,
    needs=('second_origin',),
    leak_check=_userinfo,
)
def userinfo(world: lab.Lab, path: str, data: bytes) -> str:
    # At b the userinfo may be used; beyond b it may not.
    world.b.serve(path, to(world.host2.put(path, data)))
    netloc = f'evil:s3cr3t-userinfo@127.0.0.1:{world.b.port}'
    return world.a.serve(path, to(f'http://{netloc}{path}'))


# T-20: forms of Location


def _fragment(world: lab.Lab) -> list[str]:
    return [r.target for r in world.requests if '#' in r.target]


def _form(key: str, title: str, location: str | None, expect: str) -> None:
    @lab.behaviour(key, title, expect, check=_fragment)
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        final = f'{path}-final'
        long_final = f'{path}-{"l" * 8192}'
        world.a.put(final, data)
        world.a.put(long_final, data)
        world.a.put('/up/final', data)
        text = location
        if text is not None:
            text = text.replace('PORT', str(world.a.port))
            text = text.replace('LONG', long_final)
            text = text.replace('NAME', final[1:]).replace('FINAL', final)
        start = f'/up{path}' if location == 'final' else path
        return world.a.serve(start, to(text))


_form('T-20-none', 'a redirect without Location', None, lab.FAIL)
_form('T-20-empty', 'an empty Location', '', lab.FAIL)
_form('T-20-host', 'Location //host', '//127.0.0.1:PORTFINAL', lab.OK)
_form('T-20-path', 'Location /path', 'FINAL', lab.OK)
_form('T-20-relative', 'a relative Location', 'final', lab.OK)
_form('T-20-dots', 'Location ../name', '../x/../NAME', lab.OK)
_form('T-20-fragment', 'Location with a fragment', 'FINAL#part', lab.OK)
_form('T-20-long', 'Location of 8 KB', 'LONG', lab.OK_OR_FAIL)
_form('T-20-control', 'a control character', 'FINAL\x01', lab.OK_OR_FAIL)
_form('T-20-tab', 'a tab in Location', 'http\t://127.0.0.1/', lab.FAIL)
_form('T-20-port', 'a port that is none', 'http://127.0.0.1:99999/', lab.FAIL)
_form('T-20-scheme', 'an unknown scheme', 'gopher://127.0.0.1/', lab.FAIL)


@lab.behaviour('T-20-query', 'Location of only a query', lab.OK)
def only_query(world: lab.Lab, path: str, data: bytes) -> str:
    def answer(request: Request, conn: Connection) -> None:
        if '?' in request.target:
            lab.good(data)(request, conn)
        else:
            conn.reply(302, b'', {'Location': '?again=1'})

    return world.a.serve(path, answer)


@lab.behaviour('T-20-two', 'two different Locations', lab.OK_OR_FAIL)
def two_locations(world: lab.Lab, path: str, data: bytes) -> str:
    first = world.a.put(f'{path}-1', data)
    second = world.a.put(f'{path}-2', data)
    pairs = [('Location', first), ('Location', second)]
    return world.a.serve(
        path, lambda request, conn: conn.reply(302, b'', pairs)
    )


@lab.behaviour(
    'T-34-redirect',
    'a redirect to a URL with a backslash',
    lab.FAIL,
    needs=('second_origin',),
    leak_check=_leak_b,
    check=lambda world: [f'{r.path} at b' for r in world.b.requests],
)
def backslash(world: lab.Lab, path: str, data: bytes) -> str:
    world.b.put(path, lab.other(data))
    netloc = f'127.0.0.1:{world.a.port}\\@127.0.0.1:{world.b.port}'
    return world.a.serve(path, to(f'http://{netloc}{path}'))
