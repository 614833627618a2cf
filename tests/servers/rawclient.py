# SPDX-License-Identifier: Apache-2.0
"""What the tests of the servers share: a client that hides nothing."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import socket
import threading


def _descriptors() -> int:
    return len(os.listdir('/proc/self/fd'))


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Check that no thread and no descriptor is left at the end."""
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    assert set(threading.enumerate()) <= threads
    assert _descriptors() <= descriptors


class Client:
    """A raw-socket client that believes what it is told."""

    def __init__(self, server, context=None, timeout=5.0):
        address = server.host, server.port
        self.sock = socket.create_connection(address, timeout)
        if context:
            self.sock = context.wrap_socket(
                self.sock, server_hostname=server.host
            )
        self.file = self.sock.makefile('rb')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.file.close()
        self.sock.close()

    def send(self, path, method='GET', body=b'', **headers):
        lines = [f'{method} {path} HTTP/1.1', 'Host: test']
        lines += [f'{k.replace("_", "-")}: {v}' for k, v in headers.items()]
        head = '\r\n'.join([*lines, '', ''])
        self.sock.sendall(head.encode('latin-1') + body)

    def head(self):
        line = self.file.readline()
        if not line:
            raise EOFError
        status = int(line.split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode('latin-1').partition(':')
            headers[name.lower()] = value.strip()
        return status, headers

    def body(self, headers):
        if headers.get('transfer-encoding') == 'chunked':
            parts = []
            while size := int(self.file.readline(), 16):
                parts.append(self.file.read(size))
                assert self.file.readline() == b'\r\n'
            assert self.file.readline() == b'\r\n'
            return b''.join(parts)
        if 'content-length' in headers:
            return self.file.read(int(headers['content-length']))
        return self.file.read()

    def get(self, path, **options):
        self.send(path, **options)
        status, headers = self.head()
        if options.get('method') == 'HEAD' or status in (204, 304):
            return status, headers, b''
        return status, headers, self.body(headers)
