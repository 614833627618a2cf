# SPDX-License-Identifier: Apache-2.0
"""Data that is short, late or too much, and sizes that are wrong."""

from __future__ import annotations

from typing import Any

from oslo_transfer import exceptions
from tests.servers import evil_ftp_lab as lab
from tests.servers import ftp_session
from tests.servers import scripted_ftp
from tests.servers import wire

Session = scripted_ftp.Session

SLOW = (exceptions.Stalled, exceptions.Unavailable)


# What comes, and what is said about it


def _short(
    key: str,
    title: str,
    part: float,
    after: str | None,
    expect: str = lab.FAIL,
    **fields: Any,
) -> None:
    """A transfer that ends early, and the reply that follows."""

    @lab.step(key, title, 'RETR', expect, **fields)
    def act(session: Session, argument: str) -> None:
        data = session.rested(session.find(argument) or b'')
        conn = session.open_data()
        if conn is None:
            return
        session.deliver(conn, data[: int(len(data) * part)])
        ftp_session.finish(conn)
        if after is None:
            session.hang_up()
        else:
            session.raw(after.encode() + b'\r\n')


_short('F-13', 'half, then 226', 0.5, '226 Done.')
_short('F-13-nothing', 'nothing, then 226', 0, '226 Done.')
_short(
    'F-13-nosize', 'no SIZE, half, then 226', 0.5, '226 Done.',
    lab.UNDETECTABLE, with_size=lab.FAIL, no_size=True,
)  # fmt: skip
_short('F-14-426-0', 'nothing, then 426', 0, '426 Broken.')
_short('F-14-451-0', 'nothing, then 451', 0, '451 Disk error.')
_short('F-14-550-0', 'nothing, then 550', 0, '550 Disk error.')
_short('F-14-nosize-426', 'no SIZE, half, 426', 0.5, '426 Broken.',
       no_size=True)  # fmt: skip
_short('F-14-nosize-none', 'no SIZE, half, hung up', 0.5, None, no_size=True)
_short('F-14-nosize-bad', 'no SIZE, half, nonsense', 0.5, 'well, well',
       no_size=True)  # fmt: skip
_short('F-16-none', 'all, then hung up', 1, None, lab.OK_OR_FAIL,
       with_digest=lab.OK)  # fmt: skip
_short('F-16-421', 'all, then 421', 1, '421 Timeout.', lab.OK_OR_FAIL,
       with_digest=lab.OK)  # fmt: skip
_short('F-16-nosize', 'no SIZE, all, then hung up', 1, None,
       lab.OK_OR_FAIL, no_size=True)  # fmt: skip
_short('F-14-all-451', 'all, then 451', 1, '451 Disk error.',
       with_digest=lab.OK_OR_FAIL)  # fmt: skip
_short('F-14-250', 'all, then 250', 1, '250 Done.', lab.OK)


@lab.step(
    'F-16-silent',
    'all, and never a reply',
    'RETR',
    lab.OK_OR_FAIL,
    facts=('none', 'digest'),
)
def no_reply(session: Session, argument: str) -> None:
    data = session.rested(session.find(argument) or b'')
    conn = session.open_data()
    if conn and session.deliver(conn, data):
        ftp_session.finish(conn)
    session.stall()


