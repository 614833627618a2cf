# SPDX-License-Identifier: Apache-2.0
"""Greetings, logins and replies that are refused, endless or nonsense."""

from __future__ import annotations

from typing import Any

from oslo_transfer import exceptions
from tests.servers import evil_ftp_lab as lab
from tests.servers import ftp_session
from tests.servers import scripted_ftp

Session = scripted_ftp.Session

TEN_MB = 10 << 20
#: What an endless reply comes to at most, and what a client may take of it
#: before it gives up: its own limit, and what the kernel holds.
ENDLESS = 64 << 20
TAKEN = 16 << 20
SLOW = (exceptions.Stalled, exceptions.Unavailable)
DENIED = (exceptions.AccessDenied,)
BUSY = (exceptions.Unavailable,)
NONSENSE = (exceptions.ProtocolError,)


@lab.behaviour('F-00', 'a good server (control)', lab.OK)
def good(world: lab.Lab, data: bytes) -> str:
    return world.new_server().put(lab.NAME, data)


@lab.behaviour('F-00-tls', 'a good server with TLS (control)', lab.OK)
def good_tls(world: lab.Lab, data: bytes) -> str:
    return world.new_server('good').put(lab.NAME, data)


@lab.behaviour('F-00-ipv6', 'at an IPv6 address', lab.OK, facts=lab.NO_FACTS)
def good_ipv6(world: lab.Lab, data: bytes) -> str:
    return world.new_server(host='::1').put(lab.NAME, data)


# Greetings


def _greeting(
    key: str, title: str, text: bytes, expect: str, **fields: Any
) -> None:
    fields.setdefault('facts', lab.NO_FACTS)
    lab.step(key, title, 'CONNECT', expect, **fields)(lab.raw(text))


_greeting(
    'F-00-banner',
    'a greeting of many lines, some like its last one',
    b'220-Hello\r\n 220 not yet\r\n220-nor this\r\n221 nor this\r\n'
    b'\xc3\xa4\xff 8 bits\r\n220 now\r\n',
    lab.OK,
)
_greeting('F-00-120', 'ready in a moment', b'120 soon\r\n220 now\r\n', lab.OK)
_greeting(
    'F-00-421', 'too many users', b'421 Too many users\r\n', lab.FAIL,
    errors=BUSY,
)  # fmt: skip
_greeting(
    'F-00-530', 'not for you', b'530 Go away\r\n', lab.FAIL, errors=DENIED
)
_greeting(
    'F-00-http',
    'an HTTP server',
    b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n',
    lab.FAIL,
    errors=NONSENSE,
)
_greeting(
    'F-00-ssh', 'an SSH server', b'SSH-2.0-OpenSSH_9.2\r\n', lab.FAIL,
    errors=NONSENSE,
)  # fmt: skip
lab.step('F-00-421-once', 'too many users, once', 'CONNECT', lab.OK)(
    lab.once('CONNECT', lab.raw(b'421 Too many users\r\n'))
)


# Logins


def _few_logins(world: lab.Lab) -> list[str]:
    # Accounts are locked after a few.
    logins = len(world.servers[0].logins)
    return [f'{logins} logins'] if logins > 2 else []


def _login(
    key: str, title: str, verb: str, code: int, text: str, expect: str
) -> None:
    lab.step(
        key,
        title,
        verb,
        expect,
        errors=DENIED,
        check=_few_logins,
        facts=lab.NO_FACTS,
    )(lab.refuse(code, text))


_login('F-00-user', 'the user is refused', 'USER', 530, 'No.', lab.FAIL)
_login('F-00-pass', 'the password is wrong', 'PASS', 530, 'No.', lab.FAIL)
_login('F-00-account', 'an account is asked', 'PASS', 332, 'ACCT?', lab.FAIL)
_login(
    'F-00-account-user', 'an account instead', 'USER', 332, 'ACCT?', lab.FAIL
)
_login(
    'F-00-echo',
    'the password is repeated in the refusal',
    'PASS',
    530,
    f'{lab.LOGIN[1]} is wrong for {lab.LOGIN[0]}',
    lab.FAIL,
)


@lab.step(
    'F-00-nopass', 'no password needed', 'USER', lab.OK, facts=lab.NO_FACTS
)
def no_password(session: Session, argument: str) -> None:
    session.user, session.logged_in = argument, True
    session.reply(230, 'You are in.')


# Connections that end or fall silent at each step


def _reset(session: Session, _argument: str) -> None:
    session.ended = True
    session.control.reset()


def _hang_up(session: Session, _argument: str) -> None:
    session.hang_up()


