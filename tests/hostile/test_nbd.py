# SPDX-License-Identifier: Apache-2.0
"""What bad NBD servers can do to a copy: nothing but fail it."""

from __future__ import annotations

import hashlib
import os
import pickle
import ssl
import time

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.servers import evil_nbd
from tests.servers import nbd_session
from tests.servers import resource

MIB = 1 << 20
DATA = resource.pattern(evil_nbd.SIZE)
IMAGE = resource.pattern(2 * MIB) + bytes(300_000) + resource.pattern(777, 1)
STALL = 0.3


def digest_of(data):
    return {
        'hash_algo': 'sha256',
        'hash_value': hashlib.sha256(data).hexdigest(),
    }


FACTS = {'none': {}, 'digest': digest_of(DATA)}


@pytest.fixture(autouse=True)
def limits(conf):
    """Be done with a bad server soon."""
    for name, value in {
        'max_retries': 1,
        'stall_timeout': STALL,
        'stall_bytes_per_second': 4096,
        'connect_timeout': 0.8,
    }.items():
        conf.set_override(name, value, group='oslo_transfer')


def assert_presentable(error, row):
    assert type(error).__name__ in row.errors, (row.title, error)
    assert row.says in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert len(str(error)) < 5000
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ('key', 'facts'),
    [(row.id, facts) for row in evil_nbd.ROWS.values() for facts in row.runs],
)
def test_server_cannot_corrupt(key, facts, conf, tmp_path, nothing_left):
    """Right bytes or a typed error; nothing visible, told or left."""
    row = evil_nbd.ROWS[key]
    dst = tmp_path / 'image'
    error = None
    started = time.monotonic()
    with nbd_session.NBDServer(row.session, DATA) as server:
        try:
            result = oslo_transfer.copy(
                server.url(), dst, conf=conf, **FACTS[facts]
            )
        except exceptions.TransferError as exc:
            error = exc
        elapsed = time.monotonic() - started
    detail = f'{row.title}: {error!r}'
    assert elapsed < 6, detail
    want = row.with_digest if facts == 'digest' else row.expect
    if error is None:
        assert want == 'ok', detail
        assert result.verified == (facts == 'digest')
        right = {DATA} if facts == 'digest' else row.right(DATA)
        assert dst.read_bytes() in right
        assert os.listdir(tmp_path) == ['image']
        return
    assert want == 'fail', detail
    assert not dst.exists()
    assert_presentable(error, row)


@pytest.mark.parametrize('key', evil_nbd.UPLOADS)
def test_server_cannot_fake_an_upload(key, conf, tmp_path, nothing_left):
    """All of it is there, or an error and no image that looks like one."""
    row = evil_nbd.UPLOADS[key]
    src = tmp_path / 'image'
    src.write_bytes(IMAGE)
    old = b'\xaa' * (4 * MIB)
    error = None
    started = time.monotonic()
    with nbd_session.NBDServer(row.session, old) as server:
        try:
            oslo_transfer.copy(src, server.url(), conf=conf)
        except exceptions.TransferError as exc:
            error = exc
        elapsed = time.monotonic() - started
        found = bytes(server.data)
        asked = {each.kind for each in server.requests}
    detail = f'{row.title}: {error!r}'
    assert elapsed < 8, detail
    if row.expect == 'ok':
        assert error is None, detail
        # Nothing old shows behind the image either.
        assert found == IMAGE + bytes(len(old) - len(IMAGE))
        return
    assert error is not None, detail
    assert_presentable(error, row)
    if key == 'read-only':
        assert found == old
        assert not asked & {nbd_session.WRITE, nbd_session.WRITE_ZEROES}
    elif key != 'flush-silent':
        assert not any(found[:MIB])


# TLS


@pytest.fixture
def authority(conf, certs):
    """Certificates; the driver trusts those who made them."""
    conf.set_override('ca_file', certs.ca_file, group='oslo_transfer_nbd')
    return certs


