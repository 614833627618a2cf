# SPDX-License-Identifier: Apache-2.0
"""TLS that is stripped, half there, or somebody else's."""

from __future__ import annotations

import ssl
from typing import Any

from oslo_transfer import exceptions
from tests.servers import evil_ftp_lab as lab
from tests.servers import ftp_session
from tests.servers import scripted_ftp

Session = scripted_ftp.Session

DENIED = (exceptions.AccessDenied,)
BROKEN = (exceptions.Unavailable, exceptions.ProtocolError)


def _no_login(world: lab.Lab) -> list[str]:
    found = world.servers[0].seen('USER', 'PASS')
    return ['a login was tried without TLS'] if found else []


def _no_data(world: lab.Lab) -> list[str]:
    sent = world.servers[0].sent
    return [f'{sent} bytes of data were taken'] if sent else []


def _auth(
    key: str, title: str, step: scripted_ftp.Step, **fields: Any
) -> None:
    """Without TLS nothing at all is said."""
    fields.setdefault('errors', DENIED)
    fields.setdefault('retries', 0)
    lab.step(
        key,
        title,
        'AUTH',
        lab.FAIL,
        tls='good',
        facts=lab.NO_FACTS,
        check=_no_login,
        **fields,
    )(step)


# Certificates of the control connection


def _certificate(key: str, title: str, name: str) -> None:
    @lab.behaviour(
        key, title, lab.FAIL, facts=lab.NO_FACTS, check=_no_login,
        errors=(exceptions.AccessDenied, exceptions.Unavailable),
    )  # fmt: skip
    def install(world: lab.Lab, data: bytes) -> str:
        return world.new_server(name).put(lab.NAME, data)


_certificate('F-28-control', 'the certificate of another host', 'wrong-host')
_certificate('F-28-expired', 'an expired certificate', 'expired')
_certificate('F-28-early', 'one that is not valid yet', 'not-yet-valid')
_certificate('F-28-self', 'one signed by itself', 'self-signed')
_certificate('F-28-nul', 'NUL in its names', 'nul-name')
_certificate('F-28-weak', 'a key of 1024 bits', 'weak-key')


# AUTH


for _code in (500, 502, 504, 530, 534):
    _auth(f'F-24-{_code}', f'{_code} to AUTH', lab.refuse(_code, 'No.'))
_auth('F-24-421', '421 to AUTH', lab.refuse(421, 'Later.'),
      errors=(exceptions.Unavailable,))  # fmt: skip


def _plain_after(code: int) -> scripted_ftp.Step:
    def act(session: Session, _argument: str) -> None:
        # What it makes of a ClientHello is no command to anybody.
        session.reply(code, 'Go ahead, no TLS needed.')

    return act


_auth('F-24', '234 to AUTH, and no TLS', _plain_after(234),
      errors=(exceptions.TransferError,))  # fmt: skip
_auth('F-24-200', '200 to AUTH, and no TLS', _plain_after(200),
      errors=(exceptions.TransferError,))  # fmt: skip
_auth('F-24-230', '230 to AUTH: logged in already', _plain_after(230),
      errors=(exceptions.TransferError,))  # fmt: skip
_auth('F-24-334', '334 to AUTH: security data', _plain_after(334),
      errors=(exceptions.TransferError,))  # fmt: skip


@lab.behaviour(
    'F-24-login',
    'the greeting says logged in, AUTH is refused',
    lab.FAIL,
    facts=lab.NO_FACTS,
    check=_no_login,
    errors=(exceptions.TransferError,),
)
def pre_login(world: lab.Lab, data: bytes) -> str:
    server = world.new_server('good')
    server.on('CONNECT', lab.raw(b'230 You are in.\r\n'))
    server.on('AUTH', lab.refuse(503, 'You are in already.'))
    return server.put(lab.NAME, data)


def _hang_up(session: Session, _argument: str) -> None:
    session.reply(234, 'Go ahead.')
    session.hang_up()


def _stall(session: Session, _argument: str) -> None:
    session.reply(234, 'Go ahead.')
    session.stall()


_auth('F-24-hangup', '234, and the end', _hang_up, errors=BROKEN)
_auth('F-24-stall', '234, and no handshake', _stall,
      errors=(exceptions.Unavailable, exceptions.Stalled))  # fmt: skip


# Replies in clear that are to count as if they came by TLS


def _believed(world: lab.Lab) -> list[str]:
    users, passwords = (world.servers[0].seen(v) for v in ('USER', 'PASS'))
    return ['a reply in clear was believed'] * (len(users) - len(passwords))


def _pipelined(key: str, title: str, text: bytes) -> None:
    @lab.step(key, title, 'AUTH', lab.OK_OR_FAIL, tls='good', check=_believed)
    def act(session: Session, _argument: str) -> None:
        assert session.server.tls is not None
        session.raw(b'234 Go ahead.\r\n' + text)
        session.start_tls(session.server.tls)


_pipelined('F-25', 'a login in clear behind 234', b'230 In.\r\n')
_pipelined(
    'F-25-all',
    'all replies in clear behind 234',
    b'331 Password?\r\n230 In.\r\n200 PBSZ=0\r\n200 Clear.\r\n200 I.\r\n'
    b'213 5\r\n229 Here (|||1|)\r\n',
)
_pipelined('F-25-half', 'half a line in clear behind 234', b'230 ')


