# SPDX-License-Identifier: Apache-2.0
"""A BitTorrent peer whose every step is a method, and bad kinds of it.

It speaks BEP 3 over TCP, and of BEP 6 and BEP 10 what a bad peer needs.
With a hybrid torrent it is a peer of version 1.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import re
import socket
import struct
import threading

from tests.servers import torrents

CLOSE_LIMIT = 10.0
_PROTOCOL = b'\x13BitTorrent protocol'
_HANDSHAKE_BYTES = 68
# A block of 16 KiB and its head; nobody sends us more.
_MOST = 1 << 20

CHOKE, UNCHOKE, INTERESTED, _UNINTERESTED, HAVE = range(5)
BITFIELD, REQUEST, PIECE, _CANCEL, PORT = range(5, 10)
HAVE_ALL, REJECT, EXTENDED = 14, 16, 20

# Bits of the eight reserved bytes of a handshake.
FAST = b'\0\0\0\0\0\0\0\x04'
EXTENSIONS = b'\0\0\0\0\0\x10\0\0'


class Gone(Exception):
    """The other end hung up, or this one was told to end."""


class Session:
    """One connection of a well-behaved seed."""

    reserved = bytes(8)

    def __init__(self, peer: Peer, sock: socket.socket) -> None:
        self.peer = peer
        self.sock = sock
        #: Whether our half of the handshake has been sent.
        self.greeted = False
        #: How many blocks were asked for here.
        self.asked = 0

    def run(self) -> None:
        """Talk until one end has enough."""
        self.greet()
        self.introduce()
        while True:
            kind, payload = self.read_message()
            if kind == REQUEST:
                self.asked += 1
                index, begin, length = struct.unpack('>III', payload)
                self.peer.requests.append((index, begin, length))
                self.on_request(index, begin, length)
            elif kind == EXTENDED:
                self.on_extended(payload)

    # Steps

    def greet(self) -> None:
        """Exchange handshakes."""
        theirs = self.read_handshake()
        self.peer.handshakes.append(theirs)
        if not self.peer.torrent.is_known_by(theirs[28:48]):
            raise Gone
        if not self.greeted:
            self.send(self.handshake(theirs[28:48]))

    def introduce(self) -> None:
        """Tell what there is, and let the other end ask for it."""
        self.send_message(BITFIELD, self.bitfield())
        self.send_message(UNCHOKE)

    def on_request(self, index: int, begin: int, length: int) -> None:
        """Answer a request."""
        self.peer.closing.wait(self.peer.pause)
        self.send_block(index, begin, self.block(index, begin, length))

    def on_extended(self, payload: bytes) -> None:
        """Answer a message of BEP 10."""

    # Tools

    def handshake(self, info_hash: bytes) -> bytes:
        """Return our half of the handshake."""
        return _PROTOCOL + self.reserved + info_hash + self.peer.id

    def bitfield(self) -> bytes:
        """Return the pieces that the peer says it has."""
        count = self.peer.torrent.piece_count
        bits = bytearray((count + 7) // 8)
        for index in range(count) if self.peer.has is None else self.peer.has:
            bits[index // 8] |= 0x80 >> index % 8
        return bytes(bits)

    def block(self, index: int, begin: int, length: int) -> bytes:
        """Return the right bytes of a block."""
        at = index * self.peer.torrent.piece_bytes + begin
        return self.peer.data[at : at + length]

    def send(self, data: bytes) -> None:
        """Send some bytes."""
        self.sock.sendall(data)

    def send_message(self, kind: int, payload: bytes = b'') -> None:
        """Send a message."""
        self.send(struct.pack('>IB', 1 + len(payload), kind) + payload)

    def send_block(self, index: int, begin: int, block: bytes) -> None:
        """Send a block; it counts as sent."""
        self.peer.count(len(block))
        self.send_message(PIECE, struct.pack('>II', index, begin) + block)

    def read(self, count: int) -> bytes:
        """Read so many bytes."""
        data = b''
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise Gone
            data += more
        return data

    def read_handshake(self) -> bytes:
        """Read the other end's handshake; Gone if it is none."""
        start = self.read(len(_PROTOCOL))
        if start != _PROTOCOL:
            raise Gone  # Encrypted: it comes back without.
        return start + self.read(_HANDSHAKE_BYTES - len(start))

    def read_message(self) -> tuple[int, bytes]:
        """Read a message that is no keep-alive."""
        while True:
            length = int.from_bytes(self.read(4), 'big')
            assert length < _MOST
            if length:
                body = self.read(length)
                return body[0], body[1:]

    def wait(self) -> None:
        """Read what comes, and answer nothing, to the end."""
        while self.sock.recv(1 << 16):
            pass
        raise Gone


