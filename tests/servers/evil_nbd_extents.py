# SPDX-License-Identifier: Apache-2.0
"""Servers that tell wrong things of holes."""

from __future__ import annotations

import struct

from tests.servers import evil_nbd_lab
from tests.servers import nbd_session

Evil = evil_nbd_lab.Evil
Session = nbd_session.Session
Request = nbd_session.Request
replaced = evil_nbd_lab.replaced
STATUS, DONE, NONE = nbd_session.STATUS, nbd_session.DONE, nbd_session.NONE

_CONTEXT = struct.pack('>I', nbd_session.CONTEXT)
_BAD = 'ProtocolError'


def _payload(
    key: str, title: str, errors: str, *payloads: bytes, end: bool = False
) -> None:
    """It answers BLOCK_STATUS with these payloads."""

    @replaced('on_status', key, title, errors)
    def _(session: Session, request: Request) -> None:
        for payload in payloads:
            last = payload is payloads[-1] and not end
            session.chunk(request, STATUS, payload, DONE if last else 0)
        if end:
            session.chunk(request, NONE, b'')


def _run(*runs: tuple[int, int]) -> bytes:
    return _CONTEXT + b''.join(struct.pack('>II', *each) for each in runs)


_SIZE = evil_nbd_lab.SIZE
_payload('extents-none', 'none at all', _BAD, end=True)
_payload('extents-empty', 'a list without one', _BAD, _CONTEXT)
_payload('extents-zero', 'one of no bytes', _BAD, _run((0, 0)))
_payload('extents-cut', 'half an extent', _BAD, _run((1, 0))[:-3])
_payload('extents-other', 'of another context', _BAD, b'\0\0\0\x63' + bytes(8))
_payload('extents-twice', 'two lists', _BAD, _run((9, 0)), _run((9, 0)))
_payload(
    'extents-more',
    'of more than was asked about',
    _BAD,
    _run((_SIZE, 0), (_SIZE, 0)),
)
_payload('extents-beyond', 'the last one goes on', '', _run((1 << 31, 0)))
_payload('extents-flags', 'flags nobody knows', '', _run((_SIZE, 0xFFF0)))
_payload('extents-bad-hole', 'a hole of anything', '', _run((_SIZE, 1)))
_payload(
    'extents-many',
    'more than anybody wants',
    '',
    _run(*[(1, 0)] * (_SIZE - 1), (1, 0)),
)


@replaced('on_status', 'extents-huge', 'a list of 4 GiB', _BAD)
def _(session: Session, request: Request) -> None:
    session.send(
        struct.pack(
            '>IHHQI',
            *(nbd_session.STRUCTURED, DONE, STATUS),
            *(request.cookie, 0xFFFFFFFC),
        )
    )
    session.hang()


@replaced('on_status', 'extents-few', 'a few bytes at a time')
def _(session: Session, request: Request) -> None:
    session.extents(request, (min(4096, request.length), 0))


@replaced('on_status', 'extents-error', 'it cannot tell')
def _(session: Session, request: Request) -> None:
    session.fail(request, nbd_session.EIO)


@replaced('on_status', 'extents-simple', 'a simple reply', _BAD)
def _(session: Session, request: Request) -> None:
    session.simple(request)


@replaced('on_status', 'extents-reset', 'it is cut when it is asked')
def _(session: Session, request: Request) -> None:
    session.reset()


@replaced(
    'on_status',
    'extents-lie',
    'data is told to be a hole',
    'DigestMismatch',
    version=lambda data: bytes(len(data)),
)
def _(session: Session, request: Request) -> None:
    session.extents(request, (request.length, 3))
