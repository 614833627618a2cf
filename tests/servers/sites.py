# SPDX-License-Identifier: Apache-2.0
"""Two datacenters with an origin, proxies in each, and hosts that copy."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import os
import pathlib
import subprocess
import sys
import typing

from oslo_config import cfg

import oslo_transfer
from oslo_transfer import opts
from tests.servers import cache_service
from tests.servers import netns
from tests.servers import nginx
from tests.servers import nginx_proxy
from tests.servers import proxy_service
from tests.servers import two_centers

#: Where all proxies listen.
HTTP_PORT, NBD_PORT = 8480, 10809
# For a command.
_PATIENCE = 60.0


class Host:
    """A host that knows where it is, and which proxies to ask.

    :param namespace: its network
    :param conf: its configuration
    :param path: of the same as a file
    """

    def __init__(
        self, namespace: netns.Host, conf: cfg.ConfigOpts, path: pathlib.Path
    ) -> None:
        self.namespace = namespace
        self.conf = conf
        self._path = path

    def copy(
        self,
        src: str,
        dst: str | os.PathLike[str],
        **arguments: typing.Any,
    ) -> oslo_transfer.TransferResult:
        """Copy, from there."""
        with self.namespace.inside():
            return oslo_transfer.copy(src, dst, conf=self.conf, **arguments)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line there, to its end."""
        python = (sys.executable, '-c', cache_service.SCRIPT)
        return subprocess.run(
            self.namespace.command(
                *python, '--config-file', self._path, *words
            ),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )


class Proxy(proxy_service.ProxyService):
    """A proxy on a host of its own.

    :param namespace: its network
    :param path: an empty directory
    :param options: of [oslo_transfer_proxy]
    """

    def __init__(
        self,
        namespace: netns.Host,
        path: pathlib.Path,
        **options: typing.Any,
    ) -> None:
        self.namespace = namespace
        super().__init__(
            path,
            {
                'oslo_transfer_proxy': {
                    'listen_address': namespace.address,
                    'http_port': HTTP_PORT,
                    'nbd_port': NBD_PORT,
                    **options,
                }
            },
        )

    @property
    def runs(self) -> bool:
        """Whether it was started, and not stopped."""
        return self._process is not None

    def start(self) -> None:
        """Start it there."""
        with self.namespace.inside():
            super().start()

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> bytes:
        """What is at an URL; asked from there, as all is."""
        with self.namespace.inside():
            return super().get(url, headers)

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, typing.Any] | None = None,
        headers: Mapping[str, str] = proxy_service.AS_ADMIN,
    ) -> dict[str, typing.Any]:
        """Ask the control API over TCP."""
        with self.namespace.inside():
            return super().ask(method, path, body, headers)


class Cache(nginx_proxy.NginxProxy):
    """nginx in the place of a proxy, on a host of its own.

    :param namespace: its network
    :param origin: see the class above
    :param clients: the same
    """

    def __init__(
        self, namespace: netns.Host, origin: str, clients: str
    ) -> None:
        super().__init__(origin, clients, namespace.address)
        self._namespace = namespace

    def start(self) -> None:
        """Start it there."""
        with self._namespace.inside():
            super().start()