class Peer:
    """A peer that listens, and can dial out.

    :param data: what is sent; the right bytes, whatever is done to them
    :param kind: its behaviour, or the name of one
    :param has: the pieces it says it has, None for all
    :param pause: seconds before each block
    """

    def __init__(
        self,
        torrent: torrents.Torrent,
        data: bytes,
        kind: type[Session] | str = Session,
        *,
        host: str = '127.0.0.1',
        has: set[int] | None = None,
        pause: float = 0.0,
    ) -> None:
        self.torrent = torrent
        self.data = data
        self.kind = BEHAVIOURS[kind] if isinstance(kind, str) else kind
        self.has = has
        self.pause = pause
        self.id = b'-EV0001-' + os.urandom(6).hex().encode()
        #: The handshakes that came.
        self.handshakes: list[bytes] = []
        #: Blocks that were asked for: piece, offset in it, length.
        self.requests: list[tuple[int, int, int]] = []
        #: Connections that were made, and bytes of blocks that were sent.
        self.connections = 0
        self.sent = 0
        #: Told once by kinds that do only once what they do.
        self.done = threading.Event()
        #: Whom a gossip tells of: numeric addresses and ports.
        self.outsiders: list[tuple[str, int]] = []
        self.closing = threading.Event()
        #: Bugs in steps.
        self.errors: list[Exception] = []
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((host, 0), backlog=128)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()
        if kind is None and self.errors:
            raise RuntimeError('a step failed') from self.errors[0]

    @property
    def address(self) -> str:
        """Return HOST:PORT."""
        return f'{self.host}:{self.port}'

    @property
    def open(self) -> int:
        """Return how many connections there are."""
        with self._lock:
            return len(self._live)

    def count(self, sent: int) -> None:
        """Add to the bytes of blocks that were sent."""
        with self._lock:
            self.sent += sent

    def dial(self, host: str, port: int) -> None:
        """Connect to another peer, and behave there.

        :raises OSError: it cannot be reached
        """
        self._begin(socket.create_connection((host, port), CLOSE_LIMIT), True)

    def hang_up(self) -> None:
        """End all connections, and take no new one."""
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for sock in self._live:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End every thread and socket; bounded in time, repeatable."""
        self.hang_up()
        here = threading.current_thread()
        for thread in self._threads:
            if thread is not here:
                thread.join(CLOSE_LIMIT)
                assert not thread.is_alive(), 'a peer did not end'
        self._listener.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(
            target=target, args=args, name=f'peer-{self.port}', daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._begin(sock, False)

    def _begin(self, sock: socket.socket, dialled: bool) -> None:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self.connections += 1
            self._live.add(sock)
        if self.closing.is_set():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._start(self._serve, sock, dialled)

    def _serve(self, sock: socket.socket, dialled: bool) -> None:
        session = self.kind(self, sock)
        try:
            if dialled:
                session.greeted = True
                session.send(session.handshake(self.torrent.wire_hash))
            session.run()
        except (OSError, Gone):
            pass
        except Exception as error:  # noqa: BLE001
            self.errors.append(error)
        finally:
            with self._lock:
                self._live.discard(sock)
            sock.close()


#: Behaviours by name; the docstring of each says what it does.
BEHAVIOURS: dict[str, type[Session]] = {'good': Session}


def _kind(name: str) -> Callable[[type[Session]], type[Session]]:
    def register(cls: type[Session]) -> type[Session]:
        assert name not in BEHAVIOURS, name
        BEHAVIOURS[name] = cls
        return cls

    return register


# Wrong bytes


@_kind('poison')
class Poison(Session):
    """Every block is wrong in every byte."""

    def block(self, index: int, begin: int, length: int) -> bytes:
        """Return wrong bytes."""
        return bytes(
            byte ^ 0x5A for byte in super().block(index, begin, length)
        )


@_kind('poison-some')
class PoisonSome(Session):
    """One bit of every fifth block is wrong."""

    def block(self, index: int, begin: int, length: int) -> bytes:
        """Return bytes that are wrong now and then."""
        good = super().block(index, begin, length)
        return good if self.asked % 5 else bytes([good[0] ^ 1]) + good[1:]


@_kind('swap')
class Swap(Session):
    """Sends a right block of another piece."""

    def block(self, index: int, begin: int, length: int) -> bytes:
        """Return the bytes of the piece before."""
        return super().block(index - 1 if index else 1, begin, length)


# Nothing at all


@_kind('claims-all')
class ClaimsAll(Session):
    """Has everything, and sends nothing."""

    def on_request(self, index: int, begin: int, length: int) -> None:
        """Forget it."""


@_kind('chokes')
class Chokes(Session):
    """Has everything, and lets nobody ask."""

    def introduce(self) -> None:
        """Never unchoke."""
        self.send_message(BITFIELD, self.bitfield())


@_kind('flaps')
class Flaps(Session):
    """Chokes whenever something is asked for, and unchokes at once."""

    def on_request(self, index: int, begin: int, length: int) -> None:
        """Drop the request."""
        self.send_message(CHOKE)
        self.peer.closing.wait(0.01)
        self.send_message(UNCHOKE)


@_kind('has-nothing')
class HasNothing(Session):
    """A peer that has no piece."""

    def bitfield(self) -> bytes:
        """Return no bit."""
        return bytes(len(super().bitfield()))


@_kind('silent')
class Silent(Session):
    """Says nothing after the handshake."""

    def run(self) -> None:
        """Go silent."""
        self.greet()
        self.wait()


@_kind('mute')
class Mute(Session):
    """Takes the connection, and says nothing at all."""

    def run(self) -> None:
        """Listen only."""
        self.wait()


@_kind('rejects')
class Rejects(Session):
    """Has everything, unchokes, and rejects each request (BEP 6)."""

    reserved = FAST

    def introduce(self) -> None:
        """Say that all is there."""
        self.send_message(HAVE_ALL)
        self.send_message(UNCHOKE)

    def on_request(self, index: int, begin: int, length: int) -> None:
        """Refuse."""
        self.peer.closing.wait(0.002)
        self.send_message(REJECT, struct.pack('>III', index, begin, length))


@_kind('trickle')
class Trickle(Session):
    """Sends a byte now and then."""

    def send_block(self, index: int, begin: int, block: bytes) -> None:
        """Begin a block that will take minutes."""
        head = struct.pack('>IBII', 9 + len(block), PIECE, index, begin)
        self.send(head)
        for byte in block:
            if self.peer.closing.wait(0.05):
                raise Gone
            self.send(bytes([byte]))
            self.peer.count(1)


# Nonsense


@_kind('garbage')
class Garbage(Session):
    """Answers with random bytes instead of a handshake."""

    def run(self) -> None:
        """Send them, and hang up."""
        self.read_handshake()
        self.send(os.urandom(4096))


@_kind('http')
class HTTP(Session):
    """An HTTP server."""

    def run(self) -> None:
        """Answer as it would."""
        self.read(1)
        self.send(b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n')
        self.wait()


@_kind('wrong-hash')
class WrongHash(Session):
    """Answers with the info-hash of another torrent."""

    def handshake(self, info_hash: bytes) -> bytes:
        """Change it."""
        return super().handshake(bytes(byte ^ 1 for byte in info_hash))


@_kind('huge-message')
class HugeMessage(Session):
    """Announces messages of 4 GiB."""

    def introduce(self) -> None:
        """Begin one, and go on."""
        self.send(b'\xff\xff\xff\xff' + bytes([BITFIELD]))
        with contextlib.suppress(OSError):
            while not self.peer.closing.is_set():
                self.send(bytes(1 << 16))
        raise Gone


@_kind('huge-piece')
class HugePiece(Session):
    """A block is longer than it was asked for, and than a piece."""

    def block(self, index: int, begin: int, length: int) -> bytes:
        """Return too much."""
        return bytes(2 * self.peer.torrent.piece_bytes + length)


@_kind('short-piece')
class ShortPiece(Session):
    """A block is shorter than it was asked for."""

    def block(self, index: int, begin: int, length: int) -> bytes:
        """Return too little."""
        return super().block(index, begin, length)[:-1]


@_kind('unrequested')
class Unrequested(Session):
    """Sends blocks that nobody asked for, with wrong bytes."""

    def introduce(self) -> None:
        """Send one of each piece before anything is asked."""
        super().introduce()
        for index in range(self.peer.torrent.piece_count):
            self.send_block(index, 0, bytes(torrents.BLOCK))


@_kind('out-of-range')
class OutOfRange(Session):
    """Answers with pieces and offsets that do not exist."""

    def send_block(self, index: int, begin: int, block: bytes) -> None:
        """Send it to somewhere else."""
        super().send_block(index, (1 << 32) - 1, block)
        super().send_block((1 << 32) - 1, begin, block)
        super().send_block((1 << 31) + index, begin, block)


@_kind('long-bitfield')
class LongBitfield(Session):
    """A bitfield of more pieces than there are."""

    def bitfield(self) -> bytes:
        """Return bits for everything, and more."""
        return b'\xff' * (len(super().bitfield()) + 1000)


@_kind('spare-bits')
class SpareBits(Session):
    """A bitfield whose spare bits are set; BEP 3 says to hang up."""

    def bitfield(self) -> bytes:
        """Return all bits of the last byte."""
        return b'\xff' * len(super().bitfield())


@_kind('bad-have')
class BadHave(Session):
    """Has a piece that does not exist."""

    def introduce(self) -> None:
        """Say so."""
        super().introduce()
        self.send_message(HAVE, b'\xff\xff\xff\xf0')


@_kind('have-flood')
class HaveFlood(Session):
    """Says without end that it has a piece."""

    def introduce(self) -> None:
        """Flood."""
        super().introduce()
        while not self.peer.closing.wait(0.001):
            self.send(struct.pack('>IBI', 5, HAVE, 0) * 1000)


@_kind('keep-alive-flood')
class KeepAliveFlood(Session):
    """Sends keep-alives without end."""

    def introduce(self) -> None:
        """Flood."""
        super().introduce()
        while not self.peer.closing.wait(0.001):
            self.send(bytes(1 << 14))


@_kind('bad-extension')
class BadExtension(Session):
    """Follows an extended handshake (BEP 10) with nonsense."""

    reserved = EXTENSIONS

    def introduce(self) -> None:
        """Nest lists deeply, then name things that there are not."""
        self.send_message(EXTENDED, b'\0' + b'l' * 5000)
        self.send_message(EXTENDED, b'\0d1:md6:ut_pexi-1e11:ut_metadatai9999')
        self.send_message(EXTENDED, b'\x63' + os.urandom(1000))
        super().introduce()


# Short lives


@_kind('one-block')
class OneBlock(Session):
    """Sends one block, then hangs up, each time."""

    def on_request(self, index: int, begin: int, length: int) -> None:
        """Send it and go."""
        super().on_request(index, begin, length)
        raise Gone


@_kind('hangs-up')
class HangsUp(Session):
    """Hangs up after the handshake, each time."""

    def introduce(self) -> None:
        """Go."""
        raise Gone


@_kind('vanishes')
class Vanishes(Session):
    """Dies when 99 % are sent: no connection after that."""

    def on_request(self, index: int, begin: int, length: int) -> None:
        """Send, unless it is late."""
        if self.peer.sent + length > 0.99 * self.peer.torrent.size:
            self.peer.done.set()
            self.peer.hang_up()
            raise Gone
        super().on_request(index, begin, length)


@_kind('freezes')
class Freezes(Session):
    """Stops to answer when half is sent, and keeps the connection."""

    def on_request(self, index: int, begin: int, length: int) -> None:
        """Send, unless it is late."""
        if self.peer.sent + length > self.peer.torrent.size / 2:
            self.peer.done.set()
            self.wait()
        super().on_request(index, begin, length)


# Gossip


@_kind('gossip')
class Gossip(Session):
    """A good peer that tells of others by PEX (BEP 11), and of a DHT node."""

    reserved = EXTENSIONS[:7] + b'\x05'  # With those of BEP 5 and BEP 6.

    def introduce(self) -> None:
        """Offer PEX; it can be used when the other end does as well."""
        offer = {'m': {'ut_pex': 1}}
        self.send_message(EXTENDED, b'\0' + torrents.bencode(offer))
        self.send_message(HAVE_ALL)
        self.send_message(PORT, struct.pack('>H', 6881))
        self.send_message(UNCHOKE)

    def on_extended(self, payload: bytes) -> None:
        """Tell, under the number that the other end has for it."""
        found = re.search(rb'6:ut_pexi(\d+)e', payload)
        if payload[0] or not found:
            return
        self.peer.done.set()
        added = b''.join(
            socket.inet_aton(host) + struct.pack('>H', port)
            for host, port in self.peer.outsiders
        )
        gossip = {'added': added, 'added.f': bytes(len(added) // 6)}
        number = bytes([int(found[1])])
        self.send_message(EXTENDED, number + torrents.bencode(gossip))


#: Kinds with which a copy from nobody else can get no right byte.
USELESS = (
    'poison',
    'swap',
    'claims-all',
    'chokes',
    'flaps',
    'has-nothing',
    'silent',
    'mute',
    'rejects',
    'garbage',
    'http',
    'wrong-hash',
    'huge-message',
    'huge-piece',
    'short-piece',
    'long-bitfield',
    'have-flood',
    'keep-alive-flood',
    'hangs-up',
)


class BlackHole:
    """A port where connections get lost without a word.

    Its queue is full: a SYN is dropped, as in a network without a route.
    """

    def __init__(self, host: str = '127.0.0.1') -> None:
        self._listener = socket.create_server((host, 0), backlog=0)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._fill = [socket.socket() for _ in range(4)]
        for sock in self._fill:
            sock.setblocking(False)
            sock.connect_ex((host, self.port))

    def __enter__(self) -> BlackHole:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Return HOST:PORT."""
        return f'{self.host}:{self.port}'

    def close(self) -> None:
        """Close it."""
        for sock in self._fill:
            sock.close()
        self._listener.close()


def knock(
    host: str,
    port: int,
    torrent: torrents.Torrent,
    *,
    source: str = '127.0.0.1',
    seconds: float = 2.0,
) -> bytes:
    """Connect to a peer from an address; return all that it says.

    Sends a handshake and asks for a block. Ends when the peer hangs up, at
    the latest after so many seconds of silence.
    """
    said = b''
    request = struct.pack('>IBIII', 13, REQUEST, 0, 0, torrents.BLOCK)
    interested = struct.pack('>IB', 1, INTERESTED)
    hello = _PROTOCOL + bytes(8) + torrent.wire_hash + b'-EV0001-knocknocknoc'
    try:
        with socket.create_connection((host, port), seconds, (source, 0)) as s:
            s.sendall(hello + interested + request)
            while more := s.recv(1 << 16):
                said += more
    except OSError:
        pass
    return said
