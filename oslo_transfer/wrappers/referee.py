# SPDX-License-Identifier: Apache-2.0
"""Takes work away from locations that hold up a copy."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence
import threading
import typing

from oslo_transfer import exceptions
from oslo_transfer.wrappers import mirror as _mirror

if typing.TYPE_CHECKING:
    from oslo_transfer.wrappers import mirrors as _mirrors

# A stream is taken away from a location that is this many times slower
# than another one, judged after so many seconds of reading.
_MUCH_SLOWER = 8
_JUDGED_AFTER = 0.2
# One that gives nothing for so long is left alone if there is another.
_SILENCE = 5.0
_PERIOD = 0.05


class Referee:
    """Watches from a thread: a stream that hangs cannot notice it itself.

    :param locations: all of them
    :param streams: those at work; changes
    :param lock: guards both
    """

    def __init__(
        self,
        locations: Sequence[_mirror.Mirror],
        streams: Collection[_mirrors.MirrorStream],
        lock: threading.Lock,
    ) -> None:
        self._locations = locations
        self._streams = streams
        self._lock = lock
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; does nothing if it has begun."""
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(
                    target=self._run,
                    name='oslo-transfer-referee',
                    daemon=True,
                )
                self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopped.wait(_PERIOD):
            for stream in self._hopeless():
                stream.relieve()
            for location in self._unresponsive():
                location.abandon()

    def _unresponsive(self) -> list[_mirror.Mirror]:
        """Locations that do not answer, where another one may."""
        with self._lock:
            found = [
                each
                for each in self._locations
                if each.unanswered >= _SILENCE and self._others(each)
            ]
            for location in found:
                location.failed(
                    exceptions.Stalled(
                        f'{location.name}: no answer in {_SILENCE:g} s, and '
                        f'there are others'
                    )
                )
            return found

    def _hopeless(self) -> list[_mirrors.MirrorStream]:
        """Streams that others will finish sooner."""
        with self._lock:
            found = []
            for stream in self._streams:
                others = self._others(stream.mirror)
                if stream.spared or not others:
                    continue
                best = max(each.rate or 0.0 for each in others)
                pace = stream.pace
                if pace.silent >= _SILENCE or (
                    pace.seconds >= _JUDGED_AFTER
                    and pace.rate * _MUCH_SLOWER < best
                ):
                    stream.mirror.too_slow(
                        f'it gives {pace.rate / 1e6:.2f} MB/s, another '
                        f'location {best / 1e6:.2f} MB/s'
                    )
                    found.append(stream)
            return found

    def _others(self, but: _mirror.Mirror) -> list[_mirror.Mirror]:
        """Those that can take over."""
        healthy = [
            each for each in self._locations if each.healthy and each != but
        ]
        # A rate from when there were fewer streams would be unfair.
        return [each for each in healthy if each.active] or healthy
