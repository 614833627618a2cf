#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make the picture of the status page that the documentation shows.

    tools/status_picture.py [FILE]

A proxy works for half a minute, in a network and with names of its own, and
Chromium looks at it. Needs root, and what the tests in a browser need.
"""

from __future__ import annotations

from concurrent import futures
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from tests.browser import chromium  # noqa: E402
from tests.servers import nginx  # noqa: E402
from tests.servers import proxy_service  # noqa: E402

DEFAULT = TOP / 'doc/source/admin/proxy-status.png'
HOST = 'images.example'
MIB = 1 << 20
MOST_BYTES = 300 * 1024
#: Seconds that the proxy is watched.
WATCHED = 35.0
_INSIDE = 'OSLO_TRANSFER_PICTURE_INSIDE'
#: Sizes of the images.
IMAGES = {
    'centos-stream-10.raw': 192 * MIB,
    'debian-13.raw': 96 * MIB,
    'ubuntu-26.04.raw': 256 * MIB,
}
_PART = MIB // 2


class Origin(nginx.Nginx):
    """Has a port that goes without saying."""

    def command(self) -> list[str]:
        self.port = 80
        return super().command()


def enter() -> None:
    """Go on in namespaces of our own: nobody else sees these names."""
    os.environ[_INSIDE] = '1'
    os.execvp(
        'unshare',
        ['unshare', '--mount', '--net', sys.executable, *sys.argv],
    )


def prepare(directory: pathlib.Path) -> pathlib.Path:
    """Have a network, names and images; returns where the images are."""
    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
    hosts = directory / 'hosts'
    hosts.write_text(f'127.0.0.1 localhost {HOST}\n')
    subprocess.run(['mount', '--bind', hosts, '/etc/hosts'], check=True)
    root = directory / 'images'
    root.mkdir()
    for name, size in IMAGES.items():
        with open(root / name, 'wb') as file:
            for _ in range(size // MIB):
                file.write(random.randbytes(MIB))
    return root


class Hosts:
    """Some that read from the proxy, until they are told to stop."""

    def __init__(self, proxy: proxy_service.ProxyService) -> None:
        self._proxy = proxy
        self._stop = threading.Event()
        self._pool = futures.ThreadPoolExecutor()
        self._readers = [
            self._pool.submit(self._boot, number) for number in range(3)
        ]
        self._readers.append(self._pool.submit(self._copy))

    def stop(self) -> None:
        """End them.

        :raises Exception: one could not read
        """
        self._stop.set()
        self._pool.shutdown()
        for reader in self._readers:
            reader.result()

    def _read(self, name: str, offset: int) -> None:
        end = min(offset + _PART, IMAGES[name]) - 1
        url = f'http://{HOST}/{name}'
        self._proxy.get(url, {'Range': f'bytes={offset}-{end}'})

    def _boot(self, number: int) -> None:
        """Read here and there, as guests that boot from one image do."""
        name = 'debian-13.raw'
        places = range(0, IMAGES[name], _PART)
        # The same places for all of them, but each in its own time.
        chosen = random.Random('boot').sample(places, len(places) // 2)
        self._stop.wait(4.0 * number)
        while not self._stop.is_set():
            for offset in chosen:
                self._read(name, offset)
                if self._stop.wait(0.15):
                    return

    def _copy(self) -> None:
        """Read from the start to the end."""
        name = 'centos-stream-10.raw'
        for offset in range(0, IMAGES[name], _PART):
            self._read(name, offset)
            if self._stop.wait(0.25):
                return


def take(path: pathlib.Path, directory: pathlib.Path) -> None:
    """Have a proxy at work, and take a picture of its page."""
    root = prepare(directory)
    state = directory / 'proxy'
    state.mkdir()
    options = {
        'oslo_transfer': {'datacenter': 'far', 'datacenters': 'far'},
        'oslo_transfer_cache': {'trace_seconds': 10},
        'oslo_transfer_proxy': {
            'origins': f'http://{HOST}/',
            'max_bytes': 1 << 30,
        },
    }
    with (
        Origin(root),
        proxy_service.ProxyService(state, options) as proxy,
        chromium.Chromium() as browser,
        browser.page(1100, 1400) as window,
    ):
        window.open(f'{proxy.url}/status')
        hosts = Hosts(proxy)
        try:
            threading.Event().wait(5.0)
            for fields in (
                {
                    'url': f'http://{HOST}/ubuntu-26.04.raw',
                    'kind': 'full',
                    'rate_limit': 3 * MIB,
                },
                {
                    'url': f'http://{HOST}/centos-stream-10.raw',
                    'kind': 'ranges',
                    'ranges': [[150 * MIB, 16 * MIB]],
                },
            ):
                proxy.ask('POST', '/v1/proxy/prefetches', fields)
            threading.Event().wait(WATCHED)
            window.screenshot(path)
        finally:
            hosts.stop()
        if complaints := window.complaints():
            raise RuntimeError(f'the page complains: {complaints}')


def main() -> int:
    """Make the picture; return the exit status."""
    if not os.environ.get(_INSIDE):
        enter()
    path = pathlib.Path(sys.argv[1]) if sys.argv[1:] else DEFAULT
    with tempfile.TemporaryDirectory(prefix='picture-') as directory:
        take(path, pathlib.Path(directory))
    size = path.stat().st_size
    print(f'{path}: {size} bytes')
    return 0 if size < MOST_BYTES else 1


if __name__ == '__main__':
    sys.exit(main())
