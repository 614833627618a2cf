# SPDX-License-Identifier: Apache-2.0
"""Connections whose answer was read to its end, for the next request."""

from __future__ import annotations

import threading
import time

from oslo_transfer import sockets

# Connections that wait for the next request, and for how long; many servers
# end them after five seconds and more.
_MOST = 8
_SECONDS = 30.0


class Spares:
    """Connections that wait for the next request. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[tuple[object, float, sockets.WatchedSocket]] = []
        self._closed = False

    def put(self, key: object, watched: sockets.WatchedSocket) -> None:
        """Keep one, in place of another if there are many."""
        over = [watched]
        with self._lock:
            if not self._closed:
                self._held.append((key, time.monotonic(), watched))
                over = [each[2] for each in self._held[:-_MOST]]
                del self._held[:-_MOST]
        for each in over:
            each.close()
        # Where there are enough connections, others do not wait for it.
        watched.lend(lambda: self._end(watched))

    def _end(self, watched: sockets.WatchedSocket) -> bool:
        """Close one, unless it is in use again."""
        with self._lock:
            before = len(self._held)
            self._held = [
                each for each in self._held if each[2] is not watched
            ]
            if len(self._held) == before:
                return False
        watched.close()
        return True

    def take(self, key: object) -> sockets.WatchedSocket | None:
        """One that the server has not ended, the last that was used."""
        while True:
            with self._lock:
                for number in reversed(range(len(self._held))):
                    if self._held[number][0] == key:
                        _key, since, watched = self._held.pop(number)
                        break
                else:
                    return None
            if (
                time.monotonic() - since < _SECONDS
                and not watched.readable_within(0)
            ):
                return watched
            watched.close()

    def close(self) -> None:
        """End them all, and keep none any more."""
        with self._lock:
            self._closed = True
            held, self._held = self._held, []
        for _key, _since, watched in held:
            watched.close()
