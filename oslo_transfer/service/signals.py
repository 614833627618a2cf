# SPDX-License-Identifier: Apache-2.0
"""Signals that wait until they are asked for.

Blocked signals would do that, too, but programs that are started inherit
the mask, and then nothing but SIGKILL ends them.
"""

from __future__ import annotations

from collections.abc import Iterable
import select
import signal
import socket
import typing


class Signals:
    """Keeps signals from ending the process; a context manager.

    Only for the main thread.

    :param numbers: of the signals
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._numbers = tuple(numbers)

    def __enter__(self) -> typing.Self:
        self._sock, told = socket.socketpair()
        self._told = told
        for each in (self._sock, told):
            each.setblocking(False)
        # The interpreter writes their numbers there, whatever it does.
        self._wakeup = signal.set_wakeup_fd(told.fileno())
        self._before = {
            number: signal.signal(number, _nothing) for number in self._numbers
        }
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._sock.close()
        self._told.close()

    def wait(self, seconds: float) -> signal.Signals | None:
        """The next signal; None if there is none for that time."""
        ready, _, _ = select.select([self._sock], [], [], seconds)
        if not ready:
            return None
        return signal.Signals(self._sock.recv(1)[0])


def _nothing(*_args: object) -> None:
    """A handler: what matters is that there is one."""
