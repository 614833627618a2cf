# SPDX-License-Identifier: Apache-2.0
"""What bad FTP servers can do to a copy: nothing but fail it."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import threading
import time
import traceback
import urllib.parse

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer.wrappers import retry
from tests.servers import evil_ftp
from tests.servers import evil_ftp_resume
from tests.servers import ftp_session
from tests.servers import resource
from tests.servers import scripted_ftp

pytestmark = pytest.mark.usefixtures('nothing_left')

KIB = 1 << 10
DATA = resource.pattern(evil_ftp.SIZE)
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
FACTS = {
    'none': {},
    'size': {'expected_size': len(DATA)},
    'digest': SHA256,
}
STALL = 0.3
CASES = [
    (key, facts)
    for key, row in evil_ftp.BEHAVIOURS.items()
    for facts in row.facts
]
LOGIN = oslo_transfer.LoginCredentials(*evil_ftp.LOGIN)
#: Of a cancel or a deadline, with some room for a busy machine.
PROMPT = 1.0
WAIT = 0.2


@pytest.fixture
def conf(conf, certs):
    """Little patience, and the tests' own CA."""
    for name, value in {
        'max_size_bytes': 16 << 20,
        'max_retries': 1,
        'stall_timeout': STALL,
        'connect_timeout': STALL,
    }.items():
        conf.set_override(name, value, group='oslo_transfer')
    conf.set_override('ca_file', certs.ca_file, group='oslo_transfer_ftp')
    return conf


@pytest.fixture(params=['ftp', 'ftps'])
def server(request, certs):
    """A good server with a file, without TLS and with it."""
    tls = certs.server_context() if request.param == 'ftps' else None
    with scripted_ftp.ScriptedFTPServer(tls) as running:
        running.put('image', DATA)
        yield running


def assert_presentable(error):
    """An error survives pickling, is one line of text, tells no secret."""
    assert str(error)
    assert str(error).isprintable()
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    told = ''.join(traceback.format_exception(error))
    assert evil_ftp.LOGIN[1] not in told
    assert '\x1b' not in told


@pytest.mark.parametrize(('key', 'facts'), CASES)
def test_server_cannot_corrupt(key, facts, conf, certs, tmp_path, caplog):
    """Right bytes or a typed error; nothing visible, told or left."""
    caplog.set_level(logging.DEBUG)
    row = evil_ftp.BEHAVIOURS[key]
    conf.set_override('max_retries', row.retries, group='oslo_transfer')
    dst = tmp_path / 'image'
    with evil_ftp.Lab(certs) as lab:
        source = oslo_transfer.Location(
            row.install(lab, DATA), credentials=LOGIN
        )
        started = time.monotonic()
        error = None
        try:
            result = oslo_transfer.copy(source, dst, conf=conf, **FACTS[facts])
        except exceptions.TransferError as exc:
            error = exc
        elapsed = time.monotonic() - started
        detail = f'{row.title}: {error!r}'
        want = row.expects(facts)
        out = dst.read_bytes() if error is None else None
        if out is not None and want != 'undetectable':
            assert out in row.right(DATA, facts), detail
        if want == 'ok':
            assert error is None, detail
        if want == 'fail':
            assert error is not None, detail
        assert elapsed < row.elapsed_limit, detail
        assert not lab.violations()
        assert not (row.check and row.check(lab)), row.check(lab)
    if error is None:
        assert result.size == len(out)
        assert result.verified == (facts == 'digest')
        assert os.listdir(tmp_path) == ['image']
    else:
        assert not dst.exists()
        # What the facts say has its own errors.
        facts_say = (exceptions.IntegrityError, exceptions.SourceChanged)
        assert isinstance(error, (*row.errors, *facts_say)), detail
        assert_presentable(error)
    assert evil_ftp.LOGIN[1] not in caplog.text
    assert '\x1b' not in caplog.text


