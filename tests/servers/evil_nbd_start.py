# SPDX-License-Identifier: Apache-2.0
"""Servers that negotiate badly."""

from __future__ import annotations

import struct

from tests.servers import evil_nbd_lab
from tests.servers import nbd_session

Session = nbd_session.Session
changed, replaced = evil_nbd_lab.changed, evil_nbd_lab.replaced
GO, INFO, ACK = nbd_session.GO, nbd_session.INFO, nbd_session.ACK

# What a server sends at all is bounded: see handshake.py.
_ENDLESS = 10_000


changed(
    'greeting-other',
    'it speaks something else',
    'ProtocolError',
    greeting=b'HTTP/1.1 400 Bad Request\r\n\r\n',
)
changed(
    'greeting-old',
    'it speaks the oldest dialect',
    'CapabilityMissing',
    greeting=b'NBDMAGIC' + bytes.fromhex('0000420281861253') + bytes(140),
)
changed(
    'greeting-not-fixed',
    'it does not know how to refuse an option',
    'CapabilityMissing',
    greeting=b'NBDMAGICIHAVEOPT\0\2',
)
changed(
    'greeting-flags',
    'it sets flags that nobody knows',
    greeting=b'NBDMAGICIHAVEOPT\xff\xff',
)


@replaced('run', 'greeting-silent', 'it says nothing', 'Stalled')
def _(session: Session) -> None:
    session.hang()


@replaced('run', 'greeting-cut', 'it hangs up in its greeting', 'Unavailable')
def _(session: Session) -> None:
    session.send(session.greeting[:11])


@replaced('run', 'greeting-trickle', 'it greets byte by byte', 'Stalled')
def _(session: Session) -> None:
    for byte in session.greeting:
        session.send(bytes([byte]))
        if session.server.closing.wait(0.15):
            break


def _replies(key: str, title: str, errors: str, *packets: bytes) -> None:
    """It answers GO with these bytes."""

    @replaced('on_go', key, title, errors)
    def _(session: Session, _name: bytes) -> bool:
        for packet in packets:
            session.send(packet)
        return True


def _reply(reply: int, data: bytes = b'', kind: int = GO) -> bytes:
    head = (nbd_session.OPTION_REPLY, kind, reply, len(data))
    return struct.pack('>QIII', *head) + data


def _size(size: int) -> bytes:
    return _reply(INFO, struct.pack('>HQH', 0, size, nbd_session.HAS_FLAGS))


def _blocks(*sizes: int) -> bytes:
    return _reply(INFO, struct.pack('>HIII', 3, *sizes))


_ACK = _reply(ACK)
_GOOD = _size(4096)
_replies('go-magic', 'no reply at all', 'ProtocolError', b'x' * 40)
_replies(
    'go-other',
    'a reply to another option',
    'ProtocolError',
    _reply(ACK, kind=8),
)
_replies(
    'go-huge',
    'a reply of 4 GiB',
    'ProtocolError',
    struct.pack('>QIII', nbd_session.OPTION_REPLY, GO, INFO, 0xFFFFFFFF),
)
_replies(
    'go-endless',
    'replies without end',
    'ProtocolError',
    _reply(INFO, b'\0\2more') * _ENDLESS,
)
_replies('go-nothing', 'it agrees and tells no size', 'ProtocolError', _ACK)
_replies(
    'go-malformed',
    'a size of other length',
    'ProtocolError',
    _reply(INFO, bytes(11)),
    _ACK,
)
_replies('go-empty', 'information of nothing', 'ProtocolError', _reply(INFO))
_replies(
    'go-blocks-malformed',
    'block sizes of other length',
    'ProtocolError',
    _GOOD,
    _reply(INFO, b'\0\3\0\0'),
    _ACK,
)
for _name, _bytes in {
    '63': 1 << 63,
    '64': (1 << 64) - 1,
}.items():
    _replies(
        f'go-size-{_name}',
        'a size that nothing has',
        'ProtocolError',
        _size(_bytes),
        _ACK,
    )
for _name, _sizes in {
    'zero': (0, 4096, 1 << 20),
    'odd': (3, 4096, 1 << 20),
    'large': (1 << 17, 1 << 17, 1 << 20),
    'crossed': (4096, 4096, 512),
    'nothing': (1, 1, 0),
}.items():
    _replies(
        f'go-blocks-{_name}',
        'block sizes that make no sense',
        'ProtocolError',
        _GOOD,
        _blocks(*_sizes),
        _ACK,
    )
_replies(
    'go-end-out-of-reach',
    'a size that is no multiple of the least block',
    'ProtocolError',
    _size(5000),
    _blocks(4096, 4096, 1 << 20),
    _ACK,
)
for _code, _error in {
    2: 'AccessDenied',
    3: 'ProtocolError',
    5: 'AccessDenied',
    6: 'NotFound',
    7: 'Unavailable',
    1: 'CapabilityMissing',
    77: 'ProtocolError',
}.items():
    _replies(
        f'go-error-{_code}',
        'it refuses, in words that are no text',
        _error,
        _reply((1 << 31) + _code, b'no\x1b[2J\0\xff' * 100),
    )


@replaced(
    'on_go', 'go-cut', 'it hangs up at the name of the export', 'Unavailable'
)
def _(session: Session, _name: bytes) -> bool:
    session.reset()


@replaced('on_go', 'go-more', 'it tells a lot that nobody knows')
def _(session: Session, name: bytes) -> bool:
    for kind in (1, 2, 99, 65535):
        session.send(_reply(INFO, struct.pack('>H', kind) + b'x' * 999))
    return Session.on_go(session, name)


changed('no-structured', 'it has simple replies only', structured=False)
changed('no-contexts', 'it tells nothing of holes', contexts=False)
changed('no-blocks', 'it tells no block sizes', blocks=None)


@replaced('on_option', 'context-other', 'it offers a context nobody asked for')
def _(session: Session, kind: int, said: bytes) -> bool:
    if kind != nbd_session.SET_META_CONTEXT:
        return Session.on_option(session, kind, said)
    session.send(_reply(nbd_session.META_CONTEXT, b'\0\0\0\7x:y', kind))
    session.send(_reply(nbd_session.META_CONTEXT, b'', kind))
    session.send(_reply(ACK, kind=kind))
    return False


@replaced(
    'on_option', 'context-endless', 'contexts without end', 'ProtocolError'
)
def _(session: Session, kind: int, said: bytes) -> bool:
    if kind != nbd_session.SET_META_CONTEXT:
        return Session.on_option(session, kind, said)
    reply = _reply(nbd_session.META_CONTEXT, b'\0\0\0\7x:y', kind)
    session.send(reply * _ENDLESS)
    return False
