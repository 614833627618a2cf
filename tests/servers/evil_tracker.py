# SPDX-License-Identifier: Apache-2.0
"""Trackers that answer badly, by HTTP (BEP 3, 23) and by UDP (BEP 15).

Each is a function on a path of a scripted HTTP server: add() one, and give
its URL to the client.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import ipaddress
import os
import socket
import struct
import threading
from typing import Any

from tests.servers import http
from tests.servers import torrents

_UDP_MAGIC = 0x41727101980
_CONNECT, _ANNOUNCE, _ERROR = 0, 1, 3
_MIB = 1 << 20

Addresses = Iterable[tuple[str, int]]
Answer = Callable[[http.Request, http.Connection, Addresses], None]

#: Where nobody has to be sent to by a tracker.
OUTSIDERS = (
    ('169.254.169.254', 80),
    ('127.0.0.1', 22),
    ('10.0.0.1', 6881),
    ('192.168.0.1', 80),
    ('224.0.0.1', 6881),
    ('255.255.255.255', 6881),
    ('0.0.0.0', 6881),  # noqa: S104
    ('198.51.100.1', 0),
)


def compact(addresses: Addresses) -> bytes:
    """Return numeric IPv4 addresses and ports in six bytes each."""
    return b''.join(
        ipaddress.IPv4Address(host).packed + struct.pack('>H', port)
        for host, port in addresses
    )


def announcement(addresses: Addresses, **more: Any) -> bytes:
    """Return a good answer to an announce."""
    return torrents.bencode(
        {'interval': 1800, 'peers': compact(addresses), **more}
    )


BEHAVIOURS: dict[str, Answer] = {}


def _behaviour(name: str) -> Callable[[Answer], Answer]:
    def register(answer: Answer) -> Answer:
        assert name not in BEHAVIOURS, name
        BEHAVIOURS[name] = answer
        return answer

    return register


def _says(name: str, make: Callable[[Addresses], bytes]) -> None:
    """Register one that answers with a body of some bytes."""

    def answer(
        _request: http.Request, conn: http.Connection, addresses: Addresses
    ) -> None:
        conn.reply(200, make(addresses))

    _behaviour(name)(answer)


def _listed(addresses: Addresses) -> list[dict[str, Any]]:
    return [
        {'ip': host, 'port': port, 'peer id': bytes(20)}
        for host, port in addresses
    ]


_says('good', announcement)
_says('no-compact', lambda peers: torrents.bencode(
    {'interval': 1800, 'peers': _listed(peers)}))  # fmt: skip
_says('outsiders', lambda peers: announcement([*OUTSIDERS, *peers]))
_says('names', lambda _: torrents.bencode({'peers': _listed(
    [('localhost', 22), ('a.invalid', 80), ('a' * 5000, 1)])}))  # fmt: skip
_says('many', lambda peers: announcement(list(peers) + [
    (f'10.{i >> 16}.{i >> 8 & 255}.{i & 255}', 6881)
    for i in range(100_000)]))  # fmt: skip
_says('negative', lambda peers: announcement(
    peers, interval=-1, **{'min interval': -5}))  # fmt: skip
_says('zero', lambda peers: announcement(
    peers, interval=0, **{'min interval': 0}))  # fmt: skip
_says('failure', lambda _: torrents.bencode(
    {'failure reason': 'go away \x1b[31m\r\n' + 'x' * 10_000}))  # fmt: skip
_says('empty', lambda _: b'')
_says('html', lambda _: b'<!DOCTYPE html><title>Welcome</title>')
_says('garbage', lambda _: os.urandom(5000))
_says('nested', lambda _: b'd5:peers' + b'l' * 500_000)
_says('odd-peers', lambda _: torrents.bencode(
    {'interval': 1800, 'peers': b'12345'}))  # fmt: skip
_says('wrong-types', lambda _: torrents.bencode(
    {'interval': 'soon', 'peers': 17, 'peers6': [[]]}))  # fmt: skip
_says('huge-length', lambda _: b'd5:peers99999999999:x')


@_behaviour('silent')
def _silent(
    _request: http.Request, conn: http.Connection, _addresses: Addresses
) -> None:
    conn.stall()


@_behaviour('error')
def _error(
    _request: http.Request, conn: http.Connection, _addresses: Addresses
) -> None:
    conn.reply(503, b'busy')


@_behaviour('trickle')
def _trickle(
    _request: http.Request, conn: http.Connection, _addresses: Addresses
) -> None:
    conn.send_head(200, {'Content-Length': '1000'})
    while not conn.server.closing.wait(0.05):
        conn.send(b'd')


@_behaviour('huge-body')
def _huge_body(
    _request: http.Request, conn: http.Connection, _addresses: Addresses
) -> None:
    size = 100 * _MIB
    conn.send_head(200, {'Content-Length': str(size)})
    conn.send(b'd5:peers%d:' % size)
    for _ in range(100):
        conn.send(bytes(_MIB))


@_behaviour('endless-head')
def _endless_head(
    _request: http.Request, conn: http.Connection, _addresses: Addresses
) -> None:
    conn.send_raw(b'HTTP/1.1 200 OK\r\n')
    while not conn.server.closing.wait(0.001):
        conn.send_raw(b'X-More: ' + b'x' * 8000 + b'\r\n')


@_behaviour('redirect-loop')
def _redirect_loop(
    request: http.Request, conn: http.Connection, _addresses: Addresses
) -> None:
    conn.reply(302, b'', {'Location': request.path})


def redirect(server: http.ScriptedHTTPServer, path: str, to: str) -> str:
    """Add a tracker that redirects to a URL; return its own."""

    def answer(_request: http.Request, conn: http.Connection) -> None:
        conn.reply(302, b'', {'Location': to})

    return server.serve(path, answer)


def add(
    server: http.ScriptedHTTPServer, name: str, addresses: Addresses = ()
) -> str:
    """Add a tracker with a behaviour; return its URL.

    :param addresses: of good peers, for those that tell of any
    """
    answer = BEHAVIOURS[name]
    return server.serve(
        f'/announce-{name}',
        lambda request, conn: answer(request, conn, addresses),
    )


class UDPTracker:
    """A tracker by UDP.

    :param kind: ``good``, ``outsiders``, ``silent``, ``error``, ``garbage``,
        ``short``, ``wrong-transaction``, ``negative``
    :param addresses: of the peers that it tells of
    """

    def __init__(self, kind: str = 'good', addresses: Addresses = ()) -> None:
        self._make = getattr(self, '_' + kind.replace('-', '_'))
        self.addresses = list(addresses)
        if kind == 'outsiders':
            self.addresses += OUTSIDERS
        #: Datagrams that came.
        self.received: list[bytes] = []
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(('127.0.0.1', 0))
        self.port: int = self._sock.getsockname()[1]
        self._thread = threading.Thread(
            target=self._serve, name=f'udp-tracker-{self.port}', daemon=True
        )
        self._thread.start()

    def __enter__(self) -> UDPTracker:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Return the announce URL."""
        return f'udp://127.0.0.1:{self.port}/announce'

    def close(self) -> None:
        """End the thread."""
        # An empty datagram from itself ends it.
        self._sock.sendto(b'', ('127.0.0.1', self.port))
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._sock.close()

    def _serve(self) -> None:
        while True:
            data, sender = self._sock.recvfrom(1 << 16)
            if not data:
                return
            self.received.append(data)
            answer = self._make(data)
            if answer:
                self._sock.sendto(answer, sender)

    def _good(self, data: bytes, interval: int = 1800) -> bytes:
        action, transaction = struct.unpack('>II', data[8:16])
        if action == _CONNECT:
            return struct.pack('>IIQ', _CONNECT, transaction, 4711)
        head = struct.pack('>IIiII', _ANNOUNCE, transaction, interval, 0, 1)
        return head + compact(self.addresses)

    _outsiders = _good

    def _silent(self, _data: bytes) -> bytes:
        return b''

    def _error(self, data: bytes) -> bytes:
        return struct.pack('>I', _ERROR) + data[12:16] + b'go away \x1b[31m'

    def _garbage(self, _data: bytes) -> bytes:
        return os.urandom(1000)

    def _short(self, data: bytes) -> bytes:
        return self._good(data)[:9]

    def _wrong_transaction(self, data: bytes) -> bytes:
        good = self._good(data)
        return good[:4] + bytes(byte ^ 1 for byte in good[4:8]) + good[8:]

    def _negative(self, data: bytes) -> bytes:
        return self._good(data, interval=-1)
