# SPDX-License-Identifier: Apache-2.0
"""One HTTP request and the head of its answer.

Each has a connection of its own. Where an object is read piecemeal, the next
request may have the connection of one whose answer was read to its end.

``requests`` prepares what is sent; the bytes go through the library's own
connector and watched sockets, by a transport adapter, so that the URL
policy, the stall rule and cancel hold in every phase. Redirects are
followed here and not by ``requests``: each target is checked, and none
but the origin sees credentials.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import email.utils
import functools
import http.client
import importlib.metadata
import netrc
import time
import typing
import urllib.parse

import requests
import requests.auth
import requests.exceptions

from oslo_transfer.drivers.http import connect
from oslo_transfer.drivers.http import message
from oslo_transfer.drivers.http import spares
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import sockets

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclasses.dataclass
class Answer:
    """The head of an answer, and the connection with its body.

    :ivar status: the status code
    :ivar headers: the header fields
    :ivar response: has the body, as ``http.client`` parsed its start
    :ivar watched: the connection
    :ivar spare: takes the connection when it is not needed any more
    """

    status: int
    headers: http.client.HTTPMessage
    response: message.Response
    watched: sockets.WatchedSocket
    spare: Callable[[sockets.WatchedSocket], None] | None = None

    def done(self) -> None:
        """The body was read to its end: leave the connection to the next."""
        if self.spare is None or self.response.will_close:
            self.close()
        else:
            self._close_response()
            self.spare(self.watched)

    def close(self) -> None:
        """Drop the connection."""
        self._close_response()
        self.watched.close()

    def _close_response(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.response.close()


class Client:
    """Sends requests for one endpoint.

    Thread-safe: no connection has two requests at once.

    :param endpoint: where the first request goes
    :param ctx: the limits, and the credentials for the endpoint's origin;
        connections are used again where it says piecemeal
    """

    def __init__(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> None:
        self._endpoint = endpoint
        self._ctx = ctx
        self._options = ctx.conf.oslo_transfer_http
        self._spares = spares.Spares() if ctx.piecemeal else None

    def close(self) -> None:
        """End connections that nobody uses."""
        if self._spares is not None:
            self._spares.close()

    def open(
        self,
        method: str,
        headers: typing.Mapping[str, str],
        *,
        expect_continue: bool = False,
    ) -> Answer | message.Response:
        """Send a request without a body and follow redirects.

        :param expect_continue: a body will follow; once the server wants
            it, returns what its answer will be read from
        :returns: the answer, whatever its status, redirects excepted
        :raises PolicyRefused: a redirect leads where it must not
        :raises AccessDenied: the server asks for credentials, and there
            are none that are newer
        :raises Unavailable: the connection broke
        """
        here = self._endpoint.without_userinfo()
        own = True
        refreshed = False
        for _hop in range(self._options.max_redirects + 1):
            answer = self._send(method, here, headers, own, expect_continue)
            if isinstance(answer, message.Response):
                return answer
            if answer.status == 401 and own and not refreshed:
                refreshed = True
                answer.close()
                if self._refresh():
                    answer = self._send(
                        method, here, headers, own, expect_continue
                    )
                    if isinstance(answer, message.Response):
                        return answer
                else:
                    denied = exceptions.AccessDenied(
                        f'{self._endpoint}: the server answers 401 '
                        f'Unauthorized; check the credentials'
                    )
                    denied.unproven = True
                    raise denied
            if answer.status not in _REDIRECTS or (
                # That one leads to something else, to be read (RFC 9110,
                # 15.4.4).
                answer.status == 303 and method == 'PUT'
            ):
                return answer
            target = answer.headers.get('Location')
            answer.close()
            there = self._redirect(here, target)
            own = own and there.origin == here.origin
            here = there
        raise exceptions.ProtocolError(
            f'{self._endpoint}: more than {self._options.max_redirects} '
            f'redirects'
        )

    def _refresh(self) -> bool:
        credentials = self._ctx.credentials
        return credentials is not None and credentials.refresh()

    def _redirect(
        self, here: _endpoint.Endpoint, target: str | None
    ) -> _endpoint.Endpoint:
        if not target:
            raise exceptions.ProtocolError(
                f'{self._endpoint}: a redirect without a target'
            )
        try:
            there = _endpoint.parse(
                urllib.parse.urljoin(here.url(), target)
            ).without_userinfo()
        except ValueError as exc:
            raise exceptions.ProtocolError(
                f'{self._endpoint}: a redirect to a malformed URL'
            ) from exc
        if there.scheme not in ('http', 'https'):
            raise exceptions.PolicyRefused(
                f'{self._endpoint}: a redirect to the scheme '
                f'"{there.scheme}" is never followed'
            )
        if here.scheme == 'https' and there.scheme == 'http':
            raise exceptions.PolicyRefused(
                f'{self._endpoint}: a redirect from https to http is never '
                f'followed'
            )
        if there.origin != self._endpoint.origin:
            self._ctx.connector.policy.check_endpoint(there)
        return there

    def _send(
        self,
        method: str,
        endpoint: _endpoint.Endpoint,
        headers: typing.Mapping[str, str],
        own: bool,
        expect_continue: bool,
    ) -> Answer | message.Response:
        trusted = self._ctx.trusted and (
            endpoint.origin == self._endpoint.origin
        )
        prepared = self._prepare(method, endpoint, headers, own)
        if expect_continue:
            prepared.headers['Expect'] = '100-continue'
        # A connection of one kind of request is not for another's.
        key = endpoint.origin, own
        spare = self._spares.take(key) if self._spares is not None else None
        if spare is not None:
            spare.renew()
            # The server may just have ended it, or have said so.
            with contextlib.suppress(
                exceptions.Unavailable, exceptions.ProtocolError
            ):
                return self._ask(
                    *(spare, method, endpoint, prepared.path_url),
                    *(prepared, expect_continue, key),
                )
        watched, target = connect.connect(
            endpoint, self._ctx.replace(trusted=trusted), own, prepared
        )
        return self._ask(
            *(watched, method, endpoint, target),
            *(prepared, expect_continue, key),
        )

    def _ask(
        self,
        watched: sockets.WatchedSocket,
        method: str,
        endpoint: _endpoint.Endpoint,
        target: str,
        prepared: requests.PreparedRequest,
        expect_continue: bool,
        key: object,
    ) -> Answer | message.Response:
        """Send a request on a connection, and read the head."""
        try:
            connection = http.client.HTTPConnection(
                endpoint.host, endpoint.port
            )
            connection.sock = watched
            # http.client refuses control characters in all of these.
            connection.putrequest(
                method, target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in prepared.headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = message.Response(watched, method)
            if expect_continue and not response.arrived_within(1.0):
                return response
            try:
                response.read_head()
            except message.Continue:
                return response
            answer = Answer(
                response.status, response.headers, response, watched
            )
            # What is asked of a proxy is another target.
            if self._spares is not None and target == prepared.path_url:
                answer.spare = functools.partial(self._spares.put, key)
            return answer
        except (http.client.HTTPException, ValueError) as exc:
            watched.close()
            raise message.translate(exc, str(self._endpoint)) from exc
        except BaseException:
            watched.close()
            raise

    def _prepare(
        self,
        method: str,
        endpoint: _endpoint.Endpoint,
        headers: typing.Mapping[str, str],
        own: bool,
    ) -> requests.PreparedRequest:
        mine: dict[str, str] = {
            'Host': endpoint.netloc,
            'User-Agent': f'oslo.transfer/{_version()}',
            'Accept-Encoding': 'identity',
            'Connection': 'keep-alive' if self._spares else 'close',
            **headers,
        }
        if self._ctx.anew:
            mine['Cache-Control'] = 'no-cache'
        login: tuple[str, str] | None = None
        if own:
            login = self._login()
            if self._ctx.credentials is not None:
                mine.update(self._ctx.credentials.headers())
        try:
            prepared = requests.Request(
                method,
                endpoint.url(),
                headers=mine,
                auth=requests.auth.HTTPBasicAuth(
                    *(part.encode() for part in login)
                )
                if login
                else None,
            ).prepare()
        except requests.exceptions.RequestException as exc:
            raise exceptions.ConfigurationError(
                f'{self._endpoint}: a request cannot be made of it '
                f'({type(exc).__name__})'
            ) from None
        if 'Transfer-Encoding' in prepared.headers:
            # requests sees no body, and says so.
            prepared.headers.pop('Content-Length', None)
        return prepared

    def _login(self) -> tuple[str, str] | None:
        login = self._ctx.login(self._endpoint)
        if login is not None:
            return login
        path = self._options.netrc_file
        if not path:
            return None
        try:
            found = netrc.netrc(path).authenticators(self._endpoint.host)
        except (OSError, netrc.NetrcParseError) as exc:
            raise exceptions.ConfigurationError(
                f'[oslo_transfer_http] netrc_file: {exc}'
            ) from exc
        return (found[0], found[2] or '') if found else None


@functools.cache
def _version() -> str:
    return importlib.metadata.version('oslo.transfer')


def error_for(
    status: int, headers: http.client.HTTPMessage, where: str
) -> exceptions.TransferError:
    """The error that a status code stands for.

    The server's own reason phrase is left out: it may repeat what was
    sent, secrets included.
    """
    phrase = http.client.responses.get(status, '')
    text = f'{where}: the server answers {status} {phrase}'.rstrip()
    error: exceptions.TransferError
    if status in (401, 403):
        error = denied = exceptions.AccessDenied(text)
        denied.unproven = status == 401
    elif status == 407:
        error = exceptions.AccessDenied(f'{text} (the proxy)')
    elif status in (404, 410):
        error = exceptions.NotFound(text)
    elif status in (409, 412):
        error = exceptions.AlreadyExists(text)
    elif status in (413, 507):
        error = exceptions.NoSpace(text)
    elif status in (408, 425, 429) or status >= 500:
        error = exceptions.Unavailable(text)
        error.retry_after = retry_after(headers.get('Retry-After'))
    else:
        error = exceptions.ProtocolError(text)
    return error


def retry_after(value: str | None) -> float | None:
    """Seconds to wait: a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        when = email.utils.parsedate_to_datetime(value)
        return max(0.0, when.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
