# SPDX-License-Identifier: Apache-2.0
"""Hosts with a worker each, and an origin, in network namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time
import types
import typing

from bench import lab
from bench import registry
from bench import worker
import oslo_transfer
from oslo_transfer.drivers.bittorrent import create
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer.service import client
from tests.servers import netns
from tests.servers import nginx
from tests.servers import opentracker

#: Of the origin and of each host, each way, in bits per second.
RATE = 100_000_000
_PORT = 6881
_GROUP = 'oslo_transfer_bittorrent'
_READY_SECONDS = 20.0
_LOOK = 0.02
# Where peers are that never answer.
_DEAD_NETWORK = '10.78.0.0/24'

#: Peers that never answer.
DEAD = tuple(f'10.78.0.{number}' for number in range(1, 4))


def need(*programs: str) -> None:
    """Look for what a network and these programs need.

    :raises Unmeasurable: something is missing
    """
    why = netns.missing()
    if why is not None:
        raise registry.Unmeasurable(why)
    for name in programs:
        path = os.environ.get('PATH', '') + ':/usr/local/sbin:/usr/sbin'
        if shutil.which(name, path=path) is None:
            raise registry.Unmeasurable(f'{name} is not installed')


class Image:
    """A file, and its torrent beside it.

    :param path: of the file
    :param size: in bytes
    :param version: of the torrent
    """

    def __init__(
        self, path: pathlib.Path, size: int, version: str = 'hybrid'
    ) -> None:
        lab.Lab.random_file(path, size)
        self.path, self.size, self._version = path, size, version
        with open(path, 'rb', buffering=0) as file:
            self.digest = hashlib.file_digest(file, 'sha256').hexdigest()
        self.torrent = path.with_name(f'{path.name}.torrent')
        self.publish()

    def publish(self, *trackers: str) -> None:
        """Write the torrent."""
        conf = worker.configuration({})
        with oslo_transfer.open_source(str(self.path), conf=conf) as source:
            made = create.create(
                source,
                name=self.path.name,
                trackers=trackers,
                version=self._version,
            )
        self.torrent.write_bytes(made)
        found = metainfo.parse(made)
        #: What the tracker has to know: a hybrid is announced as both.
        self.tracked: list[typing.Any] = [
            types.SimpleNamespace(wire_hash=bytes.fromhex(each)[:20])
            for each in (found.info_hash_v1, found.info_hash_v2)
            if each
        ]

    def check(self, path: pathlib.Path) -> None:
        """Compare a copy, and remove it.

        :raises OSError: it is another file
        """
        with open(path, 'rb', buffering=0) as file:
            found = hashlib.file_digest(file, 'sha256').hexdigest()
        path.unlink()
        if found != self.digest:
            raise OSError(f'{path.name} is another file')


class Host:
    """A host with a worker that has loaded all, and can copy."""

    def __init__(
        self,
        namespace: netns.Host,
        directory: pathlib.Path,
        peers: Sequence[str],
    ) -> None:
        self.namespace = namespace
        #: Where it copies to.
        self.result = directory / f'result-{namespace.address}'
        others = [peer for peer in peers if peer != namespace.address]
        self._options = {
            'state_path': str(directory / f'state-{namespace.address}'),
            'oslo_transfer_service.control_socket': str(directory / 'nobody'),
            f'{_GROUP}.peer_networks': [netns.NETWORK, _DEAD_NETWORK],
            f'{_GROUP}.listen_address': namespace.address,
            f'{_GROUP}.port': _PORT,
            f'{_GROUP}.peers': [f'{peer}:{_PORT}' for peer in others],
        }
        with namespace.inside():
            self._worker = worker.Worker()

    def warm_up(self, small: Image) -> None:
        """Copy something small, so that all is loaded."""
        self.copy([f'torrent+file://{small.torrent}', str(small.path)])
        small.check(self.result)

    def copy(
        self,
        src: Sequence[str],
        dst: pathlib.Path | None = None,
        **arguments: str,
    ) -> float:
        """Copy; returns the seconds that it took.

        :param arguments: more of copy()'s
        """
        dst = dst or self.result
        dst.unlink(missing_ok=True)
        found = self._worker.ask(
            'copy',
            src=src,
            dst=str(dst),
            options=self._options,
            **arguments,
        )
        return float(found['seconds'])

    def kill(self) -> None:
        """End it in the middle of a copy."""
        self._worker.kill()

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


class Swarm:
    """An origin and hosts; a context manager.

    :param image: what the origin has
    :param directory: for copies; in memory
    :param count: of the hosts
    :param seed: the origin is a peer, not a web server
    :param tracked: hosts know each other by a tracker beside the origin,
        not by their options
    :param peers: further peers that every host knows
    :param rate: of each host, each way, in bits per second; None for any
    """

    def __init__(
        self,
        image: Image,
        directory: pathlib.Path,
        count: int,
        *,
        seed: bool = False,
        tracked: bool = False,
        peers: Sequence[str] = (),
        rate: int | None = RATE,
    ) -> None:
        self.image = image
        self.hosts: list[Host] = []
        #: The tracker, if there is one.
        self.tracker: opentracker.OpenTracker | None = None
        #: What the origin sent in the last run, in bytes.
        self.sent = 0
        self._directory = directory
        self._count = count
        self._seed = seed
        self._tracked = tracked
        self._peers = list(peers)
        self._rate = rate
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> typing.Self:
        with contextlib.ExitStack() as self._stack:
            network = self._stack.enter_context(
                netns.Network(self._count + 1, self._rate)
            )
            self.origin, *others = network.hosts
            if self._tracked:
                self._start_tracker()
            else:
                self._peers += [host.address for host in others]
                if self._seed:
                    self._peers.append(self.origin.address)
            #: The locations to copy from.
            self.src = self._start_seed() if self._seed else self._start_web()
            for namespace in others:
                host = Host(namespace, self._directory, self._peers)
                self._stack.callback(host.close)
                self.hosts.append(host)
            small = Image(self._directory / 'small', 1 << 16)
            for host in self.hosts:
                host.warm_up(small)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    # What the origin runs

    def _start_web(self) -> list[str]:
        server = nginx.Nginx(self.image.path.parent)
        server.host = self.origin.address
        with self.origin.inside():
            self._stack.enter_context(server)
        return [
            f'torrent+{server.url(f"/{self.image.torrent.name}")}',
            server.url(f'/{self.image.path.name}'),
        ]

    def _start_tracker(self) -> None:
        self.tracker = opentracker.OpenTracker(
            *self.image.tracked, host=self.origin.address
        )
        with self.origin.inside():
            self._stack.enter_context(self.tracker)
        self.image.publish(self.tracker.url('http'))

    def _start_seed(self) -> list[str]:
        self._stack.enter_context(
            serving(self.origin, self.image, self._directory / 'service')
        )
        return [f'torrent+file://{self.image.torrent}']

    # Runs

    def fetch(self) -> float:
        """Have all copy at once; returns the seconds until the last one has.

        :raises OSError: one failed, or has another file
        """
        with self.fetching() as found:
            last = max(each.result() for each in found)
        return last

    @contextlib.contextmanager
    def fetching(self) -> Iterator[list[concurrent.futures.Future[float]]]:
        """Have all copy at once, and yield; checks what they have then.

        :returns: for each host the seconds until it was done
        """
        before = self.origin.sent()
        started = time.perf_counter()

        def copy(host: Host) -> float:
            host.copy(self.src)
            return time.perf_counter() - started

        with concurrent.futures.ThreadPoolExecutor(self._count) as pool:
            yield [pool.submit(copy, host) for host in self.hosts]
        self.sent = self.origin.sent() - before
        for host in self.hosts:
            if host.result.exists():
                self.image.check(host.result)


@contextlib.contextmanager
def serving(
    origin: netns.Host, image: Image, directory: pathlib.Path
) -> Iterator[None]:
    """The service, which seeds an image.

    :param directory: for its files
    """
    directory.mkdir(exist_ok=True)
    control = directory / 'control.sock'
    config = directory / 'service.conf'
    config.write_text(
        f'[oslo_transfer]\n'
        f'state_path = {directory}\n'
        f'[oslo_transfer_service]\n'
        f'control_socket = {control}\n'
        f'[{_GROUP}]\n'
        f'peer_networks = {netns.NETWORK}\n'
        f'listen_address = {origin.address}\n'
        f'port = {_PORT}\n'
    )
    tool = pathlib.Path(sys.executable).with_name('oslo-transfer')
    log = directory / 'log'
    with open(log, 'wb') as output:
        service = origin.popen(
            *(tool, '--config-file', config, 'serve', '--role', 'seed'),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        end = time.monotonic() + _READY_SECONDS
        while not control.is_socket():
            if time.monotonic() > end or service.poll() is not None:
                raise OSError(f'the service fails: {log.read_text()}')
            time.sleep(_LOOK)
        options = {'oslo_transfer_service.control_socket': str(control)}
        client.Client(worker.configuration(options)).add_seed(
            image.torrent.read_bytes(), str(image.path)
        )
        yield
    finally:
        service.terminate()
        service.wait()