def test_rows():
    """Every row of the notes that a server can show is in the catalogue."""
    rows = {row.row for row in evil_ftp.BEHAVIOURS.values()}
    # Of the others the client decides, and they have a test below.
    here = {'F-06', 'F-30'}
    gaps = {7, 10, 15, 21}  # The notes have no such row.
    due = {f'F-{n:02}' for n in range(31) if n not in gaps}
    assert rows == due - here
    blind = {
        row.id
        for row in evil_ftp.BEHAVIOURS.values()
        if row.expect == 'undetectable'
    }
    assert blind == {'F-13-nosize'}


@pytest.mark.parametrize(
    'key', ['F-13', 'F-13-nothing', 'F-22-shrinks', 'F-29', 'F-29-nosize']
)
def test_stream_is_never_short(key, conf, certs):
    """The driver itself raises, whoever may count the bytes after it."""
    conf.set_override('max_retries', 0, group='oslo_transfer')
    with evil_ftp.Lab(certs) as lab:
        url = evil_ftp.BEHAVIOURS[key].install(lab, DATA)
        location = oslo_transfer.Location(url, credentials=LOGIN)
        with oslo_transfer.open_source(location, conf=conf) as source:
            with source.stream(0, None) as stream:
                with pytest.raises(exceptions.TransferError):
                    while stream.readinto(bytearray(64 * KIB)):
                        pass


# F-06: what cannot be sent


@pytest.mark.parametrize(
    'name',
    [
        'im%0d%0aDELE%20image',
        'im%0aDELE%20image',
        'im%0dage',
        'im%00age',
        'image%0d%0a',
        '%0d%0aimage',
        'image?x',
        'image;type=a',
        'image;type=d',
        '',
        'dir/',
    ],
)
def test_path_cannot_be_sent(name, server, conf, tmp_path):
    """Refused before the first byte of it goes out."""
    with pytest.raises(exceptions.InvalidEndpoint) as caught:
        oslo_transfer.copy(server.url(name), tmp_path / 'x', conf=conf)
    assert_presentable(caught.value)
    assert not server.seen('RETR', 'SIZE', 'DELE', 'NLST', 'LIST')
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ('user', 'password'),
    [
        ('us%0d%0aDELE%20image', 's3cr3t-pass'),
        ('us%00er', 's3cr3t-pass'),
        ('user', 's3cr3t-pass%0d%0aDELE%20image'),
        ('user', 's3cr3t-pass%0a'),
        ('user', '%00s3cr3t-pass'),
    ],
)
@pytest.mark.parametrize('where', ['url', 'credentials'])
def test_login_cannot_be_sent(user, password, where, server, conf, tmp_path):
    """A login is no way to send commands, wherever it comes from."""
    source = server.url('image', f'{user}:{password}')
    if where == 'credentials':
        source = oslo_transfer.Location(
            server.url('image'),
            credentials=oslo_transfer.LoginCredentials(
                urllib.parse.unquote(user), urllib.parse.unquote(password)
            ),
        )
    with pytest.raises(exceptions.InvalidEndpoint) as caught:
        oslo_transfer.copy(source, tmp_path / 'x', conf=conf)
    assert_presentable(caught.value)
    assert not server.seen('USER', 'PASS', 'DELE')


@pytest.mark.parametrize(
    'name',
    [
        'a%20b%20-rf',
        '-la',
        '~user',
        '*.img',
        'a%3Fb',
        'a%3Btype=a',
        'b%C3%A4r',
        'raw%FFbyte',
        '%2Fimages%2Fa',
        'dir/../a',
        'a%ff%ff%fa%f4b',
    ],
)
def test_path_is_sent_as_it_is(name, server, conf, tmp_path):
    """Odd names are names; nobody expands or normalises them."""
    sent = urllib.parse.unquote_to_bytes(name).decode('latin-1')
    server.put(sent.removeprefix('/'), DATA)
    oslo_transfer.copy(server.url(name), tmp_path / 'x', conf=conf, **SHA256)
    assert {each.argument for each in server.seen('RETR')} == {sent}


