# SPDX-License-Identifier: Apache-2.0
"""Uploads to FTP servers that refuse, stall, lie or vanish."""

from __future__ import annotations

import hashlib
import logging
import pickle
import threading
import time
import traceback

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.servers import evil_ftp_lab
from tests.servers import evil_ftp_stor
from tests.servers import ftp_session
from tests.servers import resource
from tests.servers import scripted_ftp

pytestmark = pytest.mark.usefixtures('nothing_left')

DATA = resource.pattern(6 << 20, seed=9)
OLD = b'what was there before'
DIGEST = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
LOGIN = evil_ftp_lab.LOGIN
STALL = 0.6
PROMPT = 1.5
WAIT = 0.2


@pytest.fixture
def conf(conf, certs):
    for name, value in {
        'max_retries': 0,
        'stall_timeout': STALL,
        'connect_timeout': 1.0,
    }.items():
        conf.set_override(name, value, group='oslo_transfer')
    conf.set_override('ca_file', certs.ca_file, group='oslo_transfer_ftp')
    return conf


@pytest.fixture(params=['ftp', 'ftps'])
def server(request, certs):
    tls = certs.server_context() if request.param == 'ftps' else None
    with scripted_ftp.ScriptedFTPServer(tls) as running:
        running.login = LOGIN
        yield running


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp('source') / 'image'
    path.write_bytes(DATA)
    return path


def target(server, name='up'):
    return oslo_transfer.Location(
        server.url(name),
        credentials=oslo_transfer.LoginCredentials(*LOGIN),
    )


def settle(server):
    """Wait until all sessions have ended: they write to the end."""
    end = time.monotonic() + 5
    while server.open and time.monotonic() < end:
        threading.Event().wait(0.005)
    assert not server.open


@pytest.mark.parametrize('key', evil_ftp_stor.UPLOADS)
def test_upload_cannot_lie(key, server, conf, file, caplog):
    """A typed error in time; the target is as it was, and nothing left."""
    caplog.set_level(logging.DEBUG)
    row = evil_ftp_stor.UPLOADS[key]
    server.on(row.verb, row.step)
    overwrite = server.tls is not None  # Each way once is enough.
    if overwrite:
        server.put('up', OLD)
    started = time.monotonic()
    with pytest.raises(exceptions.TransferError) as caught:
        oslo_transfer.copy(
            file, target(server), conf=conf, overwrite=overwrite
        )
    assert time.monotonic() - started < STALL + 2
    error = caught.value
    assert isinstance(error, row.errors), repr(error)
    assert str(error).isprintable()
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    told = ''.join(traceback.format_exception(error)) + caplog.text
    assert LOGIN[1] not in told
    settle(server)
    assert server.files.pop('up', None) == (OLD if overwrite else None)
    if not row.leaves:
        assert not server.files
    for name, data in server.files.items():
        assert name.startswith('.')
        # What is left of it is nobody else's.
        assert DATA.startswith(data)
    assert not server.in_clear or server.tls is None


@pytest.mark.parametrize('digest', [False, True])
def test_upload(digest, server, conf, file):
    """To a good server: another name until it is complete (control)."""
    seen = []

    def receive(session, argument):
        seen.append(argument)
        session.do_stor(argument)

    server.on('STOR', receive)
    result = oslo_transfer.copy(
        file, target(server), conf=conf, **(DIGEST if digest else {})
    )
    assert server.files == {'up': DATA}
    assert seen != ['up']
    assert result.bytes_written == len(DATA)


@pytest.mark.parametrize('key', ['early-0', 'early-426', 'early-552'])
def test_early_refusal_saves_bytes(key, server, conf, tmp_path):
    """Nothing more is sent to a server that has said no."""
    row = evil_ftp_stor.UPLOADS[key]
    server.on(row.verb, row.step)
    large = tmp_path / 'large'
    large.write_bytes(DATA * 5)
    with pytest.raises(row.errors):
        oslo_transfer.copy(large, target(server), conf=conf)
    settle(server)
    # More than the kernel had taken by then.
    assert server.received < len(DATA) * 4


def test_wrong_digest(server, conf, file):
    """What turns out to be something else never gets the name."""
    wrong = {**DIGEST, 'hash_value': '0' * 64}
    with pytest.raises(exceptions.DigestMismatch):
        oslo_transfer.copy(file, target(server), conf=conf, **wrong)
    settle(server)
    assert server.files == {}


def test_existing(server, conf, file):
    """It is not touched, and not a byte is sent for nothing."""
    server.put('up', OLD)
    with pytest.raises(exceptions.AlreadyExists):
        oslo_transfer.copy(file, target(server), conf=conf)
    settle(server)
    assert server.files == {'up': OLD}
    assert not server.seen('STOR')


def test_taken_meanwhile(server, conf, file):
    """Somebody else's upload of that name stays."""

    def receive(session, argument):
        session.do_stor(argument)
        server.put('up', OLD)

    server.on('STOR', receive)
    with pytest.raises(exceptions.AlreadyExists):
        oslo_transfer.copy(file, target(server), conf=conf)
    settle(server)
    assert server.files == {'up': OLD}


