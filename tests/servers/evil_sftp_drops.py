# SPDX-License-Identifier: Apache-2.0
"""Servers that hang up, or say nothing more (S-16, S-19)."""

from __future__ import annotations

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


# S-16, S-19: drops and silence


class Drops(Session):
    """Ends once, after some replies."""

    times: int | None = 1

    def read_data(
        self, request: Request, data: bytes, offset: int, length: int
    ) -> None:
        drops = self.store.memory.get('drops', 0)
        if offset + len(data) > HALF and drops != self.times:
            self.store.memory['drops'] = drops + 1
            self.data(request, data[: HALF - offset] or data[:1])
            self.end()
        self.data(request, data)

    def end(self) -> None:
        """End it."""
        self.connection.reset()
        raise EOFError


_DROP = {'with_digest': OK, 'with_size': OK_OR_FAIL}
row('S-16-reset', 'the connection is cut', OK_OR_FAIL, **_DROP)(Drops)


@row('S-16-closed', 'the channel is closed', OK_OR_FAIL, **_DROP)
class Closed(Drops):
    def end(self) -> None:
        raise EOFError


@row('S-16-eof', 'the channel ends and is not closed', OK_OR_FAIL, **_DROP)
class Eof(Drops):
    def end(self) -> None:
        self.channel.shutdown_write()
        self.hang()


@row('S-16-exit', 'the server exits with a status', OK_OR_FAIL, **_DROP)
class Exit(Drops):
    def end(self) -> None:
        self.channel.send_exit_status(255)
        raise EOFError


@row('S-16-stuck', 'cut at the same place each time', FAIL)
class Stuck(Drops):
    times = None


@row('S-16-open', 'cut when the file is opened', FAIL, errors='Unavailable')
class CutOpen(Session):
    def on_open(self, request: Request) -> None:
        self.connection.reset()


# Without a digest the rest cannot be joined, and that is told, too.
_STALLED = 'Stalled NotResumable'


def _silent(key: str, title: str, method: str, expect: str = FAIL) -> None:
    def hang(self: Session, *_rest: Any) -> None:
        self.hang()

    made = type('Silent', (Session,), {method: hang})
    row(
        key,
        title,
        expect,
        errors='Stalled Unavailable',
        facts=('digest',),
    )(made)


_silent('S-19-init', 'no answer to INIT', 'greet')
_silent('S-19-limits', 'no answer to limits', 'on_extended')
_silent('S-19-stat', 'no answer to STAT', 'on_stat')
_silent('S-19-open', 'no answer to OPEN', 'on_open')
_silent('S-19-read', 'no answer to READ', 'on_read')
_silent('S-19-close', 'no answer to CLOSE', 'on_close', OK)


@row('S-19-half', 'no more answers in the middle', FAIL, errors=_STALLED)
class Half(Session):
    def read_data(
        self, request: Request, data: bytes, offset: int, length: int
    ) -> None:
        self.data(request, data[: HALF // 4])
        self.hang()


@row(
    'S-19-trickle',
    'a byte now and then',
    FAIL,
    errors=_STALLED,
    facts=('none',),
)
class Trickle(Session):
    def read_data(self, request: Request, data: bytes, *_rest: Any) -> None:
        packet = self.packet(sftp_session.DATA, u32(request.id) + string(data))
        for at in range(len(packet)):
            self.send(packet[at : at + 1])
            self.pause(0.05)


@row('S-20-stderr', 'much on the error channel', OK)
class Stderr(Session):
    def on_open(self, request: Request) -> None:
        self.channel.settimeout(5.0)
        for _ in range(100):
            self.channel.sendall_stderr(b'debug: ' * 9000)
        super().on_open(request)
