# SPDX-License-Identifier: Apache-2.0
"""The limits of who waits for a target."""

from __future__ import annotations

import threading
import typing

from oslo_transfer import exceptions
from oslo_transfer import sockets

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context


class Waiter:
    """Checks the limits of one thread's waits.

    :param ctx: the limits
    :param where: the redacted endpoint, for messages
    :param closed: set by another thread that wants the wait to end
    """

    def __init__(
        self, ctx: _context.Context, where: str, closed: threading.Event
    ) -> None:
        self.ctx = ctx
        self.where = where
        self._window = sockets.StallWindow(ctx.stall, where)
        self._closed = closed
        #: Seconds spent waiting.
        self.waited = 0.0

    def check(self) -> None:
        """Raise if there is no point in going on.

        :raises TransferCancelled: by the context, or closed
        """
        self.ctx.check()
        if self._closed.is_set():
            raise exceptions.TransferCancelled(
                f'{self.where}: closed by another thread'
            )

    def count(self, seconds: float, moved: int | None) -> None:
        """Note a wait, and the bytes that it brought.

        :param moved: None where no bytes are to come or go
        :raises Stalled: too few
        """
        self.waited += seconds
        self.check()
        if moved is not None:
            self._window.add(seconds, moved)
