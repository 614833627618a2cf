# SPDX-License-Identifier: Apache-2.0
"""Turns signals into an orderly end."""

from __future__ import annotations

import signal
import threading
import types
import typing

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Notes SIGINT and SIGTERM; a context manager.

    It serves as the ``cancel=`` of a copy. After the first signal the
    second has its usual effect, and ends the process at once.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._before: dict[int, typing.Any] = {}

    def is_set(self) -> bool:
        """Whether a signal came."""
        return self._signal is not None

    @property
    def status(self) -> int:
        """The exit status that tells of the signal."""
        return 128 + (self._signal or signal.SIGINT)

    def __enter__(self) -> typing.Self:
        # Only the main thread may, and there they arrive.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: types.FrameType | None) -> None:
        self._signal = number
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
