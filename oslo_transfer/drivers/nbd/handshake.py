# SPDX-License-Identifier: Apache-2.0
"""From a connection to an export: fixed newstyle negotiation."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import struct
import typing

from oslo_transfer import exceptions
from oslo_transfer import nbd_wire as wire

Option = wire.Option
Reply = wire.OptionReply

# A server says a few things of an export, each in some hundred bytes.
_MOST_REPLIES = 64
_MOST_REPLY = 64 * 1024
_MOST_ALIGN = 1 << 16
# What servers take that do not say how much (proto.md, "Size constraints").
_DEFAULT_PAYLOAD = 1 << 25


class Carrier(typing.Protocol):
    """What the negotiation needs of a connection."""

    def take(self, count: int) -> bytes:
        """Read so many bytes."""

    def sendall(self, data: typing.Any) -> None:
        """Send all bytes."""

    def secure(self) -> None:
        """Turn it into a TLS connection."""


@dataclasses.dataclass(frozen=True)
class Export:
    """What a server says of an export.

    :ivar size: in bytes
    :ivar flags: what it is, and what can be done with it
    :ivar align: offsets and lengths of requests have to be multiples of it
    :ivar most: the most bytes that one request may move
    :ivar structured: replies to reads are structured
    :ivar context: the ID of ``base:allocation``; None where it has none
    """

    size: int
    flags: wire.Flag
    align: int
    most: int
    structured: bool
    context: int | None

    @property
    def read_only(self) -> bool:
        """Whether it refuses writes."""
        return wire.Flag.READ_ONLY in self.flags

    @property
    def shared(self) -> bool:
        """Whether several connections see the same."""
        return wire.Flag.CAN_MULTI_CONN in self.flags


def negotiate(
    carrier: Carrier, export: bytes, tls: bool, where: str
) -> Export:
    """Agree on everything, and enter transmission.

    Blocks for a few round trips.

    :param export: its name
    :param tls: nothing is told or asked without
    :param where: the redacted endpoint, for messages
    :raises NotFound: there is no such export
    :raises AccessDenied: the server refuses, or has no TLS where it is due
    :raises CapabilityMissing: the server is too old
    :raises ProtocolError: it speaks something else
    """
    return _Talk(carrier, where).run(export, tls)


class _Talk:
    def __init__(self, carrier: Carrier, where: str) -> None:
        self._carrier = carrier
        self._where = where

    def run(self, export: bytes, tls: bool) -> Export:
        self._greet()
        if tls:
            self._start_tls()
        structured = self._accepted(Option.STRUCTURED_REPLY)
        context = self._ask_context(export) if structured else None
        return self._go(export, structured, context)

    def _nonsense(self, what: str) -> exceptions.ProtocolError:
        return exceptions.ProtocolError(
            f'{self._where}: the server sends {what}'
        )

    def _greet(self) -> None:
        greeting = self._carrier.take(16)
        if greeting[:8] != wire.MAGIC:
            raise self._nonsense('no greeting of NBD')
        if greeting[8:] != wire.OPTION_MAGIC:
            raise exceptions.CapabilityMissing(
                f'{self._where}: the server is older than the negotiation '
                f'of NBD that is needed here (fixed newstyle)'
            )
        (found,) = struct.unpack('>H', self._carrier.take(2))
        if not found & wire.Handshake.FIXED_NEWSTYLE:
            raise exceptions.CapabilityMissing(
                f'{self._where}: the server has no fixed newstyle negotiation'
            )
        mine = found & (
            wire.Handshake.FIXED_NEWSTYLE | wire.Handshake.NO_ZEROES
        )
        self._carrier.sendall(struct.pack('>I', mine))

    def _ask(
        self, kind: Option, data: bytes = b''
    ) -> Iterator[tuple[int, bytes]]:
        """Send an option; the last of the replies is an ACK or an error."""
        self._carrier.sendall(wire.option(kind, data))
        for _ in range(_MOST_REPLIES):
            magic, what, reply, length = struct.unpack(
                '>QIII', self._carrier.take(20)
            )
            if magic != wire.OPTION_REPLY_MAGIC or what != kind:
                raise self._nonsense(f'no reply to {kind.name}')
            if length > _MOST_REPLY:
                raise self._nonsense(f'{length} bytes in reply to {kind.name}')
            yield reply, self._carrier.take(length)
            if reply == Reply.ACK or reply >> 31:
                return
        raise self._nonsense(f'no end of replies to {kind.name}')

    def _accepted(self, kind: Option) -> bool:
        """Whether the server agrees to an option without data."""
        replies = list(self._ask(kind))
        return replies[-1][0] == Reply.ACK

    def _start_tls(self) -> None:
        ((reply, _text), *_rest) = self._ask(Option.STARTTLS)
        if reply != Reply.ACK:
            raise exceptions.AccessDenied(
                f'{self._where}: the server has no TLS, and nbds never goes '
                f'without'
            )
        # What is sent in between is taken for TLS, and fails there.
        self._carrier.secure()

    def _ask_context(self, export: bytes) -> int | None:
        data = wire.set_meta_context(export, wire.ALLOCATION)
        found = None
        for reply, said in self._ask(Option.SET_META_CONTEXT, data):
            if reply == Reply.META_CONTEXT and said[4:] == wire.ALLOCATION:
                (found,) = struct.unpack_from('>I', said)
            elif reply >> 31:
                return None  # GO tells why, if it matters.
        return found

    def _go(
        self, export: bytes, structured: bool, context: int | None
    ) -> Export:
        size = flags = None
        align, most = 1, _DEFAULT_PAYLOAD
        for reply, said in self._ask(Option.GO, wire.go(export)):
            if reply >> 31:
                raise self._refused(reply, said)
            if reply != Reply.INFO:
                continue
            kind = int.from_bytes(said[:2])
            if kind == wire.Info.EXPORT:
                if len(said) != 12:
                    raise self._nonsense('a malformed size')
                size, flags = struct.unpack('>QH', said[2:])
            elif kind == wire.Info.BLOCK_SIZE:
                if len(said) != 14:
                    raise self._nonsense('malformed block sizes')
                align, _preferred, most = struct.unpack('>III', said[2:])
        if size is None or flags is None:
            raise self._nonsense('no size')
        if size > wire.MOST_SIZE:
            raise self._nonsense(f'a size of {size} bytes')
        if align.bit_count() != 1 or align > min(most, _MOST_ALIGN):
            raise self._nonsense(
                f'a least block of {align} bytes, and a largest of {most}'
            )
        if size % align:
            raise self._nonsense(
                f'a size of {size} bytes, and says that less than {align} '
                f'of them cannot be read; its end cannot be reached'
            )
        most -= most % align
        return Export(size, wire.Flag(flags), align, most, structured, context)

    def _refused(self, reply: int, said: bytes) -> exceptions.TransferError:
        text = f'{self._where}: {wire.printable(said) or "refused"}'
        if reply == Reply.ERR_UNKNOWN:
            return exceptions.NotFound(f'{text} (there is no such export)')
        if reply == Reply.ERR_TLS_REQD:
            return exceptions.AccessDenied(
                f'{text} (the server insists on TLS: use nbds, not nbd)'
            )
        if reply == Reply.ERR_POLICY:
            return exceptions.AccessDenied(f'{text} (by its policy)')
        if reply == Reply.ERR_SHUTDOWN:
            return exceptions.Unavailable(f'{text} (it is shutting down)')
        if reply in (Reply.ERR_UNSUP, Reply.ERR_PLATFORM):
            return exceptions.CapabilityMissing(
                f'{text} (the server is too old: it does not know GO)'
            )
        return exceptions.ProtocolError(f'{text} (error {reply:#x})')
