# SPDX-License-Identifier: Apache-2.0
"""One seed and one leech, with nothing but a wire between them."""

from __future__ import annotations

from collections.abc import Iterator
import functools
import json
import pathlib
import shlex
import subprocess
import tempfile
import time

from bench import lab
from bench import measure
from bench import registry
from bench import swarm_lab

_LOOK = 0.005
_PATIENCE = 60
_TRANSMISSION = {
    'dht-enabled': False,
    'lpd-enabled': False,
    'pex-enabled': False,
    'utp-enabled': False,
    'port-forwarding-enabled': False,
    'rpc-enabled': False,
    'preallocation': 0,
}


@registry.benchmark('torrent')
def torrent(here: lab.Lab) -> Iterator[registry.Row]:
    """The image, by our leech and by others, from the same seed: ours."""
    swarm_lab.need('opentracker')
    directory = here.directory(str(here.memory))
    served, got = directory / 'served', directory / 'got'
    served.mkdir()
    got.mkdir()
    # Others know version 1 only. Its hashes are weak, so we have a digest to
    # compute and they have not.
    image = swarm_lab.Image(served / 'image', here.size, 'v1')
    with swarm_lab.Swarm(
        image, directory, 1, seed=True, tracked=True, rate=None
    ) as pair:
        leech = pair.hosts[0]
        result = got / image.path.name

        def ours() -> float:
            return leech.copy(
                pair.src,
                result,
                hash_algo='sha256',
                hash_value=image.digest,
            )

        def peer(name: str) -> measure.Contestant:
            run = functools.partial(_PEERS[name], leech, image, got)
            return measure.Contestant(name, run, result, image.path)

        mine = measure.Contestant(
            'copy()', ours, result, image.path, ours=True
        )
        found = measure.alternate([mine, *map(peer, _PEERS)], here.runs)
    for name in _PEERS:
        if name in found:
            yield registry.Row(
                'torrent', found['copy()'], found[name], name, 1.0
            )


def _aria2c(
    leech: swarm_lab.Host, image: swarm_lab.Image, got: pathlib.Path
) -> float:
    return measure.program(
        *leech.namespace.command(
            *('aria2c', '--no-conf', '-q', '-d', got, '--seed-time=0'),
            *('--enable-dht=false', '--bt-enable-lpd=false'),
            *('--enable-peer-exchange=false', '--disable-ipv6'),
            f'--bt-stop-timeout={_PATIENCE}',
            *('--file-allocation=none', image.torrent),
        )
    )()


def _transmission(
    leech: swarm_lab.Host, image: swarm_lab.Image, got: pathlib.Path
) -> float:
    """Run it until it has all: it would go on as a seed."""
    with tempfile.TemporaryDirectory(prefix='oslo-transfer-bench-') as name:
        config = pathlib.Path(name)
        (config / 'settings.json').write_text(json.dumps(_TRANSMISSION))
        done, script = config / 'done', config / 'script'
        script.write_text(f'#!/bin/sh\n: > {shlex.quote(str(done))}\n')
        script.chmod(0o700)
        started = time.perf_counter()
        process = leech.namespace.popen(
            *('transmission-cli', '-g', config, '-w', got, '-f', script),
            image.torrent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not done.exists():
                if process.poll() is not None:
                    raise OSError(f'it ended with {process.returncode}')
                if time.perf_counter() > started + _PATIENCE:
                    raise OSError(f'not done in {_PATIENCE} seconds')
                time.sleep(_LOOK)
            return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()


_PEERS = {'aria2c': _aria2c, 'transmission-cli': _transmission}
