# SPDX-License-Identifier: Apache-2.0
"""What paramiko's transport reads, decrypts and hands on by.

paramiko copies each byte about eight times between the socket and the
reader, which is what makes it slow. Three classes of ours take the place
of its own, by the parameters and attributes that it has for that: the
socket, the packetizer (``Transport(packetizer_class=)``) and the buffer of
a channel (``Channel.in_buffer``). They copy each byte once, by decrypting.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
import time
import typing

import cryptography.exceptions
import paramiko
from paramiko import common
from paramiko import packet

from oslo_transfer import buffers
from oslo_transfer import exceptions
from oslo_transfer import sockets

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

#: The longest packet that is taken; OpenSSH's own limit is 256 KiB.
MAX_PACKET = 256 * 1024 + 1024
_BUFFER = 2 * MAX_PACKET
# What a server may send before its version (RFC 4253, 4.2, has no limit).
_MAX_BANNER = 16 * 1024
# OpenSSH's server holds a short packet back until we have acknowledged the
# one before, which we would do after 40 ms only (RFC 896 and 1122).
_QUICKACK: int | None = getattr(socket, 'TCP_QUICKACK', None)
_SHORT = 4096
_TAG = 16  # Of AES-GCM (RFC 5647, 5.1).


class Wire:
    """The connection, as a socket for paramiko.

    Reading goes by a buffer. A write that the peer does not take is ended
    by the limits of the transfer; reading waits for as long as the
    transport lives, for who waits for a reply keeps the limits himself.

    :param sock: owned from now on
    :param ctx: the limits
    :param where: the redacted endpoint, for messages
    """

    def __init__(
        self, sock: socket.socket, ctx: _context.Context, where: str
    ) -> None:
        self._sock = sock
        self._ctx = ctx
        self._where = where
        self._window = sockets.StallWindow(ctx.stall, where)
        self._buffer = buffers.aligned(_BUFFER)
        self._start = 0
        self._end = 0
        self._banner_left: int | None = _MAX_BANNER
        # paramiko looks at it.
        self._closed = False
        #: The connection has ended, and not by us.
        self.ended = False
        #: What a write was given up for.
        self.error: exceptions.TransferError | None = None

    # As paramiko uses a socket

    def settimeout(self, seconds: float) -> None:
        """How long one wait may take."""
        self._sock.settimeout(seconds)

    def recv(self, count: int) -> bytes:
        """At least one byte; none at the end of the connection."""
        if self._start == self._end:
            try:
                self.fill()
            except EOFError:
                return b''
        if self._banner_left is not None:
            return self._banner(count)
        return self.take(min(count, self.buffered))

    def _banner(self, count: int) -> bytes:
        """No more than a line: behind the version begin the packets."""
        assert self._banner_left is not None
        found = bytes(self.peek(min(count, self.buffered)))
        line, mark, _rest = found.partition(b'\n')
        self._banner_left -= len(line + mark)
        if self._banner_left < 0:
            raise paramiko.SSHException(
                'no SSH version, but bytes without end'
            )
        return self.take(len(line + mark))

    def start_packets(self) -> None:
        """The version was read: from here on it is packets."""
        self._banner_left = None

    def send(self, data: bytes) -> int:
        """Send at least one byte.

        :raises TransferError: the peer takes too little, or the transfer
            has to end
        """
        started = time.monotonic()
        try:
            count = self._sock.send(data)
        except TimeoutError:
            self._judge(time.monotonic() - started, 0)
            raise
        self._judge(time.monotonic() - started, count)
        return count

    def _judge(self, waited: float, count: int) -> None:
        try:
            if not count:
                self._ctx.check()
            self._window.add(waited, count)
        except exceptions.TransferError as exc:
            self.error = exc
            self.close()
            raise

    def shutdown(self) -> None:
        """Wake up who reads or writes; safe from any thread."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection; idempotent."""
        self.shutdown()
        self._sock.close()

    # As our packetizer uses it

    @property
    def buffered(self) -> int:
        """How many bytes are in the buffer."""
        return self._end - self._start

    def fill(self) -> None:
        """Read more into the buffer.

        :raises TimeoutError: nothing came for a tick
        :raises EOFError: the connection has ended
        """
        if len(self._buffer) - self._end < MAX_PACKET:
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        try:
            count = self._sock.recv_into(self._buffer[self._end :])
        except TimeoutError:
            raise
        except OSError as exc:
            self.ended = True
            raise EOFError(exc.strerror or str(exc)) from exc
        if not count:
            self.ended = True
            raise EOFError('the server closed the connection')
        self._end += count
        if count < _SHORT and _QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def peek(self, count: int, skip: int = 0) -> memoryview:
        """Bytes of the buffer; valid until it is filled again."""
        start = self._start + skip
        return self._buffer[start : start + count]

    def take(self, count: int) -> bytes:
        """Bytes of the buffer, read for good."""
        found = bytes(self.peek(count))
        self.skip(count)
        return found

    def skip(self, count: int) -> None:
        """Read bytes of the buffer for good."""
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0


