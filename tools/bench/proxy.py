# SPDX-License-Identifier: Apache-2.0
"""The proxy: full, empty, and with many clients."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import itertools
import pathlib
import statistics
import tempfile

from bench import lab
from bench import measure
from bench import registry
from bench import sessions
from bench import swarm_lab
from bench import worker
from tests.servers import nginx as _nginx
from tests.servers import nginx_proxy
from tests.servers import proxy_service
from tests.servers import sites as _sites

# Of the WAN, in bits per second and seconds.
_RATE, _ROUND_TRIP = 400_000_000, 0.02
_SESSIONS, _SECONDS = 200, 10.0
_FILES, _FILE_BYTES = 100, 4 * lab.MIB


@contextlib.contextmanager
def _proxy(here: lab.Lab, origin: str) -> Iterator[proxy_service.ProxyService]:
    """An empty proxy on loopback, with all in memory."""
    with tempfile.TemporaryDirectory(dir=here.memory) as name:
        options = {'oslo_transfer_proxy': {'origins': origin}}
        with proxy_service.ProxyService(
            pathlib.Path(name), options
        ) as running:
            yield running


@registry.benchmark('proxy-warm')
def proxy_warm(here: lab.Lab) -> Iterator[registry.Row]:
    """A full copy of what the proxy has, and of what nginx has."""
    image, result = here.image, here.memory / 'result'
    direct = here.nginx.url('/image')
    with _proxy(here, here.nginx.url()) as proxy:

        def contestant(name: str, url: str) -> measure.Contestant:
            job = here.worker.job('copy', src=url, dst=str(result), options={})
            return measure.Contestant(name, job, result, image, ours=True)

        # The first run fills it.
        found = measure.alternate(
            [
                contestant('copy() from the proxy', proxy.of(direct)),
                contestant('copy() from nginx', direct),
            ],
            here.runs,
        )
    yield registry.Row(
        'proxy-warm',
        found['copy() from the proxy'],
        found['copy() from nginx'],
        'nginx',
        1.2,
    )


@registry.benchmark('proxy-cold')
def proxy_cold(here: lab.Lab) -> Iterator[registry.Row]:
    """A full copy over a WAN, by a proxy that has nothing yet."""
    swarm_lab.need('nginx')
    root = here.directory(str(here.memory))
    image, result = root / 'image', here.memory / 'result'
    here.random_file(image, here.size // 8)
    with (
        tempfile.TemporaryDirectory(dir=here.memory) as name,
        _sites.Sites(
            pathlib.Path(name),
            root,
            proxies=(0, 1),
            rate=_RATE,
            round_trip=_ROUND_TRIP,
        ) as sites,
        contextlib.ExitStack() as stack,
    ):
        with sites.far_hosts[0].namespace.inside():
            mine = stack.enter_context(contextlib.closing(worker.Worker()))
        direct = sites.origin.url('/image')
        numbers = itertools.count()

        def copy(url: str) -> float:
            return mine.job('copy', src=url, dst=str(result), options={})()

        def through() -> float:
            # It has never seen that.
            return copy(
                f'{sites.far_proxies[0].of(direct)}?run={next(numbers)}'
            )

        def contestant(
            name: str, run: Callable[[], float]
        ) -> measure.Contestant:
            return measure.Contestant(name, run, result, image, ours=True)

        found = measure.alternate(
            [
                contestant('through an empty proxy', through),
                contestant('from the origin', lambda: copy(direct)),
            ],
            here.runs,
        )
    print(
        f'  at the rate of the WAN: {image.stat().st_size * 8 / _RATE:.3f} s'
    )
    yield registry.Row(
        'proxy-cold',
        found['through an empty proxy'],
        found['from the origin'],
        f'the origin, at {_RATE / 1e6:.0f} Mbit/s and '
        f'{_ROUND_TRIP * 1e3:.0f} ms',
        1.15,
    )


@registry.benchmark('proxy-many')
def proxy_many(here: lab.Lab) -> Iterator[registry.Row]:
    """Many clients at once, who read many files again and again."""
    if _nginx.Nginx.found() is None:
        raise registry.Unmeasurable('nginx is not installed')
    root = here.directory(str(here.memory))
    for number in range(_FILES):
        here.random_file(root / f'{number}', _FILE_BYTES)
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(_nginx.Nginx(root))
        proxy = stack.enter_context(_proxy(here, origin.url()))
        peer = stack.enter_context(
            nginx_proxy.NginxProxy(
                f'{origin.host}:{origin.port}', '127.0.0.0/8'
            )
        )

        def load(name: str, url: Callable[[str], str]) -> sessions.Found:
            urls = [url(origin.url(f'/{each}')) for each in range(_FILES)]
            found = sessions.run(urls, _SESSIONS, _SECONDS)
            rate = sum(found.read) / _SECONDS / 1e6
            print(
                f'  {name:<42} {rate:8.0f} MB/s  {len(found.errors)} errors, '
                f'the slowest client {min(found.read) / 1e6:.0f} MB, the mean '
                f'{statistics.mean(found.read) / 1e6:.0f} MB'
            )
            return found

        ours = load('the proxy', proxy.of)
        theirs = load('nginx', peer.of)
    if ours.errors:
        raise OSError(f'{len(ours.errors)} errors: {ours.errors[0]}')
    yield registry.Row(
        'proxy-many',
        statistics.mean(ours.read) / 1e6,
        min(ours.read) / 1e6,
        f'the slowest of {_SESSIONS} clients, and no errors',
        1.5,
        'MB',
    )
    yield registry.Row(
        'proxy-many',
        1e9 * _SECONDS / sum(ours.read),
        1e9 * _SECONDS / sum(theirs.read),
        'nginx with slice, a GB for all of them',
    )
