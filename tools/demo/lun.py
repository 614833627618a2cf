# SPDX-License-Identifier: Apache-2.0
"""Rows of block storage: used in place, and copied."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import ctypes
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

from oslo_config import cfg

from demo import daemon
from demo import images
from demo import scene
from demo import show
from demo import tgt
import oslo_transfer

_PACKAGES = {
    'tgtd': 'tgt',
    'qemu-nbd': 'qemu-utils',
    'nbdfuse': 'libnbd-bin',
    'fusermount3': 'fuse3',
}
# Nothing of the host's is used or changed, whatever it could do.
_ENGINE = '[oslo_transfer_iscsi]\nengine = libiscsi\n'
_SETTLE_SECONDS = 5.0
_STALE = 8 * images.MIB


@dataclasses.dataclass
class _Storage:
    """An array of disks, and a host that uses them.

    :ivar url: of the raw image
    """

    target: tgt.Target
    url: str
    conf_file: pathlib.Path
    conf: cfg.ConfigOpts


@functools.cache
def _storage(here: scene.Scene) -> _Storage:
    """Start all of it, once.

    :raises Waits: packages are missing
    """
    missing = [
        package
        for program, package in _PACKAGES.items()
        if shutil.which(program) is None
    ]
    try:
        ctypes.CDLL('libiscsi.so.7')
    except OSError:
        missing.append('libiscsi7')
    if missing:
        raise scene.Waits(f'the packages {", ".join(missing)}')
    target = tgt.Target(here)
    url = target.lun(here.raw.path)
    if subprocess.run(
        ['qemu-img', 'info', url], capture_output=True
    ).returncode:
        raise scene.Waits('the package qemu-block-extra')
    service = daemon.Service(here, 'attaching', 'attach', _ENGINE)
    conf_file = here.root / 'attaching.conf'
    conf_file.write_text(f'{service.options}{_ENGINE}')
    return _Storage(target, url, conf_file, scene.configuration(conf_file))


@scene.act('LUNs that are used in place')
def in_place(here: scene.Scene) -> Iterator[scene.Row]:
    """An overlay at once; reads come from the LUN, writes stay here."""
    storage = _storage(here)
    disk = here.copies / 'guest.qcow2'
    bar = show.Bar('iscsi, in place', here.raw.size)
    result = oslo_transfer.copy(
        storage.url, disk, 'zero_copy', conf=storage.conf
    )
    began = time.monotonic()
    _qemu_io(disk, 'read 0 4k')
    first = result.seconds + time.monotonic() - began
    bar.end(f'{result.seconds:6.2f} s')
    if not _equal(disk, here.raw.path):
        raise scene.Broken('the overlay does not read as the LUN')
    on_disk = disk.stat().st_blocks * 512
    _qemu_io(disk, 'write -P 90 1M 64k')
    if _equal(disk, here.raw.path):
        raise scene.Broken('nothing was written to the overlay')
    if images.describe(here.raw.path).digest != here.raw.digest:
        raise scene.Broken('the LUN was written to')
    listed = _listed(here, storage)
    here.command(
        *('--config-file', storage.conf_file),
        *('detach', str(listed[0]['id'])),
    )
    disk.unlink()
    _expect_nothing(here, storage)
    yield scene.Row(
        'iscsi',
        'in place: overlay',
        result,
        (
            f'the first 4 KiB were read {first:.2f} s after the call; the '
            f'overlay took {on_disk / 1024:.0f} KiB, and qemu-img finds that '
            f'it reads as the image; a write to it left the LUN as it was',
            f'attached: {listed[0]["form"]} of {storage.url}; after '
            f'"oslo-transfer detach" no attachment and no session is left',
        ),
    )


@scene.act('a LUN that dd copies')
def by_dd(here: scene.Scene) -> Iterator[scene.Row]:
    """The same URL becomes a full copy, verified; then it is detached."""
    storage = _storage(here)
    dst = here.target(here.raw)
    row = here.copy(
        'iscsi',
        'raw, by dd',
        storage.url,
        dst,
        here.raw,
        strategy='dd',
        conf=storage.conf,
    )
    _expect_nothing(here, storage)
    note = (
        f'attached, copied by dd(1), verified, detached; '
        f'{dst.stat().st_blocks * 512 / 1e6:.0f} MB on disk, as zeros '
        f'became holes'
    )
    yield dataclasses.replace(row, notes=(note,))


@scene.act('LUNs that are copied')
def copied(here: scene.Scene) -> Iterator[scene.Row]:
    """Read and written by libiscsi, without attaching anything."""
    storage = _storage(here)
    image = here.raw
    before = storage.target.has_read
    row = here.copy(
        'iscsi',
        'raw, by libiscsi',
        storage.url,
        here.target(image),
        image,
        strategy='full_copy',
        conf=storage.conf,
    )
    note = (
        f'the target read {(storage.target.has_read - before) / 1e6:.0f} MB '
        f'of {image.size / 1e6:.0f} MB, and told that the rest are holes'
    )
    yield dataclasses.replace(row, notes=(note,))
    disk = here.served / 'volume.raw'
    with open(disk, 'wb') as file:
        file.write(os.urandom(_STALE))
        file.truncate(image.size)
    row = here.copy(
        'iscsi',
        'written',
        image.path,
        storage.target.lun(disk),
        image,
        conf=storage.conf,
    )
    if images.describe(disk).digest != image.digest:
        raise scene.Broken('the LUN has other bytes')
    disk.unlink()
    _expect_nothing(here, storage)
    yield row


@scene.act('an NBD export')
def over_nbd(here: scene.Scene) -> Iterator[scene.Row]:
    """From a server that others wrote, over a unix socket."""
    program = shutil.which('qemu-nbd')
    if program is None:
        raise scene.Waits('the package qemu-utils')
    path = here.root / 'nbd.sock'
    server = daemon.Daemon(
        [
            *(program, '--persistent', '--read-only', '--format=raw'),
            *('--shared=0', f'--socket={path}', here.raw.path),
        ],
        here.root / 'qemu-nbd.log',
    )
    with contextlib.closing(server):
        server.wait_for(socket.AF_UNIX, str(path))
        yield here.copy(
            'nbd+unix',
            'raw',
            f'nbd+unix:///?socket={path}',
            here.target(here.raw),
            here.raw,
            strategy='full_copy',
        )


def _listed(here: scene.Scene, storage: _Storage) -> list[dict[str, object]]:
    """What the command shows to be attached."""
    found: list[dict[str, object]] = json.loads(
        here.command(
            *('--config-file', storage.conf_file),
            *('attachment', 'list', '-f', 'json'),
        )
    )
    return found


def _expect_nothing(here: scene.Scene, storage: _Storage) -> None:
    """See that nothing is attached, and that nobody is logged in.

    :raises Broken: something is left
    """
    if listed := _listed(here, storage):
        raise scene.Broken(f'still attached: {listed}')
    end = time.monotonic() + _SETTLE_SECONDS
    while storage.target.sessions:
        if time.monotonic() > end:
            raise scene.Broken('a session with the target is left')
        time.sleep(0.05)


def _qemu_io(disk: pathlib.Path, command: str) -> None:
    done = subprocess.run(
        ['qemu-io', '-f', 'qcow2', '-c', command, disk],
        capture_output=True,
        text=True,
    )
    if done.returncode or 'error' in done.stdout:
        raise scene.Broken(f'qemu-io: {done.stdout}{done.stderr}')


def _equal(disk: pathlib.Path, raw: pathlib.Path) -> bool:
    done = subprocess.run(
        ['qemu-img', 'compare', '-q', '-f', 'qcow2', '-F', 'raw', disk, raw],
        capture_output=True,
        text=True,
    )
    if done.returncode > 1:
        raise scene.Broken(f'qemu-img compare: {done.stdout}{done.stderr}')
    return done.returncode == 0
