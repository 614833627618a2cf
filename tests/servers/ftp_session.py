# SPDX-License-Identifier: Apache-2.0
"""One control connection of the scripted FTP server, and its data."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
import time
from typing import TYPE_CHECKING

from tests.servers import wire

if TYPE_CHECKING:
    from tests.servers import scripted_ftp

PIECE = 1 << 16
DATA_SECONDS = 5.0
RECEIVE_BUFFER = 1 << 16

Connection = wire.Connection


@dataclasses.dataclass(frozen=True)
class Command:
    """A command as it came in.

    :ivar session: the number of its control connection, from 0
    :ivar nth: how many of its kind came before, on all connections
    :ivar secure: whether it came over TLS
    """

    verb: str
    argument: str
    session: int
    nth: int
    secure: bool
    time: float


class Session:
    """Answers commands well, unless the server has another step for one."""

    def __init__(
        self,
        server: scripted_ftp.ScriptedFTPServer,
        control: Connection,
        serial: int,
    ) -> None:
        self.server = server
        self.control = control
        self.serial = serial
        self.command: Command | None = None
        #: How many commands of this kind came before this one.
        self.nth = 0
        self.ended = False
        self.secured = False
        #: Whether data goes in TLS.
        self.protected = False
        #: Whether TYPE I was asked for; ASCII it is without.
        self.binary = False
        self.user = ''
        self.logged_in = False
        self.rest = 0
        self._rename: str | None = None
        self._listener: socket.socket | None = None

    # Replies

    def reply(self, code: int, *lines: str) -> None:
        """Send a reply of one line or of several."""
        lines = lines or ('so be it',)
        text = ''.join(f'{code}-{line}\r\n' for line in lines[:-1])
        self.raw(f'{text}{code} {lines[-1]}\r\n'.encode())

    def raw(self, data: bytes) -> None:
        """Send bytes as they are on the control connection."""
        self.control.send_raw(data)
        self.server.told += len(data)

    def hang_up(self) -> None:
        """End the control connection."""
        self.ended = True
        self.control.close()

    def stall(self) -> None:
        """Say nothing until the peer goes or the server ends."""
        self.ended = True
        self.control.stall()

    # The conversation

    def converse(self) -> None:
        """Greet; answer commands until the peer or a step ends it."""
        self.run('CONNECT', '')
        while not (self.ended or self.control.closed):
            try:
                line = self.control.read_line().decode('latin-1')
            except (OSError, ValueError):
                break
            verb, _, argument = line.partition(' ')
            self.record(verb.upper(), argument)
            self.run(verb.upper(), argument)
        self.control.close()

    def record(self, verb: str, argument: str) -> None:
        """Note a command; the argument of PASS goes elsewhere."""
        self.nth = len(self.server.seen(verb))
        if verb == 'PASS':
            self.server.logins.append((self.user, argument))
            if not self.secured:
                self.server.in_clear.append(argument)
        self.command = Command(
            verb,
            '' if verb == 'PASS' else argument,
            self.serial,
            self.nth,
            self.secured,
            time.monotonic(),
        )
        self.server.commands.append(self.command)

    def run(self, verb: str, argument: str) -> None:
        """Take the step of a command."""
        step = self.server.step(verb)
        if step is not None:
            step(self, argument)
        else:
            self.default(verb, argument)

    def default(self, verb: str, argument: str) -> None:
        """Answer a command well."""
        good = getattr(self, f'do_{verb.lower()}', None)
        if good is None:
            self.reply(502, 'Command not implemented.')
        elif not self.logged_in and verb in _NEED_LOGIN:
            self.reply(530, 'Please log in.')
        else:
            good(argument)

    # Commands

    def do_connect(self, _argument: str) -> None:
        self.reply(220, 'Welcome.')

    def do_auth(self, argument: str) -> None:
        if self.server.tls is None:
            self.reply(502, 'No TLS here.')
            return
        self.reply(234, 'Proceed with negotiation.')
        self.start_tls(self.server.tls)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on in TLS; the session ends if the peer does not want to."""
        self.secured = self.server.secure(self.control, context)
        self.ended = not self.secured

    def do_pbsz(self, _argument: str) -> None:
        self.reply(200, 'PBSZ=0')

    def do_prot(self, argument: str) -> None:
        self.protected = argument.upper() == 'P'
        self.reply(200, 'So it will be.')

    def do_user(self, argument: str) -> None:
        self.user = argument
        self.reply(331, 'Please specify the password.')

    def do_pass(self, argument: str) -> None:
        if self.server.login not in (None, (self.user, argument)):
            self.reply(530, 'Login incorrect.')
            return
        self.logged_in = True
        self.reply(230, 'Login successful.')

    def do_feat(self, _argument: str) -> None:
        features = [' EPSV', ' MDTM', ' PASV', ' REST STREAM', ' SIZE']
        self.reply(211, 'Features:', *features, 'End')

    def do_type(self, argument: str) -> None:
        self.binary = argument.upper().startswith('I')
        self.reply(200, f'Type is {argument}.')

    def do_pwd(self, _argument: str) -> None:
        self.reply(257, '"/" is the current directory')

    def do_noop(self, _argument: str) -> None:
        self.reply(200, 'Done nothing.')

    def do_quit(self, _argument: str) -> None:
        self.reply(221, 'Goodbye.')
        self.ended = True

    def do_abor(self, _argument: str) -> None:
        self.reply(226, 'Aborted.')

    def do_size(self, argument: str) -> None:
        data = self.find(argument)
        if not self.binary:
            self.reply(550, 'SIZE is not allowed in ASCII mode.')
        elif data is None:
            self.reply(550, 'Could not get file size.')
        else:
            self.reply(213, str(len(data)))

    def do_mdtm(self, argument: str) -> None:
        if self.find(argument) is None:
            self.reply(550, 'Could not get modification time.')
        else:
            self.reply(213, self.server.modified)

    def do_epsv(self, _argument: str) -> None:
        port = self.listen()
        self.reply(229, f'Entering Extended Passive Mode (|||{port}|)')

    def do_pasv(self, _argument: str) -> None:
        self.reply(227, passive(self.server.host, self.listen()))

    def do_rest(self, argument: str) -> None:
        self.rest = int(argument)
        self.reply(350, f'Restarting at {self.rest}.')

    def do_retr(self, argument: str) -> None:
        data = self.find(argument)
        if data is None:
            self.reply(550, 'Failed to open file.')
        else:
            self.send(self.rested(data))

    def do_nlst(self, _argument: str) -> None:
        names = '\r\n'.join([*self.server.files, ''])
        self.send(names.encode(), ascii_too=True)

    do_list = do_nlst

    def do_stor(self, argument: str) -> None:
        if not self.may_create(argument):
            self.reply(553, 'Could not create file.')
            return
        self.receive(name_of(argument))

    def do_rnfr(self, argument: str) -> None:
        if self.find(argument) is None:
            self.reply(550, 'RNFR command failed.')
            return
        self._rename = name_of(argument)
        self.reply(350, 'Ready for RNTO.')

    def do_rnto(self, argument: str) -> None:
        old, self._rename = self._rename, None
        if old is None or not self.may_create(argument):
            self.reply(550, 'Rename failed.')
            return
        self.server.files[name_of(argument)] = self.server.files.pop(old)
        self.reply(250, 'Rename successful.')

    def do_dele(self, argument: str) -> None:
        if self.server.files.pop(name_of(argument), None) is None:
            self.reply(550, 'Delete operation failed.')
        else:
            self.reply(250, 'Delete operation successful.')

    # Files

    def find(self, argument: str) -> bytes | None:
        """Return a file's content, or None."""
        return self.server.files.get(name_of(argument))

    def may_create(self, argument: str) -> bool:
        """Return whether the directory of a name exists."""
        directory = name_of(argument).rpartition('/')[0]
        return directory in self.server.directories

    def rested(self, data: bytes) -> bytes:
        """Return what is due from where REST said, once."""
        start, self.rest = self.rest, 0
        return data[start:]

    # Data connections

    def listen(self, backlog: int = 1) -> int:
        """Wait for a data connection; return the port."""
        self.stop_listening()
        family = self.control.sock.family
        self._listener = socket.create_server(
            (self.server.host, 0), family=family, backlog=backlog
        )
        # Little fits in it, so that a client notices when nobody reads.
        self._listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER
        )
        self._listener.settimeout(DATA_SECONDS)
        port: int = self._listener.getsockname()[1]
        return port

    def stop_listening(self) -> None:
        """Refuse data connections from now on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def accept(self) -> Connection:
        """Return the data connection, without TLS so far."""
        if self._listener is None:
            raise wire.PeerGone('nobody asked for a port')
        sock, peer = self._listener.accept()
        self.stop_listening()
        return self.server.adopt(sock, peer, self.serial)

    def open_data(self) -> Connection | None:
        """Accept, say 150, and go on in TLS if that is due.

        Returns None, having said so, if the peer does not.
        """
        conn = self.accept()
        self.reply(150, 'Here comes the data.')
        if self.protected and not self.protect(conn):
            self.reply(522, 'The handshake failed.')
            return None
        return conn

    def protect(self, conn: Connection) -> bool:
        """Do the handshake of a data connection."""
        assert self.server.data_tls is not None
        if not self.server.secure(conn, self.server.data_tls):
            return False
        if isinstance(conn.sock, ssl.SSLSocket):
            self.server.reused.append(bool(conn.sock.session_reused))
        return True

    def send(self, data: bytes, *, ascii_too: bool = False) -> None:
        """Send a whole file, as the type in force wants it."""
        if not (self.binary or ascii_too):
            data = data.replace(b'\n', b'\r\n')
        conn = self.open_data()
        if conn is None:
            return
        if self.deliver(conn, data):
            finish(conn)
            self.reply(226, 'Transfer complete.')
        else:
            self.reply(426, 'The data connection broke.')

    def deliver(self, conn: Connection, data: bytes) -> bool:
        """Send bytes as data; tell whether the peer took them."""
        try:
            conn.send(data)
        except (OSError, ValueError):
            conn.release()
            return False
        return True

    def receive(self, name: str) -> None:
        """Take a file to its end; it shows as it grows."""
        conn = self.open_data()
        if conn is None:
            return
        self.server.files[name] = b''
        if self.take(conn, name):
            conn.close()
            self.reply(226, 'Transfer complete.')
        else:
            self.reply(426, 'The data connection broke.')

    def take(
        self, conn: Connection, name: str, most: int | None = None
    ) -> bool:
        """Store what comes, up to some bytes; tell if the end was clean."""
        taken = bytearray()
        try:
            while most is None or len(taken) < most:
                want = PIECE if most is None else min(PIECE, most - len(taken))
                piece = conn.sock.recv(want)
                if not piece:
                    break
                taken += piece
                self.server.received += len(piece)
        except OSError:
            conn.release()
            return False
        finally:
            self.server.files[name] = bytes(taken)
        return True

    def interrupt(self) -> None:
        """Wake whatever waits for a data connection; any thread may."""
        listener = self._listener
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close all sockets as they are."""
        self.stop_listening()
        self.control.release()


_NEED_LOGIN = frozenset(
    'SIZE MDTM EPSV PASV REST RETR STOR RNFR RNTO DELE NLST LIST'.split()
)


def name_of(argument: str) -> str:
    """Return the key of a file: the login directory is the root."""
    return argument.removeprefix('/')


def passive(host: str, port: int) -> str:
    """Return the text of a 227 reply."""
    numbers = ','.join([*host.split('.'), str(port >> 8), str(port & 255)])
    return f'Entering Passive Mode ({numbers}).'


def finish(conn: Connection, notify: bool = True) -> None:
    """End a data connection when its bytes have arrived.

    Unlike Connection.close() it does not wait for the peer to close its
    side: a client may do that only after it has seen the reply.
    """
    with contextlib.suppress(OSError, ValueError):
        conn.drain()
        if notify and isinstance(conn.sock, ssl.SSLSocket):
            conn.sock.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError):
                conn.sock.unwrap()
        socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)
    conn.release()
