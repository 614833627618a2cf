# SPDX-License-Identifier: Apache-2.0
"""Many clients who read files over HTTP at once, for some seconds.

Run as a program with how many clients, the seconds and the URLs of files of
one server, it prints JSON: the bytes that each client has read, and what went
wrong. Each reads one file after another, over one connection.
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools
import json
import re
import selectors
import socket
import subprocess
import sys
import time
import typing
import urllib.parse

_READ = 256 * 1024
_HEAD = 16 * 1024
_CONNECT_SECONDS = 10.0
_LENGTH = re.compile(rb'\r\ncontent-length: *([0-9]+)\r\n', re.I)


class Found(typing.NamedTuple):
    """What came of it.

    :ivar read: bytes, by client
    :ivar errors: what went wrong
    """

    read: list[int]
    errors: list[str]

    @property
    def unfairness(self) -> float:
        """How often the slowest fits into the mean."""
        mean = sum(self.read) / len(self.read)
        return mean / max(1, min(self.read))


def run(urls: Sequence[str], count: int, seconds: float) -> Found:
    """Have a process of its own do it."""
    done = subprocess.run(
        [
            *(sys.executable, '-m', __name__),
            *(str(count), str(seconds), *urls),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return Found(**json.loads(done.stdout))


class _Session:
    """One client."""

    def __init__(self, host: str, port: int, paths: Sequence[str]) -> None:
        self._host = f'{host}:{port}'
        self._paths = itertools.cycle(paths)
        self.sock = socket.create_connection((host, port), _CONNECT_SECONDS)
        self.sock.setblocking(False)
        self._head = b''
        self._left = 0
        self.read = 0
        self._ask()

    def _ask(self) -> None:
        path = next(self._paths)
        # So little goes out at once.
        self.sock.send(
            f'GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n'.encode()
        )
        self._head = b''

    def go_on(self, buffer: memoryview) -> None:
        """Take what there is.

        :raises OSError: it is not what was asked for
        """
        if self._left:
            count = self.sock.recv_into(buffer[: self._left])
            if not count:
                raise OSError('an answer ended early')
            self._took(count)
            return
        more = self.sock.recv(_HEAD)
        if not more:
            raise OSError('closed instead of an answer')
        self._head += more
        head, end, body = self._head.partition(b'\r\n\r\n')
        if not end:
            return
        length = _LENGTH.search(head + b'\r\n')
        if not head.startswith(b'HTTP/1.1 200 ') or length is None:
            raise OSError(head.partition(b'\r\n')[0].decode())
        self._left = int(length.group(1))
        self._took(len(body))

    def _took(self, count: int) -> None:
        self._left -= count
        self.read += count
        if not self._left:
            self._ask()


def _sessions(urls: Sequence[str], count: int) -> list[_Session]:
    split = [urllib.parse.urlsplit(url) for url in urls]
    host, port = split[0].hostname, split[0].port
    assert host and port
    paths = [each.path for each in split]
    return [
        # Each begins with another one.
        _Session(host, port, [*paths[number:], *paths[:number]])
        for number in (each % len(paths) for each in range(count))
    ]


def main() -> None:
    """Do it, and print what came of it."""
    count, seconds, *urls = sys.argv[1:]
    sessions = _sessions(urls, int(count))
    errors: list[str] = []
    buffer = memoryview(bytearray(_READ))
    end = time.monotonic() + float(seconds)
    with selectors.DefaultSelector() as selector:
        for each in sessions:
            selector.register(each.sock, selectors.EVENT_READ, each)
        while (left := end - time.monotonic()) > 0:
            for key, _events in selector.select(left):
                try:
                    key.data.go_on(buffer)
                except OSError as exc:
                    errors.append(str(exc))
                    selector.unregister(key.fileobj)
    print(
        json.dumps(
            {'read': [each.read for each in sessions], 'errors': errors}
        )
    )


if __name__ == '__main__':
    main()