def _half_a_line(session: Session, _argument: str) -> None:
    session.raw(b'22')
    session.hang_up()


def _stall(session: Session, _argument: str) -> None:
    session.stall()


STEPS = ('CONNECT', 'USER', 'PASS', 'TYPE', 'SIZE', 'EPSV', 'RETR')
for _verb in STEPS:
    for _how, _act in (
        ('hangup', _hang_up),
        ('reset', _reset),
        ('half', _half_a_line),
    ):
        lab.step(
            f'F-16-{_how}-{_verb.lower()}',
            f'{_how} at {_verb}, always',
            _verb,
            lab.FAIL,
            facts=lab.NO_FACTS,
            errors=(exceptions.Unavailable, exceptions.ProtocolError),
        )(_act)
    lab.step(
        f'F-16-once-{_verb.lower()}',
        f'hung up at {_verb}, once',
        _verb,
        lab.OK,
        facts=lab.NO_FACTS,
    )(lab.once(_verb, _hang_up))
for _verb in ('CONNECT', 'PASS', 'SIZE', 'RETR'):
    lab.step(
        f'F-17-{_verb.lower()}',
        f'silent at {_verb}',
        _verb,
        lab.FAIL,
        facts=lab.NO_FACTS,
        errors=SLOW,
        retries=0,
    )(_stall)


# Types


for _code in (500, 504):
    lab.step(
        f'F-09-{_code}',
        f'{_code} to TYPE I',
        'TYPE',
        lab.FAIL,
        facts=lab.NO_FACTS,
    )(lab.refuse(_code, 'Text only.'))


@lab.step(
    'F-09-lies', '200 to TYPE I, and text all the same', 'TYPE', lab.FAIL
)
def ascii_always(session: Session, _argument: str) -> None:
    session.reply(200, 'Type is I.')
    # What SIZE says is right, as of servers that look at the file only.
    session.server.on('SIZE', _size_of_file)


def _size_of_file(session: Session, argument: str) -> None:
    session.reply(213, str(len(session.find(argument) or b'')))


# Replies without end


def _bounded(world: lab.Lab) -> list[str]:
    told = world.servers[0].told
    return [f'{told} bytes of a reply were taken'] if told > TAKEN else []


