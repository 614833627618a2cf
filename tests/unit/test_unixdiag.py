# SPDX-License-Identifier: Apache-2.0
"""Clients of a unix socket are counted while they are there."""

from __future__ import annotations

import socket

import pytest

from oslo_transfer import unixdiag


def refused():
    raise PermissionError


@pytest.mark.parametrize('known', [True, False])
def test_connections(known, tmp_path, monkeypatch):
    if not known:
        monkeypatch.setattr(unixdiag, '_dump', refused)
    path = str(tmp_path / 'a socket\nof ours')
    if not known:
        path = str(tmp_path / 'a socket')
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert unixdiag.connections(path) == 0
        clients = []
        for count in (1, 2):
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].connect(path)
            clients.append(server.accept()[0])
            assert unixdiag.connections(path) == count
        assert unixdiag.connections(path + 'x') == 0
        clients[0].close()
        # The server has not noticed.
        assert unixdiag.connections(path) == (1 if known else 2)
        for each in clients:
            each.close()
        assert unixdiag.connections(path) == 0


def test_many_sockets(tmp_path):
    """The kernel's answer comes in several parts."""
    path = str(tmp_path / 's')
    opened = [socket.socket(socket.AF_UNIX)]
    opened[0].bind(path)
    opened[0].listen(600)
    for _ in range(400):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        opened += [client, opened[0].accept()[0]]
    assert unixdiag.connections(path) == 400
    for each in opened:
        each.close()
