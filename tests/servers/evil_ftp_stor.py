# SPDX-License-Identifier: Apache-2.0
"""Uploads that are refused, cut, stalled, or not what they seem."""

from __future__ import annotations

import dataclasses
from typing import Any

from oslo_transfer import exceptions
from tests.servers import evil_ftp_lab as lab
from tests.servers import scripted_ftp

Session = scripted_ftp.Session
Errors = tuple[lab.Kind, ...]

KIB = 1 << 10
#: How far a server reads before it has seen enough.
ENOUGH = 300 * KIB
DENIED: Errors = (exceptions.AccessDenied,)
FULL: Errors = (exceptions.NoSpace,)
BUSY: Errors = (exceptions.Unavailable,)
SLOW: Errors = (exceptions.Stalled,)
NONSENSE: Errors = (exceptions.ProtocolError,)


@dataclasses.dataclass(frozen=True)
class Upload:
    """One way to misbehave at an upload."""

    id: str
    verb: str
    step: scripted_ftp.Step
    #: What a client fails with; it may not succeed.
    errors: Errors
    #: Whether what has arrived can stay: nobody is there to delete it.
    leaves: bool = False
    #: Whether all the data may be sent before it fails.
    late: bool = False


UPLOADS: dict[str, Upload] = {}


def upload(key: str, verb: str, errors: Errors, **fields: Any) -> Any:
    """Register a step of a server that is good otherwise."""

    def register(step: scripted_ftp.Step) -> scripted_ftp.Step:
        assert key not in UPLOADS, key
        UPLOADS[key] = Upload(key, verb, step, errors, **fields)
        return step

    return register


# Refused at once

for _code, _errors in {
    425: BUSY,
    450: BUSY,
    421: BUSY,
    452: FULL,
    552: FULL,
    550: DENIED,
    553: DENIED,
    532: DENIED,
    502: NONSENSE,
}.items():
    upload(f'refused-{_code}', 'STOR', _errors)(lab.refuse(_code, 'No.'))


# Refused in the middle: the server says so and reads on, or does not


def _early(code: int, errors: Errors) -> None:
    @upload(f'early-{code}', 'STOR', errors)
    def read_on(session: Session, argument: str) -> None:
        conn = session.open_data()
        if conn is None:
            return
        session.take(conn, argument, ENOUGH)
        session.reply(code, 'No more.')
        session.take(conn, argument)
        conn.release()

    @upload(f'early-{code}-closed', 'STOR', errors)
    def close(session: Session, argument: str) -> None:
        conn = session.open_data()
        if conn is None:
            return
        session.take(conn, argument, ENOUGH)
        session.reply(code, 'No more.')
        conn.reset()


for _code, _errors in {426: BUSY, 451: BUSY, 552: FULL, 452: FULL}.items():
    _early(_code, _errors)


@upload('early-0', 'STOR', FULL)
def at_once(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn is not None:
        session.server.files[argument] = b''
        session.reply(552, 'Quota exceeded.')
        session.take(conn, argument)
        conn.release()


@upload('early-226', 'STOR', (*NONSENSE, *BUSY))
def done_early(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn is not None:
        session.take(conn, argument, ENOUGH)
        session.reply(226, 'Thanks, that will do.')
        conn.reset()


# Refused after all data


def _late(code: int, errors: Errors) -> None:
    @upload(f'late-{code}', 'STOR', errors, late=True)
    def act(session: Session, argument: str) -> None:
        conn = session.open_data()
        if conn is not None:
            session.take(conn, argument)
            conn.close()
            session.reply(code, 'No, after all.')


for _code, _errors in {
    426: BUSY,
    451: BUSY,
    452: FULL,
    552: FULL,
    550: (exceptions.AccessDenied, exceptions.NotFound),
    554: NONSENSE,
}.items():
    _late(_code, _errors)


# Connections that end


def _cut(count: int) -> None:
    @upload(f'cut-{count}', 'STOR', BUSY)
    def say(session: Session, argument: str) -> None:
        conn = session.open_data()
        if conn is not None:
            session.take(conn, argument, count)
            conn.reset()
            session.reply(426, 'The connection broke.')

    @upload(f'cut-{count}-control', 'STOR', BUSY)
    def hang_up(session: Session, argument: str) -> None:
        conn = session.open_data()
        if conn is not None:
            session.take(conn, argument, count)
            conn.reset()
            session.hang_up()


for _count in (0, 1, 64 * KIB, ENOUGH):
    _cut(_count)


def _hang_up(session: Session, _argument: str) -> None:
    session.hang_up()


def _stall(session: Session, _argument: str) -> None:
    session.stall()


@upload('hangup-done', 'STOR', BUSY, late=True)
def no_reply(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn is not None:
        session.take(conn, argument)
        conn.close()
    session.hang_up()


@upload('silent-done', 'STOR', SLOW, late=True, leaves=True)
def silent(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn is not None:
        session.take(conn, argument)
        conn.close()
    session.stall()


for _verb in ('RNFR', 'RNTO'):
    upload(f'hangup-{_verb.lower()}', _verb, BUSY, late=True)(_hang_up)
    upload(
        f'silent-{_verb.lower()}', _verb, SLOW, late=True, leaves=True
    )(_stall)  # fmt: skip


# Servers that take nothing, or next to nothing


@upload('stall', 'STOR', SLOW, leaves=True)
def takes_nothing(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn is not None:
        session.take(conn, argument, 1000)
        session.control.stall()
        conn.release()


@upload('trickle', 'STOR', SLOW, leaves=True)
def takes_little(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn is None:
        return
    try:
        while conn.sock.recv(16):
            session.control.wait(0.02)
    finally:
        conn.release()


# The end of it


for _verb in ('RNFR', 'RNTO'):
    for _code, _errors in {
        550: DENIED,
        553: DENIED,
        450: BUSY,
        502: NONSENSE,
    }.items():
        upload(f'{_verb.lower()}-{_code}', _verb, _errors, late=True)(
            lab.refuse(_code, 'It stays as it is.')
        )


def _other_size(change: int) -> scripted_ftp.Step:
    def size(session: Session, argument: str) -> None:
        found = session.find(argument)
        if found is None:
            session.do_size(argument)
        else:
            session.reply(213, str(len(found) + change))

    return size


MISMATCH: Errors = (exceptions.SizeMismatch,)
upload('size-less', 'SIZE', MISMATCH, late=True)(_other_size(-1))
upload('size-more', 'SIZE', MISMATCH, late=True)(_other_size(1))


@upload('lost', 'STOR', MISMATCH, late=True)
def loses_some(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn is not None:
        session.take(conn, argument)
        conn.close()
        session.server.files[argument] = session.server.files[argument][:-1]
        session.reply(226, 'Transfer complete.')


@upload('line', 'STOR', NONSENSE, late=True, leaves=True)
def long_line(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn is not None:
        session.take(conn, argument)
        conn.close()
        session.raw(b'226 ' + b'x' * (10 << 20) + b'\r\n')


@upload('nul', 'STOR', NONSENSE, late=True, leaves=True)
def nul(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn is not None:
        session.take(conn, argument)
        conn.close()
        session.raw(b'226 do\0ne\r\n')


@upload('echo', 'STOR', FULL)
def echo(session: Session, argument: str) -> None:
    user, password = session.server.logins[-1]
    session.reply(552, f'{user} with {password} has no space left\x9b31m')