class _ChannelData:
    """The message CHANNEL_DATA; gives its bytes without a copy."""

    seqno = 0

    def __init__(self, payload: memoryview) -> None:
        self._channel = int.from_bytes(payload[:4], 'big')
        self._data = payload[8:]
        if len(self._data) != int.from_bytes(payload[4:8], 'big'):
            raise paramiko.SSHException('CHANNEL_DATA of a wrong length')

    def get_int(self) -> int:
        """The channel's number."""
        return self._channel

    def get_binary(self) -> memoryview:
        """The data."""
        return self._data


class Packetizer(paramiko.Packetizer):  # type: ignore[misc]
    """Reads packets with few copies where the cipher is AES-GCM.

    With another cipher, and during the first key exchange, paramiko's own
    code reads them, from our buffer.
    """

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._wire = wire
        self._opener: typing.Any = None
        self._nonce = b''
        self._received = 0
        self._overflow = 0

    def start_handshake(self, timeout: float) -> None:
        """Nothing: who connects keeps the time, without a timer thread."""
        self._wire.start_packets()

    def set_inbound_cipher(self, **keys: typing.Any) -> None:
        """Take new keys."""
        super().set_inbound_cipher(**keys)
        self._opener = keys['block_engine'] if keys['aead'] else None
        self._nonce = keys['iv_in']
        self._received = self._overflow = 0

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """Read so many bytes."""
        if n > MAX_PACKET:
            raise paramiko.SSHException(f'a packet of {n} bytes')
        self._need(n, check_rekey)
        return self._wire.take(n)

    def _need(self, count: int, check_rekey: bool = False) -> None:
        wire = self._wire
        while wire.buffered < count:
            try:
                wire.fill()
            except TimeoutError:
                if self.closed:
                    raise EOFError from None
                if check_rekey and not wire.buffered and self.need_rekey():
                    raise packet.NeedRekeyException from None
                self._check_keepalive()

    def read_message(self) -> tuple[int, typing.Any]:
        """Read one packet and decrypt it."""
        if self._opener is None:
            found: tuple[int, typing.Any] = super().read_message()
            return found
        wire = self._wire
        self._need(4, check_rekey=True)
        length = int.from_bytes(wire.peek(4), 'big')
        if not 16 <= length <= MAX_PACKET - 4 - _TAG or length % 16:
            raise paramiko.SSHException(f'a packet of {length} bytes')
        self._need(4 + length + _TAG)
        try:
            plain = self._opener.decrypt(
                self._nonce, wire.peek(length + _TAG, 4), wire.peek(4)
            )
        except cryptography.exceptions.InvalidTag:
            raise paramiko.SSHException('a packet was tampered with') from None
        wire.skip(4 + length + _TAG)
        count = int.from_bytes(self._nonce[4:], 'big') + 1
        self._nonce = self._nonce[:4] + count.to_bytes(8, 'big')
        self._account(4 + length + _TAG)
        end = length - plain[0]
        if end < 2:
            raise paramiko.SSHException('a packet of padding only')
        if plain[1] == common.MSG_CHANNEL_DATA:
            return plain[1], _ChannelData(memoryview(plain)[2:end])
        message = paramiko.Message(plain[2:end])
        message.seqno = 0
        return plain[1], message

    def _account(self, count: int) -> None:
        """Ask for new keys when these have been used enough."""
        self._received += count
        if self.need_rekey():
            self._overflow += count
            if self._overflow >= self.REKEY_BYTES_OVERFLOW_MAX:
                raise paramiko.SSHException('the server makes no new keys')
        elif self._received >= self.REKEY_BYTES:
            self._trigger_rekey()


class Inbox:
    """What arrived by a channel, in the parts that it came in.

    Stands where paramiko has a ``BufferedPipe``.

    :param most: bytes that the server may send before they are read
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._parts: collections.deque[memoryview] = collections.deque()
        self._length = 0
        self._closed = False

    def feed(self, data: bytes | memoryview) -> None:
        """Add what came.

        :raises SSHException: the server ignores the channel's window
        """
        with self._changed:
            self._length += len(data)
            if self._length > self._most:
                raise paramiko.SSHException('more data than the window allows')
            if data:
                self._parts.append(memoryview(data))
            self._changed.notify()

    def read(self, count: int, timeout: float | None = None) -> memoryview:
        """The next part; empty at the end.

        :raises PipeTimeout: nothing came in time
        """
        with self._changed:
            if not self._parts and not self._closed:
                self._changed.wait(timeout)
            if not self._parts:
                if self._closed:
                    return memoryview(b'')
                raise paramiko.buffered_pipe.PipeTimeout
            part = self._parts.popleft()
            if len(part) > count:
                self._parts.appendleft(part[count:])
                part = part[:count]
            self._length -= len(part)
            return part

    def read_ready(self) -> bool:
        """Whether there is something."""
        return bool(self._parts)

    def close(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Nowhere:
    """Takes what a server says on the error channel, and drops it."""

    def feed(self, data: bytes) -> None:
        """Drop it."""

    def close(self) -> None:
        """Nothing."""
