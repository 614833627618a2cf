# SPDX-License-Identifier: Apache-2.0
"""The proxy as operators run it: who gets what, and what it survives."""

from __future__ import annotations

from concurrent import futures
import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import urllib.error

import pytest

import oslo_transfer
from tests import groups
from tests.servers import dd_lab
from tests.servers import proxy_service
from tests.servers import qemu_io
from tests.servers import relay as _relay
from tests.servers import resource
from tests import waiting

pytestmark = [
    *groups.marks('proxy', all(map(shutil.which, ('qemu-img', 'qemu-io')))),
    pytest.mark.usefixtures('nothing_left'),
]

MIB = 1 << 20
BLOCK = 64 * 1024
DATA = resource.pattern(6 * MIB + 512)
OTHER = resource.pattern(6 * MIB + 512, seed=2)
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}


@pytest.fixture
def here():
    with dd_lab.short_directory() as path:
        yield path


@pytest.fixture
def make(here):
    """Starts proxies in this process; a name stands for the state of one."""
    with contextlib.ExitStack() as stack:

        def make(name='p', groups=None, kind=None, **options):
            path = here / name
            path.mkdir(exist_ok=True)
            made = (kind or proxy_service.LocalProxy)(
                path, {'oslo_transfer_proxy': options, **(groups or {})}
            )
            return stack.enter_context(made)

        yield make


@pytest.fixture
def proxy(make, server):
    return make(origins=server.origin)


@pytest.fixture
def process(make, server):
    """One that can be killed, and asked by commands."""
    return make(origins=server.origin, kind=proxy_service.ProxyService)


