# SPDX-License-Identifier: Apache-2.0
"""Data connections that lead elsewhere, or nowhere."""

from __future__ import annotations

from oslo_transfer import exceptions
from tests.servers import evil_ftp_lab as lab
from tests.servers import ftp_session
from tests.servers import scripted_ftp

Session = scripted_ftp.Session

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
