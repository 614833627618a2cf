# SPDX-License-Identifier: Apache-2.0
"""Asks a proxy, also of another host; imports nothing that serves."""

from __future__ import annotations

import abc
from collections.abc import Mapping
import contextlib
import http.client
import json
import typing
import urllib.parse

from oslo_transfer import context as _context
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.service import client
from oslo_transfer.service import errors
from oslo_transfer import sockets
from oslo_transfer import tls

if typing.TYPE_CHECKING:
    from oslo_config import cfg

# Where the CA of servers, and a client's certificate, are configured.
_TLS_GROUP = 'oslo_transfer_http'
_SCHEMES = ('http', 'https')
_MAX_ANSWER = 64 << 20


class ProxyApi(abc.ABC):
    """The control API of a proxy: each method asks once.

    What the proxy itself met is raised as the library's own error.
    """

    @property
    @abc.abstractmethod
    def where(self) -> str:
        """The proxy, for people."""

    @abc.abstractmethod
    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, typing.Any] | None = None,
    ) -> tuple[int, dict[str, typing.Any]]:
        """Ask; returns the HTTP status and the answer."""

    def summary(self) -> dict[str, typing.Any]:
        """How the proxy is."""
        return self.ask('GET', '/v1/proxy')

    def images(self) -> list[dict[str, typing.Any]]:
        """The images that it has blocks of."""
        return self._list('images')

    def block_map(self, identifier: str) -> dict[str, typing.Any]:
        """Where the blocks of an image are.

        :raises NotFound: there is no such image
        """
        return self.ask('GET', f'/v1/proxy/maps/{_quote(identifier)}')

    def trace(self, identifier: str) -> bytes:
        """What is read of an image first, as an iolog of fio(1).

        :raises NotFound: there is no such image, or nothing was noted
        """
        found = self.ask('GET', f'/v1/proxy/traces/{_quote(identifier)}')
        text = found.get('iolog')
        if not isinstance(text, str):
            raise self._nonsense()
        return text.encode()

    def evict(self, identifier: str) -> dict[str, typing.Any]:
        """Have it let go of an image.

        :raises NotFound: there is no such image
        :raises DetachError: it is pinned
        """
        return self.ask('DELETE', f'/v1/proxy/images/{_quote(identifier)}')

    def pin(self, identifier: str, pinned: bool) -> dict[str, typing.Any]:
        """Say whether the blocks of an image stay.

        :raises NotFound: there is no such image
        """
        path = f'/v1/proxy/pins/{_quote(identifier)}'
        return (
            self.ask('POST', path, {}) if pinned else self.ask('DELETE', path)
        )

    def prefetch(
        self, wanted: Mapping[str, typing.Any]
    ) -> tuple[dict[str, typing.Any], bool]:
        """Have something brought ahead, and return at once.

        :param wanted: see ``Wanted`` in the OpenAPI document
        :returns: the prefetch, and whether it is a new one: the same may
            have been under way already
        """
        status, found = self._ask('POST', '/v1/proxy/prefetches', wanted)
        return found, status == http.HTTPStatus.ACCEPTED

    def prefetches(self) -> list[dict[str, typing.Any]]:
        """Those of now and before, the newest first."""
        return self._list('prefetches')

    def prefetched(self, identifier: str) -> dict[str, typing.Any]:
        """One of them.

        :raises NotFound: there is none
        """
        return self.ask('GET', f'/v1/proxy/prefetches/{_quote(identifier)}')

    def cancel(self, identifier: str) -> dict[str, typing.Any]:
        """End one; what it has brought stays.

        :raises NotFound: there is none
        """
        path = f'/v1/proxy/prefetches/{_quote(identifier)}'
        return self.ask('DELETE', path)

    def _list(self, name: str) -> list[dict[str, typing.Any]]:
        found = self.ask('GET', f'/v1/proxy/{name}').get(name)
        if not isinstance(found, list) or not all(
            isinstance(each, dict) for each in found
        ):
            raise self._nonsense()
        return found

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, typing.Any] | None = None,
    ) -> dict[str, typing.Any]:
        """Ask anything of the control API.

        :raises AccessDenied: the token is wrong, or missing
        :raises Unavailable: it cannot be reached
        :raises Stalled: no answer in time
        :raises ProtocolError: the answer makes no sense
        :raises TransferError: what the proxy says
        """
        return self._ask(method, path, body)[1]

    def _nonsense(self) -> exceptions.ProtocolError:
        return exceptions.ProtocolError(
            f'{self.where} does not answer like the control API of a proxy; '
            f'is it its HTTP port?'
        )


