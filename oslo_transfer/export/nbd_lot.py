# SPDX-License-Identifier: Apache-2.0
"""One thread that serves all connections with which that is easy.

Threads of many clients fight for the interpreter: with 32 of them that halves
what all of them get. So a thread whose client reads small pieces of what
is there leaves the connection here, and is called when it is not so any
more: what has to be fetched, what is large, a client that does not read.
Nothing here ever waits for one client.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import typing

from oslo_transfer.export import nbd_vigil
from oslo_transfer import oserrors

LOG = logging.getLogger(__name__)


class Parked(typing.Protocol):
    """A connection whose thread waits here."""

    def glance(self) -> bool:
        """Answer what can be answered without waiting.

        :returns: whether that was all
        """


class Lot:
    """Connections whose threads wait. Thread-safe."""

    def __init__(self) -> None:
        #: Whether there are so many clients that it pays to come here.
        self.crowded = False
        self._lock = threading.Lock()
        self._parked: dict[int, tuple[Parked, threading.Lock]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def park(self, parked: Parked, fd: int) -> None:
        """Leave a connection here; blocks until its thread is needed.

        :param fd: its socket, which blocks
        """
        called = threading.Lock()
        called.acquire()
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                self._start()
            self._parked[fd] = parked, called
            self._epoll.register(fd, select.EPOLLIN)
        called.acquire()

    def _start(self) -> None:
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._thread = threading.Thread(
            target=self._watch, name='oslo-transfer-nbd-lot', daemon=True
        )
        self._thread.start()

    def _watch(self) -> None:
        epoll, parked = self._epoll, self._parked
        vigil = nbd_vigil.Vigil(
            lambda: epoll.poll(0) or None, lambda: epoll.poll()
        )
        while not self._closed:
            for fd, events in vigil.wait():
                if fd in parked and not (
                    events == select.EPOLLIN and self._glance(parked[fd][0])
                ):
                    self._call(fd)
        for fd in list(parked):
            self._call(fd)
        epoll.close()
        oserrors.close(self._bell)

    @staticmethod
    def _glance(parked: Parked) -> bool:
        try:
            return parked.glance()
        except Exception:
            LOG.exception('answering a client of NBD')
            return False

    def _call(self, fd: int) -> None:
        """Have its thread come."""
        with self._lock:
            _parked, called = self._parked.pop(fd)
            self._epoll.unregister(fd)
        called.release()

    def close(self) -> None:
        """Call all threads; idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
        if thread is not None:
            os.eventfd_write(self._bell, 1)
            thread.join()
