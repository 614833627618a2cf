# SPDX-License-Identifier: Apache-2.0
"""A process that exports an image over NBD, from a cache that is full.

Run as a program with the path of an image, a directory for the cache and
the path of a unix socket, it says when it is ready and serves until its
input ends.
"""

from __future__ import annotations

import subprocess
import sys


class Exporter:
    """The other end: starts the process.

    :param arguments: of the program
    """

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-m', __name__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self.close()
            raise OSError('the export did not start')

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def main(src: str, where: str, path: str) -> None:
    """Serve until the input ends."""
    import oslo_transfer

    from bench import worker

    conf = worker.configuration({})
    with oslo_transfer.open_cached(src, where, conf=conf) as source:
        buffer = bytearray(1 << 20)
        with source.stream(0, None) as stream:
            while stream.readinto(buffer):
                pass
        with source.export(path):
            print('ready', flush=True)
            sys.stdin.read()


if __name__ == '__main__':
    main(*sys.argv[1:])