@pytest.mark.parametrize('listing', [b'', b'../../etc/passwd -> /\r\n'])
def test_listing(listing, server, conf, file):
    """F-23: that a name is taken is all that a listing can say."""
    for verb in ('SIZE', 'MDTM'):
        server.on(verb, evil_ftp_lab.refuse(502, 'No.'))

    def names(session, _argument):
        conn = session.open_data()
        if session.deliver(conn, listing * 1_000_000):  # Without end.
            ftp_session.finish(conn)
            session.reply(226, 'Done.')
        else:
            session.reply(426, 'Broken.')

    server.on('NLST', names)
    if listing:
        with pytest.raises(exceptions.AlreadyExists):
            oslo_transfer.copy(file, target(server), conf=conf)
        assert not server.seen('STOR')
    else:
        oslo_transfer.copy(file, target(server), conf=conf)
        assert server.files == {'up': DATA}


def test_two_at_once(server, conf, file):
    """Each has a temporary name of its own."""
    errors = []

    def upload():
        try:
            oslo_transfer.copy(file, target(server), conf=conf, overwrite=True)
        except exceptions.TransferError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=upload) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    settle(server)
    assert server.files == {'up': DATA}
    assert len({each.argument for each in server.seen('STOR')}) == 3


def test_refused_cleaning_up(server, conf, file, caplog):
    """The first error is told, and the log says what is left."""
    server.on('RNTO', evil_ftp_lab.refuse(553, 'No.'))
    server.on('DELE', evil_ftp_lab.refuse(550, 'Permission denied.'))
    with pytest.raises(exceptions.AccessDenied):
        oslo_transfer.copy(file, target(server), conf=conf)
    settle(server)
    assert 'up' not in server.files
    assert '.oslo-part-' in caplog.text


# Where the data goes


@pytest.mark.parametrize('host', ['127.0.0.2', '10.11.12.13'])
def test_nothing_is_sent_elsewhere(host, certs, conf, file):
    """A 227 that names somebody else: they get no connection."""
    with evil_ftp_lab.Lab(certs) as lab:
        server = lab.new_server()
        server.on('EPSV', evil_ftp_lab.refuse(502, 'No.'))

        def say(session, _argument):
            port = session.listen()
            if host.startswith('127.'):
                lab.listen(host, port)
            session.reply(227, ftp_session.passive(host, port))

        server.on('PASV', say)
        oslo_transfer.copy(file, target(server), conf=conf)
        assert server.files == {'up': DATA}
        assert not lab.violations()


@pytest.mark.parametrize('name', ['wrong-host', 'self-signed', 'expired'])
def test_nothing_is_sent_to_a_stranger(name, certs, conf, file):
    """The data connection has to show the right certificate, too."""
    with evil_ftp_lab.Lab(certs) as lab:
        server = lab.new_server('good', data_tls=certs.server_context(name))
        with pytest.raises(exceptions.AccessDenied):
            oslo_transfer.copy(file, target(server), conf=conf)
        assert not any(server.files.values())
        assert 'up' not in server.files


@pytest.mark.parametrize('code', [502, 534])
def test_nothing_is_sent_in_clear(code, certs, conf, file):
    """No PROT P, no data."""
    with evil_ftp_lab.Lab(certs) as lab:
        server = lab.new_server('good')
        server.on('PROT', evil_ftp_lab.refuse(code, 'In clear.'))
        with pytest.raises(exceptions.AccessDenied):
            oslo_transfer.copy(file, target(server), conf=conf)
        assert not server.files
        assert not server.seen('STOR')


# Cancel and deadline


def silent(session, _argument):
    session.stall()


def stalled(session, argument):
    conn = session.open_data()
    session.take(conn, argument, 100_000)
    # Nothing is said or read until the peer goes.
    conn.stall()
    session.control.release()


def no_last_reply(session, argument):
    conn = session.open_data()
    session.take(conn, argument)
    conn.close()
    session.stall()


PLACES = {
    'login': ('PASS', silent),
    'stor': ('STOR', silent),
    'data': ('STOR', stalled),
    'last reply': ('STOR', no_last_reply),
    'rename': ('RNTO', silent),
}


@pytest.mark.parametrize('place', PLACES)
def test_limits(place, server, conf, file):
    """They hold wherever an upload waits: a cancel or the deadline."""
    how = 'deadline' if server.tls is None else 'cancel'
    for name in ('stall_timeout', 'connect_timeout'):
        conf.set_override(name, 20.0, group='oslo_transfer')
    verb, step = PLACES[place]
    reached, cancel = threading.Event(), threading.Event()

    def act(session, argument):
        reached.set()
        step(session, argument)

    server.on(verb, act)
    cancelled = []

    def stop():
        reached.wait(10)
        threading.Event().wait(WAIT)
        cancelled.append(time.monotonic())
        cancel.set()

    thread = threading.Thread(target=stop)
    thread.start()
    started = time.monotonic()
    limits = {'cancel': cancel} if how == 'cancel' else {'deadline': 2 * WAIT}
    kinds = {
        'cancel': exceptions.TransferCancelled,
        'deadline': exceptions.DeadlineExceeded,
    }
    with pytest.raises(kinds[how]):
        oslo_transfer.copy(file, target(server), conf=conf, **limits)
    ended = time.monotonic()
    thread.join()
    if how == 'cancel':
        assert ended - cancelled[0] < PROMPT
    else:
        assert ended - started < 2 * WAIT + PROMPT
    assert 'up' not in server.files
