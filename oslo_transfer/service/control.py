# SPDX-License-Identifier: Apache-2.0
"""The control API: HTTP/1.1 and JSON over a unix socket.

One request per connection. A client that is slow, sends too much or sends
nonsense costs one thread for a few seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import http
import http.server
import io
import json
import logging
import socket
import threading
import time
import typing

from oslo_transfer import exceptions
from oslo_transfer.service import errors
from oslo_transfer.service import role

LOG = logging.getLogger(__name__)

#: Seconds for reading a request and, again, for sending the answer.
PATIENCE = 10.0
#: Bytes of a request's first line and headers.
MAX_HEAD = 64 * 1024
#: Bytes of a body: the largest torrent in base64, and some more.
MAX_BODY = 88 << 20
#: Requests that are worked on at once.
MAX_REQUESTS = 8
#: Seconds for which a further one waits before it is refused.
_TURN = 1.0
#: Seconds that requests have when the service ends.
_LAST_WORDS = 2.0
_BUSY = b'{"error": "Unavailable", "message": "too many requests at once"}\n'
_REFUSAL = (
    b'HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n'
    b'Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s'
    % (len(_BUSY), _BUSY)
)


class ControlServer:
    """Answers requests, in threads of its own.

    :param sock: a unix socket that listens; of no use after :meth:`stop`
    :param routes: what can be asked
    """

    def __init__(
        self, sock: socket.socket, routes: Sequence[role.Route]
    ) -> None:
        self._sock = sock
        self._routes = routes
        self._turns = threading.BoundedSemaphore(MAX_REQUESTS)
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._accept, name='oslo-transfer-control', daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests.

        Those that are being worked on have a few seconds to end.
        """
        self._ended.set()
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        end = time.monotonic() + _LAST_WORDS
        for _ in range(MAX_REQUESTS):
            self._turns.acquire(timeout=max(0.0, end - time.monotonic()))

    def _accept(self) -> None:
        while True:
            try:
                request, _ = self._sock.accept()
            except OSError as exc:
                if self._ended.is_set():
                    return
                # Descriptors are used up; some will come back.
                LOG.warning('taking a request: %s', exc)
                self._ended.wait(_TURN)
                continue
            if self._turns.acquire(timeout=_TURN):
                threading.Thread(
                    target=self._serve,
                    args=(request,),
                    name='oslo-transfer-request',
                    daemon=True,
                ).start()
            else:
                self._refuse(request)

    def _serve(self, request: socket.socket) -> None:
        try:
            with request:
                _RequestHandler(request, '', typing.cast(typing.Any, self))
        except OSError as exc:
            LOG.debug('a request ended early: %s', exc)
        finally:
            self._turns.release()

    def _refuse(self, request: socket.socket) -> None:
        with request, contextlib.suppress(OSError):
            request.setblocking(False)
            request.sendall(_REFUSAL)

    def find(self, method: str, path: str) -> tuple[role.Route, str]:
        """The route for a request, and its argument.

        :raises _BadRequest: there is none
        """
        path = path.partition('?')[0]
        head, slash, last = path.rpartition('/')
        methods = []
        for route in self._routes:
            if route.path not in (path, head + slash):
                continue
            if route.method == method:
                return route, last if route.path.endswith('/') else ''
            methods.append(route.method)
        if methods:
            raise _BadRequest(
                http.HTTPStatus.METHOD_NOT_ALLOWED,
                f'only {" and ".join(methods)} can be done with {path}',
            )
        known = ', '.join(
            f'{route.method} {route.path}' for route in self._routes
        )
        raise _BadRequest(
            http.HTTPStatus.NOT_FOUND, f'there is no {path}, only {known}'
        )


class _Bounded(io.RawIOBase):
    """Reads from a socket, for so long and so much."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self._end = time.monotonic() + PATIENCE
        self._left = MAX_HEAD

    def allow(self, count: int) -> None:
        """Let it be so many bytes more."""
        self._left += count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: typing.Any) -> int:
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError('the client is too slow')
        if self._left <= 0:
            raise ConnectionAbortedError('the client sends too much')
        self._sock.settimeout(seconds)
        count = self._sock.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class _BadRequest(Exception):
    """It is not what can be asked."""

    def __init__(self, status: http.HTTPStatus, message: str) -> None:
        self.status = status
        super().__init__(message)


class _RequestHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server_version = 'oslo-transfer'
    sys_version = ''
    default_request_version = 'HTTP/1.0'

    def setup(self) -> None:
        super().setup()
        self._control = typing.cast(ControlServer, self.server)
        self.rfile.close()
        self._bounded = _Bounded(self.connection)
        self.rfile = io.BufferedReader(self._bounded)

    def handle(self) -> None:
        self.close_connection = True
        self.handle_one_request()

    def _handle(self) -> None:
        try:
            route, argument = self._control.find(self.command, self.path)
            body = self._body()
        except _BadRequest as exc:
            return self.send_error(exc.status, str(exc))
        try:
            status, fields = route.handle(argument, body)
        except exceptions.TransferError as exc:
            status, fields = errors.describe(exc)
        except Exception:
            LOG.exception('%s %s', self.command, self.path)
            return self.send_error(
                http.HTTPStatus.INTERNAL_SERVER_ERROR,
                'this is a bug; see the log of the service',
            )
        return self._send(status, fields)

    do_GET = do_POST = do_DELETE = _handle

    def _body(self) -> Mapping[str, typing.Any]:
        if self.command != 'POST':
            return {}
        text = self.headers.get('Content-Length', '')
        # Not what int() would take, such as "+1_000".
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise _BadRequest(
                http.HTTPStatus.LENGTH_REQUIRED,
                'a Content-Length is needed, and no Transfer-Encoding',
            )
        length = int(text)
        if length > MAX_BODY:
            raise _BadRequest(
                http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f'the body has more than {MAX_BODY} bytes',
            )
        self._bounded.allow(length)
        try:
            fields = json.loads(self.rfile.read(length))
        except TimeoutError:
            raise _BadRequest(
                http.HTTPStatus.REQUEST_TIMEOUT,
                f'the request took more than {PATIENCE:g} seconds',
            ) from None
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise _BadRequest(
                http.HTTPStatus.BAD_REQUEST, 'the body is no JSON object'
            )
        return fields

    def _send(self, status: int, fields: Mapping[str, typing.Any]) -> None:
        data = json.dumps(fields, indent=2).encode() + b'\n'
        self.connection.settimeout(PATIENCE)
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(data)

    def send_error(
        self,
        code: int,
        message: str | None = None,
        explain: str | None = None,
    ) -> None:
        """Say what is wrong with the request; also called by the base."""
        text = message or http.HTTPStatus(code).phrase
        name = 'ProtocolError'
        if code == http.HTTPStatus.NOT_FOUND:
            # Another role, or another release, has it.
            name = 'CapabilityMissing'
        self._send(code, {'error': name, 'message': text})

    def log_message(self, format: str, *args: typing.Any) -> None:
        """Note each request; the base writes to stderr."""
        LOG.debug(format, *args)
