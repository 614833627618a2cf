# SPDX-License-Identifier: Apache-2.0
"""Downloads over HTTP from this machine."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import hashlib
import os
import pathlib
import sys

from bench import curl
from bench import lab
from bench import measure
from bench import registry

_RATE = 20_000_000


@registry.benchmark('http')
def http(here: lab.Lab) -> Iterator[registry.Row]:
    """A plain download: the fastest that there is."""
    image, result = here.image, here.memory / 'result'
    url = here.nginx.url('/image')

    def ours(name: str, dst: pathlib.Path, **options: object) -> None:
        job = here.worker.job('copy', src=url, dst=str(dst), options=options)
        contestants.append(
            measure.Contestant(name, job, dst, image, ours=True)
        )

    def peer(name: str, *command: str | os.PathLike[str]) -> None:
        contestants.append(
            measure.Contestant(name, measure.program(*command), result, image)
        )

    contestants: list[measure.Contestant] = []
    ours('copy()', result)
    ours('copy(), spliced', result, detect_zeros=False)
    tool = pathlib.Path(sys.executable).with_name('oslo-transfer')
    peer('oslo-transfer copy', tool, 'copy', '--no-progress', url, result)
    peer('curl -o', 'curl', '-q', '-sS', '-o', result, url)
    peer('cp', 'cp', '--reflink=never', image, result)
    peer('wget', 'wget', '--no-config', '-q', '-O', result, url)
    peer('aria2c', *_aria2c(result, url))
    contestants.append(
        measure.Contestant(
            'requests iter_content(64 KiB)',
            here.worker.job('requests', url=url, dst=str(result)),
            result,
            image,
        )
    )
    kind = ''
    with contextlib.suppress(registry.Unmeasurable):
        disk, kind = here.disk
        landed = disk / 'result'
        ours('copy(), on disk', landed)
        contestants.append(
            measure.Contestant(
                'curl -o, sync, on disk',
                measure.program(
                    *('curl', '-q', '-sS', '-o', landed, url),
                    then=('sync', landed),
                ),
                landed,
                image,
            )
        )
    found = measure.alternate(contestants, here.runs)

    def row(
        mine: str, other: str, name: str = '', target: float | None = None
    ) -> Iterator[registry.Row]:
        if mine in found and other in found:
            yield registry.Row(
                'http', found[mine], found[other], name or other, target
            )

    yield from row('copy()', 'curl -o', target=0.6)
    yield from row('copy()', 'cp')
    yield from row('copy(), spliced', 'cp', 'cp (spliced)', 1.3)
    for other in ('requests iter_content(64 KiB)', 'wget', 'aria2c'):
        yield from row('copy()', other)
    yield from row(
        'copy(), on disk', 'curl -o, sync, on disk', f'curl, sync on {kind}'
    )
    yield from row('oslo-transfer copy', 'curl -o', 'curl -o (as a command)')


def _aria2c(
    result: pathlib.Path, url: str, *more: str
) -> tuple[str | os.PathLike[str], ...]:
    # Allocating the file first would cost it time that others do not spend.
    return (
        *('aria2c', '--no-conf', '-q', '--file-allocation=none', *more),
        *('-d', result.parent, '-o', result.name, url),
    )


@registry.benchmark('http-verify')
def http_verify(here: lab.Lab) -> Iterator[registry.Row]:
    """What a digest costs beside a download."""
    image, result = here.image, here.memory / 'result'
    with open(image, 'rb', buffering=0) as file:
        value = hashlib.file_digest(file, 'sha512').hexdigest()
    plain = {
        'src': here.nginx.url('/image'),
        'dst': str(result),
        'options': {},
    }
    found = measure.alternate(
        [
            measure.Contestant(
                'copy() with sha512',
                here.worker.job(
                    'copy', **plain, hash_algo='sha512', hash_value=value
                ),
                result,
                image,
                ours=True,
            ),
            measure.Contestant(
                'copy() without',
                here.worker.job('copy', **plain),
                result,
                image,
                ours=True,
            ),
            measure.Contestant(
                'hashlib alone',
                here.worker.job('digest', path=str(image), algorithm='sha512'),
            ),
        ],
        here.runs,
    )
    yield registry.Row(
        'http-verify',
        found['copy() with sha512'],
        max(found['copy() without'], found['hashlib alone']),
        'the slower of copy() and hashlib',
        1.15,
    )


@registry.benchmark('http-parallel')
def http_parallel(here: lab.Lab) -> Iterator[registry.Row]:
    """Several streams from a server that limits each of them."""
    directory = here.directory(str(here.memory))
    image, result = directory / 'image', directory / 'result'
    here.random_file(image, here.size // 8)
    url = here.paced(image, _RATE, ranges=True)
    without = here.paced(image, _RATE, ranges=False)

    def ours(name: str, src: str, streams: int) -> measure.Contestant:
        job = here.worker.job(
            'copy',
            src=src,
            dst=str(result),
            options={'max_streams': streams},
        )
        return measure.Contestant(name, job, result, image, ours=True)

    found = measure.alternate(
        [
            ours('copy(), 4 streams', url, 4),
            ours('copy(), 1 stream', url, 1),
            ours('copy(), no ranges', without, 4),
            measure.Contestant(
                'aria2c -x4 -s4',
                measure.program(*_aria2c(result, url, '-x4', '-s4')),
                result,
                image,
            ),
        ],
        here.runs,
    )
    four, one = found['copy(), 4 streams'], found['copy(), 1 stream']
    yield registry.Row('http-parallel', four, one, 'one stream', 0.28)
    if 'aria2c -x4 -s4' in found:
        yield registry.Row(
            'http-parallel', four, found['aria2c -x4 -s4'], 'aria2c -x4 -s4'
        )
    # Its bytes are checked as all are; its time says that it is one stream.
    yield registry.Row(
        'http-parallel',
        found['copy(), no ranges'],
        one,
        'one stream (server without ranges)',
    )


@registry.benchmark('https')
def https(here: lab.Lab) -> Iterator[registry.Row]:
    """A download with TLS."""
    url = here.nginx_tls.url('/image')
    yield from curl.beside_curl(here, 'https', url, 1.1)
