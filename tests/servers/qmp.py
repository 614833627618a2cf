# SPDX-License-Identifier: Apache-2.0
"""QEMU with a disk, told what to do by QMP; its guest never starts."""

from __future__ import annotations

import json
import os
import subprocess
import typing


class Qemu:
    """Has a qcow2 image open as the node ``disk0``; a context manager.

    :param image: its path
    """

    def __init__(self, image: str | os.PathLike[str]) -> None:
        self._image = os.fspath(image)

    def __enter__(self) -> typing.Self:
        file = {'driver': 'file', 'filename': self._image}
        file['node-name'] = 'file0'
        disk = {'driver': 'qcow2', 'file': 'file0', 'node-name': 'disk0'}
        self._process = subprocess.Popen(
            [
                *('qemu-system-x86_64', '-S', '-nodefaults', '-m', '64'),
                *('-display', 'none', '-accel', 'tcg', '-qmp', 'stdio'),
                *('-blockdev', json.dumps(file)),
                *('-blockdev', json.dumps(disk)),
                *('-device', 'virtio-blk,drive=disk0'),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._answer()
        self.ask('qmp_capabilities')
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, command: str, **arguments: typing.Any) -> typing.Any:
        """Give it a command; returns what it answers."""
        asked = {'execute': command, 'arguments': arguments}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b'\n')
        self._process.stdin.flush()
        while 'event' in (found := self._answer()):
            pass
        assert 'return' in found, found
        return found['return']

    def _answer(self) -> typing.Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())
