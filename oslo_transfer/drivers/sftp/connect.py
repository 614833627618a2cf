# SPDX-License-Identifier: Apache-2.0
"""The one way to a server: host key, login, SFTP session."""

from __future__ import annotations

from collections.abc import Callable
import logging
import threading
import typing

import paramiko

from oslo_transfer import context as _context
from oslo_transfer.drivers.sftp import hostkeys
from oslo_transfer.drivers.sftp import login
from oslo_transfer.drivers.sftp import session
from oslo_transfer.drivers.sftp import wire
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions

# In the order of preference. AES-GCM first: one pass over the data, and
# no other cipher of these is nearly as fast. None uses CBC or SHA-1.
_CIPHERS = (
    'aes128-gcm@openssh.com',
    'aes256-gcm@openssh.com',
    'aes128-ctr',
    'aes192-ctr',
    'aes256-ctr',
)
_MACS = (
    'hmac-sha2-256-etm@openssh.com',
    'hmac-sha2-512-etm@openssh.com',
    'hmac-sha2-256',
    'hmac-sha2-512',
)
# Bytes that the server may send before they are read, and by one packet.
_WINDOW = 16 << 20
_MAX_PACKET = 255 * 1024
# Seconds without traffic after which a firewall may forget a connection.
_KEEPALIVE = 15
# What paramiko says of a call on a transport that has ended, and of one that
# ends while somebody logs in.
_ON_DEAD_TRANSPORT = (
    'No existing session',
    'Authentication failed: transport shut down or saw EOF',
)
# paramiko logs what ends a connection; that is in our exceptions.
_LOG = 'oslo_transfer.drivers.sftp.paramiko'


def _as_detail(record: logging.LogRecord) -> bool:
    """Log what paramiko takes for errors as details: we raise them."""
    record.levelno = logging.DEBUG
    record.levelname = logging.getLevelName(logging.DEBUG)
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


class _ClearToSend(threading.Event):
    """What paramiko waits for while keys are exchanged again.

    A thread of ours keeps the limits of the transfer meanwhile.
    """

    def __init__(
        self, transport: threading.Thread, ctx: _context.Context
    ) -> None:
        super().__init__()
        self._transport = transport
        self._ctx = ctx

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, or raise what the context says."""
        done = super().wait(timeout)
        if not done and threading.current_thread() is not self._transport:
            self._ctx.check()
        return done


class SSHLink:
    """A channel with the subsystem ``sftp``.

    :param connection: the socket that the transport reads
    :param transport: started, and logged in
    :param channel: whose subsystem was started
    """

    def __init__(
        self,
        connection: wire.Wire,
        transport: paramiko.Transport,
        channel: typing.Any,
        where: str,
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._channel = channel
        self._where = where

    def send(self, data: memoryview) -> int:
        """Send at least one byte; TimeoutError after a tick."""
        try:
            count: int = self._channel.send(data)
        except TimeoutError:
            raise
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise self.error() from exc
        if not count:
            raise self.error()
        return count

    def recv(self) -> memoryview:
        """What came next, empty at the end; TimeoutError after a tick."""
        try:
            part: memoryview = self._channel.recv(wire.MAX_PACKET)
        except TimeoutError:
            raise
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise self.error() from exc
        return part

    def error(self) -> exceptions.TransferError:
        """Why it has ended."""
        return translate(
            self._transport.saved_exception, self._connection, self._where
        )

    def close(self) -> None:
        """End the connection and the transport's thread."""
        close(self._connection, self._transport)


def translate(
    exc: BaseException | None, connection: wire.Wire, where: str
) -> exceptions.TransferError:
    """The library's error for what ended a connection."""
    if connection.error is not None:
        return type(connection.error)(*connection.error.args)
    if isinstance(exc, paramiko.ssh_exception.IncompatiblePeer):
        return exceptions.ProtocolError(
            f'{where}: the server has no algorithm that is safe enough ({exc})'
        )
    # paramiko wraps what happens while it reads the version.
    if isinstance(exc, paramiko.SSHException) and exc.__context__ is not None:
        exc = exc.__context__
    if connection.ended and str(exc) in _ON_DEAD_TRANSPORT:
        exc = None
    if exc is None or isinstance(exc, OSError | EOFError):
        detail = f' ({exc})' if exc is not None and str(exc) else ''
        return exceptions.Unavailable(f'{where}: the connection broke{detail}')
    # Whatever else paramiko stumbles over is what the server sent.
    return exceptions.ProtocolError(f'{where}: {exc}')


