# SPDX-License-Identifier: Apache-2.0
"""An NBD server in this process, every step of which a test can replace."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import typing

HOST = '127.0.0.1'
CLOSE_LIMIT = 5.0

OPTION_REPLY = 0x3E889045565A9
SIMPLE, STRUCTURED = 0x67446698, 0x668E33EF
ACK, INFO, META_CONTEXT = 1, 3, 4
ERR_UNSUP, ERR_POLICY = (1 << 31) + 1, (1 << 31) + 2
ERR_TLS_REQD, ERR_UNKNOWN = (1 << 31) + 5, (1 << 31) + 6
STARTTLS, GO, STRUCTURED_REPLY, SET_META_CONTEXT = 5, 7, 8, 10
READ, WRITE, DISC, FLUSH, WRITE_ZEROES, BLOCK_STATUS = 0, 1, 2, 3, 6, 7
NONE, DATA, HOLE, STATUS, ERROR, ERROR_OFFSET = 0, 1, 2, 5, 32769, 32770
DONE = 1
# Flags: HAS_FLAGS, READ_ONLY, FLUSH, WRITE_ZEROES, CAN_MULTI_CONN.
HAS_FLAGS, READ_ONLY, CAN_FLUSH, CAN_ZERO = 1, 2, 4, 64
MULTI_CONN = 256
EPERM, EIO, ENOMEM, EINVAL, ENOSPC, ENOTSUP = 1, 5, 12, 22, 28, 95
ESHUTDOWN = 108
CONTEXT = 7


class Request(typing.NamedTuple):
    """What a client asks."""

    kind: int
    cookie: int
    offset: int
    length: int


class Session:
    """One connection to an honest server; subclasses are less honest."""

    greeting = b'NBDMAGIC' + b'IHAVEOPT' + b'\0\3'
    flags = HAS_FLAGS | CAN_FLUSH | CAN_ZERO | MULTI_CONN
    #: Least, preferred and largest block; None to say nothing of them.
    blocks: tuple[int, int, int] | None = (1, 4096, 1 << 25)
    structured = True
    contexts = True

    def __init__(self, server: NBDServer, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.serial = server.connections

    @property
    def data(self) -> bytearray:
        """What the export holds."""
        return self.server.data

    # Bytes

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def recv(self, count: int) -> bytes:
        """Read so many bytes."""
        found = b''
        while len(found) < count:
            more = self.sock.recv(count - len(found))
            if not more:
                raise EOFError
            found += more
        return found

    def hang(self) -> typing.NoReturn:
        """Say nothing more until the test ends."""
        self.server.closing.wait()
        raise EOFError

    def reset(self) -> typing.NoReturn:
        """Cut the connection off with RST."""
        option = struct.pack('ii', 1, 0)
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self.sock.close()
        raise EOFError

    # Negotiation

    def run(self) -> None:
        """Serve the connection."""
        self.send(self.greeting)
        self.recv(4)
        while True:
            _magic, kind, length = struct.unpack('>8sII', self.recv(16))
            said = self.recv(length)
            self.server.options.append(kind)
            if self.on_option(kind, said):
                break
        while True:
            self.next_request()

    def option_reply(self, kind: int, reply: int, data: bytes = b'') -> None:
        """Answer an option."""
        head = struct.pack('>QIII', OPTION_REPLY, kind, reply, len(data))
        self.send(head + data)

    def on_option(self, kind: int, said: bytes) -> bool:
        """Answer an option; returns whether transmission begins."""
        if kind == GO:
            return self.on_go(said[4:-4])
        if kind == STRUCTURED_REPLY and self.structured:
            self.option_reply(kind, ACK)
        elif kind == SET_META_CONTEXT and self.contexts:
            name = struct.pack('>I', CONTEXT) + b'base:allocation'
            self.option_reply(kind, META_CONTEXT, name)
            self.option_reply(kind, ACK)
        elif kind == STARTTLS and self.server.tls is not None:
            self.option_reply(kind, ACK)
            self.sock = self.server.secure(self.sock)
        else:
            self.option_reply(kind, ERR_UNSUP)
        return False

    def on_go(self, name: bytes) -> bool:
        """Answer GO."""
        if name == b'missing':
            self.option_reply(GO, ERR_UNKNOWN, b'no such export')
            return False
        size = struct.pack('>HQH', 0, self.size, self.flags)
        self.option_reply(GO, INFO, size)
        if self.blocks is not None:
            sizes = struct.pack('>HIII', 3, *self.blocks)
            self.option_reply(GO, INFO, sizes)
        self.option_reply(GO, ACK)
        return True

    @property
    def size(self) -> int:
        """The size that is told."""
        return len(self.data)

    # Requests

    def next_request(self) -> None:
        """Read a request and answer it."""
        head = struct.unpack('>IHHQQI', self.recv(28))
        request = Request(*head[2:])
        self.server.requests.append(request)
        handler = {
            READ: self.on_read,
            WRITE: self.on_write,
            FLUSH: self.on_flush,
            WRITE_ZEROES: self.on_zero,
            BLOCK_STATUS: self.on_status,
        }.get(request.kind)
        if handler is None:
            raise EOFError
        handler(request)

    def simple(self, request: Request, error: int = 0) -> None:
        """Send a simple reply."""
        self.send(struct.pack('>IIQ', SIMPLE, error, request.cookie))

    def chunk(
        self, request: Request, kind: int, payload: bytes, flags: int = DONE
    ) -> None:
        """Send a chunk of a structured reply."""
        head = struct.pack(
            '>IHHQI', STRUCTURED, flags, kind, request.cookie, len(payload)
        )
        self.send(head + payload)

    def part(
        self, request: Request, start: int, end: int, flags: int = 0
    ) -> None:
        """Send a part of the data as a chunk."""
        payload = struct.pack('>Q', start) + bytes(self.data[start:end])
        self.chunk(request, DATA, payload, flags)

    def fail(self, request: Request, code: int, text: bytes = b'') -> None:
        """Answer with an error."""
        if self.structured:
            payload = struct.pack('>IH', code, len(text)) + text
            self.chunk(request, ERROR, payload)
        else:
            self.simple(request, code)

    def on_read(self, request: Request) -> None:
        """Answer READ."""
        end = request.offset + request.length
        if self.structured:
            self.part(request, request.offset, end, DONE)
        else:
            self.simple(request)
            self.send(bytes(self.data[request.offset : end]))

    def on_write(self, request: Request) -> None:
        """Answer WRITE."""
        said = self.recv(request.length)
        end = request.offset + request.length
        self.data[request.offset : end] = said
        self.simple(request)

    def on_zero(self, request: Request) -> None:
        """Answer WRITE_ZEROES."""
        end = request.offset + request.length
        self.data[request.offset : end] = bytes(request.length)
        self.simple(request)

    def on_flush(self, request: Request) -> None:
        """Answer FLUSH."""
        self.simple(request)

    def extents(self, request: Request, *runs: tuple[int, int]) -> None:
        """Answer BLOCK_STATUS."""
        payload = struct.pack('>I', CONTEXT)
        payload += b''.join(struct.pack('>II', *run) for run in runs)
        self.chunk(request, STATUS, payload)

    def on_status(self, request: Request) -> None:
        """Answer BLOCK_STATUS: all of it is data."""
        self.extents(request, (request.length, 0))


class NBDServer:
    """Takes connections until it is closed; the port is a free one.

    :param session: serves a connection
    :param data: what the export holds
    :param tls: a server's context, if it has TLS
    """

    def __init__(
        self,
        session: type[Session] = Session,
        data: bytes = b'',
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.session = session
        self.data = bytearray(data)
        self.tls = tls
        self.closing = threading.Event()
        #: Bugs of the script.
        self.errors: list[Exception] = []
        self.options: list[int] = []
        self.requests: list[Request] = []
        self.connections = 0
        self.memory: dict[str, typing.Any] = {}
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, kind: object, _value: object, _trace: object) -> None:
        self.close()
        if kind is None and self.errors:
            raise RuntimeError('the script failed') from self.errors[0]

    def url(self, path: str = '/', scheme: str = 'nbd') -> str:
        """Return the URL of an export."""
        host = 'localhost' if scheme == 'nbds' else HOST
        return f'{scheme}://{host}:{self.port}{path}'

    def once(self, key: str) -> bool:
        """Whether this is asked for the first time."""
        with self._lock:
            return self.memory.setdefault(key, []) == [] and not (
                self.memory[key].append(1)
            )

    def _start(self, function: typing.Callable[..., None], *args: typing.Any):
        thread = threading.Thread(
            target=function, args=args, name=f'nbd-{self.port}', daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets.append(sock)
                if self.closing.is_set():
                    sock.close()
                    return
            self._start(self._serve, sock)

    def secure(self, sock: socket.socket) -> socket.socket:
        """Begin TLS."""
        assert self.tls is not None
        secured = self.tls.wrap_socket(sock, server_side=True)
        with self._lock:
            self._sockets.append(secured)
        return secured

    def _serve(self, sock: socket.socket) -> None:
        session = self.session(self, sock)
        self.connections += 1
        try:
            session.run()
        except (EOFError, OSError):
            pass  # The client went, or was thrown out.
        except Exception as exc:
            self.errors.append(exc)
        finally:
            with contextlib.suppress(OSError):
                session.sock.close()

    def close(self) -> None:
        """End all connections and wait for their threads."""
        self.closing.set()
        with contextlib.suppress(OSError):
            # Closing alone would not wake up accept().
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        for thread in list(self._threads):
            thread.join(CLOSE_LIMIT)
