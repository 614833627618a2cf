# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer serve --role proxy``, as operators run it."""

from __future__ import annotations

from collections.abc import Mapping
import json
import logging
import pathlib
import signal
import threading
import typing
import urllib.parse
import urllib.request

from oslo_transfer.service.proxy import role as proxy_role
from tests.servers import cache_service
from tests.servers import child

#: Of its administrator, and what a request with it has.
ADMIN = 'token-of-the-admin'
AS_ADMIN: Mapping[str, str] = {'Authorization': f'Bearer {ADMIN}'}
_PATIENCE = 20.0
_LOGGER = logging.getLogger('oslo_transfer')


class ProxyService(cache_service.CacheService):
    """A proxy with a state of its own, while it is entered.

    :param path: an empty directory with a short name
    :param options: of the configuration, by group. Those of
        ``oslo_transfer_proxy`` need ``origins`` at least
    """

    role = 'proxy'

    def __init__(
        self,
        path: pathlib.Path,
        options: Mapping[str, Mapping[str, typing.Any]] | None = None,
    ) -> None:
        given = dict(options or {})
        mine = dict(given.get('oslo_transfer_proxy', {}))
        host = mine.setdefault('listen_address', '127.0.0.1')
        mine.setdefault('http_port', child.free_port())
        # Tokens without certificates are for HTTP alone.
        if 'tokens_file' not in mine or 'ca_file' in mine:
            mine.setdefault('nbd_port', child.free_port())
        if 'admin_tokens_file' not in mine:
            mine['admin_tokens_file'] = path / 'admins'
            (path / 'admins').write_text(f'{ADMIN}\n')
        given['oslo_transfer_proxy'] = mine
        scheme, self._secure = 'http', 'cert_file' in mine
        if self._secure:
            scheme = 'https'
        #: Where it is, without a slash at the end.
        self.url = f'{scheme}://{host}:{mine["http_port"]}'
        self._nbd = f'{host}:{mine.get("nbd_port", 0)}'
        super().__init__(path, given)

    def of(self, url: str) -> str:
        """The URL at which it has what is at one of the origin."""
        scheme, _, rest = url.partition('://')
        return f'{self.url}/{scheme}/{rest}'

    def nbd_uri(self, name: str) -> str:
        """The URI of an export; of a URL, or one of the names."""
        scheme = 'nbds' if self._secure else 'nbd'
        quoted = urllib.parse.quote(name, safe='')
        return f'{scheme}://{self._nbd}/{quoted}'

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> bytes:
        """What is at an URL, of the origin or a path of the proxy.

        :raises urllib.error.HTTPError: it answers something else than 2xx
        """
        full = f'{self.url}{url}' if url.startswith('/') else self.of(url)
        request = urllib.request.Request(full, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            found: bytes = answer.read()
        return found

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, typing.Any] | None = None,
        headers: Mapping[str, str] = AS_ADMIN,
    ) -> dict[str, typing.Any]:
        """Ask the control API over TCP.

        :raises urllib.error.HTTPError: it answers something else than 2xx
        """
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            dict(headers),
            method=method,
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            found: dict[str, typing.Any] = json.loads(answer.read())
        return found

    def image(self, url: str) -> dict[str, typing.Any]:
        """What it says of an image, by the URL of the origin."""
        (found,) = (
            each
            for each in self.ask('GET', '/v1/proxy/images')['images']
            if each['origin'] == url
        )
        return found


class LocalProxy(ProxyService):
    """The same in this process, without its unix socket: it starts at once."""

    _role: proxy_role.ProxyRole | None = None

    def start(self) -> None:
        """Start it."""
        made = proxy_role.ProxyRole(self.conf())
        made.start()
        self._role = made
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, args=(made,))
        self._ticker.start()
        self._handler = logging.FileHandler(self.log)
        self._level = _LOGGER.level
        _LOGGER.setLevel(logging.INFO)
        _LOGGER.addHandler(self._handler)

    def _tick(self, made: proxy_role.ProxyRole) -> None:
        while not self._ended.wait(0.2):
            made.tick()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it."""
        assert self._role is not None and number == signal.SIGTERM
        made, self._role = self._role, None
        self._ended.set()
        self._ticker.join()
        made.stop()
        _LOGGER.removeHandler(self._handler)
        _LOGGER.setLevel(self._level)
        self._handler.close()
        return 0

    def __exit__(self, *_exc: object) -> None:
        if self._role is not None:
            self.stop()