class Sites:
    """All of it; a context manager.

    The first host of the near datacenter is the origin, the next ones have
    its proxies; the first ones of the far datacenter have its own, that ask
    those of the near one before the origin.

    :ivar caches: nginx in the place of proxies, behind them in the far one

    :param path: an empty directory with a short name
    :param root: what the origin serves
    :param hosts: who copy, in each datacenter
    :param proxies: of the near and of the far datacenter
    :param caches: how many of the other kind the far one has
    :param rate: see :class:`tests.servers.two_centers.TwoCenters`
    :param round_trip: the same
    :param options: of all proxies
    """

    def __init__(
        self,
        path: pathlib.Path,
        root: pathlib.Path,
        *,
        hosts: int = 1,
        proxies: tuple[int, int] = (1, 1),
        caches: int = 0,
        rate: int | None = None,
        round_trip: float = 0.0,
        **options: typing.Any,
    ) -> None:
        self._path = path
        self._proxies = proxies
        self._caches = caches
        self._options = options
        self._centers = two_centers.TwoCenters(
            1 + proxies[0] + hosts,
            proxies[1] + caches + hosts,
            rate=rate,
            round_trip=round_trip,
        )
        #: The web server.
        self.origin = nginx.Nginx(root)
        self.near_proxies: list[Proxy] = []
        self.far_proxies: list[Proxy] = []
        self.caches: list[Cache] = []
        self.near_hosts: list[Host] = []
        self.far_hosts: list[Host] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> typing.Self:
        with contextlib.ExitStack() as stack:
            lab = stack.enter_context(self._centers)
            self.wan = lab.wan
            origin, *near = lab.near.hosts
            far = lab.far.hosts
            self.origin.host = origin.address
            with origin.inside():
                stack.enter_context(self.origin)
            count, further = self._proxies
            self.near_proxies = self._start(near[:count], (), stack)
            self.far_proxies = self._start(
                far[:further],
                [each.url for each in self.near_proxies],
                stack,
            )
            for host in far[further : further + self._caches]:
                self._start_cache(host, stack)
            self.near_hosts = self._hosts('near', near[count:])
            self.far_hosts = self._hosts('far', far[further + self._caches :])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _start(
        self,
        namespaces: Sequence[netns.Host],
        upstreams: Sequence[str],
        stack: contextlib.ExitStack,
    ) -> list[Proxy]:
        started = []
        for namespace in namespaces:
            path = self._path / namespace.address
            path.mkdir()
            proxy = Proxy(
                namespace,
                path,
                origins=self.origin.url(),
                upstreams=','.join(upstreams),
                **self._options,
            )
            started.append(stack.enter_context(proxy))
        return started

    def _start_cache(
        self, host: netns.Host, stack: contextlib.ExitStack
    ) -> None:
        cache = Cache(
            host,
            f'{self.origin.host}:{self.origin.port}',
            self._centers.far.network,
        )
        self.caches.append(stack.enter_context(cache))

    def options(self, name: str) -> dict[str, typing.Any]:
        """The map of the datacenters for hosts of one of them.

        By name; those that are not in [oslo_transfer] with a group and a
        dot before.
        """
        lab = self._centers
        group = opts.DATACENTER_GROUP
        return {
            'strategy_order': ['proxy_cache', 'full_copy'],
            'datacenter': name,
            'datacenters': ['near', 'far'],
            f'{group}near.hosts': [lab.near.network],
            f'{group}near.proxies': [each.url for each in self.near_proxies],
            f'{group}far.hosts': [lab.far.network],
            f'{group}far.proxies': [
                *(each.url for each in self.far_proxies),
                *(each.url for each in self.caches),
            ],
        }

    def _hosts(
        self, name: str, namespaces: Sequence[netns.Host]
    ) -> list[Host]:
        path = self._path / f'{name}.conf'
        path.write_text(_as_file(self._fit_for_tests(name)))
        return [Host(each, self.conf(name), path) for each in namespaces]

    def _fit_for_tests(self, name: str) -> dict[str, typing.Any]:
        return {
            'stall_timeout': 10.0,
            'connect_timeout': 2.0,
            'retry_delay': 0.01,
            'max_retry_delay': 0.2,
            'state_path': str(self._path / f'state-{name}'),
            'oslo_transfer_service.control_socket': str(self._path / 'none'),
            **self.options(name),
        }

    def conf(self, name: str) -> cfg.ConfigOpts:
        """The configuration of a host in a datacenter, fit for tests."""
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
        oslo_transfer.register_opts(conf)
        for key, value in self._fit_for_tests(name).items():
            group, option = _split(key)
            if group.startswith(opts.DATACENTER_GROUP):
                conf.register_opts(opts.DATACENTER_OPTIONS, group=group)
            conf.set_override(option, value, group=group)
        return conf

    def admin_file(self) -> str:
        """For --auth-file: may manage all proxies."""
        path = self._path / 'auth'
        path.touch(0o600)
        path.write_text(
            ''.join(
                f'{each.url} token:{proxy_service.ADMIN}\n'
                for each in (*self.near_proxies, *self.far_proxies)
            )
        )
        return str(path)


def _split(key: str) -> tuple[str, str]:
    group, _dot, option = key.rpartition('.')
    return group or opts.GROUP, option


def _as_file(options: Mapping[str, typing.Any]) -> str:
    lines: dict[str, list[str]] = {}
    for key, value in options.items():
        group, option = _split(key)
        text = ', '.join(value) if isinstance(value, list) else value
        lines.setdefault(group, [f'[{group}]']).append(f'{option} = {text}')
    return '\n'.join(line for group in lines.values() for line in group)
