# SPDX-License-Identifier: Apache-2.0
"""One connection of the scripted server, and the requests on it."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
import dataclasses
import fcntl
import http
import math
import re
import select
import socket
import ssl
import struct
import termios
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.servers import http as servers_http

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

HEAD_LIMIT = 1 << 20
LINGER_SECONDS = 2.0
PIECE = 1 << 18


class PeerGone(ConnectionError):
    """The peer hung up, or the server is closing."""


class HeadDone(Exception):
    """The head answering a HEAD was sent: there is no body to send."""


@dataclasses.dataclass
class Request:
    """A request as it came in."""

    method: str
    target: str
    path: str
    version: str
    #: Names in lower case; of a repeated one the values, with commas.
    headers: dict[str, str]
    peer: tuple[str, int]
    #: Serial number of the connection that it came on, from 0.
    connection: int
    #: time.monotonic() of its arrival.
    time: float
    body: Body
    #: How many requests came before, for the path, for path and method.
    serial: int = 0
    nth: int = 0
    #: The status that was sent in answer, as far as known.
    status: int | None = None

    @property
    def range(self) -> tuple[int, int | None] | None:
        """Return (start, last or None) asked for; (-n, None) is a suffix."""
        value = self.headers.get('range', '')
        match = re.fullmatch(r'bytes=(\d*)-(\d*)', value.replace(' ', ''))
        if match is None or match.group(0) == 'bytes=-':
            return None
        first, last = match.groups()
        if not first:
            return -int(last), None
        return int(first), int(last) if last else None

    @property
    def start(self) -> int:
        """Return the first byte asked for, 0 without a range."""
        return max(0, self.range[0]) if self.range else 0


class Body:
    """Reads a request's body, whichever way it is framed."""

    def __init__(self, conn: Connection, headers: Mapping[str, str]) -> None:
        self._conn = conn
        codings = headers.get('transfer-encoding', '').lower()
        self.chunked = 'chunked' in codings
        self._left = (
            0 if self.chunked else int(headers.get('content-length') or 0)
        )
        self.length = None if self.chunked else self._left
        self.done = not self.chunked and not self._left
        self._expect = headers.get('expect', '').lower() == '100-continue'

    def read(self, limit: int = 1 << 16) -> bytes:
        """Return the next bytes as they come, nothing at the end."""
        if self.done:
            return b''
        if self._expect:
            self._expect = False
            self._conn.send_raw(b'HTTP/1.1 100 Continue\r\n\r\n')
        if self.chunked and not self._left:
            self._left = int(self._conn.read_line().split(b';')[0], 16)
            if not self._left:
                while self._conn.read_line():
                    pass
                self.done = True
                return b''
        data = self._conn.read_some(min(limit, self._left))
        self._left -= len(data)
        if not self._left:
            if self.chunked:
                self._conn.read_line()
            else:
                self.done = True
        return data

    def read_all(self) -> bytes:
        """Return all that is left."""
        return b''.join(iter(self.read, b''))


