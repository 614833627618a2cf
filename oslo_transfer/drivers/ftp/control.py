# SPDX-License-Identifier: Apache-2.0
"""The control connection: login, TLS, commands and their replies."""

from __future__ import annotations

import ftplib
import io
import socket
import ssl
import typing

from oslo_transfer.drivers.ftp import names
from oslo_transfer.drivers.ftp import reply as _reply
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import sockets
from oslo_transfer import tls

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

# Far more than any reply has.
_REPLY_BYTES = 64 * 1024
_IMPLICIT_TLS = 990
# Keeps routers from forgetting a connection that is silent while data flows.
_KEEP_ALIVE = 60


class _Lines(ftplib.FTP):
    """The command and reply logic of ftplib over a watched socket."""

    encoding: str
    _reader: io.BufferedReader

    def __init__(self, watched: sockets.WatchedSocket) -> None:
        super().__init__()
        self._watched = watched
        self._first = True
        self.begin()

    def begin(self) -> None:
        """Read from here on; what was read ahead is dropped."""
        self._reader = self._watched.makefile('rb')
        self._raw = typing.cast(sockets.WatchedReader, self._reader.raw)

    def getline(self) -> str:
        """One line, of a reply that is bounded as a whole."""
        line = self._reader.readline()
        if not line.endswith(b'\n'):
            raise exceptions.Unavailable(
                f'{self._watched.where}: the server hung up'
            )
        text = _reply.check_line(
            line.decode(errors='surrogateescape'), self._watched.where
        )
        if self._first:
            # What is no code, but goes on with "-" like one, would be taken
            # for the start of more: "SSH-2.0" is.
            _reply.parse(text, self._watched.where)
            self._first = False
        return text

    def putline(self, line: str) -> None:
        """Send one line."""
        # Checked where it came from, with a better message; this is what
        # keeps it true.
        if any(each in line for each in '\r\n\0'):
            raise exceptions.InvalidEndpoint(
                f'{self._watched.where}: a command with a line end'
            )
        self._watched.sendall(line.encode(errors='surrogateescape') + b'\r\n')

    def read(self) -> str:
        """A reply of one or more lines."""
        self._watched.renew()
        self._raw.budget = _REPLY_BYTES
        self._first = True
        try:
            return self.getmultiline()
        except exceptions.ProtocolError:
            if self._raw.budget:
                raise
            raise exceptions.ProtocolError(
                f'{self._watched.where}: a reply without end'
            ) from None

    def holds_more(self) -> bool:
        """Whether bytes were read from the connection and not from here."""
        # A raw read would block; with a budget of 0 it raises.
        self._raw.budget = 0
        try:
            return bool(self._reader.peek(1))
        except exceptions.ProtocolError:
            return False


class Login:
    """Opens control connections that are ready for transfers.

    Thread-safe.

    :param endpoint: the server, and perhaps a login
    :param ctx: limits and credentials
    """

    def __init__(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> None:
        self.where = str(endpoint)
        self._endpoint = endpoint
        self._ctx = ctx
        self._worked = False
        self._tls: ssl.SSLContext | None = None
        if endpoint.scheme == 'ftps':
            options = ctx.conf.oslo_transfer_ftp
            # One for all, or the data connections could not go on with a
            # session.
            self._tls = tls.client_context(
                'oslo_transfer_ftp',
                options.ca_file,
                options.cert_file,
                options.key_file,
            )

    def open(self, ctx: _context.Context | None = None) -> Control:
        """Connect and log in.

        :param ctx: other limits than at first
        :raises AccessDenied: the login, TLS or the certificate is refused
        :raises Unavailable: the server cannot be reached or is full
        """
        ctx = ctx or self._ctx
        port = self._endpoint.port or _endpoint.DEFAULT_PORTS['ftp']
        sock = ctx.connect(self._endpoint, port)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE)
        watched = sockets.WatchedSocket(sock, ctx, self.where)
        control = Control(watched, self._tls, self._endpoint.host)
        try:
            control.greet(implicit=port == _IMPLICIT_TLS)
            self._log_in(control)
            control.prepare()
        except BaseException:
            control.close()
            raise
        self._worked = True
        return control

    def _log_in(self, control: Control) -> None:
        credentials = self._ctx.credentials
        reply = control.log_in(*names.login_of(self._endpoint, self._ctx))
        if (
            reply.code == 530
            and not self._worked
            and credentials is not None
            and credentials.refresh()
        ):
            reply = control.log_in(*names.login_of(self._endpoint, self._ctx))
        if reply.kind == 2:
            return
        if reply.code == 530 and self._worked:
            # So some servers say that there are too many connections.
            raise exceptions.Unavailable(
                f'{self.where}: the server takes no further login (530)'
            )
        if reply.kind == 3:
            raise exceptions.AccessDenied(
                f'{self.where}: the server asks for more than a user name '
                f'and a password ({reply.code})'
            )
        raise _reply.error_for(reply, 'the login', self.where)


