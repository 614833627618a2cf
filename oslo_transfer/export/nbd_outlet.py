# SPDX-License-Identifier: Apache-2.0
"""Sends replies: small ones gathered, large ones from the file.

Blocks for as long as the client does not read; all that it costs then is
this buffer.
"""

from __future__ import annotations

from collections.abc import Iterable
import os
import socket
import ssl
import struct

from oslo_transfer import exceptions
from oslo_transfer.export import exported
from oslo_transfer.export import nbd_misses
from oslo_transfer.export import nbd_options
from oslo_transfer import nbd_wire as wire

Chunk = wire.Chunk

#: Size of the buffer.
ROOM = 128 * 1024
#: A chunk's head, and the offset of its data.
DATA = struct.Struct('>IHHQIQ')
_HOLE = struct.Struct('>IHHQIQI')
_FAILURE = struct.Struct('>IH')
_EXTENT = struct.Struct('>II')
_MOST_TEXT = 1024
# What a reply tells of extents; clients ask on.
_MOST_EXTENTS = 1024
_MOST_LENGTH = (1 << 32) - 1
_HOLE_FLAGS = wire.STATE_HOLE | wire.STATE_ZERO
# Members of enumerations take their time where it counts.
_MAGIC, _SIMPLE = wire.STRUCTURED_MAGIC, wire.SIMPLE_MAGIC
_MORE, _NOW = int(socket.MSG_MORE), int(socket.MSG_DONTWAIT)
_NONE, _OFFSET_DATA = int(Chunk.NONE), int(Chunk.OFFSET_DATA)


class Broken(Exception):
    """Bytes that were promised cannot be had."""


