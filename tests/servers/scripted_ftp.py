# SPDX-License-Identifier: Apache-2.0
"""An FTP server whose every step is a function that a test may replace."""

from __future__ import annotations

from collections.abc import Callable
import selectors
import socket
import ssl
import threading
import time
from typing import Any

from tests.servers import ftp_session
from tests.servers import wire

CLOSE_LIMIT = 10.0

Command = ftp_session.Command
Session = ftp_session.Session
Step = Callable[[ftp_session.Session, str], Any]
Connection = wire.Connection


class ScriptedFTPServer:
    """Serves byte strings; counts what was asked and what was sent.

    :param tls: takes AUTH TLS with this context
    :param data_tls: another context for data connections
    :param host: the address to listen at
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        data_tls: ssl.SSLContext | None = None,
        host: str = '127.0.0.1',
        backlog: int = 128,
    ) -> None:
        self.tls = tls
        self.data_tls = data_tls or tls
        self.host = host
        #: The files that there are, and directories beside the root.
        self.files: dict[str, bytes] = {}
        self.directories = {''}
        #: What MDTM says.
        self.modified = '20261121100000'
        #: The one login that is good; None for any.
        self.login: tuple[str, str] | None = None
        #: All commands in order of their arrival; PASS without argument.
        self.commands: list[Command] = []
        #: User and password of each login that was tried.
        self.logins: list[tuple[str, str]] = []
        #: Whether each TLS data connection went on with a session.
        self.reused: list[bool] = []
        #: Bytes that left on data connections, and on control ones.
        self.sent = 0
        self.told = 0
        #: Bytes of uploads that were read.
        self.received = 0
        #: Passwords that came without TLS.
        self.in_clear: list[str] = []
        #: Bugs in steps, and TLS handshakes that failed.
        self.errors: list[Exception] = []
        self.tls_errors: list[str] = []
        self.closing = threading.Event()
        self._steps: dict[str, Step] = {}
        self._lock = threading.Lock()
        self._live: set[Connection] = set()
        self._sessions: set[Session] = set()
        self._threads: set[threading.Thread] = set()
        self._total = 0
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        self._listener = socket.create_server(
            (host, 0), family=family, backlog=backlog
        )
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._waker = socket.socketpair()
        self._acceptor = threading.Thread(
            target=self._accept, name=f'scripted-ftp-{self.port}', daemon=True
        )
        self._acceptor.start()

    def __enter__(self) -> ScriptedFTPServer:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()
        if kind is None and self.errors:
            raise RuntimeError('a step failed') from self.errors[0]

    # What a test asks for

    def url(self, name: str = 'image', userinfo: str = '') -> str:
        """Return the URL of a file in the login directory."""
        scheme = 'ftps' if self.tls else 'ftp'
        host = f'[{self.host}]' if ':' in self.host else self.host
        at = f'{userinfo}@' if userinfo else ''
        return f'{scheme}://{at}{host}:{self.port}/{name}'

    def put(self, name: str, data: bytes) -> str:
        """Serve a file; return its URL."""
        self.files[name] = data
        return self.url(name)

    def on(self, verb: str, step: Step) -> None:
        """Have a function answer a command; CONNECT stands for no command."""
        self._steps[verb] = step

    def step(self, verb: str) -> Step | None:
        """Return the function that answers a command."""
        return self._steps.get(verb)

    def seen(self, *verbs: str) -> list[Command]:
        """Return the commands of some kinds."""
        return [each for each in list(self.commands) if each.verb in verbs]

    @property
    def connections(self) -> int:
        """Return how many control connections there were."""
        return self._total

    @property
    def open(self) -> int:
        """Return how many sessions have not ended."""
        with self._lock:
            return len(self._sessions)

    def close(self) -> None:
        """End every thread and socket; bounded in time, repeatable."""
        self.closing.set()
        self._waker.close()
        end = time.monotonic() + CLOSE_LIMIT
        self._acceptor.join(CLOSE_LIMIT)
        with self._lock:
            for conn in self._live:
                conn.interrupt()
            for session in self._sessions:
                session.interrupt()
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._listener.close()
        self._wake.close()
        left = [t.name for t in [self._acceptor, *threads] if t.is_alive()]
        if left:
            raise RuntimeError(f'server threads did not end: {left}')

    # What sessions ask for

    def count(self, _path: str, sent: int) -> None:
        """Add to the bytes sent on data connections."""
        with self._lock:
            self.sent += sent

    def adopt(
        self, sock: socket.socket, peer: tuple[str, int], serial: int
    ) -> Connection:
        """Wrap a socket that ends with the server at the latest."""
        sock.setblocking(True)
        server: Any = self  # It has what a connection asks for.
        conn = Connection(server, sock, peer, serial)
        with self._lock:
            self._live.add(conn)
            if self.closing.is_set():
                conn.interrupt()
        return conn

    def forget(self, conn: Connection) -> None:
        """Drop a connection that is about to close its socket."""
        with self._lock:
            self._live.discard(conn)

    def secure(self, conn: Connection, context: ssl.SSLContext) -> bool:
        """Do the server's part of a handshake; tell whether it worked."""
        try:
            with self._lock:
                conn.sock = context.wrap_socket(
                    conn.sock,
                    server_side=True,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=False,
                )
                if self.closing.is_set():
                    conn.interrupt()
            conn.sock.do_handshake()
        except (OSError, ValueError) as error:
            self.tls_errors.append(str(error))
            conn.release()
            return False
        return True

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                selector.select()
                if self.closing.is_set():
                    return
                try:
                    sock, peer = self._listener.accept()
                except OSError:
                    continue
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                session = Session(
                    self, self.adopt(sock, peer, self._total), self._total
                )
                thread = threading.Thread(
                    target=self._run,
                    args=(session,),
                    name=f'scripted-ftp-{self.port}-{self._total}',
                    daemon=True,
                )
                with self._lock:
                    self._total += 1
                    self._sessions.add(session)
                    self._threads.add(thread)
                thread.start()

    def _run(self, session: Session) -> None:
        try:
            session.converse()
        except (OSError, ValueError) as error:
            if not session.control.lost(error):
                self.errors.append(error)
        except Exception as error:  # noqa: BLE001
            self.errors.append(error)
        finally:
            session.release()
            with self._lock:
                self._sessions.discard(session)
                self._threads.discard(threading.current_thread())
