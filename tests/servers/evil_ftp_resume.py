# SPDX-License-Identifier: Apache-2.0
"""Wrong answers to a client that holds a part and asks for the rest."""

from __future__ import annotations

from typing import Any

from tests.servers import evil_ftp_lab as lab
from tests.servers import ftp_session
from tests.servers import scripted_ftp

Session = scripted_ftp.Session


def cut(session: Session, data: bytes, count: int, code: int = 426) -> None:
    """Send so many bytes of what is due, and break off.

    :param code: of the reply; 0 for the end of the connection
    """
    conn = session.open_data()
    if conn is None:
        return
    session.deliver(conn, session.rested(data)[:count])
    ftp_session.finish(conn)
    if code:
        session.reply(code, 'The transfer was aborted.')
    else:
        session.hang_up()


def reset(session: Session, data: bytes, count: int) -> None:
    """Send so many bytes of what is due, and reset the connection."""
    conn = session.open_data()
    if conn is None:
        return
    session.deliver(conn, session.rested(data)[:count])
    conn.reset()
    session.reply(426, 'The connection was reset.')


def resumed(
    key: str,
    title: str,
    verb: str,
    expect: str,
    **fields: Any,
) -> Any:
    """Register a step that counts once the first RETR was cut."""
    tls = fields.pop('tls', None)

    def register(function: scripted_ftp.Step) -> scripted_ftp.Step:
        def install(world: lab.Lab, data: bytes) -> str:
            server = world.new_server(tls)

            def retrieve(session: Session, argument: str) -> None:
                if session.nth == 0:
                    cut(session, data, lab.HELD)
                elif verb == 'RETR':
                    function(session, argument)
                else:
                    session.do_retr(argument)

            def other(session: Session, argument: str) -> None:
                if server.seen('RETR'):
                    function(session, argument)
                else:
                    session.default(verb, argument)

            server.on('RETR', retrieve)
            if verb != 'RETR':
                server.on(verb, other)
            return server.put(lab.NAME, data)

        lab.behaviour(key, title, expect, **fields)(install)
        return function

    return register


def _good(session: Session, argument: str) -> None:
    session.do_retr(argument)


resumed('F-14', 'cut once with 426, then right (control)', 'RETR', lab.OK)(
    _good
)
resumed(
    'F-14-tls', 'the same with TLS', 'RETR', lab.OK, tls='good',
)(_good)  # fmt: skip


def _cut_with(key: str, title: str, code: int) -> None:
    @lab.step(key, title, 'RETR', lab.OK)
    def act(session: Session, argument: str) -> None:
        if session.nth:
            session.do_retr(argument)
        else:
            cut(session, session.find(argument) or b'', lab.HELD, code)


_cut_with('F-14-450', '450 in mid-transfer, once', 450)
_cut_with('F-14-451', '451 in mid-transfer, once', 451)
_cut_with('F-14-421', '421 in mid-transfer, once', 421)
_cut_with('F-14-hangup', 'both connections end in mid-transfer, once', 0)


@lab.step('F-14-reset', 'the data connection is reset, once', 'RETR', lab.OK)
def reset_once(session: Session, argument: str) -> None:
    if session.nth:
        session.do_retr(argument)
    else:
        reset(session, session.find(argument) or b'', lab.HELD)


@lab.step(
    'F-14-always', 'each connection ends before its first byte', 'RETR',
    lab.FAIL,
)  # fmt: skip
def no_progress(session: Session, argument: str) -> None:
    cut(session, session.find(argument) or b'', 0)


@lab.step(
    'F-14-ten',
    'ten drops with progress',
    'RETR',
    lab.OK,
    facts=('digest',),
)
def ten(session: Session, argument: str) -> None:
    data = session.find(argument) or b''
    if session.nth >= 10:
        session.do_retr(argument)
        return
    stop = (session.nth + 1) * len(data) // 11
    cut(session, data, max(0, stop - session.rest))


# No REST


for _code in (500, 501, 502, 504, 550):
    resumed(f'F-11-{_code}', f'{_code} to REST', 'REST', lab.OK)(
        lab.refuse(_code, 'REST is not for you.')
    )
