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
            # One command for many, for each takes long to start.
            near = [
                line
                for number in range(_COUNT)
                for line in (
                    f'link add name path{number} type veth '
                    f'peer name path{number} netns {self.host.path}',
                    f'addr add 10.79.{number}.1/24 dev path{number}',
                    f'link set path{number} up',
                )
            ]
            far = [
                line
                for number, address in enumerate(self.addresses)
                for line in (
                    f'addr add {address}/24 dev path{number}',
                    f'link set path{number} up',
                )
            ]
            _ip(['ip'], near)
            stack.callback(
                _ip,
                ['ip'],
                [f'link delete path{number}' for number in range(_COUNT)],
            )
            _ip(self.host.command('ip'), far)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def cut(self, number: int) -> None:
        """Pull a cable at the far end: no error tells this host."""
        self.host.run('ip', 'link', 'set', f'path{number}', 'down')

    def join(self, number: int) -> None:
        """Plug it in again."""
        self.host.run('ip', 'link', 'set', f'path{number}', 'up')


def _ip(command: list[str], lines: list[str]) -> None:
    tools.run(*command, '-batch', '-', given='\n'.join(lines) + '\n')
