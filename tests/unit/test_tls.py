# SPDX-License-Identifier: Apache-2.0
"""The certificates of a server, while it runs."""

from __future__ import annotations

import pathlib
import socket
import ssl

import pytest

from oslo_transfer import tls


@pytest.fixture
def paths(certs, tmp_path):
    found = tmp_path / 'host.pem', tmp_path / 'host.key'
    for path, right in zip(found, certs.pair('wrong-host')):
        path.write_bytes(pathlib.Path(right).read_bytes())
    return found


def test_rights_that_come_late(certs, paths, monkeypatch):
    """A file may be there before it can be read."""
    context = tls.ServerContext('group', *map(str, paths))
    load, refused = ssl.SSLContext.load_cert_chain, []

    def refuse(*_args, **_kwargs):
        refused.append(True)
        raise PermissionError('no')

    def takes():
        here, there = socket.socketpair()
        with there, context.wrap_socket(here) as secured:
            return secured.context

    first = takes()
    for path, right in zip(paths, certs.pair()):
        path.write_bytes(pathlib.Path(right).read_bytes())
    monkeypatch.setattr(ssl.SSLContext, 'load_cert_chain', refuse)
    # It is tried once, and not by each client.
    assert takes() is takes() is first and refused == [True]
    monkeypatch.setattr(ssl.SSLContext, 'load_cert_chain', load)
    assert takes() is first
    paths[1].chmod(0o640)
    assert takes() is not first
