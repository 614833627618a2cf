# SPDX-License-Identifier: Apache-2.0
"""What connections and the loop that serves them know of each other."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterator
import dataclasses
import typing

from oslo_transfer.export import gate as _gate
from oslo_transfer.export import workers as _workers

if typing.TYPE_CHECKING:
    from oslo_transfer.export import http_connection


class Limits(typing.NamedTuple):
    """Seconds after which a connection is given up.

    :ivar head: for a request to come as a whole; its body has as long again
    :ivar idle: between two requests
    :ivar sending: without a byte that the client takes
    :ivar ending: for a client to take the end and close, too
    """

    head: float = 10.0
    idle: float = 75.0
    sending: float = 60.0
    ending: float = 2.0


@dataclasses.dataclass(slots=True)
class Counts:
    """What was done since the start.

    :ivar accepted: connections
    :ivar requests: answered to the end
    :ivar refused: those that were answered with an error
    :ivar broken: answers that ended before their end
    :ivar missed: how often what was to be sent had to be fetched first
    :ivar loaded: how often the disk had to be waited for
    :ivar bytes_sent: of images
    """

    accepted: int = 0
    requests: int = 0
    refused: int = 0
    broken: int = 0
    missed: int = 0
    loaded: int = 0
    bytes_sent: int = 0


class Host(typing.Protocol):
    """What connections need of the loop."""

    #: ``time.monotonic()`` of this turn.
    now: float
    counts: Counts
    #: A buffer for whoever has his turn.
    room: memoryview
    #: Who decides what is served.
    gate: _gate.Gate
    #: For requests that have none.
    names: Iterator[str]
    #: Threads that wait for bytes;
    fetchers: _workers.Workers
    #: that ask the gate for images;
    clerks: _workers.Workers
    #: and for pages, which come whatever others wait for.
    pages: _workers.Workers

    def hold(self, count: int) -> bool:
        """Have memory for so many bytes, or give it back.

        It is for bodies and for pages.

        :returns: False where there is too little now
        """

    def again(self, connection: http_connection.Connection) -> None:
        """Give it another turn when others had theirs."""

    def work(
        self,
        workers: _workers.Workers,
        job: Callable[[], typing.Any],
        then: Callable[[typing.Any], None],
        whose: Hashable = None,
    ) -> None:
        """Run a job in another thread, then something in this one.

        :param workers: which thread
        :param then: takes what the job returned, or its exception
        :param whose: what it waits for, see
            :meth:`oslo_transfer.export.workers.Workers.do`
        """

    def gone(self, connection: http_connection.Connection) -> None:
        """It is closed; told again when another thread let go of it."""
