# SPDX-License-Identifier: Apache-2.0
"""Data connections that lead elsewhere, and data that is short or late."""

from __future__ import annotations

from typing import Any

from oslo_transfer import exceptions
from tests.servers import evil_ftp_lab as lab
from tests.servers import ftp_session
from tests.servers import scripted_ftp
from tests.servers import wire

Session = scripted_ftp.Session
Connection = scripted_ftp.Connection

NONSENSE = (exceptions.ProtocolError,)
SLOW = (exceptions.Stalled, exceptions.Unavailable)


def only_pasv(server: scripted_ftp.ScriptedFTPServer) -> None:
    """Leave a server without EPSV."""
    server.on('EPSV', lab.refuse(502, 'EPSV not implemented.'))


# Where the data connection goes


@lab.behaviour('F-01-control', 'PASV, no EPSV (control)', lab.OK)
def pasv(world: lab.Lab, data: bytes) -> str:
    server = world.new_server()
    only_pasv(server)
    return server.put(lab.NAME, data)


def _elsewhere(key: str, title: str, host: str) -> None:
    @lab.behaviour(key, title, lab.OK, facts=lab.NO_FACTS)
    def install(world: lab.Lab, data: bytes) -> str:
        server = world.new_server()
        only_pasv(server)

        def say(session: Session, _argument: str) -> None:
            port = session.listen()
            if host.startswith('127.'):
                world.listen(host, port)
            session.reply(227, ftp_session.passive(host, port))

        server.on('PASV', say)
        return server.put(lab.NAME, data)


_elsewhere('F-01', '227 with the address of another listener', '127.0.0.2')
_elsewhere('F-01-private', '227 with a private address', '10.11.12.13')
_elsewhere('F-01-metadata', '227 with 169.254.169.254', '169.254.169.254')
_elsewhere('F-01-zero', '227 with 0.0.0.0', '0.0.0.0')  # noqa: S104


@lab.behaviour(
    'F-01-epsv', '229 with the address of another listener', lab.OK_OR_FAIL
)
def epsv_elsewhere(world: lab.Lab, data: bytes) -> str:
    server = world.new_server()

    def say(session: Session, _argument: str) -> None:
        port = session.listen()
        world.listen('127.0.0.2', port)
        session.reply(229, f'Extended Passive Mode (|1|127.0.0.2|{port}|)')

    server.on('EPSV', say)
    return server.put(lab.NAME, data)


@lab.behaviour(
    'F-05', 'the data is at another host only', lab.FAIL, facts=lab.NO_FACTS
)
def thief(world: lab.Lab, data: bytes) -> str:
    server = world.new_server()
    only_pasv(server)

    def say(session: Session, _argument: str) -> None:
        port = session.listen()
        session.stop_listening()
        world.listen('127.0.0.2', port)
        session.reply(227, ftp_session.passive('127.0.0.2', port))

    server.on('PASV', say)
    return server.put(lab.NAME, data)


def _port(key: str, title: str, verb: str, reply: tuple[int, str]) -> None:
    @lab.behaviour(
        key, title, lab.FAIL, facts=lab.NO_FACTS, errors=NONSENSE,
        check=_no_retr,
    )  # fmt: skip
    def install(world: lab.Lab, data: bytes) -> str:
        server = world.new_server()
        server.on('PASV', lab.refuse(502, 'PASV not implemented.'))
        if verb == 'PASV':
            only_pasv(server)
        server.on(verb, lab.refuse(*reply))
        return server.put(lab.NAME, data)


def _no_retr(world: lab.Lab) -> list[str]:
    found = world.servers[0].seen('RETR')
    return ['a file was asked for'] if found else []


