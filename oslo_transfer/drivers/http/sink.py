# SPDX-License-Identifier: Apache-2.0
"""Writing by one PUT."""

from __future__ import annotations

import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.http import exchange
from oslo_transfer.drivers.http import message
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import sockets

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context


class HTTPSink(base.Sink):
    """Streams one PUT; the server's answer is the commit.

    The server is asked before the body goes out (``Expect``), so that a
    refusal, or a token that has to be renewed, costs nothing.

    :param size: sent as Content-Length; chunks are sent if it is None
    """

    capabilities = base.Capability.WRITE

    def __init__(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        size: int | None,
        overwrite: bool,
    ) -> None:
        self._endpoint = endpoint
        self._ctx = ctx
        self._size = size
        self._position = 0
        headers = {'Content-Type': 'application/octet-stream'}
        if size is None:
            headers['Transfer-Encoding'] = 'chunked'
        else:
            headers['Content-Length'] = str(size)
        if not overwrite:
            headers['If-None-Match'] = '*'
        answer = exchange.Client(endpoint, ctx).open(
            'PUT', headers, expect_continue=True
        )
        if isinstance(answer, exchange.Answer):
            answer.close()
            raise self._refusal(answer.response)
        self._watched: sockets.WatchedSocket | None = answer

    def _refusal(self, response: message.Response) -> exceptions.TransferError:
        return exchange.error_for(
            response.status, response.headers, str(self._endpoint)
        )

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Send what comes next."""
        watched = self._connection()
        if offset != self._position:
            raise ValueError(
                f'byte {offset} after byte {self._position}: a PUT is '
                f'written in order'
            )
        if watched.unread():
            self._finish()  # The server has seen enough.
        try:
            if self._size is None:
                watched.sendall(f'{len(buffer):x}\r\n'.encode())
            watched.sendall(buffer)
            if self._size is None:
                watched.sendall(b'\r\n')
        except exceptions.Unavailable:
            if watched.unread():
                self._finish()
            raise
        self._position += len(buffer)

    def _connection(self) -> sockets.WatchedSocket:
        if self._watched is None:
            raise exceptions.TransferCancelled(
                f'{self._endpoint}: the upload was aborted'
            )
        return self._watched

    def _finish(self) -> typing.NoReturn:
        """An answer came before the body was complete."""
        response = self._answer()
        if response.status < 400:
            raise exceptions.ProtocolError(
                f'{self._endpoint}: the server answers {response.status} '
                f'after {self._position} bytes'
            )
        raise self._refusal(response)

    def _answer(self) -> message.Response:
        response = message.Response(self._connection(), 'PUT')
        response.wants_continue = False
        response.read_head()
        return response

    def sync(self) -> None:
        """Nothing: the server makes it durable before it answers."""

    def commit(self, size: int) -> None:
        """End the body, and wait for the server to take it."""
        if self._size is None:
            self._connection().sendall(b'0\r\n\r\n')
        elif self._position != self._size:
            raise exceptions.SizeMismatch(
                self._size, self._position, str(self._endpoint)
            )
        response = self._answer()
        if not 200 <= response.status < 300:
            raise self._refusal(response)
        self.abort(keep=False)

    def abort(self, keep: bool) -> None:
        """Drop the connection; the server sees a broken transfer."""
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.close()
