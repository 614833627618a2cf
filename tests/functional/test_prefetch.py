# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer prefetch`` asks real proxies."""

from __future__ import annotations

import contextlib
import pathlib
import re
import signal
import subprocess
import tempfile
import threading

import pytest

from oslo_transfer.cache import trace as _trace
from oslo_transfer import call
from oslo_transfer.cli import prefetching
from oslo_transfer import exceptions
from oslo_transfer.service import proxy_client
from tests import groups
from tests.servers import child
from tests.servers import http
from tests.servers import nginx_proxy
from tests.servers import proxy_service
from tests.servers import resource
from tests.unit import test_cli
from tests import waiting

MIB = 1 << 20
DATA = resource.pattern(4 * MIB + 17)
BLOCK = 64 << 10
CENTERS = ('near', 'far')


class Lab:
    """A proxy for each of two datacenters, and an origin for both."""

    def __init__(self, stack, path):
        self.origin = stack.enter_context(http.ScriptedHTTPServer())
        self.proxies = {}
        for name in CENTERS:
            (path / name).mkdir()
            self.proxies[name] = stack.enter_context(
                proxy_service.ProxyService(
                    path / name,
                    {'oslo_transfer_proxy': {'origins': self.origin.origin}},
                )
            )


@pytest.fixture(scope='module')
def lab():
    """They take a second to start, so they are for all tests."""
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(tempfile.TemporaryDirectory(prefix='ot'))
        yield Lab(stack, pathlib.Path(path))


class Prefetch:
    """The command, configured for the proxies."""

    def __init__(self, lab, capsys, path):
        self._command = test_cli.Command(capsys, path)
        self.config = self._command.config
        self._base = self.config.read_text()
        self.auth = path / 'auth'
        self.auth.write_text(
            ''.join(
                f'{each.url} token:{proxy_service.ADMIN}\n'
                for each in lab.proxies.values()
            )
        )
        self.auth.chmod(0o600)
        self.proxies = {name: [each.url] for name, each in lab.proxies.items()}
        self.configure()

    def configure(self, **options):
        """Write the map of datacenters.

        :param options: more of each datacenter
        """
        lines = [self._base, f'datacenters = {",".join(self.proxies)}']
        for name, urls in self.proxies.items():
            lines.append(f'[oslo_transfer_datacenter_{name}]')
            lines.append(f'proxies = {",".join(urls)}')
            lines.extend(f'{name} = {options[name]}' for name in options)
        self.config.write_text('\n'.join(lines))

    def words(self, *words, centers=CENTERS):
        for name in centers:
            words += ('--datacenter', name)
        return (*words, '--auth-file', str(self.auth))

    def __call__(self, *words, centers=CENTERS):
        """Run it; returns its rows."""
        ran = self.run(*words, centers=centers)
        assert ran.status == 0, ran.err
        return ran.json

    def run(self, *words, centers=CENTERS):
        words = self.words(*words, centers=centers)
        return self._command('prefetch', *words, '-f', 'json')

    def fails(self, status, *words, centers=CENTERS):
        words = self.words(*words, centers=centers)
        return self._command.fails(status, 'prefetch', *words)


@pytest.fixture
def prefetch(lab, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prefetching, '_INTERVAL', 0.05)
    yield Prefetch(lab, capsys, tmp_path)
    # The origin is in this process, too, so that sockets tell nothing.
    assert not [
        each.name
        for each in threading.enumerate()
        if each.name.startswith('oslo-transfer')
    ]


@pytest.fixture
def url(lab, request):
    """Of an image that no other test has."""
    path = f'/{request.node.name}'.replace('[', '-').replace(']', '')
    return lab.origin.put(path, DATA)


def path_of(url):
    return '/' + url.rpartition('/')[2]


def trace_of(*ranges):
    return _trace.Trace(
        _trace.Touch(number, *each) for number, each in enumerate(ranges)
    )


def test_images_for_datacenters(lab, prefetch, url):
    other = lab.origin.put('/other', DATA)
    rows = prefetch(url, other)
    assert {(row['source'], row['datacenter']) for row in rows} == {
        (source, name) for source in (url, other) for name in CENTERS
    }
    for row in rows:
        assert (row['kind'], row['state']) == ('full', 'done')
        assert row['wanted'] == row['here'] == len(DATA)
        assert row['proxy'] == lab.proxies[row['datacenter']].url
        assert row['problem'] is None or row['problem'] == ''
    for source in (url, other):
        sent = lab.origin.bytes_sent(path_of(source))
        assert sent <= 2 * (len(DATA) + 2)
        for each in lab.proxies.values():
            lab.origin.serve(path_of(source), lambda _, conn: conn.close())
            assert each.image(source)['bytes_here'] == len(DATA)


