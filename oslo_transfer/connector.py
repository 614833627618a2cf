# SPDX-License-Identifier: Apache-2.0
"""The one place that resolves names and opens TCP connections."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer import exceptions
from oslo_transfer import shared

if typing.TYPE_CHECKING:
    from oslo_transfer import urlpolicy

# A name with more addresses than this gets no more tried: each costs time.
_MAX_ADDRESSES = 8
# When to try the next address beside one that does not answer (RFC 8305).
_STAGGER = 0.25

_AddressInfo = tuple[
    socket.AddressFamily, socket.SocketKind, int, str, typing.Any
]


class Connector:
    """Resolves once, checks every address, connects to a checked one.

    Thread-safe.

    :param policy: what untrusted locations may reach
    """

    def __init__(self, policy: urlpolicy.UrlPolicy) -> None:
        self.policy = policy

    def connect(
        self, host: str, port: int, ctx: _context.Context
    ) -> socket.socket:
        """Connect to a host.

        Blocks for at most ``queue_timeout`` seconds where the process has
        ``max_connections_per_host`` already, for ``ctx.connect_timeout``
        seconds for resolving, and as long again for connecting. The socket
        has a timeout of one tick, for waits in slices.

        :param host: a host name or numeric address
        :param port: a TCP port
        :param ctx: its ``trusted`` says whether the policy applies
        :raises PolicyRefused: the policy refuses one of its addresses
        :raises Unavailable: the name does not resolve, or no address
            takes the connection in time
        """
        slots = shared.current().connections
        slot = slots.take(
            (host, port),
            ctx.conf.oslo_transfer.max_connections_per_host,
            ctx,
            'max_connections_per_host',
        )
        try:
            sock = self._connect(host, port, ctx)
        except BaseException:
            slots.release(slot)
            raise
        slot.hold(sock)
        return sock

    def probe(self, host: str, port: int, ctx: _context.Context) -> None:
        """Connect and hang up, to learn how near a host is.

        Blocks as :meth:`connect` does, but waits for no other connection.

        :raises PolicyRefused: as :meth:`connect`
        :raises Unavailable: as :meth:`connect`
        """
        self._connect(host, port, ctx).close()

    def _connect(
        self, host: str, port: int, ctx: _context.Context
    ) -> socket.socket:
        state = shared.current()
        try:
            found = self._addresses(host, port, ctx)
            started = time.monotonic()
            sock = _first_to_answer(found, host, port, ctx)
        except exceptions.Unavailable as exc:
            state.locations.unreachable((host, port), exc)
            raise
        state.connect_times.add((host, port), time.monotonic() - started)
        state.locations.reached((host, port))
        return sock

    def _addresses(
        self, host: str, port: int, ctx: _context.Context
    ) -> list[_AddressInfo]:
        found = self._resolve(host, port, ctx)
        if not ctx.trusted:
            # All of them: one good address beside a bad one is the
            # signature of an attack, not of a mirror.
            for info in found:
                self.policy.check_address(host, info[4][0])
        return found[:_MAX_ADDRESSES]

    @staticmethod
    def connect_beside(
        sock: socket.socket, port: int, where: str, ctx: _context.Context
    ) -> socket.socket:
        """Connect to another port of the address that a socket leads to.

        Nothing is resolved, and nothing left to check: it is the address
        that :meth:`connect` has chosen. The rest is as there.

        :param where: names the host, for messages
        :raises Unavailable: it does not take the connection in time
        """
        try:
            address = sock.getpeername()
        except OSError as exc:
            raise exceptions.Unavailable(
                f'{where}: the connection broke ({exc.strerror})'
            ) from exc
        info = (
            sock.family,
            socket.SOCK_STREAM,
            0,
            '',
            (address[0], port, *address[2:]),
        )
        return _first_to_answer([info], where, port, ctx)

    @staticmethod
    def _resolve(
        host: str, port: int, ctx: _context.Context
    ) -> list[_AddressInfo]:
        def resolve(flags: int = 0) -> list[_AddressInfo]:
            return [
                *socket.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, flags=flags
                )
            ]

        with contextlib.suppress(socket.gaierror):
            return resolve(socket.AI_NUMERICHOST)
        try:
            found: list[_AddressInfo] = ctx.call(
                resolve, f'resolving {host}', ctx.connect_timeout
            )
        except (socket.gaierror, UnicodeError) as exc:
            raise exceptions.Unavailable(
                f'{host} does not resolve: {exc}'
            ) from exc
        return found


def _first_to_answer(
    addresses: list[_AddressInfo],
    host: str,
    port: int,
    ctx: _context.Context,
) -> socket.socket:
    """Start a connection every quarter of a second, keep the first."""
    waiting = list(addresses)
    reasons: list[str] = []
    end = time.monotonic() + ctx.connect_timeout
    next_start = 0.0
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        pending: set[socket.socket] = set()
        while waiting or pending:
            ctx.check()
            now = time.monotonic()
            if now > end:
                reasons.append(f'no answer in {ctx.connect_timeout:g} s')
                break
            if waiting and (now >= next_start or not pending):
                next_start = now + _STAGGER
                sock = _start(waiting.pop(0), reasons)
                if sock is not None:
                    stack.callback(_close_unless_kept, sock, pending)
                    pending.add(sock)
                    selector.register(sock, selectors.EVENT_WRITE)
            for key, _events in selector.select(min(_context.TICK, _STAGGER)):
                sock = typing.cast(socket.socket, key.fileobj)
                selector.unregister(sock)
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                pending.discard(sock)
                if error:
                    reasons.append(os.strerror(error))
                    sock.close()
                    next_start = 0.0
                    continue
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(_context.TICK)
                return sock
    detail = ', '.join(dict.fromkeys(reasons)) or 'it has no address'
    raise exceptions.Unavailable(
        f'cannot connect to {host} port {port}: {detail}'
    )


def _start(info: _AddressInfo, reasons: list[str]) -> socket.socket | None:
    family, kind, protocol, _name, address = info
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as exc:
        reasons.append(exc.strerror or str(exc))
        return None
    sock.setblocking(False)
    try:
        error = sock.connect_ex(address)
    except OSError as exc:
        error = exc.errno or errno.EINVAL
    if error not in (0, errno.EINPROGRESS):
        reasons.append(os.strerror(error))
        sock.close()
        return None
    return sock


def _close_unless_kept(
    sock: socket.socket, pending: set[socket.socket]
) -> None:
    if sock in pending:
        sock.close()
