# SPDX-License-Identifier: Apache-2.0
"""Bytes to a server of HTTP and back, as they are."""

from __future__ import annotations

import contextlib
import re
import socket
import typing


class Server(typing.Protocol):
    """What can be connected to."""

    @property
    def url(self) -> str:
        """Its URL, with a port."""


def connect(server: Server, timeout: float = 5.0) -> socket.socket:
    """A connection without a request."""
    host, _, port = server.url.split('/')[2].rpartition(':')
    return socket.create_connection((host, int(port)), timeout)


def all_of(sock: socket.socket) -> bytes:
    """What comes until the end."""
    found = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(1 << 20):
            found += piece
    return bytes(found)


def statuses(answers: bytes) -> list[int]:
    """The status of each answer."""
    return [int(each) for each in re.findall(rb'HTTP/1\.1 ([0-9]+) ', answers)]
