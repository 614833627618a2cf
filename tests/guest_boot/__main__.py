# SPDX-License-Identifier: Apache-2.0
"""Boot a guest from a disk: python -m tests.guest_boot --help."""

from __future__ import annotations

import argparse
import json
import sys
import time

from tests.guest_boot import disk as _disk
from tests.guest_boot import machine
from tests.guest_lab import machine as lab

_PATIENCE = 300.0
_HELP = """
Prints JSON objects: the disk, that it has booted, then what each line of the
input, run by the shell in the guest, has printed and how long that took.
"""


def _say(**told: object) -> None:
    print(json.dumps(told), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python -m tests.guest_boot', description=_HELP
    )
    parser.add_argument(
        'drive',
        nargs='?',
        help='such as format=qcow2,file=PATH, or anything else that -drive of '
        'QEMU takes, over the disk; without it none is booted',
    )
    told = parser.parse_args()
    if lacks := _disk.missing():
        parser.error(lacks)
    disk = _disk.ensure()
    _say(disk=str(disk.path), size=disk.size)
    if told.drive is None:
        return 0
    began = time.monotonic()
    try:
        with machine.Machine(disk, told.drive) as guest:
            text = guest.wait(_PATIENCE)
            _say(text=text, seconds=time.monotonic() - began)
            for line in sys.stdin:
                began = time.monotonic()
                text = guest.run(line.strip(), _PATIENCE)
                _say(text=text, seconds=time.monotonic() - began)
    except lab.GuestDied as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