@lab.behaviour(
    'F-25-stripped',
    'all replies in clear, and no TLS',
    lab.FAIL,
    facts=lab.NO_FACTS,
    check=_no_login,
)
def stripped(world: lab.Lab, data: bytes) -> str:
    server = world.new_server('good')
    text = b'234 Go.\r\n' + b'331 Yes?\r\n230 In.\r\n' + b'200 Clear.\r\n' * 3
    server.on('AUTH', lab.raw(text))
    return server.put(lab.NAME, data)


# Data in clear


for _code in (502, 504, 534, 536):
    lab.step(
        f'F-26-{_code}',
        f'{_code} to PROT P',
        'PROT',
        lab.FAIL,
        tls='good',
        facts=lab.NO_FACTS,
        check=_no_data,
        errors=DENIED,
    )(lab.refuse(_code, 'Data goes in clear here.'))
lab.step(
    'F-26-pbsz', 'PBSZ is refused', 'PBSZ', lab.OK_OR_FAIL, tls='good',
    facts=lab.NO_FACTS,
)(lab.refuse(503, 'PBSZ?'))  # fmt: skip


@lab.step(
    'F-26',
    'PROT P is taken, and the data in clear',
    'PROT',
    lab.FAIL,
    tls='good',
    facts=lab.NO_FACTS,
    retries=0,
    errors=(exceptions.AccessDenied, exceptions.Unavailable),
)
def clear_data(session: Session, _argument: str) -> None:
    session.reply(200, 'Protected, of course.')


@lab.step(
    'F-26-stall',
    'no handshake on the data connection',
    'RETR',
    lab.FAIL,
    tls='good',
    facts=lab.NO_FACTS,
    retries=0,
    errors=(exceptions.Unavailable, exceptions.Stalled),
)
def no_handshake(session: Session, _argument: str) -> None:
    conn = session.accept()
    session.reply(150, 'Here it comes.')
    conn.stall()


# Sessions


def _demand_session(session: Session, argument: str) -> None:
    data = session.rested(session.find(argument) or b'')
    conn = session.open_data()
    if conn is None:
        return
    if not session.server.reused[-1]:
        conn.release()
        session.reply(522, 'SSL connection failed: session reuse required.')
        return
    if session.deliver(conn, data):
        ftp_session.finish(conn)
        session.reply(226, 'Done.')


lab.step(
    'F-27', 'data has to go on with the session', 'RETR', lab.OK, tls='good'
)(_demand_session)


@lab.behaviour('F-27-1.2', 'the same with TLS 1.2', lab.OK)
def session_of_1_2(world: lab.Lab, data: bytes) -> str:
    context = world.certs.server_context('good')
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = world.new_server(context)
    server.on('RETR', _demand_session)
    return server.put(lab.NAME, data)


lab.step(
    'F-27-never',
    'no session is ever good enough',
    'RETR',
    lab.FAIL,
    tls='good',
    facts=lab.NO_FACTS,
)(lab.refuse(522, 'SSL connection failed: session reuse required.'))


# The other end of the data connection


def _data_certificate(key: str, title: str, name: str, expect: str) -> None:
    @lab.behaviour(
        key,
        title,
        expect,
        check=_no_data if expect == lab.FAIL else None,
        errors=(exceptions.AccessDenied, exceptions.Unavailable),
        facts=lab.NO_FACTS,
    )
    def install(world: lab.Lab, data: bytes) -> str:
        server = world.new_server(
            'good', data_tls=world.certs.server_context(name)
        )
        return server.put(lab.NAME, data)


_data_certificate(
    'F-28-data-good', 'data by another process (control)', 'good', lab.OK
)
_data_certificate(
    'F-28', 'the data has the certificate of another host', 'wrong-host',
    lab.FAIL,
)  # fmt: skip
_data_certificate(
    'F-28-data-expired', 'the data has an expired one', 'expired', lab.FAIL
)
_data_certificate(
    'F-28-data-self', 'the data has a self-signed one', 'self-signed', lab.FAIL
)


# Ends without close_notify


def _no_notify(
    key: str,
    title: str,
    part: float,
    expect: str,
    code: int = 226,
    **fields: Any,
) -> None:
    @lab.step(key, title, 'RETR', expect, tls='good', **fields)
    def act(session: Session, argument: str) -> None:
        data = session.rested(session.find(argument) or b'')
        conn = session.open_data()
        if conn is None:
            return
        session.deliver(conn, data[: int(len(data) * part)])
        ftp_session.finish(conn, notify=False)
        session.reply(code, 'Done.')


_no_notify('F-29', 'half, then 226', 0.5, lab.FAIL)
_no_notify('F-29-nosize', 'no SIZE, half, 226', 0.5, lab.FAIL, no_size=True)
_no_notify('F-29-426', 'no SIZE, half, 426', 0.5, lab.FAIL, 426, no_size=True)
_no_notify('F-29-all', 'all, then 226', 1, lab.OK_OR_FAIL, with_digest=lab.OK)
_no_notify(
    'F-29-all-nosize', 'no SIZE, all, then 226', 1, lab.OK_OR_FAIL,
    no_size=True,
)  # fmt: skip


@lab.step(
    'F-29-control',
    'the control connection is cut without close_notify',
    'SIZE',
    lab.FAIL,
    tls='good',
    facts=lab.NO_FACTS,
    errors=BROKEN,
)
def control_cut(session: Session, _argument: str) -> None:
    session.ended = True
    session.control.close(notify=False)