# F-30: logins are not shared


def test_each_login_has_its_own_connection(server, conf, tmp_path):
    """What one login opened never serves another one."""
    for number, user in enumerate(('alice', 'bob', 'alice')):
        source = server.url('image', f'{user}:of-{user}')
        oslo_transfer.copy(source, tmp_path / f'x{number}', conf=conf)
    users = {'alice', 'bob'}
    assert {(user, f'of-{user}') for user in users} == {*server.logins}
    by_session = {}
    for command in server.seen('USER'):
        by_session.setdefault(command.session, set()).add(command.argument)
    assert all(len(found) == 1 for found in by_session.values())


def test_next_location_has_its_own_login(server, conf, tmp_path):
    """Also within one copy, and to one server."""
    server.login = ('bob', 'of-bob')
    users = ('alice', 'bob')
    sources = [server.url('image', f'{user}:of-{user}') for user in users]
    result = oslo_transfer.copy(sources, tmp_path / 'x', conf=conf, **SHA256)
    assert result.attempts[-1].error == 'AccessDenied'
    for session in {each.session for each in server.seen('USER')}:
        users = [c for c in server.seen('USER') if c.session == session]
        assert len(users) == 1, 'one connection, two logins'
    for retrieved in server.seen('RETR'):
        (user,) = (
            each.argument
            for each in server.seen('USER')
            if each.session == retrieved.session
        )
        assert user == 'bob'


# Connections that break anywhere


def drops(server, step):
    """Have each RETR but the last ones broken off; return a counter."""
    done = []

    def retrieve(session, argument):
        if len(done) < 40 and len(DATA) - session.rest > step:
            done.append(session.rest)
            how = evil_ftp_resume.cut if len(done) % 2 else reset
            how(session, DATA, step)
        else:
            session.do_retr(argument)

    reset = evil_ftp_resume.reset
    server.on('RETR', retrieve)
    return done


NEAR = [(1 << n) + d for n in range(16, 18) for d in (-1, 0, 1)] + [
    retry.OVERLAP + 4 * KIB,
    100_000,
    3 * retry.OVERLAP,
    len(DATA) - 1,
]


@pytest.mark.parametrize('step', sorted(NEAR))
def test_dropped_after_each_so_many_bytes(step, server, conf, tmp_path):
    """2 % more than the data, and an overlap for each connection."""
    conf.set_override('max_streams', 1, group='oslo_transfer')
    done = drops(server, step)
    result = oslo_transfer.copy(
        server.url(), tmp_path / 'image', conf=conf, **SHA256
    )
    assert (tmp_path / 'image').read_bytes() == DATA
    assert done
    assert server.sent <= 1.02 * len(DATA) + len(done) * retry.OVERLAP
    assert result.wasted <= len(done) * retry.OVERLAP
    assert done[0] == 0
    assert sum(done) > 0 or len(done) == 1


@pytest.mark.parametrize('step', [0, 1, 100, 4 * KIB, retry.OVERLAP])
def test_dropped_before_anything_is_gained(step, server, conf, tmp_path):
    """Right bytes or an error, and an end to it."""
    drops(server, step)
    dst = tmp_path / 'image'
    try:
        oslo_transfer.copy(server.url(), dst, conf=conf, **SHA256)
    except exceptions.TransferError as exc:
        assert exc.retryable
        assert not dst.exists()
    else:
        assert dst.read_bytes() == DATA


def test_nothing_is_joined_without_proof(server, conf, tmp_path):
    """A date proves nothing: without a digest it begins at the first byte."""
    drops(server, 100 * KIB)
    with pytest.raises(exceptions.TransferError):
        oslo_transfer.copy(server.url(), tmp_path / 'image', conf=conf)
    assert {each.argument for each in server.seen('REST')} <= {'0'}
    assert os.listdir(tmp_path) == []


# Cancel and deadline