class HostProxy(ProxyApi):
    """The proxy of this host, by the unix socket of the service.

    :param conf: says where that is
    :param ctx: the limits
    """

    where = 'the service of this host'

    def __init__(self, conf: cfg.ConfigOpts, ctx: _context.Context) -> None:
        self._client = client.Client(conf, ctx)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, typing.Any] | None = None,
    ) -> tuple[int, dict[str, typing.Any]]:
        return self._client.exchange(method, path, body)


class ProxyClient(ProxyApi):
    """A proxy by TCP.

    :param base: what the URLs of the proxy begin with; never repeated with
        its secrets
    :param ctx: the limits; with the options in use
    :param token: one of its tokens, or None
    :raises InvalidEndpoint: it is no URL of a proxy
    :raises ConfigurationError: the token cannot be one
    """

    def __init__(
        self,
        base: _endpoint.Endpoint | str,
        ctx: _context.Context,
        *,
        token: str | None = None,
    ) -> None:
        if isinstance(base, str):
            base = _endpoint.parse(base)
        if base.scheme not in _SCHEMES or base.query is not None:
            raise exceptions.InvalidEndpoint(
                f'{base} is no URL of a proxy, like https://proxy.example:8480'
            )
        if token is not None and not (
            token.isascii() and token.isprintable() and ' ' not in token
        ):
            raise exceptions.ConfigurationError(
                f'the token for {base} has characters that no token has'
            )
        self._base = base.without_userinfo()
        self._ctx = ctx
        self._token = token

    @property
    def where(self) -> str:
        """The proxy, for people."""
        return str(self._base)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, typing.Any] | None = None,
    ) -> tuple[int, dict[str, typing.Any]]:
        data = b'' if body is None else json.dumps(body).encode()
        status, answer = self._exchange(method, path, data)
        try:
            fields = json.loads(answer)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise self._nonsense()
        if status >= http.HTTPStatus.BAD_REQUEST:
            error = errors.restore(fields.get('error'), '')
            raise type(error)(f'{self.where}: {fields.get("message")}')
        return status, fields

    def _exchange(
        self, method: str, path: str, data: bytes
    ) -> tuple[int, bytes]:
        watched = self._connect()
        with contextlib.closing(watched):
            # One that refuses may say so before it has read all.
            refused: exceptions.Unavailable | None = None
            try:
                watched.sendall(self._head(method, path, len(data)) + data)
            except exceptions.Unavailable as exc:
                refused = exc
            response = http.client.HTTPResponse(
                typing.cast(typing.Any, watched), method=method
            )
            with contextlib.closing(response):
                try:
                    response.begin()
                    # None where there is no body.
                    if (
                        reader := getattr(response.fp, 'raw', None)
                    ) is not None:
                        reader.budget = None
                    answer = response.read(_MAX_ANSWER + 1)
                except (http.client.HTTPException, ValueError) as exc:
                    raise refused or self._nonsense() from exc
                if len(answer) > _MAX_ANSWER:
                    raise self._nonsense()
                if response.length:
                    raise exceptions.Unavailable(
                        f'{self.where}: the connection broke'
                    )
        return response.status, answer

    def _connect(self) -> sockets.WatchedSocket:
        base, ctx = self._base, self._ctx
        _scheme, host, port = base.origin
        assert port is not None
        watched = sockets.WatchedSocket(
            ctx.connector.connect(host, port, ctx), ctx, self.where
        )
        if base.scheme == 'https':
            group = ctx.conf[_TLS_GROUP]
            try:
                context = tls.client_context(
                    _TLS_GROUP,
                    group.ca_file,
                    group.cert_file,
                    group.key_file,
                )
                watched.handshake(context, host)
            except BaseException:
                watched.close()
                raise
        return watched

    def _head(self, method: str, path: str, length: int) -> bytes:
        lines = [
            f'{method} {self._base.path.rstrip("/")}{path} HTTP/1.1',
            f'Host: {self._base.netloc}',
            'Connection: close',
            'Accept: application/json',
        ]
        if method == 'POST':
            lines.append('Content-Type: application/json')
            lines.append(f'Content-Length: {length}')
        if self._token is not None:
            lines.append(f'Authorization: Bearer {self._token}')
        return '\r\n'.join([*lines, '', '']).encode('ascii')


def _quote(identifier: str) -> str:
    return urllib.parse.quote(identifier, safe='')
