# SPDX-License-Identifier: Apache-2.0
"""An SSH server in this process, whose SFTP subsystem is a test's own."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import contextlib
import functools
import socket
import struct
import threading
from typing import Any

import paramiko

from tests.servers import child

HOST = '127.0.0.1'
CLOSE_LIMIT = 5.0


@functools.cache
def host_key() -> paramiko.PKey:
    """Return the host key of all these servers."""
    key: paramiko.PKey = paramiko.ECDSAKey.generate(bits=256)
    return key


class Connection(paramiko.ServerInterface):
    """One connection: who may log in, and what it is let do."""

    def __init__(self, server: SSHServer, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.serial = len(server.connections)
        self.transport: Any = None

    def start(self) -> None:
        """Serve it in a thread of its own, which is not waited for."""
        # Not the client's logger: what a server knows is no leak.
        self.transport = self.make_transport()
        self.transport.set_log_channel('tests.ssh')
        self.transport.add_server_key(self.server.host_key)
        self.transport.start_server(threading.Event(), self)

    def make_transport(self) -> paramiko.Transport:
        """Return what speaks SSH."""
        return paramiko.Transport(self.sock)

    def reset(self) -> None:
        """Cut the connection off with RST."""
        option = struct.pack('ii', 1, 0)
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        except OSError:
            pass  # The peer was faster.
        self.sock.close()

    def _attempt(self, method: str, username: str, proof: str) -> int:
        self.server.attempts.append((method, username, proof))
        login = (username, proof)
        return int(
            paramiko.AUTH_SUCCESSFUL
            if login in self.server.logins
            else paramiko.AUTH_FAILED
        )

    def check_auth_none(self, username: str) -> int:
        return self._attempt('none', username, '')

    def check_auth_password(self, username: str, password: str) -> int:
        return self._attempt('password', username, password)

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return self._attempt('publickey', username, key.get_base64())

    def check_auth_interactive(self, username: str, submethods: str) -> int:
        return self._attempt('keyboard-interactive', username, '')

    def get_allowed_auths(self, username: str) -> str:
        return self.server.methods

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if self.server.refuse_channels:
            return int(paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_subsystem_request(
        self, channel: paramiko.Channel, name: str
    ) -> bool:
        if name != 'sftp' or self.server.subsystem is None:
            return False
        thread = threading.Thread(
            target=self._serve,
            args=(channel,),
            name=f'sftp-session-{self.server.port}',
            daemon=True,
        )
        self.server.threads.append(thread)
        thread.start()
        return True

    def _serve(self, channel: paramiko.Channel) -> None:
        assert self.server.subsystem is not None
        try:
            self.server.subsystem(self, channel)
        except (EOFError, OSError, paramiko.SSHException):
            pass  # The client went, or was thrown out.
        except Exception as exc:
            self.server.errors.append(exc)
        finally:
            with contextlib.suppress(EOFError, OSError):
                channel.close()


class SSHServer:
    """Takes connections until it is closed; the port is a free one."""

    def __init__(
        self,
        subsystem: Callable[[Connection, Any], None] | None = None,
        *,
        logins: Iterable[tuple[str, str]] = (('user', 's3cr3t-password'),),
        methods: str = 'password,publickey',
        refuse_channels: bool = False,
        connection: type[Connection] = Connection,
    ) -> None:
        #: Called in a thread for each SFTP channel; None refuses them.
        self.subsystem = subsystem
        #: User names with a password or the base64 of a public key.
        self.logins = set(logins)
        self.methods = methods
        self.refuse_channels = refuse_channels
        self.host_key = host_key()
        #: Method, user name and proof of each attempt to log in.
        self.attempts: list[tuple[str, str, str]] = []
        self.connections: list[Connection] = []
        self.threads: list[threading.Thread] = []
        #: Bugs of the script.
        self.errors: list[Exception] = []
        self.closing = threading.Event()
        self._connection = connection
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, name=f'ssh-acceptor-{self.port}', daemon=True
        )
        self._acceptor.start()

    def __enter__(self) -> SSHServer:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()
        if kind is None and self.errors:
            raise RuntimeError('a script failed') from self.errors[0]

    def url(self, path: str = '/image') -> str:
        """Return the URL of a path, with the first login."""
        name, password = sorted(self.logins)[0] if self.logins else ('u', 'p')
        return f'sftp://{name}:{password}@{HOST}:{self.port}{path}'

    @property
    def known_hosts(self) -> str:
        """Return the right known_hosts text."""
        key = self.host_key
        return f'[{HOST}]:{self.port} {key.get_name()} {key.get_base64()}\n'

    def _accept(self) -> None:
        while True:
            try:
                sock, _peer = self._listener.accept()
            except OSError:
                return
            connection = self._connection(self, sock)
            self.connections.append(connection)
            connection.start()

    def close(self) -> None:
        """End all connections and wait for their threads."""
        self.closing.set()
        # To close it does not wake a thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(CLOSE_LIMIT)
        for connection in self.connections:
            if connection.transport is not None:
                connection.transport.close()
            connection.sock.close()
        for thread in self.threads:
            thread.join(CLOSE_LIMIT)
        assert not any(thread.is_alive() for thread in self.threads)


class TCPServer:
    """Hands each connection to a function: peers that speak no SSH."""

    def __init__(
        self, script: Callable[[socket.socket, threading.Event], None]
    ) -> None:
        self._script = script
        self.closing = threading.Event()
        self.count = 0
        #: Right for no key at all: nobody gets that far.
        self.known_hosts = ''
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._socks: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> TCPServer:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()

    def url(self, path: str = '/image') -> str:
        """Return the URL of a path."""
        return f'sftp://user:s3cr3t-password@{HOST}:{self.port}{path}'

    def _accept(self) -> None:
        while True:
            try:
                sock, _peer = self._listener.accept()
            except OSError:
                return
            self.count += 1
            self._socks.append(sock)
            thread = threading.Thread(
                target=self._serve, args=(sock,), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            self._script(sock, self.closing)
        except OSError:
            pass  # The client went.
        finally:
            sock.close()

    def close(self) -> None:
        """End all connections and wait for their threads; idempotent."""
        if self.closing.is_set():
            return
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(CLOSE_LIMIT)
        for sock in self._socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(CLOSE_LIMIT)
        assert not any(thread.is_alive() for thread in self._threads)


class Relay:
    """Passes bytes on between a client and a server, as long as it wants.

    :param port: of the server on this host
    :param change: makes, for each connection, what its bytes from the
        server go through
    """

    def __init__(
        self,
        port: int,
        change: Callable[[], Callable[[bytes], bytes]] | None = None,
    ) -> None:
        self._target = port
        self._change = change
        #: Cut each connection off after so many bytes from the server.
        self.limit: int | None = None
        #: How many connections more are cut; None for all.
        self.cuts: int | None = None
        #: Set to pass nothing on any more, in both directions.
        self.frozen = threading.Event()
        #: Do that after so many bytes from either side.
        self.freeze_at: int | None = None
        #: Bytes from the server and from clients, of all connections.
        self.received = 0
        self.sent = 0
        self._tcp = TCPServer(self._serve)
        self.port = self._tcp.port

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.frozen.clear()
        self._tcp.close()

    @property
    def count(self) -> int:
        """Return how many connections came."""
        return self._tcp.count

    def close(self) -> None:
        """Cut all connections, and take no more."""
        self._tcp.close()

    def _serve(self, sock: socket.socket, closing: threading.Event) -> None:
        with socket.create_connection((HOST, self._target)) as server:
            up = threading.Thread(
                target=self._pump,
                args=(sock, server, closing, False),
                daemon=True,
            )
            up.start()
            self._pump(server, sock, closing, True)
            up.join(CLOSE_LIMIT)

    def _pump(
        self,
        src: socket.socket,
        dst: socket.socket,
        closing: threading.Event,
        down: bool,
    ) -> None:
        passed = 0
        change = self._change() if down and self._change else bytes
        try:
            while data := src.recv(1 << 16):
                data = change(data)
                while self.frozen.is_set() and not closing.wait(0.02):
                    pass
                if down and self.limit is not None and self.cuts != 0:
                    data = data[: max(0, self.limit - passed)]
                passed += len(data)
                if down:
                    self.received += len(data)
                else:
                    self.sent += len(data)
                most = max(self.received, self.sent)
                if self.freeze_at is not None and most >= self.freeze_at:
                    self.frozen.set()
                dst.sendall(data)
                if down and passed == self.limit and self.cuts != 0:
                    if self.cuts is not None:
                        self.cuts -= 1
                    break
        except OSError:
            pass  # Either side went.
        finally:
            for sock in (src, dst):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


def dead_port() -> int:
    """Return a port where nobody answers."""
    return child.free_port(HOST)
