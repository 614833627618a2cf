# SPDX-License-Identifier: Apache-2.0
"""The NBD export of a warm image, beside nbdkit and qemu-nbd.

The client is our own and does next to nothing: it sends so many requests by
one call, and takes all replies by another one, so that what is measured is
the server. It negotiates structured replies, as QEMU and libnbd do.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import pathlib
import random
import socket
import time

from bench import lab
from bench import measure
from bench import nbd_exporter
from bench import registry
from oslo_transfer import nbd_wire as wire
from tests.servers import nbd_client
from tests.servers import nbdkit

KIB = 1024
_OURS, _NBDKIT = 'NbdServer', 'nbdkit file'
_QEMU, _RING = 'qemu-nbd', 'qemu-nbd --aio=io_uring'
# What a row is the time of, and how long is measured for it.
_READS = 10_000
_SECONDS = 0.5


class _Client(nbd_client.Client):
    """Counts what it takes."""

    taken = 0

    def take(self, count: int) -> bytes:
        """Read so many bytes."""
        self.taken += count
        return super().take(count)


def _requests(size: int, length: int, in_order: bool) -> Iterator[bytes]:
    """Requests without end."""
    blocks = size // length
    numbers = random.Random(7)
    number = 0
    while True:
        yield wire.request(
            wire.Command.READ, number, number % blocks * length, length
        )
        number = number + 1 if in_order else numbers.randrange(blocks)


def _load(
    path: str, image: pathlib.Path, depth: int, length: int, in_order: bool
) -> Callable[[], float]:
    """Seconds for so many reads, by half a second of them.

    :param depth: how many are under way at once
    """
    size = image.stat().st_size
    made = _requests(size, length, in_order)
    batches = [b''.join(next(made) for _ in range(depth)) for _ in range(1024)]

    def run() -> float:
        with _Client(path) as client, open(image, 'rb') as file:
            client.go()
            before = client.taken
            if client.read(0, length) != file.read(length):
                raise OSError('something else came')
            total = depth * (client.taken - before)
            view = memoryview(bytearray(total))
            sock = client.sock
            sock.settimeout(None)
            done = 0
            started = time.perf_counter()
            while (took := time.perf_counter() - started) < _SECONDS:
                sock.sendall(batches[done % len(batches)])
                count = 0
                while count < total:
                    count += sock.recv_into(
                        view[count:], 0, socket.MSG_WAITALL
                    )
                done += 1
        return took * _READS / (done * depth)

    return run


@contextlib.contextmanager
def _servers(here: lab.Lab) -> Iterator[tuple[pathlib.Path, dict[str, str]]]:
    """An image, and the sockets of all who serve it."""
    for program in (nbdkit.Nbdkit, nbdkit.QemuNbd):
        if program.found() is None:
            raise registry.Unmeasurable(f'{program.program} is not installed')
    directory = here.directory(str(here.memory))
    image = directory / 'image'
    here.random_file(image, here.size // 4)
    shared = ('--persistent', '--shared=0', '--read-only')
    with contextlib.ExitStack() as stack:
        paths = {_OURS: str(directory / 'socket')}
        stack.enter_context(
            contextlib.closing(
                nbd_exporter.Exporter(
                    str(image), str(directory / 'cache'), paths[_OURS]
                )
            )
        )
        for name, server in (
            (_NBDKIT, nbdkit.Nbdkit('file', image, unix=True)),
            (_QEMU, nbdkit.QemuNbd(image, options=shared, unix=True)),
            (
                _RING,
                nbdkit.QemuNbd(
                    image, options=(*shared, '--aio=io_uring'), unix=True
                ),
            ),
        ):
            stack.enter_context(server)
            paths[name] = str(server.socket)
        yield image, paths


def _compare(
    here: lab.Lab,
    name: str,
    length: int,
    in_order: bool,
    targets: dict[int, dict[str, float]],
) -> Iterator[registry.Row]:
    """Measure all servers at each depth.

    :param targets: ratios by depth and server
    """
    with _servers(here) as (image, paths):
        loads = [
            measure.Contestant(
                f'{server}, depth {depth}',
                _load(paths[server], image, depth, length, in_order),
                ours=server == _OURS,
            )
            for depth, peers in targets.items()
            for server in (_OURS, *peers)
        ]
        found = measure.alternate(loads, here.runs)
    for depth, peers in targets.items():
        for server, target in peers.items():
            if f'{server}, depth {depth}' in found:
                yield registry.Row(
                    name,
                    found[f'{_OURS}, depth {depth}'],
                    found[f'{server}, depth {depth}'],
                    f'{server}, depth {depth}',
                    target,
                )


@registry.benchmark('export-nbd')
def export_nbd(here: lab.Lab) -> Iterator[registry.Row]:
    """Ten thousand reads of 4 KiB at random, over a unix socket."""
    yield from _compare(
        *(here, 'export-nbd', 4 * KIB, False),
        {
            16: {_NBDKIT: 0.9, _RING: 0.5},
            1: {_NBDKIT: 1.0, _RING: 1.0},
        },
    )


@registry.benchmark('export-nbd-seq')
def export_nbd_seq(here: lab.Lab) -> Iterator[registry.Row]:
    """Ten thousand reads of 64 KiB in order, over a unix socket."""
    yield from _compare(
        *(here, 'export-nbd-seq', 64 * KIB, True),
        {16: {_QEMU: 0.7}, 1: {_QEMU: 0.7}},
    )