@lab.step('F-16-early', '421 and the end while data flows', 'RETR', lab.OK)
def control_gone(session: Session, argument: str) -> None:
    data = session.rested(session.find(argument) or b'')
    conn = session.open_data()
    assert conn is not None
    session.deliver(conn, data[: len(data) // 2])
    if session.serial:
        session.deliver(conn, data[len(data) // 2 :])
        ftp_session.finish(conn)
        session.reply(226, 'Done.')
        return
    session.reply(421, 'Idle for too long.')
    session.ended = True
    session.deliver(conn, data[len(data) // 2 :])
    ftp_session.finish(conn)


@lab.step('F-14-early', '426 while data still flows', 'RETR', lab.OK_OR_FAIL)
def early_error(session: Session, argument: str) -> None:
    data = session.rested(session.find(argument) or b'')
    conn = session.open_data()
    if conn is None:
        return
    session.deliver(conn, data[: len(data) // 2])
    session.reply(426, 'Broken, I believe.')
    session.deliver(conn, data[len(data) // 2 :])
    ftp_session.finish(conn)


@lab.step(
    'F-14-no150',
    'no 150, only 226',
    'RETR',
    lab.OK_OR_FAIL,
    facts=lab.NO_FACTS,
    retries=0,
)
def no_150(session: Session, argument: str) -> None:
    data = session.rested(session.find(argument) or b'')
    conn = session.accept()
    if session.deliver(conn, data):
        ftp_session.finish(conn)
        session.reply(226, 'Done.')


@lab.step('F-14-early226', '226 before all data', 'RETR', lab.OK_OR_FAIL)
def early_226(session: Session, argument: str) -> None:
    data = session.rested(session.find(argument) or b'')
    conn = session.accept()
    session.raw(b'150 Here it comes.\r\n226 Done.\r\n')
    session.deliver(conn, data)
    ftp_session.finish(conn)


@lab.step('F-14-125', '125 in place of 150', 'RETR', lab.OK)
def reply_125(session: Session, argument: str) -> None:
    data = session.rested(session.find(argument) or b'')
    conn = session.accept()
    session.reply(125, 'Data connection already open.')
    if session.deliver(conn, data):
        ftp_session.finish(conn)
        session.reply(226, 'Done.')


def _idle(key: str, title: str, times: int, expect: str) -> None:
    @lab.step(
        key, title, 'RETR', expect,
        facts=('digest',), errors=(exceptions.Stalled,),
    )  # fmt: skip
    def act(session: Session, argument: str) -> None:
        if session.nth >= times:
            session.do_retr(argument)
            return
        data = session.rested(session.find(argument) or b'')
        conn = session.open_data()
        if conn is not None:
            session.deliver(conn, data[: lab.HELD] if times < 99 else b'')
            conn.stall()


_idle('F-17-once', 'the data stops flowing, once', 1, lab.OK)
_idle('F-17-always', 'no data comes, always', 99, lab.FAIL)


@lab.step(
    'F-17-trickle',
    'one byte of data each 50 ms',
    'RETR',
    lab.FAIL,
    facts=lab.NO_FACTS,
    errors=SLOW,
    retries=0,
)
def slow(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn is not None:
        try:
            conn.trickle(session.find(argument) or b'', 20)
        except wire.PeerGone:
            conn.release()


# Sizes


def _size(key: str, text: str, expect: str, **fields: Any) -> None:
    lab.step(key, f'{text} to SIZE', 'SIZE', expect, **fields)(
        lab.raw(text.encode() + b'\r\n')
    )


_size('F-08', '550 Could not get file size.', lab.OK)
_size('F-08-502', '502 Not implemented.', lab.OK)
_size('F-08-500', '500 What?', lab.OK)
_size('F-08-words', '213 many', lab.OK_OR_FAIL)
_size('F-08-none', '213 ', lab.OK_OR_FAIL)
_size('F-08-minus', '213 -1', lab.OK_OR_FAIL)
_size('F-08-plus', '213 +262144', lab.OK_OR_FAIL)
_size('F-08-huge', f'213 {"9" * 40}', lab.FAIL)
_size('F-08-long', f'213 {"9" * 5000}', lab.FAIL)
_size('F-08-digits', '213 ٥٠٠', lab.OK_OR_FAIL)
_size('F-08-two', '213 5 262144', lab.OK_OR_FAIL)
_size('F-08-less', f'213 {lab.SIZE - 1}', lab.FAIL)
_size('F-08-more', f'213 {lab.SIZE + 1}', lab.FAIL)
_size(
    'F-08-zero', '213 0', lab.OK_OR_FAIL, with_size=lab.FAIL,
    versions=lambda data: (b'',),
)  # fmt: skip


for _name, _text in {
    'refused': '550 No.',
    'missing': '502 No.',
    'words': '213 yesterday',
    'huge': '213 ' + '9' * 5000,
    'escape': '213 2026\x1b[2J',
}.items():
    lab.step(
        f'F-08-mdtm-{_name}',
        f'MDTM: {_text[:20]!a}',
        'MDTM',
        lab.OK_OR_FAIL if _name in ('words', 'huge', 'escape') else lab.OK,
        facts=lab.NO_FACTS,
    )(lab.raw(_text.encode() + b'\r\n'))


def _other_length(key: str, title: str, change: int) -> None:
    @lab.step(key, title, 'RETR', lab.FAIL)
    def act(session: Session, argument: str) -> None:
        data = (session.find(argument) or b'') + b'grown'
        session.send(session.rested(data[: lab.SIZE + change]))


_other_length('F-22-grows', 'it grows while it is sent', 5)
_other_length('F-22-shrinks', 'it shrinks while it is sent', -5)


@lab.step(
    'F-22-endless',
    'no SIZE and no end (here 64 MiB)',
    'RETR',
    lab.FAIL,
    no_size=True,
)
def endless(session: Session, argument: str) -> None:
    conn = session.open_data()
    data = session.find(argument) or b''
    assert conn is not None
    for _ in range((64 << 20) // len(data)):
        if not session.deliver(conn, data):
            return
    ftp_session.finish(conn)
    session.reply(226, 'Done.')
