# SPDX-License-Identifier: Apache-2.0
"""The strategies dd and zero_copy."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import os
import pathlib
import shutil
import subprocess
import time

from bench import lab
from bench import measure
from bench import registry
from tests.servers import nbdkit as _nbdkit
from tests.servers import tgt as _tgt

# What a full copy is computed for: 1 GiB at 100 Mbit/s, in seconds.
_FULL_COPY = (1 << 30) / (100_000_000 / 8)
# What a read takes that goes to another host and to its disk.
_DELAY = '2ms'
_READY_SECONDS = 10.0


def _need(*programs: str) -> None:
    path = f'{os.environ["PATH"]}:/usr/sbin:/sbin'
    for program in programs:
        if shutil.which(program, path=path) is None:
            raise registry.Unmeasurable(f'{program} is not installed')


def _ours(
    here: lab.Lab,
    state: pathlib.Path,
    source: str,
    result: pathlib.Path,
    image: pathlib.Path,
    parallel: int,
) -> measure.Contestant:
    name = f'copy(), {parallel} dd'
    options = {
        'state_path': str(state),
        'oslo_transfer_dd.parallel': parallel,
    }
    job = here.worker.job(
        'copy',
        src=source,
        dst=str(result),
        options=options,
        strategy='dd',
        overwrite=True,
    )
    return measure.Contestant(name, job, result, image, ours=True)


def _bare(
    source: pathlib.Path, result: pathlib.Path, image: pathlib.Path
) -> measure.Contestant:
    """dd as anybody would call it, with all on the disk in the end."""
    run = measure.program(
        *('dd', f'if={source}', f'of={result}', 'bs=1M'),
        f'count={image.stat().st_size}',
        *('iflag=count_bytes,direct', 'oflag=direct', 'conv=fsync'),
    )
    return measure.Contestant('dd', run, result, image)


@registry.benchmark('dd')
def dd(here: lab.Lab) -> Iterator[registry.Row]:
    """From file to file on one disk, past the page cache."""
    yield from _on_disk(here, 'dd', 1, 1.05)


@registry.benchmark('dd-parallel')
def dd_parallel(here: lab.Lab) -> Iterator[registry.Row]:
    """Four at once: on the disk, and where each read takes its time."""
    _need('nbdkit', 'nbdfuse', 'fusermount3')
    # One disk may be full with one dd already.
    yield from _on_disk(here, 'dd-parallel', 4, None)
    directory, _kind = here.disk
    image, result = directory / 'image', directory / 'result'
    here.random_file(image, here.size // 4)
    server = _nbdkit.Nbdkit(
        *('file', image, f'rdelay={_DELAY}'), filters=['delay'], unix=True
    )
    with server, _mounted(server.url(), directory) as path:
        contestants = [
            _ours(here, directory, server.url(), result, image, 4),
            _bare(path, result, image),
        ]
        found = measure.alternate(contestants, here.runs)
    image.unlink()
    yield from _row('dd-parallel', found, f'dd, reads of {_DELAY}', 0.8)


def _on_disk(
    here: lab.Lab, name: str, parallel: int, target: float | None
) -> Iterator[registry.Row]:
    directory, kind = here.disk
    image, result = directory / 'image', directory / 'result'
    here.random_file(image, here.size)
    os.sync()
    contestants = [
        _ours(here, directory, str(image), result, image, parallel),
        _bare(image, result, image),
    ]
    found = measure.alternate(contestants, here.runs)
    image.unlink()
    yield from _row(name, found, f'dd on {kind}', target)


def _row(
    name: str,
    found: Mapping[str, float],
    peer: str,
    target: float | None,
) -> Iterator[registry.Row]:
    (mine,) = (found[each] for each in found if each.startswith('copy()'))
    if 'dd' in found:
        yield registry.Row(name, mine, found['dd'], peer, target)


@contextlib.contextmanager
def _mounted(url: str, directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """An NBD export as a file, for the peer."""
    path, ready = directory / 'mount', directory / 'ready'
    path.touch()
    process = subprocess.Popen(
        ['nbdfuse', '-r', '-P', ready, path, url],
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(ready.exists)
        yield path
    finally:
        process.terminate()
        process.wait()
        path.unlink()
        ready.unlink()


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _READY_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise registry.Unmeasurable('a helper does not get ready')
        time.sleep(0.01)


@registry.benchmark('zero-copy')
def zero_copy(here: lab.Lab) -> Iterator[registry.Row]:
    """Until 4 KiB can be read from an overlay over a LUN in user space."""
    _need('tgtd', 'qemu-nbd', 'qemu-io')
    # Not in the longest of all names: a socket is made in it.
    directory = here.directory('/tmp')
    image, result = directory / 'image', directory / 'overlay'
    here.random_file(image, 64 * lab.MIB)
    options = {
        'state_path': str(directory),
        'oslo_transfer_iscsi.engine': 'libiscsi',
        'oslo_transfer_service.control_socket': str(directory / 'control'),
    }
    with _tgt.Tgt() as target, _service(options):
        name = target.target()
        target.disk(name, image)

        def run() -> float:
            answer = here.worker.ask(
                'zero_copy',
                src=target.url(name),
                dst=str(result),
                options=options,
            )
            return float(answer['seconds'])

        contestant = measure.Contestant(
            'copy(), first 4 KiB', run, result, ours=True
        )
        found = measure.alternate([contestant], here.runs)
    yield registry.Row(
        'zero-copy',
        found[contestant.name],
        _FULL_COPY,
        '1 GiB at 100 Mbit/s (computed)',
        0.01,
    )


@contextlib.contextmanager
def _service(options: dict[str, str]) -> Iterator[None]:
    """What holds the attachment: the service of a host."""
    from bench import worker
    from oslo_transfer.service import attach
    from oslo_transfer.service import daemon

    conf = worker.configuration(options)
    with daemon.Service(conf, [attach.AttachRole(conf)]):
        yield