class Outlet:
    """The way to one client; one thread uses it.

    :param sock: it blocks
    :param image: what is sent
    :param reader: of it
    :param structured: replies are
    """

    def __init__(
        self,
        sock: socket.socket,
        image: exported.Exported,
        reader: exported.Reader,
        structured: bool,
    ) -> None:
        self._sock = sock
        self._out = sock.fileno()
        #: Of what is sent.
        self.reader = reader
        self._structured = structured
        self._image = image
        self._plain = not isinstance(sock, ssl.SSLSocket)
        #: What is gathered, up to :attr:`at`.
        self.room = bytearray(ROOM)
        self.view = memoryview(self.room)
        self.at = 0
        #: Bytes, with what is around them.
        self.sent = 0
        #: Requests that ended in an error.
        self.failed = 0

    @property
    def _splices(self) -> bool:
        """Whether pages of the file may be sent as they are."""
        return self._plain and self._image.stays

    def flush(self) -> None:
        """Send what is gathered; nothing is claimed meanwhile.

        :raises OSError: the client is gone
        """
        self.reader.release()
        self.empty()

    def empty(self) -> None:
        """Send what is gathered; what is claimed stays so.

        :raises OSError: the client is gone
        """
        if self.at:
            self._send(self.view[: self.at])
            self.at = 0

    def flush_now(self) -> bool:
        """Send what the socket takes at once; whether that was all.

        :raises OSError: the client is gone
        """
        self.reader.release()
        if self.at:
            try:
                count = self._sock.send(self.view[: self.at], _NOW)
            except BlockingIOError:
                count = 0
            self.sent += count
            if count < self.at:
                rest = self.at - count
                self.view[:rest] = self.view[count : self.at]
                self.at = rest
                return False
            self.at = 0
        return True

    def _send(self, data: memoryview) -> None:
        self._sock.sendall(data)
        self.sent += len(data)

    def put(self, data: bytes) -> None:
        """Gather a reply, or the beginning of one."""
        if self.at + len(data) > ROOM:
            self.empty()
        end = self.at + len(data)
        self.view[self.at : end] = data
        self.at = end

    def succeed(self, cookie: int) -> None:
        """The end of a reply, or all of it."""
        if self._structured:
            self.put(wire.CHUNK.pack(_MAGIC, wire.DONE, _NONE, cookie, 0))
        else:
            self.put(wire.SIMPLE.pack(_SIMPLE, 0, cookie))

    def fail(
        self, cookie: int, code: wire.Error, text: str, at: int | None = None
    ) -> None:
        """The end of a reply: an error.

        :param at: the byte that it is about
        """
        self.failed += 1
        if not self._structured:
            self.put(wire.SIMPLE.pack(_SIMPLE, code, cookie))
            return
        said = text.encode('utf-8', 'replace')[:_MOST_TEXT]
        payload = _FAILURE.pack(code, len(said)) + said
        kind = Chunk.ERROR
        if at is not None:
            kind = Chunk.ERROR_OFFSET
            payload += at.to_bytes(8)
        self.put(_chunk(cookie, kind, wire.DONE, payload))

    def hole(self, cookie: int, offset: int, length: int, last: bool) -> None:
        """A part of a reply: a run of zeros."""
        self.put(
            _HOLE.pack(
                *(_MAGIC, wire.DONE * last, Chunk.OFFSET_HOLE),
                *(cookie, 12, offset, length),
            )
        )

    def extents(
        self, cookie: int, found: Iterable[tuple[int, bool]], one: bool
    ) -> None:
        """The reply to BLOCK_STATUS.

        :param one: only the first is wanted
        :raises TransferError: they cannot be had
        """
        runs: list[list[int]] = []
        for length, is_zero in found:
            flags = _HOLE_FLAGS * is_zero
            if runs and runs[-1][1] == flags:
                runs[-1][0] += length
            elif len(runs) == (1 if one else _MOST_EXTENTS):
                break
            else:
                runs.append([length, flags])
        payload = nbd_options.CONTEXT.to_bytes(4) + b''.join(
            _EXTENT.pack(*run) for run in runs
        )
        self.put(_chunk(cookie, Chunk.BLOCK_STATUS, wire.DONE, payload))

    def _promise(
        self, cookie: int, offset: int, count: int, last: bool
    ) -> None:
        """What comes before data."""
        if self._structured:
            self.put(
                DATA.pack(
                    *(_MAGIC, wire.DONE * last, _OFFSET_DATA),
                    *(cookie, count + 8, offset),
                )
            )
        else:
            self.put(wire.SIMPLE.pack(_SIMPLE, 0, cookie))

    def data(self, miss: nbd_misses.Miss, data: memoryview) -> None:
        """Send bytes, and the end of the reply if they are the last."""
        last = len(data) == miss.length
        self._promise(miss.cookie, miss.offset, len(data), last)
        self.flush()
        self._send(data)
        miss.advance(len(data))

    def claimed(self, miss: nbd_misses.Miss, count: int) -> None:
        """Send bytes that are claimed, from the file.

        A chunk that comes so is never the last one of a reply: whatever
        happens to the disk meanwhile, an error can follow.

        :raises Broken: it happened, and the reply is a simple one
        """
        self._promise(miss.cookie, miss.offset, count, False)
        done = 0
        splices = self._splices
        if splices:
            self._sock.sendall(self.view[: self.at], _MORE)
            self.sent += self.at
            self.at = 0
            done = self._splice(miss.offset, count)
        if done < count:
            self._copy(miss, done, count, not splices)
            return
        miss.advance(count)
        if self._structured and not miss.length:
            self.succeed(miss.cookie)

    def _splice(self, offset: int, count: int) -> int:
        """By sendfile(2); returns how much the file gave."""
        done = 0
        try:
            while done < count:
                step = os.sendfile(
                    self._out, self.reader.fd, offset + done, count - done
                )
                if not step:
                    break
                done += step
        except (ConnectionError, TimeoutError):
            raise
        except OSError:
            pass  # Then it is the disk's, and there is another way.
        self.sent += done
        return done

    def whole(self, cookie: int, offset: int, length: int) -> None:
        """Send a reply all of whose bytes are claimed.

        What the two above do, in the fewest steps.
        """
        if not self._splices or self.at + DATA.size > ROOM:
            miss = nbd_misses.Miss(
                0, cookie, offset, length, not self._structured
            )
            self.claimed(miss, length)
            return
        if self._structured:
            end = self.at + DATA.size
            DATA.pack_into(
                self.room,
                self.at,
                *(_MAGIC, 0, _OFFSET_DATA, cookie, length + 8, offset),
            )
        else:
            end = self.at + wire.SIMPLE.size
            wire.SIMPLE.pack_into(self.room, self.at, _SIMPLE, 0, cookie)
        self._sock.sendall(self.view[:end], _MORE)
        self.sent += end
        self.at = 0
        try:
            done = os.sendfile(self._out, self.reader.fd, offset, length)
        except (ConnectionError, TimeoutError):
            raise
        except OSError:
            done = 0
        self.sent += done
        if done < length:
            miss = nbd_misses.Miss(0, cookie, offset, length, True)
            self._copy(miss, done, length, False)
        elif self._structured:
            wire.CHUNK.pack_into(
                self.room, 0, _MAGIC, wire.DONE, _NONE, cookie, 0
            )
            self.at = wire.CHUNK.size

    def _copy(
        self, miss: nbd_misses.Miss, done: int, count: int, is_claimed: bool
    ) -> None:
        """Send the rest of what was promised through the buffer.

        :param is_claimed: it can be read from the file
        """
        cookie, start = miss.cookie, miss.offset
        miss.advance(count)
        while done < count:
            if self.at == ROOM:
                self.empty()
            step = min(count - done, ROOM - self.at)
            part = self.view[self.at : self.at + step]
            is_claimed = is_claimed and self._reads(part, start + done)
            try:
                if not is_claimed:
                    self.reader.read(part, start + done)
            except exceptions.TransferError as exc:
                if not self._structured:
                    raise Broken from exc
                self._fill_up(count - done)
                told = nbd_misses.told_of(exc)
                self.fail(cookie, wire.Error.EIO, told, start + done)
                miss.length = 0
                return
            self.at += step
            done += step
        if self._structured and not miss.length:
            self.succeed(cookie)

    def _reads(self, part: memoryview, offset: int) -> bool:
        try:
            return os.preadv(self.reader.fd, [part], offset) == len(part)
        except OSError:
            return False

    def _fill_up(self, count: int) -> None:
        """Send something in the place of what was promised."""
        while count:
            step = min(count, ROOM)
            self.put(bytes(step))
            count -= step

    def read_through(self, miss: nbd_misses.Miss) -> None:
        """Send all of it, whether the cache can keep it or not.

        Blocks until it is here.

        :raises Broken: the rest cannot be had, and the reply is a simple one
        """
        self.flush()
        if miss.whole and miss.length > nbd_misses.PART:
            self._promise(miss.cookie, miss.offset, miss.length, False)
            self._copy(miss, 0, miss.length, False)
            return
        data = memoryview(bytearray(min(miss.length, nbd_misses.PART)))
        while miss.length:
            part = data[: miss.length]
            try:
                self.reader.read(part, miss.offset)
            except exceptions.TransferError as exc:
                told = nbd_misses.told_of(exc)
                self.fail(miss.cookie, wire.Error.EIO, told, miss.offset)
                return
            self.data(miss, part)


def _chunk(
    cookie: int, kind: Chunk, flags: int, payload: bytes = b''
) -> bytes:
    return wire.CHUNK.pack(_MAGIC, flags, kind, cookie, len(payload)) + payload
