# SPDX-License-Identifier: Apache-2.0
"""Writing by one PUT."""

from __future__ import annotations

import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.http import exchange
from oslo_transfer.drivers.http import message
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context


class HTTPSink(base.Sink):
    """Streams one PUT; the server's answer is the commit.

    The server is asked before the body goes out (``Expect``), so that a
    refusal, or a token that has to be renewed, costs nothing. There is
    nothing to ask for an empty body, which is sent by the commit.

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
        self._headers = headers
        self._response: message.Response | None = None
        # An empty body is complete with the headers: they are the commit.
        if size != 0:
            answer = self._open()
            if isinstance(answer, exchange.Answer):
                answer.close()
                raise self._refusal(answer.response)
            self._response = answer

    def _open(self) -> exchange.Answer | message.Response:
        return exchange.Client(self._endpoint, self._ctx).open(
            'PUT', self._headers, expect_continue=self._size != 0
        )

    def _refusal(self, response: message.Response) -> exceptions.TransferError:
        return exchange.error_for(
            response.status, response.headers, str(self._endpoint)
        )

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Send what comes next."""
        if not buffer:
            return  # As a chunk it would end the body.
        response = self._open_response()
        if offset != self._position:
            raise exceptions.CapabilityMissing(
                f'byte {offset} after byte {self._position}: a PUT is '
                f'written in order'
            )
        if response.arrived():
            self._read_early_answer(response)
        if self._size is None:
            self._send(response, f'{len(buffer):x}\r\n'.encode())
        self._send(response, buffer)
        if self._size is None:
            self._send(response, b'\r\n')
        self._position += len(buffer)

    def _send(
        self, response: message.Response, data: bytes | memoryview
    ) -> None:
        try:
            response.watched.sendall(data)
        except (exceptions.Unavailable, exceptions.Stalled):
            # The server may have said why it takes no more.
            if response.arrived():
                self._read_early_answer(response)
            raise

    def _open_response(self) -> message.Response:
        if self._response is None:
            raise exceptions.TransferCancelled(
                f'{self._endpoint}: the upload was aborted'
            )
        return self._response

    def _read_early_answer(self, response: message.Response) -> None:
        """Read what came before the body was complete."""
        response.interim = message.INFORMATIONAL
        try:
            response.read_head()
        except message.Continue:
            return  # Which was late.
        if response.status < 400:
            raise exceptions.ProtocolError(
                f'{self._endpoint}: the server answers {response.status} '
                f'after {self._position} bytes'
            )
        raise self._refusal(response)

    def sync(self) -> None:
        """Nothing: the server makes it durable before it answers."""

    def commit(self, size: int) -> None:
        """End the body, and wait for the server to take it."""
        if self._size == 0:
            answer = self._open()
            assert isinstance(answer, exchange.Answer)
            answer.close()
            self._check(answer.response)
            return
        response = self._open_response()
        if self._size is None:
            self._send(response, b'0\r\n\r\n')
        elif self._position != self._size:
            raise exceptions.SizeMismatch(
                self._size, self._position, str(self._endpoint)
            )
        response.interim = frozenset()
        response.read_head()
        self._check(response)
        self.abort(keep=False)

    def _check(self, response: message.Response) -> None:
        if not 200 <= response.status < 300:
            raise self._refusal(response)

    def abort(self, keep: bool) -> None:
        """Drop the connection; the server sees a broken transfer."""
        response, self._response = self._response, None
        if response is not None:
            response.watched.close()