def close(connection: wire.Wire, transport: paramiko.Transport) -> None:
    """End a connection and its thread; bounded, and never raises."""
    connection.shutdown()
    transport.close()
    if transport.is_alive():
        transport.join(2.0)
    connection.close()


def connect(
    endpoint: _endpoint.Endpoint,
    ctx: _context.Context,
    *,
    renewed: bool = False,
) -> session.Session:
    """Connect, see who the server is, log in, and start SFTP.

    Blocks for at most ``ctx.connect_timeout`` for each of these steps.
    Refused credentials are tried once more if they can be renewed.

    :param renewed: they were
    :raises AccessDenied: the host key is not the known one, or no login
        was taken
    :raises ConfigurationError: an option cannot be used
    :raises PolicyRefused: the URL policy forbids the address
    :raises ProtocolError: the server makes no sense, or has only weak
        algorithms
    :raises Unavailable: the server cannot be reached
    """
    where = str(endpoint)
    group = ctx.conf.oslo_transfer_sftp
    port = endpoint.port or _endpoint.DEFAULT_PORTS['sftp']
    known = hostkeys.load(group.known_hosts_file, endpoint.host, port)
    identity = login.identity(endpoint, ctx)
    sock = ctx.connect(endpoint, port)
    connection = wire.Wire(sock, ctx, where)
    transport = _transport(connection, ctx, known)
    try:
        key = _step(
            lambda: _exchange_keys(transport, ctx),
            f'the key exchange with {endpoint.host}',
            ctx,
            connection,
            where,
        )
        known.check(key)
        try:
            _step(
                lambda: identity.log_in(transport),
                f'the login at {endpoint.host}',
                ctx,
                connection,
                where,
            )
        except exceptions.AccessDenied as exc:
            if connection.ended:
                raise exceptions.Unavailable(
                    f'{where}: the connection broke during the login'
                ) from exc
            if renewed or not (ctx.credentials and ctx.credentials.refresh()):
                raise
            close(connection, transport)
            return connect(endpoint, ctx, renewed=True)
        transport.set_keepalive(_KEEPALIVE)
        channel = _step(
            lambda: _open_channel(transport, ctx),
            f'the start of SFTP at {endpoint.host}',
            ctx,
            connection,
            where,
        )
        found = session.Session(
            SSHLink(connection, transport, channel, where), where
        )
        found.start(session.Waiter(ctx, where))
        return found
    except BaseException:
        close(connection, transport)
        raise


def _step(
    function: Callable[[], typing.Any],
    name: str,
    ctx: _context.Context,
    connection: wire.Wire,
    where: str,
) -> typing.Any:
    """Do a part of connecting, within the limits.

    What goes on in its thread when the wait ends early is ended by closing
    the connection.
    """
    try:
        return ctx.call(function, name, ctx.connect_timeout, cooperative=True)
    except exceptions.TransferError:
        raise
    except Exception as exc:
        raise translate(exc, connection, where) from exc


def _transport(
    connection: wire.Wire, ctx: _context.Context, known: hostkeys.KnownKeys
) -> paramiko.Transport:
    transport = paramiko.Transport(
        connection,
        default_window_size=_WINDOW,
        default_max_packet_size=_MAX_PACKET,
        packetizer_class=wire.Packetizer,
    )
    transport.name = 'oslo-transfer-sftp'
    transport.set_log_channel(_LOG)
    transport.logger.addFilter(_as_detail)
    transport.clear_to_send = _ClearToSend(transport, ctx)
    transport.banner_timeout = ctx.connect_timeout
    transport.auth_timeout = ctx.connect_timeout
    transport.channel_timeout = ctx.connect_timeout
    transport.clear_to_send_timeout = ctx.connect_timeout
    options = transport.get_security_options()
    options.ciphers = [each for each in _CIPHERS if each in options.ciphers]
    options.digests = [each for each in _MACS if each in options.digests]
    options.kex = [each for each in options.kex if 'sha1' not in each]
    options.key_types = known.preferred(
        [each for each in options.key_types if each != 'ssh-rsa']
    )
    return transport


def _exchange_keys(
    transport: paramiko.Transport, ctx: _context.Context
) -> bytes:
    transport.start_client(timeout=ctx.connect_timeout)
    key: bytes = transport.get_remote_server_key().asbytes()
    return key


def _open_channel(
    transport: paramiko.Transport, ctx: _context.Context
) -> typing.Any:
    channel: typing.Any = transport.open_session()
    channel.in_buffer = wire.Inbox(2 * _WINDOW)
    channel.in_stderr_buffer = wire.Nowhere()
    channel.settimeout(_context.TICK)
    channel.invoke_subsystem('sftp')
    return channel