def test_a_trace(lab, prefetch, url, tmp_path):
    trace = trace_of((8 * BLOCK, BLOCK), (0, 1))
    trace.save(str(tmp_path / 'trace'), 'image')
    (row,) = prefetch(url, '--trace', 'trace', centers=['far'])
    # The gap between them is too large to be read, too.
    assert row['kind'] == 'trace'
    assert row['wanted'] == row['here'] == 2 * BLOCK
    assert lab.origin.bytes_sent(path_of(url)) <= 2 * BLOCK + 2


def test_what_another_datacenter_has_read(lab, prefetch, url):
    near, far = (lab.proxies[name] for name in CENTERS)
    headers = {'Range': f'bytes={20 * BLOCK}-{21 * BLOCK - 1}'}
    assert near.get(url, headers) == DATA[20 * BLOCK : 21 * BLOCK]
    (row,) = prefetch(url, '--trace-from', 'near', centers=['far'])
    assert row['here'] >= BLOCK
    lab.origin.serve(path_of(url), lambda _, conn: conn.close())
    assert far.get(url, headers) == DATA[20 * BLOCK : 21 * BLOCK]


def test_what_is_hot(lab, prefetch, url):
    near = lab.proxies['near']
    near.get(url, {'Range': 'bytes=0-99'})
    near.ask('DELETE', f'/v1/proxy/images/{near.image(url)["id"]}')
    (row,) = prefetch(url, '--hot', centers=['near'])
    assert row['here'] >= BLOCK


def test_nobody_knows_what_is_hot(prefetch, url):
    ran = prefetch.run(url, '--hot', centers=['near'])
    assert ran.status == 13
    (row,) = ran.json
    assert row['state'] == 'failed'
    assert 'nobody has noted' in ran.err
    error = prefetch.fails(6, url, '--trace-from', 'near', centers=['far'])
    assert 'nobody has noted' in error or 'no proxy' in error


def test_the_next_proxy_is_asked(lab, prefetch, url):
    down = f'http://127.0.0.1:{child.free_port()}'
    prefetch.proxies['near'].insert(0, down)
    prefetch.configure()
    ran = prefetch.run(url, centers=['near'])
    assert ran.status == 0
    assert ran.json[0]['proxy'] == lab.proxies['near'].url
    assert f'warning: {down}: ' in ran.err


def test_every_proxy(lab, prefetch, url):
    """Each fetches for itself, as hosts ask them in different orders."""
    prefetch.proxies['both'] = [each.url for each in lab.proxies.values()]
    prefetch.configure()
    rows = prefetch(url, '--every-proxy', centers=['both'])
    assert [row['proxy'] for row in rows] == prefetch.proxies['both']
    for each in lab.proxies.values():
        assert each.image(url)['bytes_here'] == len(DATA)
    (row,) = prefetch(url, centers=['both'])
    assert row['proxy'] == prefetch.proxies['both'][0]


def test_no_proxy_answers(prefetch, url):
    prefetch.proxies['near'] = [f'http://127.0.0.1:{child.free_port()}']
    prefetch.configure()
    ran = prefetch.run(url)
    assert ran.status == 13
    states = {row['datacenter']: row['state'] for row in ran.json}
    assert states == {'near': 'failed', 'far': 'done'}


def test_without_a_token(prefetch, url):
    prefetch.auth.write_text('')
    error = prefetch.run(url, centers=['near'])
    assert error.status == 7
    assert 'admin_tokens_file' in error.err


@pytest.mark.parametrize(
    ('words', 'centers', 'status', 'text'),
    [
        (('http://a/b',), ['nowhere'], 3, 'known are: near, far'),
        (('http://a/b', '--hot', '--full'), ['near'], 2, 'not allowed'),
        (('http://a/b', '--trace', 'nothing'), ['near'], 6, 'nothing'),
        ((), ['near'], 2, 'SRC'),
    ],
)
def test_senseless_commands(prefetch, words, centers, status, text):
    assert text in prefetch.fails(status, *words, centers=centers)


def test_a_datacenter_without_proxies(prefetch, url):
    prefetch.proxies['near'] = []
    prefetch.configure()
    assert 'no proxies' in prefetch.fails(3, url, centers=['near'])


def test_images_that_are_not_there(lab, prefetch, url):
    ran = prefetch.run(url, lab.origin.url('/nothing'), centers=['near'])
    assert ran.status == 13
    assert [row['state'] for row in ran.json] == ['done', 'failed']
    assert '1 of 2 were not prefetched' in ran.err


