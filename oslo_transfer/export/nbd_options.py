# SPDX-License-Identifier: Apache-2.0
"""From a connection to an export: the server's half of the negotiation.

Fixed newstyle only (proto.md, "Fixed newstyle negotiation"). Where the
server has TLS it insists on it ("FORCEDTLS mode"): before it nothing is
told, and nothing that was agreed counts after it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import struct
import typing

from oslo_transfer import exceptions
from oslo_transfer.export import exported
from oslo_transfer.export import nbd_misses
from oslo_transfer import nbd_wire as wire

Option = wire.Option
Reply = wire.OptionReply

#: The longest name of an export (proto.md, "Conventions").
MOST_NAME = 4096
#: The most bytes that one request may move.
MOST_PAYLOAD = 1 << 25
# Requests that are as large, and begin at a multiple, do well.
_PREFERRED = 1 << 16
#: The ID of ``base:allocation``.
CONTEXT = 1
# No option takes more. Who sends more wants us to be busy.
_MOST_DATA = 64 * 1024
# As a number: flags that nobody has defined count, too.
_KNOWN = int(wire.Handshake.FIXED_NEWSTYLE | wire.Handshake.NO_ZEROES)


class Line(typing.Protocol):
    """What the negotiation needs of a connection."""

    def take(self, count: int) -> bytes:
        """Read so many bytes, and no more."""

    def sendall(self, data: bytes) -> None:
        """Send all bytes."""

    def secure(self) -> None:
        """Turn it into a TLS connection."""


class Agreement(typing.NamedTuple):
    """What transmission begins with.

    :ivar name: of the export
    :ivar image: what it is
    :ivar structured: replies to reads are structured
    :ivar context: the client may ask for ``base:allocation``
    """

    name: str
    image: exported.Exported
    structured: bool
    context: bool


class Refused(Exception):
    """The client breaks the protocol, and is not to be answered."""


class _Invalid(Exception):
    """An option's data makes no sense."""


