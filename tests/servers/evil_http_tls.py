# SPDX-License-Identifier: Apache-2.0
"""TLS: wrong certificates, and connections that end wrongly."""

from __future__ import annotations

from tests.servers import lab
from tests.servers import wire

Connection = wire.Connection
Request = wire.Request


def _no_request(world: lab.Lab) -> list[str]:
    return [
        f'a request went to {server.name}'
        for server in world.servers
        if server.name.startswith('tls-') and server.name != 'tls-good'
        for _ in server.requests
    ]


def _certificate(key: str, title: str, name: str, expect: str) -> None:
    @lab.behaviour(key, title, expect, needs=('tls',), check=_no_request)
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        return world.new_server(name, name=f'tls-{name}').put(path, data)


_certificate('T-06-ok', 'a right certificate (control)', 'good', lab.OK)
_certificate('T-06-expired', 'expired', 'expired', lab.FAIL)
_certificate('T-06-early', 'not valid yet', 'not-yet-valid', lab.FAIL)
_certificate('T-06-host', 'for another host', 'wrong-host', lab.FAIL)
_certificate('T-06-self', 'signed by itself', 'self-signed', lab.FAIL)
_certificate('T-06-nul', 'NUL in the names', 'nul-name', lab.FAIL)
_certificate('T-06-weak', 'a key of 1024 bits', 'weak-key', lab.FAIL)


@lab.behaviour(
    'T-06-plain', 'no TLS where TLS was asked for', lab.FAIL, needs=('tls',)
)
def no_tls(world: lab.Lab, path: str, data: bytes) -> str:
    return world.a.put(path, data).replace('http:', 'https:')


def _cut(key: str, title: str, part: float, expect: str, size: str) -> None:
    @lab.behaviour(key, title, expect, needs=('tls',), with_size=size)
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        def answer(request: Request, conn: Connection) -> None:
            conn.send_head(200)
            conn.send(data[: int(len(data) * part)])
            conn.close(notify=False)

        return world.tls.serve(path, answer)


_cut('T-07', 'half, no length, no close_notify', 0.5, lab.FAIL, lab.FAIL)
_cut(
    'T-07-whole',
    'all, no length, no close_notify',
    1,
    lab.OK_OR_FAIL,
    lab.OK_OR_FAIL,
)


def _hello(key: str, title: str, times: int | None, expect: str) -> None:
    @lab.behaviour(key, title, expect, needs=('tls',))
    def install(world: lab.Lab, path: str, data: bytes) -> str:
        def accept(conn: Connection) -> bool:
            if times is not None and conn.serial >= times:
                return True
            conn.sock.recv(1 << 16)
            return False

        server = world.new_server('good', name='hello', on_accept=accept)
        return server.put(path, data)


_hello('T-08', 'closed right after ClientHello', None, lab.FAIL)
_hello('T-08-once', 'the same twice, then right', 2, lab.OK)


@lab.behaviour(
    'T-08-stall', 'no answer to ClientHello', lab.FAIL, needs=('tls',)
)
def stalled_handshake(world: lab.Lab, path: str, data: bytes) -> str:
    def accept(conn: Connection) -> bool:
        conn.stall()
        return False

    server = world.new_server('good', name='hello', on_accept=accept)
    return server.put(path, data)
