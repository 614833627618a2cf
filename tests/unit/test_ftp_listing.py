# SPDX-License-Identifier: Apache-2.0
"""Whether a name is taken on a server that has no SIZE and no MDTM."""

from __future__ import annotations

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.servers import evil_ftp_lab
from tests.servers import ftp_session
from tests.servers import scripted_ftp

pytestmark = pytest.mark.usefixtures('nothing_left')

DATA = b'new'


def listing(text, code=226):
    """A step that lists something."""

    def step(session, _argument):
        conn = session.open_data()
        session.deliver(conn, text)
        ftp_session.finish(conn)
        session.reply(code, 'That is all.')

    return step


@pytest.fixture
def upload(conf, tmp_path):
    """Upload a file to a name that the list is asked about."""
    (tmp_path / 'file').write_bytes(DATA)

    def run(server, name='up'):
        for verb in ('SIZE', 'MDTM'):
            server.on(verb, evil_ftp_lab.refuse(502, 'What?'))
        oslo_transfer.copy(tmp_path / 'file', server.url(name), conf=conf)

    return run


@pytest.mark.parametrize(
    'step',
    [
        listing(b''),
        listing(b'', 450),
        evil_ftp_lab.refuse(550, 'No such file.'),
        evil_ftp_lab.refuse(450, 'No files found.'),
    ],
)
def test_free(step, upload):
    """An empty list is one, however the server says so."""
    with scripted_ftp.ScriptedFTPServer() as server:
        server.on('NLST', step)
        upload(server)
        assert server.files == {'up': DATA}


@pytest.mark.parametrize(
    'step', [listing(b'up\r\n'), listing(b'../../etc/passwd\r\n', 426)]
)
def test_taken(step, upload):
    """Whatever name it is that the server lists: it is not used."""
    with scripted_ftp.ScriptedFTPServer() as server:
        server.on('NLST', step)
        with pytest.raises(exceptions.AlreadyExists):
            upload(server)
        assert not server.seen('STOR')


@pytest.mark.parametrize(
    ('step', 'kind'),
    [
        (evil_ftp_lab.refuse(425, 'No connection.'), exceptions.Unavailable),
        (evil_ftp_lab.refuse(502, 'What?'), exceptions.ProtocolError),
        (evil_ftp_lab.refuse(530, 'Not you.'), exceptions.AccessDenied),
        (listing(b'', 426), exceptions.Unavailable),
    ],
)
def test_not_known(step, kind, upload):
    """Then nothing is written: it could be what replaces a file."""
    with scripted_ftp.ScriptedFTPServer() as server:
        server.on('NLST', step)
        with pytest.raises(kind):
            upload(server)
        assert not server.seen('STOR', 'RNTO')


def test_name_like_an_option(upload):
    """A name that begins with "-" is not taken for one."""
    with scripted_ftp.ScriptedFTPServer() as server:
        server.on('NLST', listing(b''))
        upload(server, '-aR')
        asked = {each.argument for each in server.seen('NLST')}
        assert asked == {'./-aR'}
        assert server.files == {'-aR': DATA}
