# SPDX-License-Identifier: Apache-2.0
"""What tests of the service share: a place for it, and a fake seeder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import tempfile

from oslo_transfer import exceptions
from oslo_transfer.service import daemon
from oslo_transfer.service import seeder


class Place:
    """A directory with a short name: that of a socket must not be long."""

    def __init__(self, conf):
        self._temporary = tempfile.TemporaryDirectory(prefix='ot')
        self.path = pathlib.Path(self._temporary.name)
        self.conf = conf
        self.socket = self.path / 'run' / 'control.sock'
        self.seeds = self.path / 'state' / 'seeds'
        self.set('control_socket', str(self.socket), 'oslo_transfer_service')
        self.set('state_path', str(self.path / 'state'), 'oslo_transfer')

    def set(self, name, value, group='oslo_transfer_seed'):
        self.conf.set_override(name, value, group=group)

    def serve(self, *roles):
        return daemon.Service(self.conf, roles)

    def close(self):
        self._temporary.cleanup()

    def send(self, data, *, end=False):
        """Send bytes; return the status and the JSON of the answer."""
        with self.connection() as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
                if end:
                    sock.shutdown(socket.SHUT_WR)
            return receive(sock)

    def ask(self, method, path, body=None, head=''):
        data = b'' if body is None else body
        if isinstance(data, dict):
            data = json.dumps(data).encode()
        if body is not None:
            head = f'Content-Length: {len(data)}\r\n{head}'
        request = f'{method} {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n'
        return self.send(request.encode() + data)

    def connection(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        sock.connect(str(self.socket))
        return sock


def receive(sock):
    """Return the status and the JSON object of an answer, until its end."""
    answer = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            answer += data
    if not answer:
        return None, None
    head, _, body = bytes(answer).partition(b'\r\n\r\n')
    return int(head.split()[1]), json.loads(body)


def open_files():
    """The files that this process has open, by their paths."""
    found = []
    for name in os.listdir('/proc/self/fd'):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f'/proc/self/fd/{name}'))
    return found


class FakeSeeding:
    """Sends nothing, and says what it is told to."""

    def __init__(self, meta, fd):
        self.meta = meta
        self.fd = fd
        self.now = seeder.Stats()
        self.removed = False

    def set(self, **changes):
        self.now = dataclasses.replace(self.now, **changes)

    def stats(self):
        return self.now

    def remove(self):
        # The descriptor has to be there to the last.
        os.fstat(self.fd)
        self.removed = True


class FakeSeeder:
    """Notes what it is given."""

    def __init__(self, conf=None):
        self.added = []
        self.closed = False
        self.refuses = False

    def add(self, meta, fd):
        if self.refuses:
            raise exceptions.ProtocolError('refused')
        seeding = FakeSeeding(meta, fd)
        self.added.append(seeding)
        return seeding

    @property
    def live(self):
        return [each for each in self.added if not each.removed]

    def close(self):
        self.closed = True