class Insistent(nbd_session.Session):
    """Answers nothing before TLS."""

    def on_option(self, kind, said):
        secured = isinstance(self.sock, ssl.SSLSocket)
        if kind == nbd_session.STARTTLS or secured:
            return super().on_option(kind, said)
        self.option_reply(kind, nbd_session.ERR_TLS_REQD)
        return False


def copy(server, path, conf, scheme='nbds', **options):
    url = server.url(scheme=scheme)
    return oslo_transfer.copy(url, path, conf=conf, **options)


def test_tls(authority, conf, tmp_path, nothing_left):
    """All is asked and told under TLS, both ways."""
    tls = authority.server_context()
    with nbd_session.NBDServer(Insistent, DATA, tls) as server:
        copy(server, tmp_path / 'image', conf)
        assert (tmp_path / 'image').read_bytes() == DATA
        assert server.options[0] == nbd_session.STARTTLS
        oslo_transfer.copy(
            tmp_path / 'image', server.url(scheme='nbds'), conf=conf
        )
        assert bytes(server.data) == DATA


def test_client_certificate(authority, conf, tmp_path, nothing_left):
    """The only login that NBD has."""
    tls = authority.server_context(ask_client=True)
    with nbd_session.NBDServer(Insistent, DATA, tls) as server:
        with pytest.raises(exceptions.TransferError):
            copy(server, tmp_path / 'image', conf)
        server.errors.clear()
        cert, key = authority.pair('client')
        conf.set_override('cert_file', cert, group='oslo_transfer_nbd')
        conf.set_override('key_file', key, group='oslo_transfer_nbd')
        copy(server, tmp_path / 'image', conf)
    assert (tmp_path / 'image').read_bytes() == DATA


@pytest.mark.parametrize(
    'leaf',
    ['expired', 'not-yet-valid', 'wrong-host', 'self-signed', 'nul-name'],
)
def test_wrong_certificate(leaf, authority, conf, tmp_path, nothing_left):
    tls = authority.server_context(leaf)
    with nbd_session.NBDServer(Insistent, DATA, tls) as server:
        with pytest.raises(exceptions.AccessDenied):
            copy(server, tmp_path / 'image', conf)
        assert nbd_session.GO not in server.options
        server.errors.clear()


def test_no_downgrade(conf, tmp_path, nothing_left):
    """A server without TLS is asked nothing more."""
    with nbd_session.NBDServer(data=DATA) as server:
        with pytest.raises(exceptions.AccessDenied, match='no TLS'):
            copy(server, tmp_path / 'image', conf)
        assert server.options == [nbd_session.STARTTLS]


def test_plain_bytes_behind_starttls(authority, conf, tmp_path, nothing_left):
    """What somebody sends in between is never taken for the server's."""

    class Injected(Insistent):
        def on_option(self, kind, said):
            if kind != nbd_session.STARTTLS:
                return super().on_option(kind, said)
            self.option_reply(kind, nbd_session.ACK)
            self.option_reply(nbd_session.STRUCTURED_REPLY, nbd_session.ACK)
            self.hang()

    tls = authority.server_context()
    with nbd_session.NBDServer(Injected, DATA, tls) as server:
        with pytest.raises(exceptions.Unavailable, match='TLS'):
            copy(server, tmp_path / 'image', conf)


def test_tls_is_asked_for(authority, conf, tmp_path, nothing_left):
    """Whoever uses nbd where nbds is due is told so."""
    tls = authority.server_context()
    with nbd_session.NBDServer(Insistent, DATA, tls) as server:
        with pytest.raises(exceptions.AccessDenied, match='use nbds'):
            copy(server, tmp_path / 'image', conf, scheme='nbd')


def test_tls_cut_off(authority, conf, tmp_path, nothing_left):
    """An end without the end of TLS is no end of the data."""

    class Cut(Insistent):
        def on_read(self, request):
            self.part(request, request.offset, request.offset + 1000)
            self.reset()

    tls = authority.server_context()
    with nbd_session.NBDServer(Cut, DATA, tls) as server:
        with pytest.raises(exceptions.Unavailable):
            copy(server, tmp_path / 'image', conf, **digest_of(DATA))
    assert not (tmp_path / 'image').exists()
