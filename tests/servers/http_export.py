# SPDX-License-Identifier: Apache-2.0
"""An HTTP export of a file in a process of its own.

Run as a program with the path of the file it serves it as /image, and tells
its URL.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import typing

from oslo_transfer.cache import plainfile
from oslo_transfer.export import http_server
from oslo_transfer.export import listening

_ROOT = pathlib.Path(__file__).parents[2]


class HttpExport:
    """Serves a file while it is entered.

    :ivar url: of the file
    """

    url = ''

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def __enter__(self) -> typing.Self:
        self._process = subprocess.Popen(
            [sys.executable, '-m', __name__, self._path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, 'it did not start'
        return self

    def __exit__(self, *_error: object) -> None:
        """It ends at the end of its input."""
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def memory(self) -> int:
        """Bytes of memory that are its own."""
        text = pathlib.Path(f'/proc/{self.pid}/status').read_text()
        fields = dict(line.split(':\t') for line in text.splitlines())
        return int(fields['RssAnon'].removesuffix('kB')) << 10


def main() -> None:
    """Serve until the input ends."""
    with (
        contextlib.closing(plainfile.PlainFile(sys.argv[1])) as image,
        http_server.HttpServer(
            {'image': image}, listening.Address()
        ) as server,
    ):
        print(server.url_of('image'), flush=True)
        sys.stdin.read()


if __name__ == '__main__':
    main()