def at_greeting(server, reached):
    def act(session, _argument):
        reached.set()
        session.stall()

    server.on('CONNECT', act)


def _at(verb):
    def install(server, reached):
        def act(session, _argument):
            reached.set()
            session.stall()

        server.on(verb, act)

    return install


def at_data(server, reached):
    def act(session, _argument):
        conn = session.open_data()
        session.deliver(conn, DATA[:1000])
        reached.set()
        conn.stall()

    server.on('RETR', act)


def at_last_reply(server, reached):
    def act(session, _argument):
        conn = session.open_data()
        session.deliver(conn, DATA)
        ftp_session.finish(conn)
        reached.set()
        session.stall()

    server.on('RETR', act)


def at_handshake(server, reached):
    def act(session, _argument):
        session.reply(234, 'Go ahead.')
        reached.set()
        session.stall()

    server.on('AUTH', act)


PLACES = {
    'greeting': at_greeting,
    'login': _at('PASS'),
    'size': _at('SIZE'),
    'passive': _at('EPSV'),
    'retr': _at('RETR'),
    'data': at_data,
    'last reply': at_last_reply,
    'handshake': at_handshake,
}


@pytest.mark.parametrize('place', PLACES)
def test_limits(place, certs, conf, tmp_path):
    """They hold wherever a copy waits: a cancel, and the deadline."""
    for name in ('stall_timeout', 'connect_timeout'):
        conf.set_override(name, 20.0, group='oslo_transfer')
    for how in ('cancel', 'deadline'):
        # One of them has TLS, the other does not, but for the handshake.
        secure = how == 'cancel' or place == 'handshake'
        tls = certs.server_context() if secure else None
        with scripted_ftp.ScriptedFTPServer(tls) as server:
            server.put('image', DATA)
            reached, cancel = threading.Event(), threading.Event()
            PLACES[place](server, reached)
            limits = {'cancel': cancel}
            if how == 'deadline':
                limits = {'deadline': WAIT}
            error, seconds = ended(
                server.url(), tmp_path / 'x', conf, reached, limits
            )
        kinds = {
            'cancel': exceptions.TransferCancelled,
            'deadline': exceptions.DeadlineExceeded,
        }
        assert isinstance(error, kinds[how])
        assert seconds < PROMPT
        assert not (tmp_path / 'x').exists()


def ended(url, dst, conf, reached, limits):
    """Copy until it fails.

    :returns: the error, and how long that was after it was due
    """
    due = [time.monotonic() + WAIT]

    def stop():
        reached.wait(10)
        due[0] = time.monotonic()
        limits['cancel'].set()

    thread = threading.Thread(target=stop)
    if 'cancel' in limits:
        thread.start()
    with pytest.raises(exceptions.TransferError) as caught:
        oslo_transfer.copy(url, dst, conf=conf, **limits)
    seconds = time.monotonic() - due[0]
    if 'cancel' in limits:
        thread.join()
    return caught.value, seconds


@pytest.mark.parametrize('what', ['control', 'data'])
def test_cancel_while_connecting(what, certs, conf, tmp_path):
    """A port that does not answer is left at once, too."""
    for name in ('stall_timeout', 'connect_timeout'):
        conf.set_override(name, 20.0, group='oslo_transfer')
    cancel = threading.Event()
    with evil_ftp.Lab(certs) as lab:
        server = lab.new_server()
        server.login = None
        port = lab.silent_port()
        url = server.put('image', DATA)
        if what == 'control':
            url = f'ftp://127.0.0.1:{port}/image'
        server.on(
            'EPSV', lambda session, _: session.reply(229, f'x (|||{port}|)')
        )
        timer = threading.Timer(WAIT, cancel.set)
        timer.start()
        started = time.monotonic()
        with pytest.raises(exceptions.TransferCancelled):
            oslo_transfer.copy(url, tmp_path / 'x', conf=conf, cancel=cancel)
        assert time.monotonic() - started < WAIT + PROMPT
        timer.join()
