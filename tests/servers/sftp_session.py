# SPDX-License-Identifier: Apache-2.0
"""A well-behaved SFTP server (version 3) in memory, made to be overridden.

Messages are those of draft-ietf-secsh-filexfer-02; each request is a method
of its own, and all replies go through :meth:`Session.reply`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import stat
import struct
import threading
from typing import Any

from tests.servers import scripted_ssh

INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = range(3, 11)
REMOVE, REALPATH, STAT, RENAME = 13, 16, 17, 18
STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
EXTENDED, EXTENDED_REPLY = 200, 201
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
UNSUPPORTED = 8
NO_SPACE, QUOTA = 14, 15

_READ, _WRITE, _CREATE, _TRUNCATE, _EXCLUSIVE = 1, 2, 8, 16, 32
_METHODS = {
    OPEN: 'open',
    CLOSE: 'close',
    READ: 'read',
    WRITE: 'write',
    LSTAT: 'stat',
    FSTAT: 'fstat',
    SETSTAT: 'setstat',
    FSETSTAT: 'setstat',
    REMOVE: 'remove',
    REALPATH: 'realpath',
    STAT: 'stat',
    RENAME: 'rename',
    EXTENDED: 'extended',
}
PACKET = 1 << 18
TEXTS = {EOF: 'End of file', NO_SUCH_FILE: 'No such file', FAILURE: 'Failure'}


def u32(number: int) -> bytes:
    """Return a number as it is sent."""
    return struct.pack('>I', number)


def u64(number: int) -> bytes:
    """Return a large number as it is sent."""
    return struct.pack('>Q', number)


def string(data: bytes | str) -> bytes:
    """Return bytes as they are sent, with their length."""
    data = data.encode() if isinstance(data, str) else data
    return u32(len(data)) + data


class Fields:
    """Reads the fields of a message one by one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u32(self) -> int:
        return int.from_bytes(self._take(4), 'big')

    def u64(self) -> int:
        return int.from_bytes(self._take(8), 'big')

    def string(self) -> bytes:
        return self._take(self.u32())

    def text(self) -> str:
        return self.string().decode()

    def rest(self) -> bytes:
        return self._data[self._at :]

    def _take(self, count: int) -> bytes:
        data = self._data[self._at : self._at + count]
        assert len(data) == count, 'a request that is too short'
        self._at += count
        return data


