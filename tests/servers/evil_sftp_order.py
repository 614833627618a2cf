# SPDX-License-Identifier: Apache-2.0
"""Replies in any order, to nobody, or of the wrong kind (S-13)."""

from __future__ import annotations

import random
from typing import Any

from tests.servers import evil_sftp_lab
from tests.servers import sftp_session

FAIL, OK = evil_sftp_lab.FAIL, evil_sftp_lab.OK
OK_OR_FAIL, UNDETECTABLE = evil_sftp_lab.OK_OR_FAIL, evil_sftp_lab.UNDETECTABLE
Request = sftp_session.Request
Session = sftp_session.Session
row = evil_sftp_lab.session
u32, u64, string = sftp_session.u32, sftp_session.u64, sftp_session.string

HALF = evil_sftp_lab.SIZE // 2
# Bytes a server may be asked for at once by a client that thinks.
SANE = 1 << 20


# S-13: the order of replies


class Late(Session):
    """Holds replies to READ back until nothing more is asked for."""

    batches = True
    # More requests than one for each file.
    limits = (1 << 15, 1 << 14, 1 << 14, 0)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.held: list[tuple[Request, bytes]] = []

    def read_data(
        self, request: Request, data: bytes, offset: int, length: int
    ) -> None:
        self.held.append((request, data))

    def idle(self) -> None:
        held, self.held = self.held, []
        for request, data in self.order(held):
            self.data(request, data)

    def order(
        self, held: list[tuple[Request, bytes]]
    ) -> list[tuple[Request, bytes]]:
        """Return replies as they are sent."""
        return held[::-1]


row('S-13-reversed', 'the last reply comes first', OK)(Late)


@row('S-13-shuffled', 'replies in any order', OK)
class Shuffled(Late):
    def order(self, held: Any) -> Any:
        return random.Random(1).sample(held, len(held))


@row('S-13-swapped', 'the bytes of one reply in another', UNDETECTABLE)
class Swapped(Late):
    def order(self, held: Any) -> Any:
        return [
            (one, data)
            for (one, _), (_, data) in zip(held, held[1:] + held[:1])
        ]


@row('S-13-merged', 'all replies in one piece', OK)
class Merged(Late):
    def idle(self) -> None:
        held, self.held = self.held, []
        self.send(
            b''.join(
                self.packet(sftp_session.DATA, u32(one.id) + string(data))
                for one, data in held
            )
        )


@row('S-13-pieces', 'replies in pieces of any length', OK)
class Pieces(Session):
    def send(self, data: bytes) -> None:
        choose = random.Random(len(data))
        while data:
            # Heads byte by byte.
            count = 1 if len(data) < 100 else choose.randrange(1, 5000)
            super().send(data[:count])
            data = data[count:]


def _wrong_reply(key: str, title: str, kind: int, body: bytes) -> None:
    @row(key, title, FAIL, errors='ProtocolError')
    class Wrong(Session):
        def read_data(self, request: Request, *_rest: Any) -> None:
            self.reply(request, kind, body)


_wrong_reply('S-13-handle', 'HANDLE for READ', 102, string(b'h'))
_wrong_reply('S-13-unknown-type', 'a reply of no known type', 250, b'x' * 9)
_wrong_reply('S-13-request', 'a request instead of a reply', 5, b'x' * 9)
_wrong_reply('S-13-ok', 'STATUS OK for READ', 101, u32(0) + string('') * 2)


def _ids(key: str, title: str, expect: str, *changes: int) -> None:
    @row(key, title, expect, errors='ProtocolError')
    class Ids(Session):
        def read_data(
            self, request: Request, data: bytes, offset: int, length: int
        ) -> None:
            bad = evil_sftp_lab.other(data)
            for change in changes:
                one = (request.id + change) & 0xFFFFFFFF
                body = u32(one) + string(bad if change else data)
                self.send(self.packet(sftp_session.DATA, body))
                data = bad


_ids('S-13-wrong-id', 'an id that nobody used', FAIL, 1 << 20)
_ids('S-13-twice', 'two replies for one request', OK_OR_FAIL, 0, 0)
_ids('S-13-more', 'a reply for what was not asked', OK_OR_FAIL, 0, 1 << 20)


@row('S-13-unasked', 'data before anything is asked', FAIL)
class Unasked(Session):
    def greet(self, version: int) -> None:
        super().greet(version)
        for number in range(200):
            body = u32(number) + string(b'E' * 1000)
            self.send(self.packet(sftp_session.DATA, body))
