# SPDX-License-Identifier: Apache-2.0
"""Joins two network devices by a long line: each packet takes its time.

For hosts whose kernel has no netem. The devices have no addresses, and what
comes by one leaves by the other: packets of the size that the kernel gives to
a device which segments by itself, so that few of them carry much. Run as a
program it says when it is ready, and ends with its input.

packet(7).
"""

from __future__ import annotations

import collections
import select
import socket
import sys
import time

_ETH_P_ALL = 3
# linux/if_packet.h
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
# asm-generic/socket.h: also above the limit of the host.
_SO_RCVBUFFORCE = 33
_HELD = 32 << 20
_MOST = 70_000


class _Way:
    """From one device to the other.

    :param delay: in seconds
    """

    def __init__(
        self, source: socket.socket, sink: socket.socket, delay: float
    ) -> None:
        self._source, self._sink = source, sink
        self._delay = delay
        self._queue: collections.deque[tuple[float, bytes]] = (
            collections.deque()
        )

    def take(self) -> None:
        """Take what has come."""
        due = time.monotonic() + self._delay
        while True:
            try:
                self._queue.append((due, self._source.recv(_MOST)))
            except BlockingIOError:
                return

    def give(self) -> float:
        """Send what is due; returns when the next is."""
        while self._queue:
            due, packet = self._queue[0]
            if due > time.monotonic():
                return due
            self._queue.popleft()
            try:
                self._sink.send(packet)
            except OSError:
                pass  # As lines do, it loses what it cannot carry.
        return float('inf')


def _open(device: str) -> socket.socket:
    # With a protocol it would take packets of all devices until it is bound.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    # The kernel says what it left to the device: checksums, segments.
    sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _HELD)
    sock.bind((device, _ETH_P_ALL))
    sock.setblocking(False)
    return sock


def main() -> None:
    """Pass on until the input ends."""
    one, other, delay = sys.argv[1:]
    with _open(one) as left, _open(other) as right:
        ways = (
            _Way(left, right, float(delay)),
            _Way(right, left, float(delay)),
        )
        print('ready', flush=True)
        while True:
            due = min(way.give() for way in ways)
            # select() alone waits for less than milliseconds.
            wait = min(1.0, max(0.0, due - time.monotonic()))
            ready, _, _ = select.select([left, right, sys.stdin], [], [], wait)
            if sys.stdin in ready:
                return
            for way in ways:
                way.take()


if __name__ == '__main__':
    main()
