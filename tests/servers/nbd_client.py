# SPDX-License-Identifier: Apache-2.0
"""A client of NBD that says what it is told, right or wrong."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import struct
import typing

from oslo_transfer import nbd_wire as wire

Chunk = wire.Chunk
Command = wire.Command
Option = wire.Option


@dataclasses.dataclass
class Answer:
    """What came of a request.

    :ivar data: of a READ
    :ivar chunks: types of the chunks, in order; None for a simple reply
    :ivar error: 0 without
    """

    cookie: int
    data: bytearray
    chunks: list[int] | None = None
    error: int = 0
    text: str = ''
    offset: int | None = None
    extents: list[tuple[int, int]] = dataclasses.field(default_factory=list)


class Client:
    """One connection.

    :param address: path of a unix socket, or host and port
    :param timeout: seconds for each wait
    """

    def __init__(
        self,
        address: str | tuple[str, int],
        timeout: float = 5.0,
        flags: int = 3,
    ) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
        else:
            self.sock = socket.socket()
        self.sock.settimeout(timeout)
        self.structured = False
        self._flags = flags
        self._cookie = 0
        self._pending: dict[int, tuple[int, int, int]] = {}
        self._answers: dict[int, Answer] = {}
        try:
            self.sock.connect(address)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Vanish."""
        self.sock.close()

    def take(self, count: int) -> bytes:
        """Read so many bytes."""
        found = bytearray(count)
        rest = memoryview(found)
        while rest:
            more = self.sock.recv_into(rest)
            if not more:
                raise EOFError(f'{len(rest)} bytes of {count} are missing')
            rest = rest[more:]
        return bytes(found)

    def at_end(self) -> bool:
        """Whether the server has closed it, and said nothing more."""
        try:
            return self.sock.recv(1) == b''
        except (ConnectionResetError, ssl.SSLError):
            return True

    def greet(self) -> None:
        """Begin to negotiate."""
        magic, options, flags = struct.unpack('>8s8sH', self.take(18))
        assert (magic, options) == (wire.MAGIC, wire.OPTION_MAGIC)
        assert flags == 3
        self.sock.sendall(struct.pack('>I', self._flags))

    def option(self, kind: int, data: bytes = b'') -> list[tuple[int, bytes]]:
        """Send an option; returns types and data of the replies."""
        head = wire.OPTION_MAGIC + struct.pack('>II', kind, len(data))
        self.sock.sendall(head + data)
        return self.replies(kind)

    def replies(self, kind: int) -> list[tuple[int, bytes]]:
        """Read the replies to an option."""
        found = []
        while True:
            magic, what, reply, length = struct.unpack('>QIII', self.take(20))
            assert (magic, what) == (wire.OPTION_REPLY_MAGIC, kind)
            found.append((reply, self.take(length)))
            if reply == wire.OptionReply.ACK or reply >> 31:
                return found

    def secure(self, context: ssl.SSLContext, name: str = 'localhost') -> None:
        """Begin TLS."""
        assert self.option(Option.STARTTLS) == [(wire.OptionReply.ACK, b'')]
        self.sock = context.wrap_socket(self.sock, server_hostname=name)

    def go(
        self,
        name: str = '',
        structured: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> int:
        """From the beginning to transmission; returns the size."""
        self.greet()
        if tls is not None:
            self.secure(tls)
        said = name.encode()
        if structured:
            ((reply, _said),) = self.option(Option.STRUCTURED_REPLY)
            assert reply == wire.OptionReply.ACK
            query = wire.set_meta_context(said, wire.ALLOCATION)
            assert len(self.option(Option.SET_META_CONTEXT, query)) == 2
            self.structured = True
        found = self.option(Option.GO, wire.go(said))
        assert found[-1][0] == wire.OptionReply.ACK, found
        (size,) = struct.unpack_from('>Q', found[0][1], 2)
        return int(size)

    def ask(
        self,
        offset: int,
        length: int,
        kind: int = Command.READ,
        flags: int = 0,
        payload: bytes = b'',
    ) -> int:
        """Send a request; returns its cookie."""
        self._cookie += 1
        self._pending[self._cookie] = kind, offset, length
        self.sock.sendall(
            wire.REQUEST.pack(
                *(wire.REQUEST_MAGIC, flags, kind),
                *(self._cookie, offset, length),
            )
            + payload
        )
        return self._cookie

    def answer(self) -> Answer:
        """The next reply that is complete."""
        while True:
            (magic,) = struct.unpack('>I', self.take(4))
            if magic == wire.SIMPLE_MAGIC:
                error, cookie = struct.unpack('>IQ', self.take(12))
                kind, _offset, length = self._pending.pop(cookie)
                carries = kind == Command.READ and not error
                assert not (carries and self.structured)
                data = self.take(length) if carries else b''
                return Answer(cookie, bytearray(data), None, error)
            assert magic == wire.STRUCTURED_MAGIC, hex(magic)
            assert self.structured
            found = self._chunk()
            if found is not None:
                return found

    def _chunk(self) -> Answer | None:
        flags, kind, cookie, length = struct.unpack('>HHQI', self.take(16))
        payload = self.take(length)
        _kind, offset, total = self._pending[cookie]
        answer = self._answers.get(cookie)
        if answer is None:
            answer = Answer(cookie, bytearray(), [])
            self._answers[cookie] = answer
        assert answer.chunks is not None
        answer.chunks.append(kind)
        if kind == Chunk.OFFSET_DATA:
            (where,) = struct.unpack_from('>Q', payload)
            self._fill(answer, total, where - offset, payload[8:])
        elif kind == Chunk.OFFSET_HOLE:
            where, count = struct.unpack('>QI', payload)
            self._fill(answer, total, where - offset, bytes(count))
        elif kind == Chunk.BLOCK_STATUS:
            pairs = struct.iter_unpack('>II', payload[4:])
            answer.extents = [(count, state) for count, state in pairs]
        elif kind & wire.IS_ERROR:
            answer.error, said = struct.unpack_from('>IH', payload)
            answer.text = payload[6 : 6 + said].decode()
            if kind == Chunk.ERROR_OFFSET:
                (answer.offset,) = struct.unpack('>Q', payload[6 + said :])
        else:
            assert kind == Chunk.NONE and not payload
            assert flags & wire.DONE
        if not flags & wire.DONE:
            return None
        del self._pending[cookie], self._answers[cookie]
        return answer

    @staticmethod
    def _fill(answer: Answer, total: int, at: int, data: bytes) -> None:
        answer.data = answer.data or bytearray(b'?' * total)
        assert 0 <= at and at + len(data) <= len(answer.data)
        answer.data[at : at + len(data)] = data

    def answers(self, count: int) -> dict[int, Answer]:
        """So many replies, by their cookies."""
        return {
            answer.cookie: answer
            for answer in (self.answer() for _ in range(count))
        }

    def call(
        self,
        offset: int,
        length: int,
        kind: int = Command.READ,
        flags: int = 0,
        payload: bytes = b'',
    ) -> Answer:
        """Send a request and read its reply."""
        cookie = self.ask(offset, length, kind, flags, payload)
        answer = self.answer()
        assert answer.cookie == cookie
        return answer

    def read(self, offset: int, length: int) -> bytes:
        """Bytes that are there, and no error."""
        answer = self.call(offset, length)
        assert not answer.error, answer
        return bytes(answer.data)