class Connection:
    """The server's end of one connection."""

    def __init__(
        self,
        server: servers_http.ScriptedHTTPServer,
        sock: socket.socket,
        peer: tuple[str, int],
        serial: int,
    ) -> None:
        self.server = server
        self.sock = sock
        self.peer = peer
        self.serial = serial
        self.closed = False
        self.keep_alive = False
        self.request: Request | None = None
        self._buffer = bytearray()
        self._due: int | None = None

    # Reading

    def _fill(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise PeerGone('end of file')
        self._buffer += data

    def read_some(self, limit: int) -> bytes:
        """Return at least one byte and at most limit."""
        if not self._buffer:
            self._fill()
        data = bytes(self._buffer[:limit])
        del self._buffer[:limit]
        return data

    def read_until(self, mark: bytes) -> bytes:
        """Return what comes before a mark, and drop the mark."""
        while (at := self._buffer.find(mark)) < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise PeerGone('a line or head without end')
            self._fill()
        data = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return data

    def read_line(self) -> bytes:
        """Return one line without its end."""
        return self.read_until(b'\r\n')

    def read_request(self) -> Request | None:
        """Return the next request, None when there is none."""
        if not self._buffer:
            try:
                self._fill()
            except OSError:
                return None
        lines = self.read_until(b'\r\n\r\n').decode('latin-1').split('\r\n')
        self.keep_alive, self._due = False, None
        words = lines[0].split(' ')
        if len(words) != 3 or not words[2].startswith('HTTP/'):
            self.send_raw(b'HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n')
            return None
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(':')
            name, value = name.strip().lower(), value.strip()
            if name in headers:
                value = f'{headers[name]}, {value}'
            headers[name] = value
        path = re.sub(r'^[a-zA-Z]+://[^/?#]*', '', words[1])
        self.request = Request(
            method=words[0],
            target=words[1],
            path=path.partition('?')[0] or '/',
            version=words[2],
            headers=headers,
            peer=self.peer,
            connection=self.serial,
            time=time.monotonic(),
            body=Body(self, headers),
        )
        return self.request

    # Writing

    def send_raw(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes that count as no body: heads, chunk sizes."""
        self.sock.sendall(data)

    def send_head(
        self, status: int, headers: Headers = (), reason: str | None = None
    ) -> None:
        """Send a head; a HEAD request is then done with."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        pairs = list(pairs)
        names = {name.lower(): value for name, value in pairs}
        if 'chunked' in names.get('transfer-encoding', ''):
            self._due = -1
        elif status in (204, 304) or status < 200:
            self._due = 0
        elif re.fullmatch(r'\d+', names.get('content-length', '')):
            self._due = int(names['content-length'])
        request = self.request
        is_head = request is not None and request.method == 'HEAD'
        if is_head:
            self._due = 0
        self.keep_alive = (
            self._due is not None
            and request is not None
            and request.version == 'HTTP/1.1'
            and 'close' not in request.headers.get('connection', '').lower()
            and 'close' not in names.get('connection', '').lower()
        )
        if request is not None:
            request.status = status
            self.keep_alive = self.keep_alive and request.body.done
        if not self.keep_alive and 'connection' not in names:
            pairs.append(('Connection', 'close'))
        if reason is None:
            try:
                reason = http.HTTPStatus(status).phrase
            except ValueError:
                reason = 'Unknown'
        lines = [f'HTTP/1.1 {status} {reason}']
        lines += [f'{name}: {value}' for name, value in pairs]
        text = '\r\n'.join(lines) + '\r\n\r\n'
        self.send_raw(text.encode('latin-1'))
        if is_head:
            raise HeadDone

    def send_raw_head(self, data: bytes) -> None:
        """Send a head as it is; a HEAD request is then done with."""
        self.send_raw(data)
        if self.request is not None and self.request.method == 'HEAD':
            raise HeadDone

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes of a body, counted as they leave."""
        path = self.request.path if self.request else ''
        view = memoryview(data)
        while view:
            sent = self.sock.send(view[:PIECE])
            view = view[sent:]
            self.server.count(path, sent)
            if self._due:
                self._due -= sent

    def send_chunk(self, data: bytes | bytearray | memoryview) -> None:
        """Send one chunk of a chunked body."""
        if data:
            self.send_raw(b'%x\r\n' % len(data))
            self.send(data)
            self.send_raw(b'\r\n')

    def end_chunks(self) -> None:
        """End a chunked body."""
        self.send_raw(b'0\r\n\r\n')
        self._due = 0

    def reply(
        self, status: int, body: bytes = b'', headers: Headers = ()
    ) -> None:
        """Send a whole small answer."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        pairs = list(pairs)
        if status != 204:
            pairs.append(('Content-Length', str(len(body))))
        self.send_head(status, pairs)
        self.send(body)

    def trickle(
        self,
        data: bytes | bytearray | memoryview,
        bytes_per_second: float,
        piece: int | None = None,
    ) -> None:
        """Send a body at a rate, in small pieces."""
        view = memoryview(data)
        piece = piece or max(1, min(PIECE, int(bytes_per_second // 50)))
        start = time.monotonic()
        for done in range(0, len(view), piece):
            part = view[done : done + piece]
            self.send(part)
            due = start + (done + len(part)) / bytes_per_second
            if (pause := due - time.monotonic()) > 0:
                self.wait(pause)

    # Waiting and ending

    def wait(self, seconds: float | None = None) -> None:
        """Wait; raise at once when the peer or the server ends."""
        poller = select.poll()
        poller.register(self.sock.fileno(), select.POLLRDHUP)
        limit = None if seconds is None else math.ceil(seconds * 1000)
        if poller.poll(limit):
            raise PeerGone('hung up')

    def stall(self) -> None:
        """Send nothing more until the peer or the server ends."""
        with contextlib.suppress(OSError):
            self.wait()
        self.release()

    def drain(self, seconds: float = 5.0) -> None:
        """Wait until the peer's kernel has all that was sent."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            queued = fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, b'0000')
            if not struct.unpack('i', queued)[0]:
                return
            self.wait(0.001)

    def reset(self, drain: bool = True) -> None:
        """End with RST, after what was sent has arrived."""
        if self.closed:
            return
        with contextlib.suppress(OSError):
            if drain:
                self.drain()
            self.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
            )
        self.release()

    def close(self, notify: bool = True) -> None:
        """End with FIN (in TLS after close_notify), waiting for the peer."""
        if self.closed:
            return
        with contextlib.suppress(OSError, ValueError):
            if notify and isinstance(self.sock, ssl.SSLSocket):
                self.drain()
                self.sock.setblocking(False)
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.sock.unwrap()
            self._linger()
        self.release()

    def _linger(self) -> None:
        # What is unread would turn the FIN into a RST.
        plain = socket.socket
        plain.shutdown(self.sock, socket.SHUT_WR)
        plain.setblocking(self.sock, False)
        end = time.monotonic() + LINGER_SECONDS
        poller = select.poll()
        poller.register(self.sock.fileno(), select.POLLIN)
        while (left := end - time.monotonic()) > 0:
            if not poller.poll(math.ceil(left * 1000)):
                return
            if not plain.recv(self.sock, 1 << 16):
                return

    def reusable(self) -> bool:
        """Return whether the next request may come."""
        return (
            not self.closed
            and self.keep_alive
            and self._due == 0
            and self.request is not None
            and self.request.body.done
        )

    def lost(self, error: Exception) -> bool:
        """Return whether an error means no more than a dead peer."""
        gone = (ConnectionError, TimeoutError, ssl.SSLError)
        return (
            isinstance(error, gone)
            or self.closed
            or self.server.closing.is_set()
        )

    def interrupt(self) -> None:
        """Wake whatever waits on the socket; any thread may call it."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own: it would take away the TLS state.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def release(self) -> None:
        """Close the socket as it is."""
        self.closed = True
        self.server.forget(self)
        self.sock.close()
