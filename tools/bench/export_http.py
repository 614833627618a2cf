# SPDX-License-Identifier: Apache-2.0
"""The HTTP export of a warm image, beside nginx."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
import shutil
import subprocess

from bench import http_exporter
from bench import lab
from bench import measure
from bench import registry
from tests.servers import nginx as _nginx

_BLOCK = 64 * 1024
_SECONDS = 1
# What a row is the time of.
_REQUESTS = 10_000
# Connections, and what is to be reached.
_LOADS = ((1, 1.2), (16, 1.2), (200, 1.5))
# An image whose blocks may be evicted.
_COPIED = 'ours, evictable'

# Blocks in an order that each run has anew.
_SCRIPT = f"""
function init(args)
  count = tonumber(args[1])
  math.randomseed(os.time())
end
function request()
  local first = math.random(0, count - 1) * {_BLOCK}
  wrk.headers['Range'] = 'bytes=' .. first .. '-' .. first + {_BLOCK - 1}
  return wrk.format()
end
"""


@registry.benchmark('export-http')
def export_http(here: lab.Lab) -> Iterator[registry.Row]:
    """Ranges of 64 KiB at random, and all of it in one stream."""
    if shutil.which('wrk') is None:
        raise registry.Unmeasurable('wrk is not installed')
    if _nginx.Nginx.found() is None:
        raise registry.Unmeasurable('nginx is not installed')
    directory = here.directory(str(here.memory))
    image, script = directory / 'image', directory / 'ranges.lua'
    here.random_file(image, here.size // 4)
    script.write_text(_SCRIPT)
    peer = f'nginx, {os.cpu_count()} processes'
    with contextlib.ExitStack() as stack:
        # As it comes from Debian: a process for each CPU.
        nginx = stack.enter_context(
            _nginx.Nginx(directory, workers=os.cpu_count())
        )
        urls = {'nginx': nginx.url('/image')}
        for name, evicts in (('ours', ''), (_COPIED, 'yes')):
            mine = http_exporter.Exporter(
                str(image), str(directory / name), evicts
            )
            urls[name] = stack.enter_context(contextlib.closing(mine)).url

        def load(name: str, count: int) -> measure.Contestant:
            return measure.Contestant(
                f'{name}, {count} connections',
                _wrk(urls[name], count, script, image.stat().st_size),
                ours=name != 'nginx',
            )

        def whole(name: str) -> measure.Contestant:
            result = directory / 'result'
            return measure.Contestant(
                f'{name}, whole',
                measure.program('curl', '-q', '-sS', '-o', result, urls[name]),
                result,
                image,
                ours=name != 'nginx',
            )

        found = measure.alternate(
            [
                *(load(each, count) for count, _ in _LOADS for each in urls),
                *map(whole, urls),
            ],
            here.runs,
        )
    for count, target in _LOADS:
        name = f'{count} connections'
        yield registry.Row(
            'export-http',
            found[f'ours, {name}'],
            found[f'nginx, {name}'],
            f'{peer}, {name}',
            target,
        )
    yield registry.Row(
        'export-http',
        found['ours, whole'],
        found['nginx, whole'],
        f'{peer}, one stream',
    )
    # Zero copy is for what nothing takes from under the socket.
    yield registry.Row(
        'export-http',
        found[f'{_COPIED}, 16 connections'],
        found['nginx, 16 connections'],
        f'{peer}, 16 connections (evictable)',
    )


def _wrk(
    url: str, count: int, script: pathlib.Path, size: int
) -> Callable[[], float]:
    """Seconds for so many requests, by a second of them."""
    command = [
        *('wrk', '-t', '1', '-c', str(count), '-d', f'{_SECONDS}s'),
        *('-s', str(script), url, '--', str(size // _BLOCK)),
    ]

    def run() -> float:
        told = subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        ).stdout
        rate = re.search(r'^Requests/sec: +([0-9.]+)', told, re.M)
        bad = re.search(r'^.*(?:Socket errors|Non-2xx).*$', told, re.M)
        if bad or rate is None:
            raise OSError(f'wrk: {bad.group().strip() if bad else told}')
        return _REQUESTS / float(rate.group(1))

    return run
