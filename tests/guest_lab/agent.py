# SPDX-License-Identifier: Apache-2.0
"""Does what the host says; runs inside the guest."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import typing

_PORT = '/dev/virtio-ports/lab'
_CHECKOUT = pathlib.Path('/checkout')
_DISK = '/dev/vdb'


def main() -> None:
    """Serve until the host closes the port."""
    descriptor = os.open(_PORT, os.O_RDWR)
    with os.fdopen(os.dup(descriptor), 'rb', buffering=0) as port:
        _say(descriptor, event='ready')
        for line in iter(port.readline, b''):
            command = json.loads(line)
            if command.pop('update', None):
                _update()
            status = (_test if 'tests' in command else _shell)(
                descriptor, **command
            )
            _say(descriptor, event='done', status=status)


def _say(descriptor: int, **message: typing.Any) -> None:
    data = json.dumps(message).encode() + b'\n'
    while data:
        data = data[os.write(descriptor, data) :]


def _update() -> None:
    """Take the checkout that the host has written meanwhile."""
    subprocess.run(['blockdev', '--flushbufs', _DISK], check=True)
    subprocess.run(
        ['find', _CHECKOUT, '-mindepth', '1', '-delete'], check=True
    )
    subprocess.run(['tar', '-x', '-f', _DISK, '-C', _CHECKOUT], check=True)


def _test(descriptor: int, *, tests: list[str], ci: bool) -> int:
    selected = pathlib.Path('/run/selected-tests')
    selected.write_text('\n'.join(tests) + '\n')
    files = sorted({test.partition('::')[0] for test in tests})
    return subprocess.run(
        [
            *(sys.executable, '-m', 'pytest', '-p', 'tests.guest_lab.inner'),
            *('-p', 'no:cacheprovider', *files),
        ],
        cwd=_CHECKOUT,
        check=False,
        pass_fds=[descriptor],
        env={
            **os.environ,
            **({'CI': 'true'} if ci else {}),
            'OSLO_TRANSFER_GUEST_PORT': str(descriptor),
            'OSLO_TRANSFER_GUEST_SELECTED': str(selected),
        },
    ).returncode


def _shell(descriptor: int, *, script: str) -> int:
    with subprocess.Popen(
        ['bash', '-c', script],
        cwd=_CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        while more := os.read(process.stdout.fileno(), 1 << 16):
            text = more.decode(errors='replace')
            _say(descriptor, event='output', text=text)
    return process.returncode


if __name__ == '__main__':
    main()