@dataclasses.dataclass
class File:
    """A file, or what else a name can stand for."""

    data: Any = b''
    mode: int = stat.S_IFREG | 0o644
    mtime: int = 1_700_000_000
    #: What READ returns if the data is not held: made when asked for.
    content: Callable[[int, int], bytes] | None = None
    length: int | None = None

    @property
    def size(self) -> int:
        """Return what STAT tells."""
        return len(self.data) if self.length is None else self.length

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range as far as they are there."""
        if self.content is None:
            return bytes(self.data[offset : offset + length])
        return self.content(offset, max(0, min(length, self.size - offset)))

    def attrs(self) -> bytes:
        """Return an ATTRS structure."""
        flags = 1 | 2 | 4 | 8
        return (
            u32(flags)
            + u64(self.size)
            + u32(1000) * 2
            + u32(self.mode)
            + u32(self.mtime) * 2
        )


@dataclasses.dataclass
class Request:
    """A request as it came in."""

    kind: int
    id: int
    fields: Fields


class Store:
    """What all sessions of a server share."""

    def __init__(self, data: bytes = b'') -> None:
        self.files: dict[str, File] = {'/image': File(data)}
        self.directories = {'/', '/there'}
        #: Sessions so far, and what rows want to remember.
        self.sessions = 0
        self.memory: dict[str, Any] = {}
        #: (kind, offset, length) of each READ and WRITE.
        self.log: list[tuple[int, int, int]] = []

    def subsystem(
        self, session: type[Session]
    ) -> Callable[[scripted_ssh.Connection, Any], None]:
        """Return what a server calls for each channel."""

        def serve(connection: scripted_ssh.Connection, channel: Any) -> None:
            self.sessions += 1
            session(self, connection, channel).run()

        return serve


class Session:
    """Answers the requests on one channel."""

    version = 3
    extensions: tuple[tuple[str, str], ...] = (
        ('posix-rename@openssh.com', '1'),
        ('fsync@openssh.com', '1'),
        ('limits@openssh.com', '1'),
    )
    #: Whether idle() is called; it costs time.
    batches = False
    #: Bytes in a packet, a read and a write; then open handles.
    limits = (PACKET, PACKET - 1024, PACKET - 1024, 0)

    def __init__(
        self, store: Store, connection: scripted_ssh.Connection, channel: Any
    ) -> None:
        self.store = store
        self.connection = connection
        self.channel = channel
        self.serial = store.sessions - 1
        self.handles: dict[bytes, str] = {}
        self.sent = 0
        self.replies = 0
        self._buffer = bytearray()

    # Reading

    def run(self) -> None:
        """Serve until the client goes."""
        kind, body = self.receive()
        assert kind == INIT
        self.greet(int.from_bytes(body[:4], 'big'))
        while True:
            if self.batches and not self.waiting():
                self.idle()
            kind, body = self.receive()
            fields = Fields(body)
            self.answer(Request(kind, fields.u32(), fields))

    def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next packet."""
        size = int.from_bytes(self._take(4), 'big')
        assert 0 < size <= PACKET + 1024, f'a packet of {size} bytes'
        packet = self._take(size)
        return packet[0], packet[1:]

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self.channel.recv(1 << 16)
            if not data:
                raise EOFError
            self._buffer += data
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def waiting(self) -> bool:
        """Return whether a request comes within a moment."""
        if self._buffer or self.channel.recv_ready():
            return True
        self.pause(0.01)
        return bool(self.channel.recv_ready())

    def idle(self) -> None:
        """Called when the client waits for us."""

    def pause(self, seconds: float) -> None:
        """Wait; ends at once when the server does."""
        if self.connection.server.closing.wait(seconds):
            raise EOFError

    def hang(self) -> None:
        """Say nothing until the client goes, or the server ends."""
        closing: threading.Event = self.connection.server.closing
        while not closing.wait(0.02) and not self.channel.closed:
            pass
        raise EOFError

    # Answering

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.channel.sendall(data)
        self.sent += len(data)

    def packet(self, kind: int, body: bytes) -> bytes:
        """Return a packet with its length."""
        return u32(len(body) + 1) + bytes([kind]) + body

    def greet(self, version: int) -> None:
        """Answer INIT."""
        body = u32(self.version)
        for name, value in self.extensions:
            body += string(name) + string(value)
        self.send(self.packet(VERSION, body))

    def answer(self, request: Request) -> None:
        """Answer a request."""
        name = _METHODS.get(request.kind)
        if name is None:
            self.status(request, UNSUPPORTED)
        else:
            getattr(self, f'on_{name}')(request)

    def reply(self, request: Request, kind: int, body: bytes) -> None:
        """Send the one answer to a request."""
        self.replies += 1
        self.send(self.packet(kind, u32(request.id) + body))

    def status(self, request: Request, code: int, text: str = '') -> None:
        """Answer STATUS."""
        text = text or TEXTS.get(code, f'code {code}')
        self.reply(request, STATUS, u32(code) + string(text) + string('en'))

    def data(self, request: Request, data: bytes) -> None:
        """Answer DATA."""
        self.reply(request, DATA, string(data))

    # Requests

    def find(self, request: Request, name: str) -> File | None:
        """Return a file; answer if there is none."""
        if file := self.store.files.get(name):
            return file
        if name in self.store.directories:
            return File(mode=stat.S_IFDIR | 0o755)
        self.status(request, NO_SUCH_FILE)
        return None

    def attributes(self, request: Request, file: File) -> None:
        """Answer what STAT or FSTAT asked for."""
        self.reply(request, ATTRS, file.attrs())

    def handle(self) -> bytes:
        """Return a new handle."""
        return b'h%d' % len(self.handles)

    def on_stat(self, request: Request) -> None:
        if file := self.find(request, request.fields.text()):
            self.attributes(request, file)

    def on_fstat(self, request: Request) -> None:
        name = self.handles[request.fields.string()]
        if file := self.find(request, name):
            self.attributes(request, file)

    def on_open(self, request: Request) -> None:
        name, flags = request.fields.text(), request.fields.u32()
        exists = name in self.store.files
        if name.rpartition('/')[0] not in {
            each.rstrip('/') for each in self.store.directories
        }:
            self.status(request, NO_SUCH_FILE)
            return
        if exists and flags & _CREATE and flags & _EXCLUSIVE:
            self.status(request, FAILURE)
            return
        if not exists and not flags & _CREATE:
            self.status(request, NO_SUCH_FILE)
            return
        if not exists:
            self.store.files[name] = File(bytearray())
        if flags & _TRUNCATE:
            self.store.files[name].data = bytearray()
        handle = self.handle()
        self.handles[handle] = name
        self.reply(request, HANDLE, string(handle))

    def on_close(self, request: Request) -> None:
        self.status(request, OK)

    def on_read(self, request: Request) -> None:
        fields = request.fields
        name = self.handles[fields.string()]
        offset, length = fields.u64(), fields.u32()
        self.store.log.append((READ, offset, length))
        file = self.find(request, name)
        if file is None:
            return
        data = file.read(offset, min(length, self.limits[1]))
        if data:
            self.read_data(request, data, offset, length)
        else:
            self.status(request, EOF)

    def read_data(
        self, request: Request, data: bytes, offset: int, length: int
    ) -> None:
        """Answer a READ that has bytes."""
        self.data(request, data)

    def on_write(self, request: Request) -> None:
        fields = request.fields
        name = self.handles[fields.string()]
        offset, data = fields.u64(), fields.string()
        self.store.log.append((WRITE, offset, len(data)))
        # A file that was renamed meanwhile is a case of no test.
        content = self.store.files[name].data
        if len(content) < offset:
            content += bytes(offset - len(content))
        content[offset : offset + len(data)] = data
        self.status(request, OK)

    def on_setstat(self, request: Request) -> None:
        if request.kind == FSETSTAT:
            name = self.handles[request.fields.string()]
            if request.fields.u32() & 1:
                content, size = (
                    self.store.files[name].data,
                    request.fields.u64(),
                )
                del content[size:]
                content += bytes(size - len(content))
        self.status(request, OK)

    def on_remove(self, request: Request) -> None:
        gone = self.store.files.pop(request.fields.text(), None)
        self.status(request, OK if gone else NO_SUCH_FILE)

    def on_realpath(self, request: Request) -> None:
        name = request.fields.text()
        if not name.startswith('/'):
            name = f'/{name}'.rstrip('.').rstrip('/') or '/'
        self.reply(
            request,
            NAME,
            u32(1) + string(name) + string(name) + File().attrs(),
        )

    def on_rename(self, request: Request, replace: bool = False) -> None:
        old, new = request.fields.text(), request.fields.text()
        files = self.store.files
        if old not in files:
            self.status(request, NO_SUCH_FILE)
        elif new in files and not replace:
            self.status(request, FAILURE)
        else:
            files[new] = files.pop(old)
            self.status(request, OK)

    def on_extended(self, request: Request) -> None:
        name = request.fields.text()
        offered = dict(self.extensions)
        if name not in offered:
            self.status(request, UNSUPPORTED)
        elif name == 'posix-rename@openssh.com':
            self.on_rename(request, replace=True)
        elif name == 'fsync@openssh.com':
            self.status(request, OK)
        elif name == 'limits@openssh.com':
            body = b''.join(map(u64, self.limits))
            self.reply(request, EXTENDED_REPLY, body)
        else:
            self.status(request, UNSUPPORTED)
