# SPDX-License-Identifier: Apache-2.0
"""Rows of a swarm: hosts that fetch one image, and give it to each other."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import pickle
import subprocess
import sys

from demo import program
from demo import scene
from demo import seeding
from demo import show
from demo import torrents
import oslo_transfer

_HOSTS = 4
# Of the web server, all connections together, in bytes per second.
_UPLINK = 20_000_000
# If it sends the data more often than this, there was no swarm.
_MOST = 2.0


@scene.act('a swarm')
def swarm(here: scene.Scene) -> Iterator[scene.Row]:
    """One web server, a torrent of its image, and hosts that want it."""
    torrent = here.served / 'swarm.torrent'
    location = torrents.create(here, here.raw, torrent, 'hybrid')
    web = program.Program('server', '--uplink', str(_UPLINK), str(here.served))
    with contextlib.ExitStack() as stack:
        stack.callback(web.close)
        url = f'http://localhost:{web.port}'
        src = torrents.over_http(location, url), f'{url}/{here.raw.path.name}'
        results = list(_fetch(here, src))
        stack.pop_all()
        sent = int(web.close())
    data = here.raw.size - results[0].bytes_by_origin.get('zeros', 0)
    if sent > _MOST * data:
        raise scene.Broken(
            f'the web server sent {sent / data:.1f} times the data'
        )
    slowest = max(each.seconds for each in results)
    note = (
        f'the web server sent {sent / 1e6:.0f} MB, {sent / data:.2f} times '
        f'the {data / 1e6:.0f} MB of data, in {slowest:.1f} s; a copy for '
        f'each host would take it {_HOSTS * data / _UPLINK:.1f} s'
    )
    for number, result in enumerate(results, 1):
        notes = (note,) if number == _HOSTS else ()
        yield scene.Row('torrent+http', _title(number), result, notes)


@scene.act('a service that seeds')
def service(here: scene.Scene) -> Iterator[scene.Row]:
    """What a copy hands over goes on being given when its origin is gone."""
    image = here.raw
    location = torrents.create(
        here, image, here.root / 'seeded.torrent', 'hybrid'
    )
    host, port = '127.0.2.1', scene.free_port()
    running = seeding.Service(here, host, port)
    conf_file = here.root / 'seeded.conf'
    conf_file.write_text(f'{running.options}')
    row = here.copy(
        'torrent+file',
        'handed to the service',
        [location, image.path],
        here.copies / 'seeded.raw',
        image,
        strategy='full_copy',
        conf=scene.configuration(conf_file),
    )
    if not row.result.seeding:
        raise scene.Broken('the service does not go on seeding')
    yield row
    conf_file.write_text(
        f'[oslo_transfer_bittorrent]\n'
        f'peer_networks = {host}/32\n'
        f'peers = {host}:{port}\n'
        f'[oslo_transfer_service]\n'
        f'control_socket = {here.root}/nobody.sock\n'
    )
    row = here.copy(
        'torrent+file',
        'from that service alone',
        location,
        here.target(image),
        image,
        conf=scene.configuration(conf_file),
    )
    (here.copies / 'seeded.raw').unlink()
    note = 'the service gave the first copy to the second host, in place'
    yield dataclasses.replace(row, notes=(note,))


def _title(number: int) -> str:
    return f'host {number} of {_HOSTS}'


def _fetch(
    here: scene.Scene, src: Sequence[str]
) -> Iterator[oslo_transfer.TransferResult]:
    """Have all hosts begin at once; yields what each one says."""
    port = scene.free_port()
    peers = [f'127.0.1.{number}:{port}' for number in range(1, _HOSTS + 1)]
    with contextlib.ExitStack() as stack:
        hosts = [
            stack.enter_context(_Host(here, src, peers, number))
            for number in range(1, _HOSTS + 1)
        ]
        for host in hosts:
            host.wait_until_ready()
        for host in hosts:
            host.begin()
        for host in hosts:
            yield host.result()


class _Host:
    """A process with an address of its own; a context manager.

    :param src: locations of the raw image
    :param peers: where all of them listen
    :param number: which of them it is
    """

    def __init__(
        self,
        here: scene.Scene,
        src: Sequence[str],
        peers: Sequence[str],
        number: int,
    ) -> None:
        self._title = f'torrent+http, {_title(number)}'
        self._size = here.raw.size
        self._copy = here.copies / f'host-{number}.raw'
        conf_file = here.root / f'host-{number}.conf'
        address, port = peers[number - 1].split(':')
        others = [each for each in peers if each != peers[number - 1]]
        conf_file.write_text(
            f'[oslo_transfer_bittorrent]\n'
            f'peer_networks = 127.0.1.0/24\n'
            f'peers = {", ".join(others)}\n'
            f'listen_address = {address}\n'
            f'port = {port}\n'
            f'[oslo_transfer_service]\n'
            f'control_socket = {here.root}/nobody.sock\n'
        )
        self._process = subprocess.Popen(
            [
                *(sys.executable, '-m', 'demo.host', str(conf_file)),
                *(here.raw.digest, str(self._copy), *src),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin and self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout

    def __enter__(self) -> _Host:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._copy.unlink(missing_ok=True)

    def wait_until_ready(self) -> None:
        """Wait until it has imported everything."""
        self._next()

    def begin(self) -> None:
        """Have it copy."""
        self._input.write(b'\n')
        self._input.flush()

    def result(self) -> oslo_transfer.TransferResult:
        """What came of it; shows how far it is until then."""
        bar = show.Bar(self._title, self._size)
        while isinstance(found := self._next(), int):
            bar(0, found)
        assert isinstance(found, oslo_transfer.TransferResult)
        bar.end(f'{found.seconds:6.2f} s')
        if not found.verified:
            raise scene.Broken(f'{self._title}: not verified')
        return found

    def _next(self) -> object:
        try:
            return pickle.load(self._output)
        except EOFError:
            raise scene.Broken(f'{self._title} failed') from None
