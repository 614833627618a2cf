# SPDX-License-Identifier: Apache-2.0
"""A small HTTP and HTTPS server of a directory, with ranges and PUT.

A program, see :class:`demo.program.Program`. At its end it prints how many
bytes of files it has sent.
"""

from __future__ import annotations

import argparse
import functools
import http
import http.server
import os
import pathlib
import re
import ssl
import sys
import threading
import time
import typing

_BLOCK = 1 << 20
# What one connection sends at a time, where all share a rate.
_SHARE = 64 * 1024
_TICK = 0.005


class _Uplink:
    """What all connections send, and how fast they may together.

    :param rate: in bytes per second, or None
    """

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0
        self.sent = 0

    def take(self, most: int) -> int:
        """Wait for a turn; returns how many bytes may be sent now."""
        count = min(most, _BLOCK if self._rate is None else _SHARE)
        wait = 0.0
        with self._lock:
            self.sent += count
            if self._rate:
                now = time.monotonic()
                begins = max(now, self._free_at)
                self._free_at = begins + count / self._rate
                wait = begins - now
        time.sleep(wait)
        return count


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def __init__(
        self,
        *arguments: typing.Any,
        root: pathlib.Path,
        rate: int | None,
        uplink: _Uplink,
    ) -> None:
        self._root = root
        self._rate = rate
        self._uplink = uplink
        super().__init__(*arguments)

    def _path(self) -> pathlib.Path:
        # Only plain names: nothing leads out of the directory.
        return self._root / os.path.basename(self.path)

    def do_GET(self) -> None:  # noqa: N802
        """Send a file or a range of it."""
        try:
            file = open(self._path(), 'rb')
        except OSError:
            self.send_error(http.HTTPStatus.NOT_FOUND)
            return
        with file:
            found = os.fstat(file.fileno())
            etag = (
                f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'
            )
            span = self._asked(found.st_size, etag)
            start, end = span or (0, found.st_size)
            self.send_response(206 if span else 200)
            self.send_header('Accept-Ranges', 'bytes')
            self.send_header('ETag', etag)
            self.send_header('Content-Length', str(end - start))
            if span:
                self.send_header(
                    'Content-Range',
                    f'bytes {start}-{end - 1}/{found.st_size}',
                )
            self.end_headers()
            try:
                self._send(file, start, end)
            except OSError:
                # A client may take less than it asked for.
                self.close_connection = True

    def _asked(self, size: int, etag: str) -> tuple[int, int] | None:
        match = re.fullmatch(
            r'bytes=(\d+)-(\d*)', self.headers.get('Range', '')
        )
        if match is None or self.headers.get('If-Range', etag) != etag:
            return None
        start = int(match.group(1))
        end = min(int(match.group(2) or size - 1) + 1, size)
        return (start, end) if start < end else None

    def _send(self, file: typing.BinaryIO, start: int, end: int) -> None:
        began = time.monotonic()
        position = start
        while position < end:
            step = end - position
            if self._rate:
                due = int((time.monotonic() - began) * self._rate)
                step = min(step, due - (position - start))
                time.sleep(_TICK)
            if step <= 0:
                continue
            step = self._uplink.take(step)
            if isinstance(self.connection, ssl.SSLSocket):
                file.seek(position)
                block = file.read(step)
                self.connection.sendall(block)
                position += len(block)
            else:
                position += self.connection.sendfile(file, position, step)

    def do_PUT(self) -> None:  # noqa: N802
        """Take a file; it appears when it is complete."""
        path = self._path()
        left = int(self.headers['Content-Length'])
        part = path.with_name(f'.{path.name}.part')
        with open(part, 'wb') as file:
            while left:
                block = self.rfile.read(min(left, _BLOCK))
                if not block:
                    self.close_connection = True
                    part.unlink()
                    return
                file.write(block)
                left -= len(block)
        part.rename(path)
        self.send_response(http.HTTPStatus.CREATED)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing."""


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--certificate')
    parser.add_argument('--rate', type=int, help='bytes per second each')
    parser.add_argument('--uplink', type=int, help='bytes per second of all')
    parser.add_argument('root', type=pathlib.Path)
    arguments = parser.parse_args()
    uplink = _Uplink(arguments.uplink)
    server = http.server.ThreadingHTTPServer(
        ('localhost', 0),
        functools.partial(
            _Handler,
            root=arguments.root,
            rate=arguments.rate,
            uplink=uplink,
        ),
    )
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    print(uplink.sent)


if __name__ == '__main__':
    main()
