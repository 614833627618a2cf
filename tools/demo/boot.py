# SPDX-License-Identifier: Apache-2.0
"""Rows of a guest that boots from an image which is far away.

The guest is that of the tests (tests/guest_boot), emulated by QEMU. Between
its host and the origin is a line with a rate and a round trip, that is a
program of the tests, too.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import hashlib
import json
import pathlib
import shutil
import time
import typing

from demo import daemon
from demo import line
from demo import scene
from demo import show
import oslo_transfer
from oslo_transfer.service import client

# Of the line, in bits per second and seconds.
_RATE, _ROUND_TRIP = 40_000_000, 0.01
_PATIENCE = 180.0
_PAUSE = 0.1
_READ = 'echo 3 >/proc/sys/vm/drop_caches; busybox sha256sum /dev/vda'


@scene.act('a guest that boots from a far image')
def boot(here: scene.Scene) -> Iterator[scene.Row]:
    """Boot it twice; the second time the image comes to stay."""
    disk = _disk()
    shutil.copy(disk, here.served / 'guest.raw')
    with open(disk, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    with contextlib.ExitStack() as stack:
        origin = int(here.url('http').rpartition(':')[2])
        far = stack.enter_context(line.Line(origin, _RATE, _ROUND_TRIP))
        # Where the disk is.
        url = f'http://127.0.0.1:{far.port}/guest.raw'
        first = _Host(here, 1, 'hydrate = false')
        result = first.copy(url, digest)
        with first.boot('on demand') as guest:
            cold = guest.seconds
            moved = first.status()['statistics']['bytes_fetched']
        whole = disk.stat().st_size
        yield scene.Row(
            'http',
            'a guest boots: overlay',
            result,
            (
                f'at {_RATE / 1e6:.0f} Mbit/s a copy of the '
                f'{whole / 1e6:.0f} MB takes {whole * 8 / _RATE:.0f} s; the '
                f'guest was up after {cold:.1f} s, with {moved / 1e6:.0f} MB',
            ),
        )
        second = _Host(here, 2, 'hydrate_delay = 2')
        # What the first has noted; another host would take it from there.
        shutil.copytree(
            first.state / 'traces',
            second.state / 'traces',
            dirs_exist_ok=True,
        )
        result = second.copy(url, digest)
        with second.boot('by the trace') as guest:
            warm = guest.seconds
            bar = show.Bar('http, the rest of the image', whole)
            bar.end(f'{second.wait_until_promoted():6.2f} s')
            far.cut()
            seconds = guest.check(digest)
        yield scene.Row(
            'http',
            'again, and to stay',
            result,
            (
                f'with the trace of the first boot the guest was up after '
                f'{warm:.1f} s instead of {cold:.1f} s',
                f'then the image was complete, and the origin cut off: the '
                f'guest read all of its disk in {seconds:.1f} s, and found '
                f'the right SHA-256',
            ),
        )


def _disk() -> pathlib.Path:
    """What the guest boots from.

    :raises Waits: it cannot be made here
    """
    process = line.start('tests.guest_boot')
    output, errors = process.communicate()
    if process.returncode:
        reason = errors.strip().rpartition('\n')[2].rpartition('error: ')[2]
        raise scene.Waits(f'a virtual machine: {reason}')
    return pathlib.Path(json.loads(output)['disk'])


class _Guest:
    """A guest; a context manager.

    :param overlay: its disk
    """

    def __init__(self, overlay: pathlib.Path) -> None:
        self._process = line.start(
            'tests.guest_boot', f'format=qcow2,file={overlay}'
        )
        #: How long it took to boot.
        self.seconds = 0.0

    def __enter__(self) -> typing.Self:
        self._next()
        self.seconds = self._next()['seconds']
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.communicate()

    def _next(self) -> dict[str, typing.Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise scene.Broken(f'the guest: {self._process.communicate()[1]}')
        found: dict[str, typing.Any] = json.loads(line)
        return found

    def check(self, digest: str) -> float:
        """Have it read its disk; returns how long that took.

        :raises Broken: it reads something else
        """
        assert self._process.stdin
        self._process.stdin.write(f'{_READ}\n')
        self._process.stdin.flush()
        told = self._next()
        if digest not in told['text']:
            raise scene.Broken(f'the guest reads {told["text"]}')
        return float(told['seconds'])


class _Host:
    """A service with the role ``cache``, and an overlay over it."""

    def __init__(self, here: scene.Scene, number: int, option: str) -> None:
        name = f'boot-{number}'
        service = daemon.Service(
            here, name, 'cache', f'[oslo_transfer_cache]\n{option}\n'
        )
        self.state = here.root / name
        self._conf = scene.configuration(service.conf_file)
        self._overlay = self.state / 'guest.qcow2'

    def copy(self, url: str, digest: str) -> oslo_transfer.TransferResult:
        """Have the overlay lead to the image."""
        return oslo_transfer.copy(
            url,
            self._overlay,
            'copy_on_read',
            hash_algo='sha256',
            hash_value=digest,
            conf=self._conf,
        )

    @contextlib.contextmanager
    def boot(self, how: str) -> Iterator[_Guest]:
        """Boot a guest from the overlay."""
        bar = show.Bar(f'http, a guest boots {how}', 1)
        with _Guest(self._overlay) as guest:
            bar.end(f'{guest.seconds:6.2f} s')
            yield guest

    def status(self) -> dict[str, typing.Any]:
        """How far it is."""
        (found,) = client.Client(self._conf).cached()
        return found

    def wait_until_promoted(self) -> float:
        """Wait for the whole image; returns how long that took.

        :raises Broken: it takes too long
        """
        began = time.monotonic()
        while (found := self.status())['state'] != 'promoted':
            if time.monotonic() - began > _PATIENCE:
                raise scene.Broken(f'the image is not complete: {found}')
            time.sleep(_PAUSE)
        return time.monotonic() - began