def status_of(proxy, url, headers=None):
    """How it answers where it does not give the image."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        proxy.get(url, headers)
    with contextlib.closing(caught.value) as error:
        return error.code, error.read().decode()


@contextlib.contextmanager
def cut_after(count, proxy, url):
    """The URL of a proxy that gives only so many bytes."""
    port = int(proxy.url.rpartition(':')[2])
    with _relay.Relay(port, cut_after=count) as relay:
        near = f'http://127.0.0.1:{relay.port}'
        yield proxy.of(url).replace(proxy.url, near)


def test_one_crossing(process, server):
    """However many ask at once."""
    url = server.put('/image', DATA)
    with futures.ThreadPoolExecutor(16) as pool:
        for found in pool.map(process.get, [url] * 16):
            assert found == DATA
    # A byte tells which version it is.
    waiting.until(lambda: server.bytes_sent() == len(DATA) + 1)
    image = process.image(url)
    assert image['bytes_served'] == 16 * len(DATA)
    assert image['bytes_saved'] == 15 * len(DATA)
    assert image['bytes_here'] == len(DATA)


def test_how_it_refuses(make, server):
    proxy = make(
        origins=f'{server.origin}, http://127.0.0.1:1/',
        names=f'golden:{server.url("/image")}',
        groups={'oslo_transfer': {'max_retries': 0}},
    )
    server.put('/image', DATA)
    server.require_token('/image', {'geheim'})
    shown = {'X-Auth-Token': 'geheim'}
    assert proxy.get('/images/golden', shown) == DATA
    assert status_of(proxy, '/images/golden')[0] == 401
    assert status_of(proxy, '/images/other')[0] == 404
    assert status_of(proxy, '/nothing')[0] == 404
    assert status_of(proxy, server.url('/nothing'))[0] == 404
    assert status_of(proxy, server.url('/a/../image'))[0] == 400
    assert status_of(proxy, 'http://127.0.0.1:1/image')[0] == 503
    status, why = status_of(proxy, 'http://127.0.0.1:2/image?key=geheim')
    assert status == 403 and 'not in [oslo_transfer_proxy] origins' in why
    assert 'geheim' not in why
    assert proxy.ask('GET', '/v1/proxy')['totals']['refused'] == 2
    # With a request ID for each, and no secret.
    log = proxy.log.read_text()
    assert 'geheim' not in log and log.count('req-') >= 8


def test_each_asks_as_himself(make, here, server):
    """Tokens for the proxy are not for the origin, and the reverse."""
    (here / 'tokens').write_text('host-a\nhost-b\n')
    proxy = make(
        origins=server.origin, tokens_file=here / 'tokens', grant_seconds=0
    )
    url = server.put('/image', DATA)
    server.require_token('/image', {'alice', 'bob'})

    def shown(host, user):
        return {'Proxy-Authorization': f'Bearer {host}', 'X-Auth-Token': user}

    assert proxy.get(url, shown('host-a', 'alice')) == DATA
    assert proxy.get(url, shown('host-b', 'bob')) == DATA
    # Newer credentials may help with the origin, not with the proxy.
    assert status_of(proxy, url, shown('host-a', 'carol'))[0] == 401
    assert status_of(proxy, url, shown('host-c', 'alice'))[0] == 403
    assert status_of(proxy, url, {'X-Auth-Token': 'alice'})[0] == 403
    assert status_of(proxy, url)[0] == 401
    # What the origin takes back is gone, though it is here.
    server.require_token('/image', {'bob'})
    assert status_of(proxy, url, shown('host-a', 'alice'))[0] == 401
    assert proxy.get(url, shown('host-b', 'bob')) == DATA
    assert server.bytes_sent() < len(DATA) + BLOCK
    for request in server.requests:
        assert 'proxy-authorization' not in request.headers
    for each in here.rglob('*'):
        if each.is_file() and each != here / 'tokens':
            assert not {'alice', 'host-a'} & {*each.read_bytes().split()}


def test_a_token_that_has_ended(make, server, conf, tmp_path):
    """It is renewed, as if the origin were asked."""
    proxy = make(origins=server.origin, grant_seconds=0)
    url = server.put('/image', DATA)
    server.require_token('/image', {'old'})
    assert proxy.get(url, {'X-Auth-Token': 'old'}) == DATA
    server.require_token('/image', {'new'})
    credentials = oslo_transfer.TokenCredentials('old', lambda: 'new')
    dst = tmp_path / 'image'
    oslo_transfer.copy(
        oslo_transfer.Location(proxy.of(url), credentials=credentials),
        dst,
        conf=conf,
    )
    assert dst.read_bytes() == DATA
    assert credentials.headers() == {'X-Auth-Token': 'new'}


def test_tokens_that_are_taken_away(make, here, server):
    (here / 'tokens').write_text('host-a\n')
    proxy = make(origins=server.origin, tokens_file=here / 'tokens')
    url = server.put('/image', DATA)
    shown = {'Proxy-Authorization': 'Bearer host-a'}
    assert proxy.get(url, shown) == DATA
    (here / 'tokens').write_text('another\n')
    waiting.until(lambda: 'was read again' in proxy.log.read_text())
    assert status_of(proxy, url, shown)[0] == 403


def test_certificates(make, server, certs, conf, tmp_path):
    """Who has none gets nothing, neither by HTTP nor by NBD."""
    cert_file, key_file = certs.pair('good')
    proxy = make(
        origins=server.origin,
        cert_file=cert_file,
        key_file=key_file,
        ca_file=certs.ca_file,
    )
    url = server.put('/image', DATA)
    for name, value in zip(
        ('ca_file', 'cert_file', 'key_file'),
        (certs.ca_file, *certs.pair('client')),
    ):
        conf.set_override(name, value, 'oslo_transfer_http')
        conf.set_override(name, value, 'oslo_transfer_nbd')
    dst = tmp_path / 'image'
    for source in (proxy.of(url), proxy.nbd_uri(url)):
        oslo_transfer.copy(source, dst, conf=conf, overwrite=True, **SHA256)
        assert dst.read_bytes() == DATA
    conf.set_override('max_retries', 0, 'oslo_transfer')
    # For servers only, too late, of another CA, and none.
    for name in ('good', 'expired', 'self-signed', None):
        for group in ('oslo_transfer_http', 'oslo_transfer_nbd'):
            pair = certs.pair(name) if name else (None, None)
            for option, value in zip(('cert_file', 'key_file'), pair):
                conf.set_override(option, value, group)
        for source in (proxy.of(url), proxy.nbd_uri(url)):
            with pytest.raises(oslo_transfer.TransferError):
                oslo_transfer.copy(source, dst, conf=conf, overwrite=True)


def test_certificates_are_read_again(make, here, server, certs, conf):
    """New ones count from the next connection on."""

    def put(name, *paths):
        # As tools do it: a file is never half there.
        data = b''.join(pathlib.Path(path).read_bytes() for path in paths)
        (here / 'new').write_bytes(data)
        (here / 'new').rename(here / name)

    put('host.pem', *certs.pair('wrong-host'))
    put('ca.pem', certs.pair('self-signed')[0])
    proxy = make(
        origins=server.origin,
        cert_file=here / 'host.pem',
        ca_file=here / 'ca.pem',
    )
    url = proxy.of(server.put('/image', DATA))
    for name, value in zip(
        ('ca_file', 'cert_file', 'key_file'),
        (certs.ca_file, *certs.pair('client')),
    ):
        conf.set_override(name, value, 'oslo_transfer_http')
    conf.set_override('max_retries', 0, 'oslo_transfer')

    def may_read():
        try:
            with oslo_transfer.open_source(url, conf=conf) as source:
                return source.size == len(DATA)
        except oslo_transfer.TransferError:
            return False

    assert not may_read()
    put('host.pem', *certs.pair('good'))
    assert not may_read()
    put('ca.pem', certs.ca_file)
    assert may_read()
    for name in ('host.pem', 'ca.pem'):
        put(name, '/dev/null')
        assert may_read()
    assert 'those of before are used on' in proxy.log.read_text()
    put('host.pem', *certs.pair('good'))
    put('ca.pem', certs.pair('self-signed')[0])
    assert not may_read()


def test_tokens_need_certificates_for_nbd(here):
    (here / 'tokens').write_text('host-a\n')
    options = {'tokens_file': here / 'tokens', 'nbd_port': 10809}
    made = proxy_service.ProxyService(here, {'oslo_transfer_proxy': options})
    done = made.run('serve', '--role', 'proxy')
    assert done.returncode and 'needs ca_file' in done.stderr


def test_the_configuration_is_read_again(process, server):
    """What is not allowed any more is refused at once, also if it is here."""
    url = server.put('/image', DATA)
    assert process.get(url) == DATA
    right = process.config.read_text()
    process.config.write_text('nonsense')
    os.kill(process.pid, signal.SIGHUP)
    waiting.until(lambda: 'is kept as it was' in process.log.read_text())
    assert process.get(url) == DATA
    process.config.write_text(
        right.replace(f'origins = {server.origin}', 'origins = ')
    )
    os.kill(process.pid, signal.SIGHUP)
    waiting.until(lambda: refuses(process, url))
    process.config.write_text(right)
    os.kill(process.pid, signal.SIGHUP)
    waiting.until(lambda: not refuses(process, url))


def refuses(proxy, url):
    try:
        return proxy.get(url) != DATA
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            return error.code == 403


# Versions


def test_another_version(make, server, conf, tmp_path):
    """Who began with the old one does not end with the new one."""
    proxy = make(origins=server.origin, grant_seconds=0)
    url = server.put('/image', OTHER, etag='"1"', rate=4 * MIB)
    dst = tmp_path / 'image'

    def replace(_chunk, _total):
        server.put('/image', DATA, etag='"2"')

    oslo_transfer.copy(
        proxy.of(url), dst, conf=conf, progress=replace, **SHA256
    )
    assert dst.read_bytes() == DATA
    assert proxy.get(url) == DATA


def test_a_copy_goes_on_at_the_origin(proxy, server, conf, tmp_path):
    """The proxy names versions as the origin does."""
    url = server.put('/image', DATA)
    dst = tmp_path / 'image'
    with cut_after(2 * MIB, proxy, url) as cut:
        result = oslo_transfer.copy([cut, url], dst, conf=conf)
    assert dst.read_bytes() == DATA
    # Without a digest nothing but the ETag lets the bytes be joined.
    assert result.wasted < MIB
    assert all(count > MIB for count in result.bytes_by_location.values())


# Chains


def far_and_near(make, server, kind=None, **options):
    far = make('far', origins=server.origin, kind=kind)
    return far, make(
        'near', origins=server.origin, upstreams=far.url, **options
    )


def test_a_chain(make, server):
    far, near = far_and_near(make, server)
    url = server.put('/image', DATA)
    assert near.get(url) == DATA == near.get(url)
    assert far.get(url) == DATA
    assert server.bytes_sent() <= len(DATA) + 2
    assert far.image(url)['bytes_served'] == 2 * len(DATA) + 1
    # Each is known by the same name wherever it came by.
    assert far.image(url)['id'] == near.image(url)['id']
    vias = [request.headers['via'] for request in server.requests]
    assert {via.count('oslo-transfer-') for via in vias} == {2}


def test_a_chain_by_its_url(make, server):
    """A proxy is an origin like any other."""
    far = make('far', origins=server.origin)
    near = make('near', origins=far.url)
    url = server.put('/image', DATA)
    assert near.get(far.of(url)) == DATA
    via = server.requests[-1].headers['via']
    assert via.count('oslo-transfer-') == 2


def test_a_chain_with_tokens(make, here, server):
    (here / 'tokens').write_text('of-the-near-one\n')
    far = make('far', origins=server.origin, tokens_file=here / 'tokens')
    near = make(
        'near',
        origins=server.origin,
        upstreams=far.url,
        upstream_token_file=here / 'tokens',
    )
    url = server.put('/image', DATA)
    server.require_token('/image', {'alice'})
    assert near.get(url, {'X-Auth-Token': 'alice'}) == DATA
    assert far.image(url)['bytes_served'] > len(DATA) - 1
    assert status_of(near, url, {'X-Auth-Token': 'bob'})[0] == 401


def test_an_upstream_dies(make, server, conf, tmp_path):
    """Also in the middle, and those who read do not notice."""
    far, near = far_and_near(
        make,
        server,
        kind=proxy_service.ProxyService,
        groups={'oslo_transfer': {'retry_delay': 0.05}},
    )
    url = server.put('/image', DATA, rate=6 * MIB)
    dst = tmp_path / 'image'

    def kill(_chunk, _total):
        if far._process is not None:
            far.stop(signal.SIGKILL)

    oslo_transfer.copy(near.of(url), dst, conf=conf, progress=kill)
    assert dst.read_bytes() == DATA
    assert 'passed over for' in near.log.read_text()
    # It is not asked for the next one.
    other = server.put('/other', OTHER)
    assert near.get(other) == OTHER


def test_nobody_sees_that_an_upstream_dies(make, server):
    """No read fails, though who reads tries nothing again."""
    far, near = far_and_near(make, server, kind=proxy_service.ProxyService)
    url = server.put('/image', DATA)
    assert near.get(url, {'Range': 'bytes=0-9'}) == DATA[:10]
    far.stop(signal.SIGKILL)
    start = len(DATA) - 100
    found = near.get(url, {'Range': f'bytes={start}-'})
    assert found == DATA[start:]


def test_a_circle(make, here, server):
    """Two that ask each other, which they should not."""
    port = proxy_service.child.free_port()
    one = make(
        'one', origins=server.origin, upstreams=f'http://127.0.0.1:{port}'
    )
    two = make('two', origins=server.origin, upstreams=one.url, http_port=port)
    url = server.put('/image', DATA)
    assert one.get(url) == DATA
    other = server.put('/other', OTHER)
    assert two.get(other) == OTHER


def test_all_of_a_chain_heal(make, server):
    """Whichever has the wrong bytes."""
    far, near = far_and_near(make, server)
    url = server.put('/image', OTHER, etag='"1"')
    assert near.get(url) == OTHER
    server.put('/image', DATA, etag='"1"')
    assert near.get(url) == OTHER == far.get(url)
    assert near.get(url, {'Cache-Control': 'no-cache'}) == DATA
    assert far.get(url) == DATA == near.get(url)
    # Once, also where all who have a copy find out.
    for each in (near, far):
        fetched = each.image(url)['bytes_fetched']
        assert each.get(url, {'Cache-Control': 'no-cache'}) == DATA
        assert each.image(url)['bytes_fetched'] == fetched == 2 * len(DATA)


# Bad luck


def test_it_is_killed(process, server):
    """What is on the disk stays, and nothing wrong is served."""
    url = server.put('/image', DATA)
    # What was prefetched is on the disk when that is done.
    half = len(DATA) // 2
    wanted = {'url': url, 'kind': 'ranges', 'ranges': [[0, half]]}
    job = process.ask('POST', '/v1/proxy/prefetches', wanted)
    waiting.until(
        lambda: (
            process.ask('GET', f'/v1/proxy/prefetches/{job["id"]}')['state']
            == 'done'
        )
    )
    assert process.get(url) == DATA
    process.stop(signal.SIGKILL)
    sent = server.bytes_sent()
    process.start()
    waiting.until(lambda: process.image(url)['bytes_here'] >= half)
    assert process.get(url) == DATA
    assert server.bytes_sent() - sent <= len(DATA) - half + BLOCK


def test_it_is_moved(make, here, server):
    """With another directory, and by a polite restart."""
    first = make(origins=server.origin, directory=here / 'one')
    url = server.put('/image', DATA)
    assert first.get(url) == DATA
    identifier = first.image(url)['id']
    first.ask('POST', f'/v1/proxy/pins/{identifier}', {})
    assert first.stop() == 0
    (here / 'one').rename(here / 'two')
    second = make(origins=server.origin, directory=here / 'two')
    assert second.image(url)['pinned']
    waiting.until(lambda: second.image(url)['bytes_here'] == len(DATA))
    sent = server.bytes_sent()
    assert second.get(url) == DATA
    waiting.until(lambda: server.bytes_sent() == sent + 1)


def data_file(here: pathlib.Path) -> pathlib.Path:
    (found,) = (here / 'p/state/proxy').glob('*/data')
    return found


def damage(path: pathlib.Path) -> None:
    with open(path, 'r+b') as file:
        file.seek(3 * BLOCK + 7)
        file.write(b'wrong')
        file.flush()
        os.fsync(file.fileno())


def test_a_damaged_block(proxy, here, server):
    """It is found before anybody gets it, and fetched again."""
    url = server.put('/image', DATA)
    assert proxy.get(url) == DATA
    assert proxy.stop() == 0
    damage(data_file(here))
    proxy.start()
    sent = server.bytes_sent()
    assert proxy.get(url) == DATA
    waiting.until(lambda: BLOCK <= server.bytes_sent() - sent <= 3 * BLOCK)
    store = proxy.ask('GET', '/v1/proxy')['store']
    assert store['blocks_damaged'] == 1


def test_it_is_scrubbed(process, here, server):
    """What is damaged is found before anybody asks for it."""
    url = server.put('/image', DATA)
    assert process.get(url) == DATA
    damage(data_file(here))
    done = process.run('cache', 'scrub')
    assert done.returncode == 0, done.stderr
    waiting.until(
        lambda: '1 were damaged' in process.log.read_text(),
    )
    assert process.get(url) == DATA


def test_a_block_that_is_damaged_while_it_is_open(
    proxy, here, server, conf, tmp_path
):
    """The digest finds it, and the proxy heals."""
    url = server.put('/image', DATA)
    assert proxy.get(url) == DATA
    damage(data_file(here))
    assert proxy.get(url) != DATA
    name = 'oslo_transfer_datacenter_here'
    path = tmp_path / 'conf'
    path.write_text(
        f'[oslo_transfer]\ndatacenter = here\ndatacenters = here\n'
        f'state_path = {tmp_path / "state"}\n'
        f'[{name}]\nproxies = {proxy.url}\n'
    )
    conf(['--config-file', str(path)], project='test')
    dst = tmp_path / 'image'
    result = oslo_transfer.copy(url, dst, 'proxy_cache', conf=conf, **SHA256)
    assert dst.read_bytes() == DATA and result.verified
    assert result.bytes_by_origin == {'proxy': len(DATA)}
    assert proxy.get(url) == DATA


def test_a_full_disk(disks, make, server):
    """Images are served on, and it tells that it keeps nothing."""
    small = disks.tmpfs(2 * MIB)
    proxy = make(origins=server.origin, directory=small)
    url = server.put('/image', DATA)
    for _ in range(2):
        assert proxy.get(url) == DATA
    answer = proxy.ask('GET', '/healthz')
    assert answer['status'] == 'impaired'


def test_the_origin_goes_away(make, server):
    proxy = make(
        origins=server.origin,
        grant_seconds=0,
        groups={'oslo_transfer': {'max_retries': 0}},
    )
    url = server.put('/image', DATA)
    assert proxy.get(url) == DATA
    server.close()
    assert proxy.get(url) == DATA
    assert 'what is here of it is served' in proxy.log.read_text()


# NBD


def test_a_guest_reads_over_a_restart(process, server):
    """It connects again by itself, and misses nothing."""
    url = server.put('/image', DATA)
    address = process.nbd_uri('').removeprefix('nbd://').rstrip('/')
    host, _, port = address.partition(':')
    image = (
        f'driver=nbd,server.type=inet,server.host={host},'
        f'server.port={port},export={url},reconnect-delay=20'
    )
    with qemu_io.QemuIo(image, ('-r', '--image-opts')) as guest:
        guest.ask(f'read -P {DATA[0]} 0 1')
        assert 'read 1/1' in guest.answer(20)
        assert process.stop() == 0
        guest.ask('read -v 512 16')
        process.start()
        told = guest.answer(20)
    assert 'read 16/16' in told
    assert DATA[512:528].hex(' ') in told


def test_exports(make, server, conf, tmp_path):
    """By name and by URL; what may not be had is told to the client."""
    url = server.put('/image', DATA)
    proxy = make(origins=server.origin, names=f'golden:{url}')
    dst = tmp_path / 'image'
    for name in ('golden', url):
        oslo_transfer.copy(
            proxy.nbd_uri(name), dst, conf=conf, overwrite=True, **SHA256
        )
    waiting.until(lambda: server.bytes_sent() == len(DATA) + 1)
    for name in ('other', 'http://elsewhere.example/', ''):
        with pytest.raises(oslo_transfer.TransferError):
            oslo_transfer.copy(
                proxy.nbd_uri(name), dst, conf=conf, overwrite=True
            )
    told = subprocess.run(
        ['qemu-img', 'info', proxy.nbd_uri('http://elsewhere.example/')],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert 'origins' in told.stderr
