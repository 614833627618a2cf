# SPDX-License-Identifier: Apache-2.0
"""The catalogue of bad behaviours is complete, and runs."""

from __future__ import annotations

import ssl
import time
import urllib.parse

import pytest

from tests.servers import certs
from tests.servers import evil_http
from tests.servers import rawclient
from tests.servers import resource

DATA = resource.pattern(evil_http.SIZE)


@pytest.fixture(autouse=True)
def nothing_left():
    with rawclient.nothing_left():
        yield


@pytest.fixture(scope='session')
def authority(tmp_path_factory):
    return certs.Certs(tmp_path_factory.mktemp('certs'))


def _naive(world, url, nth=0):
    """Send one request; return all that came within a moment."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port
    server = next(s for s in world.servers if s.port == port)
    context = None
    if parts.scheme == 'https' and server.tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers('DEFAULT:@SECLEVEL=0')
    got = b''
    try:
        with rawclient.Client(server, context, 0.05) as client:
            start = evil_http.HELD if nth else 0
            headers = {'Range': f'bytes={start}-'} if start else {}
            client.send(parts.path or '/', Connection='close', **headers)
            end = time.monotonic() + 0.1
            while len(got) < 1 << 20 and time.monotonic() < end:
                piece = client.file.read1(1 << 16)
                if not piece:
                    break
                got += piece
    except OSError:
        pass
    return got


@pytest.mark.parametrize('key', evil_http.BEHAVIOURS)
def test_behaviour(authority, key):
    row = evil_http.BEHAVIOURS[key]
    with evil_http.Lab(authority) as world:
        urls = row.install(world, '/image', DATA)
        for url in [urls] if isinstance(urls, str) else urls:
            if not url.isprintable() or '\\' in url or '[' in url:
                continue
            first = _naive(world, url)
            again = _naive(world, url, 1)
            if row.resume:
                part = DATA[: evil_http.HELD]
                assert first.endswith(b'\r\n\r\n' + part)
                assert not again.startswith(b'HTTP/1.1 200') or key in (
                    'R-02',
                    'R-07',
                    'R-14',
                    'T-21',
                )
        begin = time.monotonic()
    assert time.monotonic() - begin < 5
    assert not world.errors
    for facts in ('none', 'size', 'digest'):
        assert row.expects(facts)
        assert row.right(DATA, facts)[0] == DATA
    assert row.expects('digest') != 'undetectable'


def test_rows():
    rows = {row.row for row in evil_http.BEHAVIOURS.values()}
    blind = {
        row.row
        for row in evil_http.BEHAVIOURS.values()
        if row.expect == 'undetectable'
    }
    assert blind == set('H-04 H-05 H-35 H-44 R-05 R-22 R-24'.split())
    assert len(rows) >= 80


def test_leak_is_seen():
    row = evil_http.BEHAVIOURS['H-31']
    with evil_http.Lab() as world:
        row.install(world, '/image', DATA)
        with rawclient.Client(world.b) as client:
            assert client.get('/image')[2] == DATA
            assert not row.violations(world)
            client.get('/image', X_Auth_Token='any')
            client.get('/image', X_Other='so s3cr3t-bearer')
            assert len(row.violations(world)) == 2


def test_drop_sweep():
    points = evil_http.sweep(evil_http.SIZE)
    assert {0, 1, 65535, 65536, 65537, 262143} <= set(points)
    row = evil_http.drop_at(1000, always=True)
    with evil_http.Lab() as world:
        row.install(world, '/image', DATA)
        for offset in (0, 5000):
            with rawclient.Client(world.a) as client:
                client.send('/image', Range=f'bytes={offset}-')
                client.head()
                assert client.file.read(1000) == DATA[offset : offset + 1000]
                with pytest.raises(ConnectionResetError):
                    client.file.read()
