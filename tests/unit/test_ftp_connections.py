# SPDX-License-Identifier: Apache-2.0
"""How many connections an FTP transfer takes, and which may be refused."""

from __future__ import annotations

import pytest

import oslo_transfer
from oslo_transfer import connector
from oslo_transfer import context
from oslo_transfer.drivers.ftp import control
from oslo_transfer.drivers.ftp import driver
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer import urlpolicy
from tests.servers import evil_ftp_lab
from tests.servers import ftp_session
from tests.servers import scripted_ftp

pytestmark = pytest.mark.usefixtures('nothing_left')

DATA = bytes(range(256)) * 1024
HALF = len(DATA) // 2


@pytest.fixture(params=['ftp', 'ftps'])
def server(request, certs):
    tls = certs.server_context() if request.param == 'ftps' else None
    with scripted_ftp.ScriptedFTPServer(tls) as running:
        running.put('image', DATA)
        yield running


@pytest.fixture
def opened(server, conf, certs):
    conf.set_override('ca_file', certs.ca_file, group='oslo_transfer_ftp')

    def make(credentials=None):
        ctx = context.Context(
            conf=conf,
            connector=connector.Connector(urlpolicy.from_conf(conf)),
            stall=context.StallRule(1.0, 1024),
            connect_timeout=1.0,
            credentials=credentials,
        )
        where = endpoint.parse(server.url('image'))
        return driver.FTPDriver(conf).open_source(where, ctx)

    return make


def read(source, offset=0, length=None):
    found = bytearray()
    buffer = memoryview(bytearray(1 << 16))
    with source.stream(offset, length) as stream:
        while count := stream.readinto(buffer):
            found += buffer[:count]
    return bytes(found)


def test_login_is_used_again(server, opened):
    """After a stream that was read to its end."""
    with opened() as source:
        for offset in (0, HALF, 1, 0):
            assert read(source, offset) == DATA[offset:]
    assert server.connections == 1
    assert len(server.seen('RETR')) == 4


def test_no_transfer_is_wasted(server, opened):
    """The one that opening began is the first stream."""
    with opened() as source:
        assert read(source) == DATA
    assert len(server.seen('RETR')) == 1
    assert not server.seen('REST')


def test_part_of_a_file_takes_a_login(server, opened):
    """There is no end of a transfer that all servers know but hanging up."""
    with opened() as source:
        assert read(source, 0, HALF) == DATA[:HALF]
        assert read(source, HALF) == DATA[HALF:]
    assert server.connections == 2


def test_login_that_was_idle_for_too_long(server, opened):
    """A new one takes its place, and nobody notices."""
    with opened() as source:
        assert read(source) == DATA
        server.on(
            'SIZE',
            lambda session, argument: (
                evil_ftp_lab.refuse(421, 'Timeout.')(session, argument)
                if session.serial == 0
                else session.default('SIZE', argument)
            ),
        )
        assert read(source) == DATA
    assert server.connections == 2


@pytest.mark.parametrize(
    ('verb', 'code'), [('CONNECT', 421), ('PASS', 530), ('PASS', 421)]
)
def test_one_login_too_many(verb, code, server, opened):
    """It may work later: a copy goes on with the streams that it has."""
    with opened() as source, source.stream(0, None) as first:
        assert first.readinto(bytearray(10)) == 10
        server.on(verb, evil_ftp_lab.refuse(code, 'Too many.'))
        with pytest.raises(exceptions.Unavailable) as caught:
            source.stream(HALF, None)
        assert caught.value.retryable
        left = len(DATA) - 10
        buffer = bytearray(left)
        while left:
            left -= first.readinto(memoryview(buffer)[:left])


def test_first_login_is_refused(server, opened):
    """That is final."""
    server.on('PASS', evil_ftp_lab.refuse(530, 'Login incorrect.'))
    with pytest.raises(exceptions.AccessDenied) as caught:
        opened()
    assert not caught.value.retryable


class Renewable(oslo_transfer.Credentials):
    """Has a new password when the old one is refused."""

    password = 'old'

    def login(self):
        return 'somebody', self.password

    def refresh(self):
        self.password = 'new'
        return True


def test_login_is_renewed(server, opened):
    """Once, where the credentials can."""
    server.login = ('somebody', 'new')
    with opened(Renewable()) as source:
        assert read(source) == DATA
    assert [each[1] for each in server.logins] == ['old', 'new']


def test_account_is_asked_for(server, opened):
    """There is nothing to answer."""
    server.on('PASS', evil_ftp_lab.refuse(332, 'Need account.'))
    with pytest.raises(exceptions.AccessDenied):
        opened()


def test_patience_is_asked_for(server, opened):
    """120 is no greeting yet."""
    server.on(
        'CONNECT',
        evil_ftp_lab.raw(
            b'120 Soon.\r\n220-Now\r\n 220 or so\r\n220 it is\r\n'
        ),
    )
    with opened() as source:
        assert read(source) == DATA


def test_patience_is_asked_for_without_end(server, opened):
    """Once is enough."""
    server.on('CONNECT', evil_ftp_lab.raw(b'120 Soon.\r\n' * 1000))
    with pytest.raises(exceptions.ProtocolError):
        opened()


@pytest.mark.parametrize('server', ['ftps'], indirect=True)
def test_tls_from_the_first_byte(server, opened, monkeypatch):
    """At port 990, before the greeting."""
    monkeypatch.setattr(control, '_IMPLICIT_TLS', server.port)

    def connect(session, _argument):
        session.start_tls(server.tls)
        session.reply(220, 'Welcome.')

    server.on('CONNECT', connect)
    with opened() as source:
        assert read(source) == DATA
    assert not server.seen('AUTH')
    assert all(each.secure for each in server.commands)
    assert server.reused == [True]


def test_error_at_the_end_is_not_forgotten(server, opened):
    """Who asks again after it does not find the end."""

    def retrieve(session, argument):
        conn = session.open_data()
        session.deliver(conn, DATA)
        ftp_session.finish(conn)
        session.reply(451, 'The disk had errors.')

    server.on('RETR', retrieve)
    with opened() as source, source.stream(0, None) as stream:
        buffer = bytearray(len(DATA))
        left = len(DATA)
        while left:
            left -= stream.readinto(buffer)
        for kind in (exceptions.Unavailable, exceptions.TransferError):
            with pytest.raises(kind):
                stream.readinto(buffer)


def test_server_hangs_up_after_a_transfer(server, opened):
    """Some do, without a word; the next stream has another login."""

    def retrieve(session, argument):
        session.default('RETR', argument)
        session.hang_up()

    server.on('RETR', retrieve)
    with opened() as source:
        for _ in range(2):
            assert read(source) == DATA
    assert server.connections == 2