def test_no_wait_and_the_list(prefetch, url):
    (row,) = prefetch(
        url, '--no-wait', '--rate-limit', '64K', centers=['near']
    )
    assert row['state'] in ('waiting', 'running')
    (again,) = prefetch(
        url, '--no-wait', '--rate-limit', '1G', centers=['near']
    )
    assert again['id'] == row['id']

    def listed():
        rows = prefetch('list', centers=['near'])
        (found,) = (each for each in rows if each['id'] == row['id'])
        return found

    waiting.until(lambda: listed()['state'] == 'done')
    assert listed()['here'] == len(DATA)
    assert listed()['source'] == url


def test_no_secret_goes_out_readable(prefetch):
    """The proxy is asked over http, so what is for https stays here."""
    url = 'https://127.0.0.1:1/image?sig=geheim'
    ran = prefetch.run(url, centers=['near'])
    assert ran.status == 8
    assert 'TLS' in ran.err
    assert 'geheim' not in ran.out + ran.err


def test_a_plain_cache(lab, prefetch, url, tmp_path):
    with http.ScriptedHTTPServer() as cache:
        path = f'/http/{url.removeprefix("http://")}'
        cache.put(path, DATA)
        prefetch.proxies['near'] = [f'plain+{cache.origin}']
        prefetch.configure()
        (row,) = prefetch(url, centers=['near'])
        assert (row['state'], row['here']) == ('done', len(DATA))
        assert cache.bytes_sent(path) == len(DATA)
        trace_of((BLOCK, BLOCK)).save(str(tmp_path / 'trace'), 'image')
        (row,) = prefetch(url, '--trace', 'trace', centers=['near'])
        assert (row['wanted'], row['here']) == (BLOCK, BLOCK)
        assert (
            'what is read first'
            in prefetch.run(url, '--hot', centers=['near']).err
        )
    assert lab.origin.bytes_sent(path_of(url)) == 0


def test_the_proxy_of_this_host(lab, prefetch, url):
    """By the socket of the service it needs no token."""
    near = lab.proxies['near']
    prefetch.auth.write_text('')
    prefetch.configure()
    with open(prefetch.config, 'a') as file:
        file.write('\n[oslo_transfer_service]\n')
        file.write(f'control_socket = {near.path}/sock\n')
    (row,) = prefetch(url, centers=[])
    assert (row['state'], row['here']) == ('done', len(DATA))
    assert row['datacenter'] is None
    assert near.image(url)['bytes_here'] == len(DATA)
    listed = prefetch('list', centers=[])
    assert row['id'] in [each['id'] for each in listed]


def test_no_proxy_on_this_host(prefetch, url):
    ran = prefetch.run(url, centers=[])
    assert ran.status == 13
    assert 'no service' in ran.err


@pytest.mark.functional
@pytest.mark.skipif(
    not groups.is_chosen('http', nginx_proxy.NginxProxy.found() is not None),
    reason='the group "http" is left out',
)
def test_nginx_is_read_through(lab, prefetch, url, tmp_path):
    authority = lab.origin.origin.partition('//')[2]
    with nginx_proxy.NginxProxy(authority, '127.0.0.0/8') as cache:
        prefetch.proxies['near'] = [cache.url]
        prefetch.configure()
        trace_of((100, 1)).save(str(tmp_path / 'trace'), 'image')
        prefetch(url, '--trace', 'trace', centers=['near'])
        # It keeps parts of a MiB; to see the size takes the first one.
        assert MIB <= lab.origin.bytes_sent(path_of(url)) < 1.1 * MIB
        prefetch(url, centers=['near'])
        sent = lab.origin.bytes_sent(path_of(url))
        assert len(DATA) <= sent < 1.1 * len(DATA)
        prefetch(url, centers=['near'])
        assert lab.origin.bytes_sent(path_of(url)) < sent + 100


def test_a_limit_for_all_together(prefetch, url, lab):
    """The link of the datacenter is told by its options."""
    other = lab.origin.put('/limited', DATA)
    prefetch.configure(link_bytes_per_second=4 * MIB)
    rows = prefetch(url, other, '--no-progress', centers=['near'])
    assert max(row['seconds'] for row in rows) > 1.2


