# SPDX-License-Identifier: Apache-2.0
"""What a role of the service is."""

from __future__ import annotations

import abc
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import typing

#: An HTTP status, and what goes out as JSON.
Reply = tuple[int, Mapping[str, typing.Any]]
#: Takes the last part of the path, or '', and the JSON object of the body.
Handle = Callable[[str, Mapping[str, typing.Any]], Reply]


@dataclasses.dataclass(frozen=True)
class Route:
    """One thing that the control API can be asked.

    :ivar method: ``GET``, ``POST`` or ``DELETE``
    :ivar path: of the URL; one that ends with a slash takes one part more
    :ivar handle: answers; called in several threads at once. The library's
        own errors reach the client as such.
    """

    method: str
    path: str
    handle: Handle


class Role(abc.ABC):
    """One thing that the service does.

    :meth:`start`, :meth:`tick` and :meth:`stop` are called by one thread.
    """

    #: As the configuration and the command line have it.
    name: typing.ClassVar[str]

    @abc.abstractmethod
    def start(self) -> None:
        """Begin, and take up what was left by the process before.

        :raises TransferError: it cannot; nothing is left running then
        """

    @abc.abstractmethod
    def tick(self) -> None:
        """Do what is due; called about once a second.

        The service counts as hung while it does not return.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """End within a few seconds; does nothing if it did not start."""

    @abc.abstractmethod
    def status(self) -> Mapping[str, typing.Any]:
        """How it is, for people and for monitoring; from any thread."""

    @abc.abstractmethod
    def routes(self) -> Sequence[Route]:
        """What it can be asked, once it has started."""
