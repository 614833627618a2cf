# SPDX-License-Identifier: Apache-2.0
"""Waits for what a client sends next, awake for a moment if it is quick.

A thread that sleeps has to be woken up, and its CPU as well: with one read
at a time that takes longer than to answer it. QEMU polls so, too.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time

# Seconds to wait awake, and what is quick; how often a client has to be
# quick again where that was in vain.
_AWAKE, _QUICK, _VAIN = 50e-6, 200e-6, 32
# One thread of the process waits awake at a time.
_VIGIL = threading.Lock()
_NOW = int(socket.MSG_DONTWAIT)


class Receiver:
    """Of one connection; one thread uses it.

    :param sock: it blocks
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # Above 0: the client is quick; below: how often it has to be first.
        self._quick = 0
        self._may = not isinstance(sock, ssl.SSLSocket) and (
            len(os.sched_getaffinity(0)) > 1
        )

    def receive(self, view: memoryview) -> int:
        """Read what comes; 0 at the end. Blocks.

        :raises OSError: the client is gone
        """
        sock = self._sock
        if self._quick > 0 and _VIGIL.acquire(blocking=False):
            try:
                end = time.perf_counter() + _AWAKE
                while time.perf_counter() < end:
                    try:
                        return sock.recv_into(view, 0, _NOW)
                    except BlockingIOError:
                        pass
            finally:
                _VIGIL.release()
            self._quick = -_VAIN
        started = time.perf_counter()
        count = sock.recv_into(view)
        if self._may and time.perf_counter() - started < _QUICK:
            self._quick += 1
        return count
