# SPDX-License-Identifier: Apache-2.0
"""qemu-io(1) in the place of a guest: it has a disk open, and reads it."""

from __future__ import annotations

from collections.abc import Sequence
import os
import selectors
import subprocess
import time
import typing

_PROMPT = b'qemu-io> '


class QemuIo:
    """Has an image open; a context manager.

    :param image: the path of a qcow2 image; see ``options``
    :param options: others of qemu-io
    """

    def __init__(
        self,
        image: str | os.PathLike[str],
        options: Sequence[str] = ('-f', 'qcow2'),
    ) -> None:
        self._image = image
        self._options = options

    def __enter__(self) -> typing.Self:
        self._process = subprocess.Popen(
            ['qemu-io', *self._options, self._image],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.answer(10) is not None
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, command: str) -> None:
        """Give it a command; does not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(f'{command}\n'.encode())
        self._process.stdin.flush()

    def answer(self, seconds: float) -> str | None:
        """What it says to a command; None if it says nothing yet."""
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        told = b''
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not told.endswith(_PROMPT):
                if not selector.select(max(0.0, end - time.monotonic())):
                    assert not told
                    return None
                data = os.read(self._process.stdout.fileno(), 4096)
                if not data:
                    raise RuntimeError(f'qemu-io has ended: {told.decode()}')
                told += data
        return told.removesuffix(_PROMPT).decode()
