# SPDX-License-Identifier: Apache-2.0
"""A gate for the HTTP export, which decides as it is told."""

from __future__ import annotations

from collections.abc import Callable
import threading

from oslo_transfer import exceptions
from oslo_transfer.export import exported
from oslo_transfer.export import gate


class ScriptedGate:
    """Who asks for ``/far/...`` is admitted; pages are below ``/v1``.

    Thread-safe.

    :param image: what is served
    """

    def __init__(self, image: exported.Exported) -> None:
        self.image = image
        #: Paths of those who were admitted, for whom there is no grant yet.
        self.granted: set[str] = set()
        #: What was asked of what, in order, with the bodies of pages.
        self.found: list[gate.Asked] = []
        self.admitted: list[gate.Asked] = []
        self.pages: list[tuple[gate.Asked, bytes]] = []
        #: What is raised at once, or after asking.
        self.knows: exceptions.TransferError | None = None
        self.learns: Exception | None = None
        #: Called by who blocks.
        self.on_admit: Callable[[gate.Asked], object] = lambda _asked: None
        self.on_page: Callable[[gate.Asked], gate.Page | None] = _say
        self._lock = threading.Lock()

    def find(self, asked: gate.Asked) -> exported.Exported | None:
        """What it has been told to know."""
        self.found.append(asked)
        if self.knows is not None:
            raise self.knows
        return self.image if asked.path in self.granted else None

    def admit(self, asked: gate.Asked) -> exported.Exported:
        """Learn something."""
        with self._lock:
            self.admitted.append(asked)
        self.on_admit(asked)
        if self.learns is not None:
            raise self.learns
        self.granted.add(asked.path)
        return self.image

    def is_page(self, path: str) -> bool:
        """Whether it is below /v1."""
        return path.startswith('/v1')

    def page(self, asked: gate.Asked, body: bytes) -> gate.Page | None:
        """Tell what was asked."""
        with self._lock:
            self.pages.append((asked, body))
        return self.on_page(asked)


def _say(asked: gate.Asked) -> gate.Page:
    text = f'{asked.method} {asked.path}'
    return gate.Page(200, 'text/plain', text.encode())
