# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest: a LUN by two portals, used in place and copied.

It prints a JSON object for each thing that it has done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import tempfile
import time

from oslo_config import cfg

import oslo_transfer
from oslo_transfer.drivers import brick
from oslo_transfer import opts
from tests.guest import leftovers
from tests.guest import network
from tests.guest import targets

_MIB = 1 << 20
_SIZE = 32 * _MIB
_DATA = 12 * _MIB


def _say(what: str, **more: object) -> None:
    print(json.dumps({'what': what, **more}), flush=True)


def _show(
    what: str, result: oslo_transfer.TransferResult, *notes: str
) -> None:
    fields = dataclasses.asdict(
        dataclasses.replace(result, attachment=None, attempts=())
    )
    _say(what, result=fields, notes=notes)


def _configuration(directory: pathlib.Path) -> cfg.ConfigOpts:
    path = directory / 'transfer.conf'
    path.write_text(
        f'[oslo_transfer]\n'
        f'state_path = {directory}/state\n'
        f'[oslo_transfer_iscsi]\n'
        f'engine = os_brick\n'
        # Emulated, all takes long.
        f'attach_timeout = 300\n'
    )
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)], default_config_dirs=[])
    opts.register_opts(conf)
    return conf


def _run(*command: str | os.PathLike[str]) -> str:
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _in_place(
    lun: targets.Lun, directory: pathlib.Path, conf: cfg.ConfigOpts
) -> None:
    disk = directory / 'guest.qcow2'
    result = oslo_transfer.copy(lun.url(2), disk, 'zero_copy', conf=conf)
    began = time.monotonic()
    _run('qemu-io', '-f', 'qcow2', '-c', 'read 0 4k', disk)
    first = result.seconds + time.monotonic() - began
    _run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', disk, lun.backing)
    attachment = result.attachment
    assert attachment is not None
    name = os.path.basename(os.path.realpath(attachment.path))
    slaves = pathlib.Path('/sys/block', name, 'slaves')
    paths = sorted(each.name for each in slaves.iterdir())
    attachment.detach()
    disk.unlink()
    _show(
        'in place: overlay',
        result,
        f'attached as {attachment.path} ({name} over {" and ".join(paths)}, '
        f'a session each); the first 4 KiB were read {first:.1f} s after the '
        f'call, and qemu-img finds that the overlay reads as the LUN',
    )


def _by_dd(
    lun: targets.Lun, directory: pathlib.Path, conf: cfg.ConfigOpts
) -> None:
    result = oslo_transfer.copy(
        lun.url(2),
        directory / 'copy.raw',
        'dd',
        hash_algo='sha512',
        hash_value=hashlib.sha512(lun.backing.read_bytes()).hexdigest(),
        conf=conf,
    )
    _show('raw, by dd', result, 'then no session, device or record was left')


def main() -> None:
    """Do all of it."""
    uptime = pathlib.Path('/proc/uptime').read_text().split()[0]
    _say(f'booted, {float(uptime):.0f} s')
    with (
        tempfile.TemporaryDirectory() as name,
        network.Paths() as paths,
        targets.Tgt(paths, pathlib.Path(name)) as tgt,
    ):
        lun = tgt.lun(content=os.urandom(_DATA), size=_SIZE)
        _say(f'tgt offers a LUN at {" and ".join(lun.portals)}')
        directory = pathlib.Path(name)
        conf = _configuration(directory)
        # Emulated, that alone takes many seconds.
        brick.module('os_brick.initiator.connectors.iscsi', conf)
        _say('os-brick is loaded')
        before = leftovers.seen()
        _in_place(lun, directory, conf)
        _by_dd(lun, directory, conf)
        if left := leftovers.settle(before):
            raise SystemExit(f'left behind: {left}')
        if found := oslo_transfer.attachments(conf):
            raise SystemExit(f'still attached: {found}')


if __name__ == '__main__':
    main()