def test_progress_of_all_together(prefetch, url, monkeypatch):
    with monkeypatch.context() as patch:
        master = test_cli.on_terminal(patch, 60)
        rows = prefetch(url, '--rate-limit', '4M')
        shown = test_cli.all_of(master)
    assert [row['state'] for row in rows] == ['done', 'done']
    lines = shown.rstrip().split('\r')[1:]
    assert ' / 8.0 MiB' in shown
    assert any(re.match(r' *[1-9]\d?%', line) for line in lines), shown
    assert lines[-1].startswith('100%')


def test_ctrl_c(lab, prefetch, url):
    near = lab.proxies['near']
    command = near.command(
        'prefetch',
        url,
        *prefetch.words('--rate-limit', '128K', centers=['near']),
    )
    command[command.index('--config-file') + 1] = str(prefetch.config)

    def job():
        found = near.ask('GET', '/v1/proxy/prefetches')['prefetches']
        return next((each for each in found if each['origin'] == url), {})

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        waiting.until(lambda: job().get('bytes_here'))
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out) == (130, '')
    assert 'the same command goes on' in err
    waiting.until(lambda: job()['state'] == 'cancelled')
    assert 0 < job()['bytes_here'] < len(DATA)
    (row,) = prefetch(url, centers=['near'])
    assert row['here'] == len(DATA)
    # What was there, but for what was just coming, was not fetched again.
    assert lab.origin.bytes_sent(path_of(url)) < 1.5 * len(DATA)


def test_a_proxy_that_is_killed_meanwhile(lab, capsys, tmp_path, url):
    """It goes on when it is started again; the command waits for that."""
    with tempfile.TemporaryDirectory(prefix='ot') as path:
        killed = proxy_service.ProxyService(
            pathlib.Path(path),
            {'oslo_transfer_proxy': {'origins': lab.origin.origin}},
        )
        lab.proxies['killed'] = killed
        prefetch = Prefetch(lab, capsys, tmp_path)
        with killed:
            command = killed.command(
                'prefetch',
                url,
                *prefetch.words('--rate-limit', '3M', centers=['killed']),
                *('-f', 'value', '-c', 'state', '-c', 'here'),
            )
            command[command.index('--config-file') + 1] = str(prefetch.config)
            with subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as running:

                def here():
                    found = killed.ask('GET', '/v1/proxy/prefetches')
                    return sum(
                        each['bytes_here'] or 0 for each in found['prefetches']
                    )

                waiting.until(here)
                killed.stop(signal.SIGKILL)
                killed.start()
                out, err = running.communicate(timeout=20)
        del lab.proxies['killed']
    assert (running.returncode, out) == (0, f'done {len(DATA)}\n'), err


# The client


@pytest.fixture
def client(conf):
    def make(base, token=None):
        ctx = call.Call(conf, None, None, None).ctx
        return proxy_client.ProxyClient(base, ctx, token=token)

    return make


def test_tls_certificates_and_tokens(client, conf, certs, url, lab):
    cert, key = certs.pair()
    own, own_key = certs.pair('client')
    with tempfile.TemporaryDirectory(prefix='ot') as path:
        secured = proxy_service.ProxyService(
            pathlib.Path(path),
            {
                'oslo_transfer_proxy': {
                    'origins': lab.origin.origin,
                    'cert_file': cert,
                    'key_file': key,
                    'ca_file': certs.ca_file,
                }
            },
        )
        with secured:
            with pytest.raises(exceptions.AccessDenied, match='verify'):
                client(secured.url).summary()
            group = 'oslo_transfer_http'
            conf.set_override('ca_file', certs.ca_file, group=group)
            with pytest.raises(exceptions.Unavailable):
                client(secured.url).summary()
            conf.set_override('cert_file', own, group=group)
            conf.set_override('key_file', own_key, group=group)
            asking = client(secured.url)
            assert asking.summary()['version']
            with pytest.raises(exceptions.AccessDenied, match='token'):
                asking.prefetch({'url': url, 'kind': 'full'})
            asking = client(secured.url, proxy_service.ADMIN)
            job, is_new = asking.prefetch({'url': url, 'kind': 'full'})
            assert is_new
            waiting.until(
                lambda: asking.prefetched(job['id'])['state'] == 'done'
            )
            (image,) = asking.images()
            assert asking.pin(image['id'], True)['pinned']
            with pytest.raises(exceptions.DetachError):
                asking.evict(image['id'])
            assert not asking.pin(image['id'], False)['pinned']
            assert asking.block_map(image['id'])['runs'] == [
                ['cached', image['blocks']]
            ]
            with pytest.raises(exceptions.NotFound, match='noted'):
                asking.trace(image['id'])
            asking.evict(image['id'])
            with pytest.raises(exceptions.NotFound):
                asking.cancel('unknown')