def _endless(session: Session, start: bytes, piece: bytes) -> None:
    session.raw(start)
    piece *= (1 << 16) // len(piece)
    for _ in range(ENDLESS // len(piece)):
        session.raw(piece)
    session.hang_up()


def _replies_without_end(verb: str, code: int) -> None:
    name = verb.lower()
    fields: dict[str, Any] = {
        'facts': lab.NO_FACTS,
        'check': _bounded,
        'errors': (*NONSENSE, *SLOW),
    }

    @lab.step(
        f'F-19-line-{name}', f'a line of 10 MB at {verb}', verb, lab.FAIL,
        **fields,
    )  # fmt: skip
    def long_line(session: Session, _argument: str) -> None:
        session.raw(b'%d ' % code + b'x' * TEN_MB + b'\r\n')

    @lab.step(
        f'F-19-lines-{name}', f'lines without end at {verb}', verb, lab.FAIL,
        **fields,
    )  # fmt: skip
    def lines(session: Session, _argument: str) -> None:
        _endless(session, b'%d-hello\r\n' % code, b' more to come\r\n')

    @lab.step(
        f'F-19-early-{name}', f'1xx without end at {verb}', verb, lab.FAIL,
        **fields,
    )  # fmt: skip
    def preliminary(session: Session, _argument: str) -> None:
        _endless(session, b'', b'150 nearly\r\n')


for _verb, _code in (('CONNECT', 220), ('PASS', 230), ('RETR', 150)):
    _replies_without_end(_verb, _code)


@lab.step(
    'F-19-done',
    'lines without end after all data',
    'RETR',
    lab.OK_OR_FAIL,
    check=_bounded,
    facts=('digest',),
)
def endless_226(session: Session, argument: str) -> None:
    conn = session.open_data()
    if conn and session.deliver(conn, session.find(argument) or b''):
        ftp_session.finish(conn)
    _endless(session, b'226-done\r\n', b' nearly\r\n')


@lab.step(
    'F-19-trickle',
    'a greeting of one byte each 50 ms',
    'CONNECT',
    lab.FAIL,
    facts=lab.NO_FACTS,
    errors=SLOW,
    retries=0,
)
def trickle(session: Session, _argument: str) -> None:
    session.control.trickle(b'220-' + b'x' * 10_000, 20)


# Replies that are nonsense


def _nonsense(
    key: str, title: str, verb: str, text: bytes, expect: str = lab.FAIL
) -> None:
    lab.step(
        key, title, verb, expect, facts=lab.NO_FACTS, errors=NONSENSE
    )(lab.raw(text))  # fmt: skip


_nonsense('F-20-nul', 'NUL in the greeting', 'CONNECT', b'220 a\0b\r\n')
_nonsense('F-20-nul-only', 'only NULs', 'CONNECT', bytes(1000) + b'\r\n')
_nonsense('F-20-nul-size', 'NUL in a size', 'SIZE', b'213 26\0214\r\n')
_nonsense('F-20-words', 'no code at all', 'PASS', b'welcome, you\r\n')
_nonsense('F-20-empty', 'an empty line', 'USER', b'\r\n')
_nonsense('F-20-long', 'four digits', 'USER', b'3311 hello\r\n')
_nonsense('F-20-zero', 'code 000', 'USER', b'000 hello\r\n')
_nonsense('F-20-big', 'code 999', 'USER', b'999 hello\r\n')
_nonsense('F-20-minus', 'a negative code', 'USER', b'-33 hello\r\n')
_nonsense('F-20-digits', 'other digits', 'USER', '٣٣١ hello\r\n'.encode())
_nonsense('F-20-odd', 'a code of another step', 'TYPE', b'350 rest\r\n')
_nonsense('F-20-early', 'only 150 to USER', 'USER', b'150 data\r\n150 x\r\n')
_nonsense(
    'F-20-lf',
    'lines that end with LF',
    'CONNECT',
    b'220-a\n220 b\n',
    lab.OK_OR_FAIL,
)
_nonsense(
    'F-20-cr',
    'a lone CR within a line',
    'CONNECT',
    b'220 a\r230 b\r\n',
    lab.OK_OR_FAIL,
)
_nonsense(
    'F-20-mixed',
    'a reply that ends with another code',
    'CONNECT',
    b'220-a\r\n230 b\r\n' * 2 + b'220 c\r\n',
    lab.OK_OR_FAIL,
)


def _two_replies(verb: str, text: bytes) -> None:
    @lab.step(
        f'F-20-two-{verb.lower()}',
        f'two replies to {verb}',
        verb,
        lab.OK_OR_FAIL,
    )
    def two(session: Session, argument: str) -> None:
        session.raw(text)
        session.default(verb, argument)


_two_replies('USER', b'230 in\r\n')
_two_replies('SIZE', b'213 5\r\n')
_two_replies('TYPE', b'200 I\r\n')
_two_replies('EPSV', b'229 Entering (|||1|)\r\n')


@lab.step(
    'F-20-pwd',
    'a directory with ../ and a quote',
    'PWD',
    lab.OK,
    facts=lab.NO_FACTS,
)
def bad_directory(session: Session, _argument: str) -> None:
    session.reply(257, '"../../etc""\x1b[31m/')


@lab.step(
    'F-20-escape',
    'escape sequences and a forged line in a refusal',
    'RETR',
    lab.FAIL,
    facts=lab.NO_FACTS,
)
def escapes(session: Session, _argument: str) -> None:
    session.raw(b'550 \x1b[2J\x1b]0;owned\x07 gone\rERROR forged\x9b31m\r\n')


# Paths, and names that nobody asked for


@lab.behaviour(
    'F-23', 'a listing with ../ and links', lab.OK, facts=lab.NO_FACTS
)
def listing(world: lab.Lab, data: bytes) -> str:
    server = world.new_server()
    for name in ('../../etc/cron.d/evil', 'link -> /etc/passwd'):
        server.put(name, b'evil')
    return server.put(lab.NAME, data)


for _code, _text, _error in (
    (550, 'Permission denied.', exceptions.AccessDenied),
    (553, 'Permission denied.', exceptions.AccessDenied),
    (450, 'File busy.', exceptions.Unavailable),
    (421, 'Service shutting down.', exceptions.Unavailable),
    (530, 'Please log in.', exceptions.AccessDenied),
):
    lab.step(
        f'F-14-retr-{_code}-{_error.__name__.lower()}',
        f'{_code} to RETR: {_text}',
        'RETR',
        lab.FAIL,
        facts=lab.NO_FACTS,
        errors=(_error,),
    )(lab.refuse(_code, _text))


@lab.behaviour(
    'F-14-missing',
    'no such file',
    lab.FAIL,
    facts=lab.NO_FACTS,
    errors=(exceptions.NotFound,),
)
def missing(world: lab.Lab, data: bytes) -> str:
    return world.new_server().url(lab.NAME)