resumed('F-11-200', '200 to REST, which it ignores', 'REST', lab.OK)(
    lab.refuse(200, 'Very well.')
)
resumed('F-11-554', 'the restart is refused at RETR', 'REST', lab.OK)(
    lambda session, _argument: _accept_then_refuse(session)
)


def _accept_then_refuse(session: Session) -> None:
    session.reply(350, 'Restart here?')
    session.rest = 0

    def retrieve(later: Session, argument: str) -> None:
        last = later.server.commands[-2]
        if (last.verb, last.session) == ('REST', later.serial):
            later.reply(554, 'Requested action not taken: invalid REST.')
        else:
            later.do_retr(argument)

    session.server.on('RETR', retrieve)


# A wrong REST: what is joined would be wrong


def _misplaced(key: str, title: str, change: Any) -> None:
    @resumed(key, title, 'REST', lab.OK)
    def rest(session: Session, argument: str) -> None:
        session.do_rest(argument)
        if session.rest:
            session.rest = max(0, change(session.rest))


_misplaced('F-12', 'REST is accepted and ignored', lambda rest: 0)
_misplaced('F-12-less', 'it restarts one byte early', lambda rest: rest - 1)
_misplaced('F-12-more', 'it restarts one byte late', lambda rest: rest + 1)
_misplaced('F-12-block', 'it restarts at a block', lambda rest: rest & ~0xFFFF)


@resumed('F-12-rest-lost', 'REST is forgotten by EPSV', 'EPSV', lab.OK)
def rest_lost(session: Session, argument: str) -> None:
    session.rest = 0
    session.do_epsv(argument)


# Another version


def _changed(
    key: str,
    title: str,
    change: Any,
    *,
    modified: str | None = None,
    **fields: Any,
) -> None:
    @lab.behaviour(
        key,
        title,
        lab.OK,
        versions=lambda data: (change(data),),
        with_digest=lab.FAIL,
        **fields,
    )
    def install(world: lab.Lab, data: bytes) -> str:
        server = world.new_server()

        def retrieve(session: Session, argument: str) -> None:
            if session.nth:
                session.do_retr(argument)
                return
            server.files[lab.NAME] = change(data)
            if modified is not None:
                server.modified = modified
            cut(session, data, lab.HELD)

        server.on('RETR', retrieve)
        return server.put(lab.NAME, data)


_changed(
    'F-22-newer',
    'another version after a cut, and a newer date',
    lab.other,
    modified='20261121100001',
)
_changed('F-22-same-date', 'another version, size and date alike', lab.other)
_changed(
    'F-22-longer',
    'another, longer version after a cut',
    lambda data: lab.other(data) + bytes(1000),
    with_size=lab.FAIL,
)
_changed(
    'F-22-shorter',
    'another version, shorter than what is held',
    lambda data: lab.other(data)[: lab.HELD // 2],
    with_size=lab.FAIL,
)


@resumed('F-22-tail', 'only the rest is of another version', 'RETR', lab.OK,
         versions=lab.newer, with_digest=lab.FAIL)  # fmt: skip
def other_tail(session: Session, argument: str) -> None:
    session.server.files[lab.NAME] = lab.other(session.find(argument) or b'')
    session.server.on('RETR', _good)
    session.do_retr(argument)


@resumed(
    'F-22-damaged',
    'the rest has one byte damaged',
    'RETR',
    lab.OK,
    # Without a digest it is read from zero, and nobody can tell.
    with_digest=lab.OK_OR_FAIL,
    versions=lambda data: (_damaged(data),),
)
def damaged(session: Session, argument: str) -> None:
    session.send(session.rested(_damaged(session.find(argument) or b'')))


def _damaged(data: bytes) -> bytes:
    bad = bytearray(data)
    bad[len(bad) * 3 // 4] ^= 1
    return bytes(bad)


@resumed('F-22-gone', 'gone after a cut', 'RETR', lab.FAIL)
def gone(session: Session, argument: str) -> None:
    session.server.files.pop(lab.NAME, None)
    session.server.on('RETR', _good)
    session.do_retr(argument)