class Control:
    """A control connection; one thread at a time, but for :meth:`shutdown`.

    :param watched: connected; owned from now on
    :param tls_context: None for plain FTP
    :param host: the name that certificates have to have
    """

    def __init__(
        self,
        watched: sockets.WatchedSocket,
        tls_context: ssl.SSLContext | None,
        host: str,
    ) -> None:
        self._watched = watched
        self._tls = tls_context
        self._host = host
        self._lines = _Lines(watched)
        self._extended = True
        self.where = watched.where
        #: The code of the latest reply.
        self.latest = 0

    # Commands

    def command(self, verb: str, argument: str | None = None) -> _reply.Reply:
        """Send a command and wait for its reply, whatever it says."""
        self._lines.putcmd(verb if argument is None else f'{verb} {argument}')
        return self.reply()

    def reply(self) -> _reply.Reply:
        """Wait for a reply.

        :raises Stalled: none came in time
        :raises Unavailable: the connection ended
        :raises ProtocolError: it is malformed or too long
        """
        found = _reply.parse(self._lines.read(), self.where)
        self.latest = found.code
        return found

    def early_reply(self, seconds: float = 0.0) -> _reply.Reply | None:
        """A reply that nobody asked for, if one is there in time."""
        if self._lines.holds_more() or (
            self._watched.readable_within(seconds) and self._watched.unread()
        ):
            return self.reply()
        return None

    def error(
        self, reply: _reply.Reply, verb: str
    ) -> exceptions.TransferError:
        """The error that a reply stands for."""
        return _reply.error_for(reply, verb, self.where)

    # The beginning

    def greet(self, implicit: bool) -> None:
        """Read the greeting, and begin TLS where it is due.

        :param implicit: TLS comes before the greeting
        """
        if self._tls is not None and implicit:
            self._secure()
        reply = self.reply()
        if reply.code == 120:  # It is busy, and says so once.
            reply = self.reply()
        if reply.code != 220:
            raise self.error(reply, 'the connection')
        if self._tls is None or implicit:
            return
        reply = self.command('AUTH', 'TLS')
        if reply.kind == 4:
            raise self.error(reply, 'AUTH TLS')
        if reply.code != 234:
            raise exceptions.AccessDenied(
                f'{self.where}: the server has no TLS (it answers '
                f'{reply.code} to AUTH TLS), and ftps never goes without'
            )
        if self._lines.holds_more() or self._watched.unread():
            # Anybody on the way can put them there (CVE-2021-22947).
            raise exceptions.ProtocolError(
                f'{self.where}: plain bytes follow the reply to AUTH TLS'
            )
        self._secure()

    def _secure(self) -> None:
        assert self._tls is not None
        self._watched.handshake(self._tls, self._host)
        self._lines.begin()

    def log_in(self, user: str, password: str) -> _reply.Reply:
        """Send a login; returns what the server says at last."""
        reply = self.command('USER', user)
        if reply.code == 331:
            reply = self.command('PASS', password)
        return reply

    def prepare(self) -> None:
        """Say how data is to be sent: protected, and as it is."""
        if self._tls is not None:
            self._demand('PBSZ', '0', exceptions.AccessDenied)
            self._demand('PROT', 'P', exceptions.AccessDenied)
        self._demand('TYPE', 'I', exceptions.ProtocolError)

    def _demand(
        self,
        verb: str,
        argument: str,
        refused: type[exceptions.TransferError],
    ) -> None:
        reply = self.command(verb, argument)
        if reply.code == 421:
            raise self.error(reply, verb)
        if reply.kind != 2:
            raise refused(
                f'{self.where}: the server answers {reply.code} to {verb} '
                f'{argument}, without which nothing is moved'
            )

    # Files

    def size(self, path: str) -> int | None:
        """The size of a file in bytes; None where the server does not say.

        It does not for what is missing.
        """
        reply = self.command('SIZE', path)
        if reply.code == 421:
            raise self.error(reply, 'SIZE')
        return _reply.size(reply, self.where) if reply.kind == 2 else None

    def modified(self, path: str) -> str | None:
        """When a file was changed; None where the server does not say."""
        reply = self.command('MDTM', path)
        if reply.code == 421:
            raise self.error(reply, 'MDTM')
        return _reply.modified(reply) if reply.kind == 2 else None

    # Data

    def connect_data(self) -> sockets.WatchedSocket:
        """Open a passive data connection, without TLS as yet.

        EPSV (RFC 2428) names nothing but a port, so it comes first.
        """
        verb = 'EPSV' if self._extended else 'PASV'
        reply = self.command(verb)
        if self._extended and reply.kind == 5:
            self._extended = False
            verb = 'PASV'
            reply = self.command(verb)
        if reply.code != (229 if self._extended else 227):
            raise self.error(reply, verb)
        return self._watched.beside(_reply.data_port(reply, self.where))

    def secure_data(self, data: sockets.WatchedSocket) -> None:
        """Begin TLS on a data connection, if this one has it.

        Servers take the same session for a proof that it is the same
        client.

        :raises AccessDenied: the certificate is not that of the host
        """
        if self._tls is not None:
            data.handshake(
                self._tls,
                self._host,
                session=self._watched.session,
                strict=True,
            )

    # The end

    def renew(self, ctx: _context.Context) -> None:
        """Keep other limits from now on."""
        self._watched.renew(ctx)

    def shutdown(self) -> None:
        """Wake up a thread that waits; safe from any thread."""
        self._watched.shutdown()

    def close(self) -> None:
        """Hang up; idempotent."""
        self._watched.close()
