# SPDX-License-Identifier: Apache-2.0
"""What all calls of one process share.

It is kept by process id: a child begins with nothing of its parent's after
a fork, and no lock of the parent's can be held in it for ever.
"""

from __future__ import annotations

import os

from oslo_transfer import health
from oslo_transfer import limiter
from oslo_transfer import slots


class Shared:
    """The state of a process; thread-safe and bounded in size.

    :ivar limiters: of bandwidth, for the process and for each host
    :ivar connections: slots for connections by host and port
    :ivar copies: slots for whole copies
    :ivar locations: those that failed lately
    :ivar connect_times: of hosts
    """

    def __init__(self) -> None:
        self.limiters = limiter.Limiters()
        self.connections = slots.Slots()
        self.copies = slots.Slots()
        self.locations = health.Failures()
        self.connect_times = health.ConnectTimes()


_states: dict[int, Shared] = {}


def current() -> Shared:
    """The state of this process."""
    pid = os.getpid()
    found = _states.get(pid)
    if found is None:
        # No lock guards this: another thread could hold it while we fork.
        found = _states.setdefault(pid, Shared())
        for other in list(_states):
            if other != pid:
                _states.pop(other, None)
    return found


def forget() -> None:
    """Begin anew; for tests."""
    _states.clear()
