# SPDX-License-Identifier: Apache-2.0
"""Reads a torrent at any offset: pieces are asked for as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
import os
import tempfile
import threading
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer.drivers.bittorrent import swarm as _swarm
from oslo_transfer.drivers.bittorrent import webseed
from oslo_transfer import exceptions
from oslo_transfer import oserrors

if typing.TYPE_CHECKING:
    from oslo_transfer.drivers.bittorrent import metainfo

_WAIT = 0.05


class Reading:
    """The pieces that streams have asked for, in a file of their own.

    :param meta: the torrent
    :param group: the options of the driver
    :param ctx: the limits
    :raises NotFound: ``work_path`` does not exist
    """

    def __init__(
        self,
        meta: metainfo.Metainfo,
        group: typing.Any,
        ctx: _context.Context,
    ) -> None:
        self.meta = meta
        self.ctx = ctx
        self._ahead = max(1, group.readahead_bytes // meta.piece_length)
        self._lock = threading.Lock()
        self._demand: dict[TorrentStream, range] = {}
        self.closed = False
        with oserrors.os_errors('making a file for pieces'):
            self._file = tempfile.TemporaryFile(dir=group.work_path)
            self._file.truncate(meta.size)
        try:
            self._swarm = _swarm.Swarm(
                meta,
                # It has no name, so that nothing is left if we are killed.
                f'/proc/self/fd/{self._file.fileno()}',
                group,
                ctx,
                have=meta.zero_pieces(),
                places=webseed.of(meta),
                demand=self._wanted,
            )
        except BaseException:
            self._file.close()
            raise

    def _wanted(self) -> Sequence[int]:
        """What streams wait for: first what each needs next."""
        with self._lock:
            windows = list(self._demand.values())
        nearest = sorted(
            (index - window.start, index)
            for window in windows
            for index in window
        )
        return list(dict.fromkeys(index for _distance, index in nearest))

    def need(self, stream: TorrentStream, index: int) -> None:
        """A stream has come to a piece; those behind it are asked for."""
        window = range(index, min(index + self._ahead, stream.last + 1))
        with self._lock:
            before = self._demand.get(stream, range(0))
            self._demand[stream] = window
        torrent = self._swarm.torrent
        torrent.want(each for each in window if each not in before)

    def drop(self, stream: TorrentStream) -> None:
        """A stream has ended."""
        with self._lock:
            gone = set(self._demand.pop(stream, ()))
            for window in self._demand.values():
                gone.difference_update(window)
        if not self.closed:
            self._swarm.torrent.forget(gone)

    def wait_for(self, stream: TorrentStream, index: int) -> None:
        """Wait until a piece can be read.

        :raises TransferError: it will not come
        """
        torrent = self._swarm.torrent
        while not torrent.readable(index):
            if self.closed or stream.stopped:
                raise exceptions.TransferCancelled('the source was closed')
            self._swarm.look_after()
            torrent.collect()
            torrent.tick()
            torrent.wait_readable(_WAIT)

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Read bytes that are there."""
        with oserrors.os_errors('reading pieces'):
            return os.preadv(self._file.fileno(), [buffer], offset)

    @property
    def from_peers(self) -> int:
        """Bytes that peers brought."""
        return self._swarm.torrent.stats().from_peers

    def close(self) -> None:
        """Leave the swarm and drop the pieces; idempotent."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._swarm.close()
        self._file.close()


class TorrentStream(base.Stream):
    """A run of bytes of a torrent.

    :param reading: gets the pieces
    :param offset: the first byte
    :param end: one behind the last byte; more than ``offset``
    """

    def __init__(self, reading: Reading, offset: int, end: int) -> None:
        super().__init__()
        self._reading = reading
        self._position = offset
        self._end = end
        self._piece = -1
        #: The last piece that it reads.
        self.last = (end - 1) // reading.meta.piece_length
        self.stopped = False

    def readinto(self, buffer: typing.Any) -> int:
        """Read at least one byte, as soon as its piece is there."""
        if self.stopped or self._reading.closed:
            raise exceptions.TransferCancelled('the stream was closed')
        self._reading.ctx.check()
        if self._position >= self._end:
            return 0
        index = self._position // self._reading.meta.piece_length
        if index != self._piece:
            self._piece = index
            self._reading.need(self, index)
            started = time.monotonic()
            self._reading.wait_for(self, index)
            self.waited += time.monotonic() - started
        offset, length = self._reading.meta.piece_span(index)
        view = memoryview(buffer).cast('B')
        most = min(self._end, offset + length) - self._position
        count = self._reading.pread(view[:most], self._position)
        self._position += count
        return count

    def close(self) -> None:
        """End it; also a read in another thread."""
        if not self.stopped:
            self.stopped = True
            self._reading.drop(self)
        super().close()