for _name, _text in {
    'F-02-21': '(|||21|)',
    'F-02-22': '(|||22|)',
    'F-02-1023': '(|||1023|)',
    'F-03-zero': '(|||0|)',
    'F-03-65536': '(|||65536|)',
    'F-03-huge': '(|||99999999|)',
    'F-03-long': f'(|||{"9" * 5000}|)',
    'F-03-minus': '(|||-5000|)',
    'F-03-plus': '(|||+50000|)',
    'F-03-words': 'passive it is',
    'F-03-open': '(|||50000',
    'F-03-none': '(||||)',
    'F-03-empty': '()',
    'F-03-digits': '(|||٥٠٠٠٠|)',
    'F-03-space': '(||| 50000|)',
    'F-03-under': '(|||50_000|)',
    'F-03-delimiters': '(|!|50000|)',
}.items():
    _port(_name, f'229 {_text[:30]}', 'EPSV', (229, _text))
for _name, _text in {
    'F-02-pasv': '(127,0,0,1,0,22)',
    'F-03-pasv-zero': '(127,0,0,1,0,0)',
    'F-03-pasv-five': '(127,0,0,1,200)',
    'F-03-pasv-big': '(127,0,0,1,300,1)',
    'F-03-pasv-low': '(127,0,0,1,200,256)',
    'F-03-pasv-words': 'Entering Passive Mode',
    'F-03-pasv-minus': '(127,0,0,1,-200,1)',
    'F-03-pasv-host': '(localhost,200,1)',
}.items():
    _port(_name, f'227 {_text}', 'PASV', (227, _text))


@lab.behaviour(
    'F-04',
    'no passive mode: use PORT',
    lab.FAIL,
    facts=lab.NO_FACTS,
    check=_no_retr,
)
def use_port(world: lab.Lab, data: bytes) -> str:
    server = world.new_server()
    for verb in ('EPSV', 'PASV'):
        server.on(verb, lab.refuse(500, 'Use PORT or EPRT.'))
    return server.put(lab.NAME, data)


# Data connections that do not come about


@lab.behaviour(
    'F-18',
    'the port of the data does not answer',
    lab.FAIL,
    facts=lab.NO_FACTS,
    errors=SLOW,
    retries=0,
)
def no_answer(world: lab.Lab, data: bytes) -> str:
    server = world.new_server()
    port = world.silent_port()
    server.on('EPSV', lab.refuse(229, f'Here it is (|||{port}|)'))
    return server.put(lab.NAME, data)


@lab.step(
    'F-18-refused',
    'nobody listens at the port of the data',
    'EPSV',
    lab.FAIL,
    facts=lab.NO_FACTS,
    errors=(exceptions.Unavailable,),
)
def refused(session: Session, _argument: str) -> None:
    port = session.listen()
    session.stop_listening()
    session.reply(229, f'Here it is (|||{port}|)')


@lab.step(
    'F-18-silent',
    'connected, and then nothing at all',
    'RETR',
    lab.FAIL,
    facts=lab.NO_FACTS,
    errors=SLOW,
    retries=0,
)
def never_accepted(session: Session, _argument: str) -> None:
    session.stall()


@lab.step(
    'F-18-425',
    'connected, and 425 all the same',
    'RETR',
    lab.FAIL,
    facts=lab.NO_FACTS,
    errors=(exceptions.Unavailable,),
)
def no_data(session: Session, _argument: str) -> None:
    session.stop_listening()
    session.reply(425, 'Failed to establish connection.')


lab.step('F-18-425-once', '425 once', 'RETR', lab.OK, facts=lab.NO_FACTS)(
    lab.once('RETR', no_data)
)


@lab.step(
    'F-02-control',
    'the greeting of the control port in place of data',
    'EPSV',
    lab.FAIL,
    facts=lab.NO_FACTS,
    retries=0,
)
def own_port(session: Session, _argument: str) -> None:
    session.listen()
    session.reply(229, f'Here it is (|||{session.server.port}|)')


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
_short('F-14-all-451', 'all, then 451', 1, '451 Disk error.', lab.OK_OR_FAIL)
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
