# SPDX-License-Identifier: Apache-2.0
"""The long line of the tests is as long as it says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from tests.servers import farline
from tests.servers import resource

DATA = resource.pattern(1 << 20)


@pytest.fixture
def echo():
    """A server that sends back what it gets, until its client has ended."""
    with socket.create_server(('127.0.0.1', 0)) as listener:

        def serve():
            while True:
                try:
                    client, _address = listener.accept()
                except OSError:
                    return
                with client:
                    got = b''
                    while data := client.recv(1 << 16):
                        got += data
                    client.sendall(got)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def ask(port, data):
    with socket.create_connection(('127.0.0.1', port)) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile('rb') as file:
            return file.read()


def test_round_trips(echo):
    with farline.FarLine(echo, round_trip=0.2) as line:
        began = time.monotonic()
        assert ask(line.port, b'1') == b'1'
        # The handshake, and the answer.
        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize('kind', [farline.FarLine, farline.Program])
def test_rate(echo, kind):
    with kind(echo, rate=32 << 20, round_trip=0.1) as line:
        began = time.monotonic()
        assert ask(line.port, DATA) == DATA
        # Up, then down, a quarter of a second each.
        assert time.monotonic() - began >= 0.6
        assert line.sent == len(DATA)


def test_a_line_that_is_cut(echo):
    with farline.FarLine(echo, round_trip=0.1) as line:
        with socket.create_connection(('127.0.0.1', line.port)) as sock:
            sock.sendall(b'1')
            line.cut()
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b''
        with pytest.raises(ConnectionRefusedError):
            ask(line.port, b'1')
