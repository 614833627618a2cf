# SPDX-License-Identifier: Apache-2.0
"""Makes what is put durable after a while, beside those who put it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import logging
import threading
import time
import typing

from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer.cache import blocks as _blocks

LOG = logging.getLogger(__name__)

# What was put is made durable after so many bytes, or seconds.
_BYTES = 64 << 20
_SECONDS = 5.0
_TICK = 0.1
_PATIENCE = 10.0


class Flusher:
    """A thread that flushes blocks. Thread-safe.

    :param images: tells what is open
    :param failed: called in the thread with what keeps them from the disk
    """

    def __init__(
        self,
        images: Callable[[], Iterable[_blocks.Blocks]],
        failed: Callable[[exceptions.TransferError], None],
    ) -> None:
        self._images = images
        self._failed = failed
        self._closing = threading.Event()
        self._put = threading.Event()
        #: How many blocks were made durable.
        self.flushed = 0
        self._thread = threading.Thread(
            target=self._run, name='oslo-transfer-flush', daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self) -> None:
        """Something was put."""
        self._put.set()

    def close(self) -> None:
        """End; what is being flushed is waited for, up to 10 s."""
        self._closing.set()
        self._put.set()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._put.wait()
            self._put.clear()
            while self._flush_due() and not self._closing.wait(_TICK):
                pass

    def _flush_due(self) -> bool:
        """Flush what is due; returns whether something will be."""
        now = time.monotonic()
        left = False
        for image in self._images():
            count = image.unflushed
            if count and (
                count >= _BYTES or now - image.unflushed_since >= _SECONDS
            ):
                try:
                    self.flushed += image.flush()
                except exceptions.TransferError as exc:
                    self._failed(exc)
                except Exception:
                    # A bug must not keep the others from being flushed.
                    LOG.exception('flushing %s', image.path)
            left = left or image.unflushed > 0
        return left
