# SPDX-License-Identifier: Apache-2.0
"""A server that gives each connection the same bytes per second.

nginx's ``limit_rate`` sends in bursts. This one sends a little every few
milliseconds, as a loaded server or a long line does. Run as a program it
prints its port and serves until its input ends.
"""

from __future__ import annotations

import http.server
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import typing

_TICK = 0.005
_ETAG = '"1"'


class Paced:
    """Runs the server in a process of its own.

    :param path: the file that it serves, whatever is asked for
    :param rate: bytes per second and connection
    :param ranges: whether it knows them
    """

    def __init__(self, path: pathlib.Path, rate: int, ranges: bool) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'bench.paced',
                str(path),
                str(rate),
                str(int(ranges)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        port = self._process.stdout.readline().strip()
        #: Where the file is.
        self.url = f'http://127.0.0.1:{port}/image'

    def close(self) -> None:
        """End the process: it stops at the end of its input."""
        self._process.communicate()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    path_served: typing.ClassVar[str]
    rate: typing.ClassVar[int]
    ranges: typing.ClassVar[bool]

    def do_GET(self) -> None:  # noqa: N802
        """Send the file or a range of it."""
        with open(self.path_served, 'rb') as file:
            size = os.fstat(file.fileno()).st_size
            start, end = self._asked(size)
            whole = (start, end) == (0, size)
            self.send_response(200 if whole else 206)
            self.send_header('Content-Length', str(end - start))
            if self.ranges:
                self.send_header('Accept-Ranges', 'bytes')
                self.send_header('ETag', _ETAG)
            if not whole:
                self.send_header(
                    'Content-Range', f'bytes {start}-{end - 1}/{size}'
                )
            self.end_headers()
            self._send(file.fileno(), start, end)

    def _asked(self, size: int) -> tuple[int, int]:
        match = re.fullmatch(
            r'bytes=(\d+)-(\d*)', self.headers.get('Range', '')
        )
        if match is None or not self.ranges:
            return 0, size
        last = int(match.group(2) or size - 1)
        return int(match.group(1)), min(last + 1, size)

    def _send(self, fd: int, start: int, end: int) -> None:
        self.close_connection = True
        began = time.monotonic()
        sent = 0
        try:
            while start + sent < end:
                due = int((time.monotonic() - began) * self.rate) - sent
                if due > 0:
                    sent += os.sendfile(
                        self.connection.fileno(),
                        fd,
                        start + sent,
                        min(due, end - start - sent),
                    )
                time.sleep(_TICK)
        except ConnectionError:
            pass  # A client may take less than it asked for.

    def log_message(self, *_arguments: object) -> None:
        """Nothing."""


def main() -> None:
    """Serve until the input ends."""
    _Handler.path_served = sys.argv[1]
    _Handler.rate = int(sys.argv[2])
    _Handler.ranges = bool(int(sys.argv[3]))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == '__main__':
    main()
