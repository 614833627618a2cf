# SPDX-License-Identifier: Apache-2.0
"""copy() from each kind of source to each kind of destination."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import pathlib
import urllib.parse

import pytest

import oslo_transfer
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import growth
from oslo_transfer.testing import conformance
from oslo_transfer.testing import faults
from oslo_transfer.testing import fixtures
from oslo_transfer.testing import memory
from tests import groups
from tests.servers import evil_peer
from tests.servers import http
from tests.servers import openssh
from tests.servers import pyftpd
from tests.servers import torrents

MIB = 1 << 20
SIZE = 6 * MIB
# Data, a hole, data that is no multiple of anything, and a hole at the end.
RUNS = {
    0: conformance.pattern(100_000),
    3 * MIB + 17: conformance.pattern(MIB + 5),
}
DATA = conformance.spread(SIZE, RUNS)
STORED = sum(len(run) for run in RUNS.values())
DIGEST = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}

_SSHD = groups.is_chosen('sftp', openssh.OpenSSH.found() is not None)

KINDS = (
    'file',
    'ftp',
    'ftps',
    'http',
    'https',
    'memory',
    'object',
    *(['sftp'] if _SSHD else []),
)
PAIRS = list(itertools.product(KINDS, KINDS))
# Each kind in both directions, where two of them would show nothing new.
SOME_PAIRS = [
    (source, target)
    for source, target in PAIRS
    if source == target or 'file' in (source, target)
]


def names(pair):
    """As nbdcopy names its tests."""
    return f'{pair[0]}_to_{pair[1]}'


class Ends:
    """Makes sources and destinations of each kind."""

    def __init__(self, directory, certs, shared):
        self.directory = directory
        self.certs = certs
        self.shared = shared
        self.numbers = itertools.count()
        self.servers = {}
        self.stack = contextlib.ExitStack()
        self.store = memory.MemoryStore()
        self.conf = fixtures.make_conf()
        self.conf.set_override(
            'ca_file', certs.ca_file, group='oslo_transfer_http'
        )
        self.conf.set_override(
            'ca_file', certs.ca_file, group='oslo_transfer_ftp'
        )

    def __enter__(self):
        enter = self.stack.enter_context
        enter(fixtures.registered(self.store.driver_class(), Writeless))
        return self

    def __exit__(self, *exc):
        self.stack.__exit__(*exc)

    def server(self, scheme):
        """A server, started when it is needed."""
        if scheme not in self.servers:
            tls = self.certs.server_context() if scheme == 'https' else None
            self.servers[scheme] = self.stack.enter_context(
                http.ScriptedHTTPServer(tls)
            )
        return self.servers[scheme]

    def name(self):
        return f'end{next(self.numbers)}'

    def remote(self, kind):
        """A URL on an FTP or SFTP server, and the path behind it."""
        if kind == 'sftp':
            sshd = self.shared.sshd()
            path = self.directory / self.name()
            for option, value in {
                'known_hosts_file': str(self.shared.known_hosts),
                'private_key_file': str(sshd.key),
                'username': sshd.user,
            }.items():
                self.conf.set_override(
                    option, value, group='oslo_transfer_sftp'
                )
            return sshd.url(path), path
        server = self.shared.ftpd(kind)
        name = f'{self.directory.name}-{self.name()}'
        return server.url(name), server.root / name

    def source(self, kind, size=SIZE, runs=RUNS):
        """Some data, by default DATA, as a source."""
        data = conformance.spread(size, runs)
        if kind == 'file':
            path = self.directory / self.name()
            with open(path, 'xb') as file:
                file.truncate(size)
                for offset, run in runs.items():
                    file.seek(offset)
                    file.write(run)
            return str(path)
        if kind == 'memory':
            url = f'memory://test/{self.name()}'
            return self.store.put(url, size=size, runs=runs)
        if kind == 'object':
            return io.BytesIO(data)
        if kind in ('ftp', 'ftps', 'sftp'):
            url, path = self.remote(kind)
            path.write_bytes(data)
            return url
        return self.server(kind).put(f'/{self.name()}', data)

    def destination(self, kind):
        """A place for it, and what reads what is there."""
        if kind == 'file':
            path = self.directory / self.name()
            return str(
                path
            ), lambda: path.read_bytes() if path.exists() else None
        if kind == 'memory':
            self.store.container('test')
            url = f'memory://test/{self.name()}'
            return url, lambda: self.store.get(url)
        if kind == 'object':
            target = io.BytesIO()
            return target, target.getvalue
        if kind in ('ftp', 'ftps', 'sftp'):
            url, path = self.remote(kind)
            return url, lambda: path.read_bytes() if path.exists() else None
        server = self.server(kind)
        url = server.allow_put(f'/{self.name()}')
        path = urllib.parse.urlsplit(url).path
        return url, lambda: server.uploads.get(path)

    def copy(self, src, dst, **options):
        return oslo_transfer.copy(src, dst, conf=self.conf, **options)


class Writeless(base.Driver):
    """Can be listed, and nothing else."""

    name = 'writeless'
    schemes = ('writeless',)
    capabilities = base.Capability(0)


class Shared:
    """Servers that are slow to start: one of each for all tests."""

    def __init__(self, directory, certs):
        self.stack = contextlib.ExitStack()
        self.known_hosts = directory / 'known_hosts'
        self.certs = certs
        self.running = {}

    def ftpd(self, scheme):
        if scheme not in self.running:
            self.running[scheme] = self.stack.enter_context(
                pyftpd.PyFTPd(self.certs.pair() if scheme == 'ftps' else None)
            )
        return self.running[scheme]

    def sshd(self):
        if 'sftp' not in self.running:
            self.running['sftp'] = self.stack.enter_context(openssh.OpenSSH())
            self.known_hosts.write_text(self.running['sftp'].known_hosts)
        return self.running['sftp']


@pytest.fixture(scope='module')
def shared(tmp_path_factory, certs):
    made = Shared(tmp_path_factory.mktemp('shared'), certs)
    with made.stack:
        # Started here, or the first test would leave their threads behind.
        for scheme in KINDS:
            if scheme in ('ftp', 'ftps'):
                made.ftpd(scheme)
        if _SSHD:
            made.sshd()
        yield made


@pytest.fixture
def ends(tmp_path, certs, shared, nothing_left):
    with Ends(tmp_path, certs, shared) as made:
        yield made


@pytest.mark.parametrize('digest', [DIGEST, {}], ids=['digest', 'plain'])
@pytest.mark.parametrize('pair', PAIRS, ids=names)
def test_copy(pair, digest, ends):
    source = ends.source(pair[0])
    target, read = ends.destination(pair[1])
    told = []
    result = ends.copy(
        source, target, progress=lambda *args: told.append(args), **digest
    )
    assert read() == DATA
    assert result.strategy == 'full_copy'
    assert result.verified == bool(digest)
    assert result.bytes_by_origin == {'origin': SIZE}
    assert result.wasted == 0
    assert result.form == 'file'
    assert result.driver == {
        'ftps': 'ftp',
        'https': 'http',
        'object': 'file-object',
    }.get(pair[0], pair[0])
    # What was passed over says why.
    assert [a.strategy for a in result.attempts] == ['clone']
    assert sum(chunk for chunk, _total in told) == SIZE
    assert not [n for n in os.listdir(ends.directory) if n[0] == '.']


@pytest.mark.parametrize('pair', SOME_PAIRS, ids=names)
def test_copy_small(pair, ends):
    for size in (0, 1, 65536, 65537):
        data = conformance.pattern(size)
        source = ends.source(pair[0], size, {0: data})
        target, read = ends.destination(pair[1])
        result = ends.copy(source, target, hash_algo='md5')
        assert read() == data
        assert result.size == size
        assert result.digest == f'md5:{hashlib.md5(data).hexdigest()}'


@pytest.mark.parametrize('kind', KINDS)
def test_holes_stay_holes_in_a_file(kind, ends):
    target, _read = ends.destination('file')
    result = ends.copy(ends.source(kind), target, **DIGEST)
    assert result.bytes_written <= STORED + 4 * 65536
    blocks = pathlib.Path(target).stat().st_blocks * 512
    assert blocks <= result.bytes_written + 2 * 65536


@pytest.mark.parametrize('kind', KINDS)
def test_holes_stay_holes_in_memory(kind, ends):
    """Zeros are not written where a sink says that it begins with them."""
    target, _read = ends.destination('memory')
    result = ends.copy(ends.source(kind), target)
    assert result.bytes_written <= STORED + 4 * 65536


@pytest.mark.parametrize('kind', KINDS)
def test_zeros_are_asked_for(kind, ends):
    """Where a sink may hold anything, all is written or zeroed."""
    url = 'memory://test/checked'
    sink = ends.store.expect(url, DATA)
    ends.copy(ends.source(kind), url, **DIGEST)
    assert sink.committed
    assert sink.written + sink.zeros == SIZE
    assert sink.written <= STORED + 4 * 65536


@pytest.mark.parametrize('pair', SOME_PAIRS, ids=names)
def test_wrong_digest_shows_nothing(pair, ends):
    source = ends.source(pair[0])
    target, read = ends.destination(pair[1])
    wrong = {**DIGEST, 'hash_value': hashlib.sha256(b'x').hexdigest()}
    with pytest.raises(exceptions.DigestMismatch):
        ends.copy(source, target, **wrong)
    if pair[1] == 'object':
        assert read() != DATA
    else:
        assert read() is None
    assert not [n for n in os.listdir(ends.directory) if n[0] == '.']


@pytest.mark.parametrize('kind', KINDS)
def test_next_location(kind, ends):
    """A source that breaks in the middle, then a good one."""
    broken = ends.store.put(
        'memory://test/broken',
        DATA,
        faults=faults.Faults(fail_at=MIB, error=_broken),
    )
    target, read = ends.destination(kind)
    result = ends.copy([broken, ends.source('file')], target, **DIGEST)
    assert read() == DATA
    assert [a.error for a in result.attempts[1:]] == ['ProtocolError']
    assert result.driver == 'file'


def _broken():
    return exceptions.ProtocolError('nonsense')


@pytest.mark.parametrize('digest', [DIGEST, {}], ids=['digest', 'plain'])
@pytest.mark.parametrize('kind', KINDS)
def test_from_torrent(kind, digest, ends):
    """A file is filled by libtorrent; all else is read piece by piece."""
    torrent = torrents.make(DATA)
    path = torrent.write(ends.directory / ends.name())
    target, read = ends.destination(kind)
    with evil_peer.Peer(torrent, DATA) as peer:
        for option, value in {
            'peer_networks': ['127.0.0.0/8'],
            'listen_address': '127.0.0.1',
            'peers': [peer.address],
        }.items():
            ends.conf.set_override(
                option, value, group='oslo_transfer_bittorrent'
            )
        result = ends.copy(f'torrent+file://{path}', target, **digest)
    assert read() == DATA
    assert result.driver == 'bittorrent'
    assert result.verified == bool(digest)
    assert result.method == ('fill' if kind == 'file' else 'read')
    assert set(result.bytes_by_origin) <= {'peer', 'zeros'}
    assert result.size == SIZE
    assert peer.sent < SIZE


MIRRORS = ('file', 'http', 'ftp', 'ftps', *(['sftp'] if _SSHD else []))


@pytest.mark.parametrize('wrong', MIRRORS)
def test_mirrors_of_all_kinds(wrong, ends, monkeypatch):
    """One of them corrupt; streams are added as if each brought more."""
    monkeypatch.setattr(growth, '_QUICK', 0.0)
    monkeypatch.setattr(growth, '_MOSTLY', -1.0)
    monkeypatch.setattr(growth, '_PAYS', -100.0)
    ends.conf.set_override('max_streams', 16, group='oslo_transfer')
    ends.conf.set_override('max_locations', 16, group='oslo_transfer')
    size = 16 * MIB
    data = conformance.pattern(size)
    bad = conformance.pattern(size, 'bad')
    urls = [
        ends.source(kind, size, {0: bad if kind == wrong else data})
        for kind in MIRRORS
    ]
    target, read = ends.destination('file')
    result = ends.copy(
        urls,
        target,
        hash_algo='sha256',
        hash_value=hashlib.sha256(data).hexdigest(),
        # Or the fastest would be done before the others have connected.
        rate_limit=32 * MIB,
    )
    assert read() == data
    assert result.verified
    assert urls[MIRRORS.index(wrong)] not in result.bytes_by_location
    assert sum(result.bytes_by_location.values()) == size
    blamed = {
        attempt.location
        for attempt in result.attempts
        if attempt.error == 'IntegrityError'
    }
    assert blamed <= {urls[MIRRORS.index(wrong)]}


@pytest.mark.parametrize('kind', KINDS)
def test_retries(kind, ends):
    """A source that breaks now and then."""
    plan = faults.Faults(fail_every=5, times=4, most=65536)
    flaky = ends.store.put('memory://test/flaky', DATA, faults=plan)
    target, read = ends.destination(kind)
    result = ends.copy(flaky, target, **DIGEST)
    assert read() == DATA
    assert plan.failures == 4
    assert result.size == SIZE


# What has to be refused, and as what.


def refusals(ends):
    """Arguments of copy() by name, and the error that is due."""
    file, there = ends.source('file'), ends.source('file')
    url = ends.source('http')
    fresh = ends.destination('file')[0]
    link = ends.directory / 'link'
    link.symlink_to(there)
    used = io.BytesIO(DATA)
    missing = exceptions.CapabilityMissing
    return {
        'clone_of_http': (missing, url, fresh, {'strategy': 'clone'}),
        'clone_of_object': (missing, used, fresh, {'strategy': 'clone'}),
        'clone_to_http': (
            missing,
            file,
            ends.destination('http')[0],
            {'strategy': 'clone'},
        ),
        'clone_to_object': (
            missing,
            file,
            io.BytesIO(),
            {'strategy': 'clone'},
        ),
        'from_unreadable': (missing, 'writeless://x/y', fresh, {}),
        'to_unwritable': (missing, file, 'writeless://x/y', {}),
        'from_unknown_scheme': (
            exceptions.DriverNotFound,
            'nosuch://x/y',
            fresh,
            {},
        ),
        'to_unknown_scheme': (
            exceptions.DriverNotFound,
            file,
            'nosuch://x/y',
            {},
        ),
        'unknown_strategy': (
            exceptions.StrategyNotFound,
            file,
            fresh,
            {'strategy': 'nosuch'},
        ),
        'to_existing_file': (exceptions.AlreadyExists, url, there, {}),
        'to_existing_memory': (
            exceptions.AlreadyExists,
            url,
            ends.source('memory'),
            {},
        ),
        'to_directory': (
            exceptions.InvalidEndpoint,
            url,
            f'{ends.directory}',
            {'overwrite': True},
        ),
        'to_link': (
            exceptions.InvalidEndpoint,
            url,
            str(link),
            {'overwrite': True},
        ),
        'from_directory': (
            exceptions.InvalidEndpoint,
            str(ends.directory),
            fresh,
            {},
        ),
        'to_missing_directory': (
            exceptions.NotFound,
            url,
            str(ends.directory / 'no' / 'file'),
            {},
        ),
        'to_missing_container': (
            exceptions.NotFound,
            url,
            'memory://nowhere/object',
            {},
        ),
        'untrusted_file': (
            exceptions.PolicyRefused,
            oslo_transfer.Location(file, trusted=False),
            fresh,
            {},
        ),
        'untrusted_memory': (
            exceptions.PolicyRefused,
            oslo_transfer.Location(ends.source('memory'), trusted=False),
            fresh,
            {},
        ),
        'untrusted_loopback': (
            exceptions.PolicyRefused,
            oslo_transfer.Location(url, trusted=False),
            fresh,
            {},
        ),
        'endless': (
            exceptions.IntegrityError,
            ends.server('http').put(
                '/endless', DATA, content_length=False, ranges=False
            ),
            fresh,
            {},
        ),
        'nothing': (exceptions.InvalidEndpoint, [], fresh, {}),
        'bytes': (exceptions.InvalidEndpoint, b'path', fresh, {}),
    }


def test_refusals(ends, subtests):
    for name, (kind, src, dst, options) in refusals(ends).items():
        before = sorted(os.listdir(ends.directory))
        with subtests.test(name), pytest.raises(kind):
            ends.copy(src, dst, **options)
        assert sorted(os.listdir(ends.directory)) == before
