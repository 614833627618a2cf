# SPDX-License-Identifier: Apache-2.0
"""A raw-socket HTTP/1.1 server whose every behaviour is a function."""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import selectors
import socket
import ssl
import threading
import time
from typing import Any

from tests.servers import resource
from tests.servers import wire

CLOSE_LIMIT = 10.0

Connection = wire.Connection
PeerGone = wire.PeerGone
Request = wire.Request
Handler = Callable[[wire.Request, wire.Connection], Any]


@dataclasses.dataclass(frozen=True)
class Counts:
    """How many connections a server had, has, and had at most."""

    total: int
    open: int
    peak: int


class ScriptedHTTPServer:
    """Serve each path with the function that the test gave for it."""

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        host: str = '127.0.0.1',
        name: str = 'scripted-http',
        on_accept: Callable[[Connection], bool] | None = None,
    ) -> None:
        self.tls = tls
        self.host = host
        self.name = name
        #: Called before TLS in the connection's thread; False ends it.
        self.on_accept = on_accept
        #: Every request seen, in order of arrival.
        self.requests: list[Request] = []
        #: Complete and broken-off bodies of uploads, by path.
        self.uploads: dict[str, bytes] = {}
        self.partial_uploads: dict[str, bytes] = {}
        #: Bugs in handlers, and TLS handshakes that failed.
        self.errors: list[Exception] = []
        self.tls_errors: list[str] = []
        self.closing = threading.Event()
        self._routes: dict[str, Handler] = {}
        self._puts: dict[str, Handler] = {}
        self._required: dict[str, tuple[str, set[str]]] = {}
        self._sent: collections.Counter[str] = collections.Counter()
        self._serials: collections.Counter[object] = collections.Counter()
        self._lock = threading.Lock()
        self._live: set[Connection] = set()
        self._threads: set[threading.Thread] = set()
        self._total = self._peak = 0
        self._listener = socket.create_server((host, 0), backlog=512)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._waker = socket.socketpair()
        self._acceptor = threading.Thread(
            target=self._accept, name=f'{name}-{self.port}', daemon=True
        )
        self._acceptor.start()

    def __enter__(self) -> ScriptedHTTPServer:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()
        if kind is None and self.errors:
            raise RuntimeError('a handler failed') from self.errors[0]

    # What a test asks for

    @property
    def origin(self) -> str:
        """Return scheme, host and port, as in a URL."""
        scheme = 'https' if self.tls else 'http'
        return f'{scheme}://{self.host}:{self.port}'

    def url(self, path: str = '/') -> str:
        """Return the URL of a path."""
        return self.origin + path

    def serve(self, path: str, handler: Handler) -> str:
        """Let a function answer a path; a later call replaces it."""
        self._routes[path] = handler
        return self.url(path)

    def put(
        self,
        path: str,
        data: resource.Data,
        size: int | None = None,
        **options: Any,
    ) -> str:
        """Serve data well; see Resource for the options."""
        if size is None and isinstance(data, bytes | bytearray | memoryview):
            size = len(data)
        if size is None:
            size = data.size  # type: ignore[union-attr]
        return self.serve(path, resource.Resource(data, size, **options))

    def delete(self, path: str) -> None:
        """Forget a path: 404 from now on."""
        self._routes.pop(path, None)

    def allow_put(self, path: str, **options: Any) -> str:
        """Take uploads at a path; see Upload for the options."""
        tokens = options.pop('require_token', None)
        if tokens is not None:
            tokens = {tokens} if isinstance(tokens, str) else tokens
            self.require_token(path, tokens)
        self._puts[path] = resource.Upload(self, **options)
        return self.url(path)

    def require_token(self, path: str, tokens: set[str] | None) -> None:
        """Answer 401 unless X-Auth-Token is one of a live set."""
        self.require_header(path, 'x-auth-token', tokens)

    def require_header(
        self, path: str, name: str, values: set[str] | None
    ) -> None:
        """Answer 401 unless a header's value is one of a live set."""
        if values is None:
            self._required.pop(path, None)
        else:
            self._required[path] = (name.lower(), values)

    def bytes_sent(self, path: str | None = None) -> int:
        """Return how many body bytes left, for one path or for all."""
        with self._lock:
            return self._sent.total() if path is None else self._sent[path]

    def seen(self, path: str, method: str | None = None) -> list[Request]:
        """Return the requests for one path."""
        return [
            request
            for request in list(self.requests)
            if request.path == path and method in (None, request.method)
        ]

    @property
    def connections(self) -> Counts:
        """Return the connection counts of this moment."""
        with self._lock:
            return Counts(self._total, len(self._live), self._peak)

    def close(self) -> None:
        """End every thread and socket; bounded in time, repeatable."""
        self.closing.set()
        self._waker.close()
        end = time.monotonic() + CLOSE_LIMIT
        self._acceptor.join(CLOSE_LIMIT)
        with self._lock:
            for conn in self._live:
                conn.interrupt()
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._listener.close()
        self._wake.close()
        left = [t.name for t in [self._acceptor, *threads] if t.is_alive()]
        if left:
            raise RuntimeError(f'server threads did not end: {left}')

    # What connections ask for

    def count(self, path: str, sent: int) -> None:
        """Add to the bytes sent for a path."""
        with self._lock:
            self._sent[path] += sent

    def forget(self, conn: Connection) -> None:
        """Drop a connection that is about to close its socket."""
        with self._lock:
            self._live.discard(conn)

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
                self._start(sock, peer)

    def _start(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn = Connection(self, sock, peer, self._total)
        thread = threading.Thread(
            target=self._run,
            args=(conn,),
            name=f'{self.name}-{self.port}-{self._total}',
            daemon=True,
        )
        with self._lock:
            self._total += 1
            self._live.add(conn)
            self._peak = max(self._peak, len(self._live))
            self._threads.add(thread)
        thread.start()

    def _run(self, conn: Connection) -> None:
        try:
            if self.on_accept is None or self.on_accept(conn):
                if self.tls is None or self._handshake(conn):
                    self._converse(conn)
            conn.close()
        except (OSError, ValueError) as error:
            if not conn.lost(error):
                self.errors.append(error)
        except Exception as error:  # noqa: BLE001
            self.errors.append(error)
        finally:
            conn.release()
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _handshake(self, conn: Connection) -> bool:
        assert self.tls is not None
        try:
            with self._lock:
                if self.closing.is_set():
                    return False
                conn.sock = self.tls.wrap_socket(
                    conn.sock,
                    server_side=True,
                    do_handshake_on_connect=False,
                )
            conn.sock.do_handshake()
        except (OSError, ValueError) as error:
            self.tls_errors.append(str(error))
            conn.release()
            return False
        return True

    def _converse(self, conn: Connection) -> None:
        while not self.closing.is_set():
            request = conn.read_request()
            if request is None:
                return
            with self._lock:
                request.serial = self._serials[request.path]
                key = (request.method, request.path)
                request.nth = self._serials[key]
                self._serials.update([request.path, key])
                self.requests.append(request)
            try:
                self._answer(request, conn)
            except wire.HeadDone:
                pass
            if not conn.reusable():
                return

    def _answer(self, request: Request, conn: Connection) -> None:
        name, values = self._required.get(request.path, ('', None))
        if values is not None and request.headers.get(name) not in values:
            conn.reply(401, b'401 Unauthorized', {'WWW-Authenticate': 'x'})
            return
        routes: Mapping[str, Handler] = self._routes
        if request.method == 'PUT':
            routes = self._puts
        handler = routes.get(request.path)
        if handler is not None:
            handler(request, conn)
        elif request.method == 'PUT' or request.path not in self._puts:
            conn.reply(404, b'404 Not Found')
        else:
            conn.reply(405, b'', {'Allow': 'PUT'})
