# SPDX-License-Identifier: Apache-2.0
"""Two networks between this host and one of targets."""

from __future__ import annotations

import contextlib
import typing

from tests.guest import tools
from tests.servers import netns

_COUNT = 2


class Paths:
    """Two separate cables to a namespace where the targets are."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        #: The addresses of the targets, one on each network.
        self.addresses = tuple(f'10.79.{n}.2' for n in range(_COUNT))

    def __enter__(self) -> typing.Self:
        with contextlib.ExitStack() as stack:
            #: Where the targets are.
            self.host = stack.enter_context(
                contextlib.closing(netns.Namespace())
            )
            for number in range(_COUNT):
                self._join(number, stack)
            self._stack = stack.pop_all()
        return self

    def _join(self, number: int, stack: contextlib.ExitStack) -> None:
        name = f'path{number}'
        tools.run(
            *('ip', 'link', 'add', 'name', name, 'type', 'veth'),
            *('peer', 'name', name, 'netns', self.host.path),
        )
        stack.callback(tools.run, 'ip', 'link', 'delete', name)
        tools.run('ip', 'addr', 'add', f'10.79.{number}.1/24', 'dev', name)
        tools.run('ip', 'link', 'set', name, 'up')
        address = f'{self.addresses[number]}/24'
        self.host.run('ip', 'addr', 'add', address, 'dev', name)
        self.host.run('ip', 'link', 'set', name, 'up')

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def cut(self, number: int) -> None:
        """Pull a cable at the far end: no error tells this host."""
        self.host.run('ip', 'link', 'set', f'path{number}', 'down')

    def join(self, number: int) -> None:
        """Plug it in again."""
        self.host.run('ip', 'link', 'set', f'path{number}', 'up')
