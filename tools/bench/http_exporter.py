# SPDX-License-Identifier: Apache-2.0
"""A process that exports an image over HTTP, from a cache that is full.

Run as a program with the path of an image, a directory for the cache, whether
blocks may be evicted from it (yes, or nothing) and, for TLS, the file of a
certificate with its key, it tells the URL and serves until its input ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

_BLOCK = 64 * 1024
_READ = 1 << 20


class Exporter:
    """The other end: starts the process.

    :param arguments: of the program
    :ivar url: of the image
    """

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-m', __name__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self.close()
            raise OSError('the export did not start')

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def main(src: str, where: str, evicts: str, certificate: str = '') -> None:
    """Serve until the input ends."""
    import oslo_transfer
    from oslo_transfer.cache import blocks as _blocks
    from oslo_transfer.cache import image as _image
    from oslo_transfer import call as _call
    from oslo_transfer.export import http_server
    from oslo_transfer.export import listening
    from oslo_transfer import tls

    from bench import worker

    ctx = _call.Call(worker.configuration({}), None, None, None).ctx
    location = oslo_transfer.Location(src)
    context = tls.server_context('bench', certificate) if certificate else None
    blocks = _blocks.Blocks(where, os.path.getsize(src), _BLOCK, bytes(32))
    # As that of an image which is to be complete.
    blocks.stays = not evicts
    with (
        contextlib.closing(blocks),
        _image.CachedImage(
            blocks, lambda ctx: ctx.open_source(location), ctx, streams=2
        ) as image,
        http_server.HttpServer(
            {'image': image}, listening.Address(), tls=context
        ) as server,
    ):
        with image.reader() as reader:
            buffer = memoryview(bytearray(_READ))
            for offset in range(0, image.size, _READ):
                reader.read(buffer[: image.size - offset], offset)
        print(server.url_of('image'), flush=True)
        sys.stdin.read()


if __name__ == '__main__':
    main(*sys.argv[1:])
