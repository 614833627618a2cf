# SPDX-License-Identifier: Apache-2.0
"""Connections to HTTP servers: directly or by a proxy, with TLS or not."""

from __future__ import annotations

import ipaddress
import typing

import requests
import requests.auth

from oslo_transfer.drivers.http import message
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import sockets
from oslo_transfer import tls

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context


def connect(
    endpoint: _endpoint.Endpoint,
    ctx: _context.Context,
    own: bool,
    prepared: requests.PreparedRequest,
) -> tuple[sockets.WatchedSocket, str]:
    """Open a connection for a request.

    :param endpoint: where to
    :param ctx: its ``trusted`` says whether the URL policy applies
    :param own: the client certificate may be shown
    :param prepared: the request; a proxy's login is added to it
    :returns: the connection, and what to ask for on it
    """
    options = ctx.conf.oslo_transfer_http
    port = endpoint.port or _endpoint.DEFAULT_PORTS[endpoint.scheme]
    proxy = _proxy(endpoint, options)
    target = prepared.path_url
    if proxy is None:
        watched = sockets.WatchedSocket(
            ctx.connect(endpoint, port), ctx, str(endpoint)
        )
    else:
        if not ctx.trusted:
            raise exceptions.PolicyRefused(
                f'{endpoint.host} would be reached by a proxy, where '
                f'untrusted URLs and redirects cannot be checked; see '
                f'[oslo_transfer_http] no_proxy'
            )
        watched = sockets.WatchedSocket(
            ctx.connect(proxy, proxy.port or 3128), ctx, str(proxy)
        )
    try:
        if proxy is not None and endpoint.scheme == 'https':
            _tunnel(watched, proxy, endpoint.host, port)
        elif proxy is not None:
            target = f'http://{endpoint.netloc}{target}'
            prepared.headers.update(_proxy_headers(proxy))
        if endpoint.scheme == 'https':
            secured = tls.client_context(
                'oslo_transfer_http',
                options.ca_file,
                options.cert_file if own else None,
                options.key_file,
            )
            watched.handshake(secured, endpoint.host)
    except BaseException:
        watched.close()
        raise
    return watched, target


def _proxy(
    endpoint: _endpoint.Endpoint, options: typing.Any
) -> _endpoint.Endpoint | None:
    url = options[f'{endpoint.scheme}_proxy']
    if not url or any(
        _matches(endpoint.host, rule) for rule in options.no_proxy
    ):
        return None
    proxy = _endpoint.parse(url)
    if proxy.scheme != 'http':
        raise exceptions.ConfigurationError(
            f'[oslo_transfer_http] {endpoint.scheme}_proxy must be an http URL'
        )
    return proxy


def _matches(host: str, rule: str) -> bool:
    rule = rule.strip().lower()
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(
            rule, strict=False
        )
    except ValueError:
        name = rule.lstrip('.')
        return host == name or host.endswith('.' + name)


def _tunnel(
    watched: sockets.WatchedSocket,
    proxy: _endpoint.Endpoint,
    host: str,
    port: int,
) -> None:
    there = f'[{host}]:{port}' if ':' in host else f'{host}:{port}'
    lines = [f'CONNECT {there} HTTP/1.1', f'Host: {there}']
    lines += [f'{k}: {v}' for k, v in _proxy_headers(proxy).items()]
    watched.sendall('\r\n'.join([*lines, '', '']).encode())
    response = message.Response(watched, 'CONNECT')
    response.read_head()
    if response.status == 407:
        raise exceptions.AccessDenied(
            f'the proxy {proxy} wants other credentials (407)'
        )
    if response.status != 200:
        raise exceptions.Unavailable(
            f'the proxy {proxy} answers {response.status}'
        )


def _proxy_headers(proxy: _endpoint.Endpoint) -> dict[str, str]:
    if proxy.username is None:
        return {}
    prepared = requests.Request('GET', proxy.url()).prepare()
    requests.auth.HTTPProxyAuth(
        proxy.username.encode(), (proxy.password or '').encode()
    )(prepared)
    return {'Proxy-Authorization': prepared.headers['Proxy-Authorization']}