class Negotiation:
    """With one client. Blocks until it has decided.

    :param line: the connection
    :param exports: what is listed
    :param find: the image of a name, listed or not; may block. The client
        is told the text of any
        :class:`~oslo_transfer.exceptions.TransferError`
    :param tls: the server has TLS: nothing goes without
    :param enter: called before the client is told that it can go on; what
        it raises is a refusal
    """

    def __init__(
        self,
        line: Line,
        exports: Iterable[str],
        find: Callable[[str], exported.Exported],
        tls: bool,
        enter: Callable[[Agreement], None],
    ) -> None:
        self._line = line
        self._exports = exports
        self._find = find
        # The client says several times which one it wants.
        self._found: tuple[str, exported.Exported] | None = None
        self._tls = tls
        self._enter = enter
        self._secured = False
        self._structured = False
        # Whose metadata may be asked for.
        self._context: str | None = None
        self._zeroes = True
        self._handlers = {
            Option.LIST: self._list,
            Option.STARTTLS: self._start_tls,
            Option.INFO: self._info,
            Option.GO: self._info,
            Option.STRUCTURED_REPLY: self._structure,
            Option.LIST_META_CONTEXT: self._contexts,
            Option.SET_META_CONTEXT: self._contexts,
        }

    def run(self) -> bool:
        """Answer options until there is an agreement.

        :returns: whether there is one; the client may have given up
        :raises Refused: the client is to be thrown out
        """
        self._line.sendall(
            wire.MAGIC + wire.OPTION_MAGIC + struct.pack('>H', _KNOWN)
        )
        (said,) = struct.unpack('>I', self._line.take(4))
        if said & ~_KNOWN:
            raise Refused('flags that nobody knows')
        self._zeroes = not said & wire.Handshake.NO_ZEROES
        while True:
            magic, kind, length = struct.unpack('>8sII', self._line.take(16))
            if magic != wire.OPTION_MAGIC:
                raise Refused('no option')
            if length > _MOST_DATA:
                raise Refused(f'an option of {length} bytes')
            data = self._line.take(length)
            if kind == Option.EXPORT_NAME:
                self._at_once(data)
                return True
            if kind == Option.ABORT:
                self._reply(kind, Reply.ACK)
                return False
            if self._answer(kind, data):
                return True

    def _reply(self, kind: int, reply: Reply, data: bytes = b'') -> None:
        head = struct.pack(
            '>QIII', wire.OPTION_REPLY_MAGIC, kind, reply, len(data)
        )
        self._line.sendall(head + data)

    def _answer(self, kind: int, data: bytes) -> bool:
        """Whether all is agreed."""
        needs = self._tls and not self._secured
        if needs and kind != Option.STARTTLS:
            self._reply(kind, Reply.ERR_TLS_REQD, b'TLS comes first')
            return False
        handler = self._handlers.get(typing.cast(Option, kind))
        if handler is None:
            self._reply(kind, Reply.ERR_UNSUP)
            return False
        try:
            return handler(kind, data) is True
        except _Invalid as exc:
            self._reply(kind, Reply.ERR_INVALID, str(exc).encode())
            return False

    def _at_once(self, data: bytes) -> None:
        """EXPORT_NAME, which has no way to say no."""
        if self._tls and not self._secured:
            raise Refused('an export without TLS')
        try:
            name, image = self._look_up(data)
        except exceptions.TransferError as exc:
            raise Refused('an export that it cannot have') from exc
        self._agree(name, image)
        found = struct.pack('>QH', image.size, self._flags())
        self._line.sendall(found + (bytes(124) if self._zeroes else b''))

    def _look_up(self, said: bytes) -> tuple[str, exported.Exported]:
        """An export's name, and its image; blocks.

        :raises TransferError: it cannot be had
        """
        if len(said) > MOST_NAME:
            raise exceptions.NotFound('no name of an export is so long')
        try:
            name = said.decode()
        except UnicodeDecodeError:
            raise exceptions.NotFound(
                'there is no such export: the name is not UTF-8'
            ) from None
        if self._found is None or self._found[0] != name:
            self._found = None
            self._found = name, self._find(name)
        return self._found

    def _deny(self, kind: int, why: exceptions.TransferError) -> None:
        """Say why there is no such export for this client."""
        denied = isinstance(
            why, (exceptions.PolicyRefused, exceptions.AccessDenied)
        )
        self._reply(
            kind,
            Reply.ERR_POLICY if denied else Reply.ERR_UNKNOWN,
            str(why).encode(errors='replace')[:MOST_NAME],
        )

    def _agree(self, name: str, image: exported.Exported) -> None:
        self._enter(
            Agreement(name, image, self._structured, self._context == name)
        )

    def _flags(self) -> int:
        flags = (
            wire.Flag.HAS_FLAGS
            | wire.Flag.READ_ONLY
            | wire.Flag.CAN_MULTI_CONN
            | wire.Flag.SEND_CACHE
        )
        return flags | wire.Flag.SEND_DF if self._structured else flags

    def _list(self, kind: int, data: bytes) -> None:
        _expect_nothing(data)
        for name in sorted(self._exports):
            said = name.encode()
            self._reply(
                kind, Reply.SERVER, struct.pack('>I', len(said)) + said
            )
        self._reply(kind, Reply.ACK)

    def _start_tls(self, kind: int, data: bytes) -> None:
        _expect_nothing(data)
        if not self._tls:
            self._reply(kind, Reply.ERR_UNSUP, b'there is no TLS here')
            return
        if self._secured:
            raise _Invalid('TLS was begun already')
        self._reply(kind, Reply.ACK)
        # What was sent ahead of it is taken for TLS, and fails there.
        self._line.secure()
        self._secured = True
        self._structured, self._context = False, None

    def _info(self, kind: int, data: bytes) -> bool:
        parts = _Parts(data)
        said = parts.string()
        wanted = parts.numbers('H', parts.number('H'))
        parts.end()
        try:
            name, image = self._look_up(said)
        except exceptions.TransferError as exc:
            self._deny(kind, exc)
            return False
        if kind == Option.GO:
            try:
                self._agree(name, image)
            except exceptions.TransferError as exc:
                told = nbd_misses.told_of(exc)
                self._reply(kind, Reply.ERR_PLATFORM, told.encode())
                return False
        self._reply(
            kind,
            Reply.INFO,
            struct.pack('>HQH', wire.Info.EXPORT, image.size, self._flags()),
        )
        if wire.Info.BLOCK_SIZE in wanted:
            sizes = 1, _PREFERRED, MOST_PAYLOAD
            self._reply(
                kind,
                Reply.INFO,
                struct.pack('>HIII', wire.Info.BLOCK_SIZE, *sizes),
            )
        self._reply(kind, Reply.ACK)
        return kind == Option.GO

    def _structure(self, kind: int, data: bytes) -> None:
        _expect_nothing(data)
        self._structured = True
        self._reply(kind, Reply.ACK)

    def _contexts(self, kind: int, data: bytes) -> None:
        """Both options: the one asks, the other decides."""
        sets = kind == Option.SET_META_CONTEXT
        if sets:
            self._context = None
        if not self._structured:
            raise _Invalid('it takes structured replies')
        parts = _Parts(data)
        said = parts.string()
        queries = [parts.string() for _ in range(parts.number('I'))]
        parts.end()
        try:
            name, _image = self._look_up(said)
        except exceptions.TransferError as exc:
            self._deny(kind, exc)
            return
        if sets:
            found = wire.ALLOCATION in queries
            self._context = name if found else None
        else:
            found = not queries or any(
                query in (b'base:', wire.ALLOCATION) for query in queries
            )
        if found:
            number = struct.pack('>I', CONTEXT if sets else 0)
            self._reply(kind, Reply.META_CONTEXT, number + wire.ALLOCATION)
        self._reply(kind, Reply.ACK)


class _Parts:
    """Takes an option's data apart."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise _Invalid('it ends too early')
        return self._data[start : self._at]

    def numbers(self, code: str, count: int) -> tuple[int, ...]:
        form = f'>{count}{code}'
        return struct.unpack(form, self._take(struct.calcsize(form)))

    def number(self, code: str) -> int:
        return self.numbers(code, 1)[0]

    def string(self) -> bytes:
        return self._take(self.number('I'))

    def end(self) -> None:
        if self._at < len(self._data):
            raise _Invalid('something is left over')


def _expect_nothing(data: bytes) -> None:
    if data:
        raise _Invalid('it has no data')
