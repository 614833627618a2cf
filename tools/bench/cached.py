# SPDX-License-Identifier: Apache-2.0
"""What the worker does with the block cache."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import shutil
import statistics
import tempfile
import threading
import time
import typing

if typing.TYPE_CHECKING:
    from oslo_transfer.cache import image as _image

_READ = 1 << 20
_BLOCK = 64 * 1024


@contextlib.contextmanager
def _empty(src: str, where: str) -> Iterator[_image.CachedImage]:
    """An image with an empty cache, whose origin was looked at."""
    import oslo_transfer
    from oslo_transfer.cache import blocks as _blocks
    from oslo_transfer.cache import image as _image
    from oslo_transfer.cache import opts
    from oslo_transfer import call as _call

    from bench import worker

    configuration = worker.configuration({})
    ctx = _call.Call(configuration, None, None, None).ctx
    location = oslo_transfer.Location(src)
    first = [ctx.replace(piecemeal=True).open_source(location)]
    size = first[0].size
    assert size is not None
    directory = tempfile.mkdtemp(dir=where)
    blocks = _blocks.Blocks(directory, size, _BLOCK, bytes(32))
    try:
        with _image.CachedImage(
            blocks,
            lambda ctx: first.pop() if first else ctx.open_source(location),
            ctx,
            streams=configuration[opts.GROUP].streams,
        ) as image:
            yield image
    finally:
        blocks.close()
        shutil.rmtree(directory)


def read(
    src: str,
    where: str,
    length: int | None = None,
) -> dict[str, typing.Any]:
    """Read an image in order through an empty cache.

    :param length: how much of it; None for all
    """
    from oslo_transfer import buffers

    with _empty(src, where) as image, image.reader() as reader:
        length = length or image.size
        buffer = buffers.aligned(_READ)
        started = time.perf_counter()
        for offset in range(0, length, _READ):
            reader.read(buffer[: length - offset], offset)
        seconds = time.perf_counter() - started
        return {'seconds': seconds, **image.statistics()}


def collapse(
    src: str,
    where: str,
    readers: int,
) -> dict[str, typing.Any]:
    """Have many wait for one cold block, again and again.

    :returns: how much longer the slowest waits than one who is alone
    """
    alone: list[float] = []
    together: list[float] = []
    with _empty(src, where) as image:
        for turn in range(20):
            count = readers if turn % 2 else 1
            # Far enough from each other not to seem to be read in order.
            offset = (turn * 97 % 89 + 1) * (8 << 20) % image.size
            before = image.statistics()['requests']
            longest = _race(image, offset, count)
            (together if turn % 2 else alone).append(longest)
            if image.statistics()['requests'] != before + 1:
                raise OSError('a block was asked for more than once')
    added = statistics.median(together) - statistics.median(alone)
    return {'seconds': max(added, 0.0), 'alone': statistics.median(alone)}


def _race(image: _image.CachedImage, offset: int, count: int) -> float:
    """Seconds until the last one of those who read a block has it."""
    gate = threading.Barrier(count + 1)
    ends: list[float] = []

    def work() -> None:
        with image.reader() as reader:
            buffer = memoryview(bytearray(4096))
            gate.wait()
            reader.read(buffer, offset)
            ends.append(time.perf_counter())

    threads = [threading.Thread(target=work) for _number in range(count)]
    for thread in threads:
        thread.start()
    gate.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return max(ends) - started
