# SPDX-License-Identifier: Apache-2.0
"""Who the library says it is, to whom, and by which way."""

from __future__ import annotations

import base64
import logging
import pathlib
import socket
import ssl
import threading
import traceback

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests import groups
from tests.servers import http
from tests.servers import nginx
from tests.servers import resource
from tests.servers import squid

pytestmark = pytest.mark.usefixtures('nothing_left')

DATA = resource.pattern(256 * 1024, seed=8)
USER, PASSWORD = 'üser', 'pass:s3cr3t@/ß'
QUOTED = '%C3%BCser:pass%3As3cr3t%40%2F%C3%9F'

_CHOSEN = groups.is_chosen(
    'http', None not in (squid.Squid.found(), nginx.Nginx.found())
)


def functional(test):
    """Mark a test that needs programs of the group "http"."""
    reason = 'the group "http" is left out'
    return pytest.mark.functional(
        pytest.mark.skipif(not _CHOSEN, reason=reason)(test)
    )


@pytest.fixture
def conf(conf):
    conf.set_override('max_retries', 1, group='oslo_transfer')
    return conf


@pytest.fixture
def dst(tmp_path):
    (tmp_path / 'out').mkdir()
    return tmp_path / 'out' / 'image'


def basic(user, password):
    text = f'{user}:{password}'.encode()
    return 'Basic ' + base64.b64encode(text).decode()


def set_http(conf, **values):
    for name, value in values.items():
        conf.set_override(name, value, group='oslo_transfer_http')


# A login


@pytest.fixture
def guarded(server):
    """A URL that wants a login."""
    url = server.put('/image', DATA)
    server.require_header('/image', 'authorization', {basic(USER, PASSWORD)})
    return url


def test_login_in_the_url(conf, guarded, dst):
    url = guarded.replace('//', f'//{QUOTED}@')
    result = oslo_transfer.copy(url, dst, conf=conf)
    assert dst.read_bytes() == DATA
    assert 's3cr3t' not in repr(result)


def test_login_of_the_location(conf, guarded, dst):
    location = oslo_transfer.Location(
        guarded, credentials=oslo_transfer.LoginCredentials(USER, PASSWORD)
    )
    oslo_transfer.copy(location, dst, conf=conf)
    assert dst.read_bytes() == DATA


def test_login_of_the_location_wins(conf, guarded, dst):
    location = oslo_transfer.Location(
        guarded.replace('//', '//user:wrong@'),
        credentials=oslo_transfer.LoginCredentials(USER, PASSWORD),
    )
    oslo_transfer.copy(location, dst, conf=conf)
    assert dst.read_bytes() == DATA


@pytest.fixture
def netrc(tmp_path):
    path = tmp_path / 'netrc'
    path.write_text(
        'machine other.example login o password wrong-s3cr3t\n'
        f'machine 127.0.0.1 login {USER} password {PASSWORD}\n'
    )
    path.chmod(0o600)
    return path


def test_login_from_a_netrc_file_that_is_named(conf, guarded, dst, netrc):
    set_http(conf, netrc_file=str(netrc))
    oslo_transfer.copy(guarded, dst, conf=conf)
    assert dst.read_bytes() == DATA


def test_netrc_of_the_home_directory_is_never_read(
    conf, guarded, dst, netrc, monkeypatch
):
    netrc.rename(netrc.with_name('.netrc'))
    monkeypatch.setenv('HOME', str(netrc.parent))
    monkeypatch.setenv('NETRC', str(netrc.with_name('.netrc')))
    with pytest.raises(exceptions.AccessDenied):
        oslo_transfer.copy(guarded, dst, conf=conf)


def test_netrc_of_other_hosts_is_not_for_this_one(conf, server, dst, netrc):
    netrc.write_text('machine other.example login o password s3cr3t\n')
    set_http(conf, netrc_file=str(netrc))
    oslo_transfer.copy(server.put('/open', DATA), dst, conf=conf)
    assert 'authorization' not in server.requests[0].headers


@pytest.mark.parametrize('content', [None, 'machine', 'nonsense s3cr3t\n'])
def test_netrc_that_cannot_be_read_is_told(conf, guarded, dst, netrc, content):
    if content is None:
        netrc.unlink()
    else:
        netrc.write_text(content)
    set_http(conf, netrc_file=str(netrc))
    with pytest.raises(exceptions.ConfigurationError) as caught:
        oslo_transfer.copy(guarded, dst, conf=conf)
    assert 'netrc_file' in str(caught.value)


def test_wrong_login_is_told_without_it(conf, guarded, dst, caplog):
    caplog.set_level(logging.DEBUG)
    url = guarded.replace('//', '//user:wrong-s3cr3t@')
    with pytest.raises(exceptions.AccessDenied) as caught:
        oslo_transfer.copy(url, dst, conf=conf)
    told = ''.join(traceback.format_exception(caught.value)) + caplog.text
    assert 's3cr3t' not in told
    assert basic('user', 'wrong-s3cr3t') not in told


@pytest.mark.parametrize('status', [401, 403])
def test_refusal_is_not_asked_for_again(conf, server, dst, status):
    url = server.serve('/image', lambda request, conn: conn.reply(status))
    with pytest.raises(exceptions.AccessDenied):
        oslo_transfer.copy(url, dst, conf=conf)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    'headers',
    [
        {'X-Token': 'a\r\nX-Injected: yes'},
        {'X-Token': 'a\nX-Injected: yes'},
        {'X-Token\r\nX-Injected': 'yes'},
        {'': 'x'},
    ],
)
def test_header_that_is_none_is_never_sent(conf, server, dst, headers):
    class Broken(oslo_transfer.Credentials):
        def headers(self):
            return {**headers, 'X-Second': 's3cr3t'}

    url = server.put('/image', DATA)
    with pytest.raises(oslo_transfer.TransferError) as caught:
        oslo_transfer.copy(
            oslo_transfer.Location(url, credentials=Broken()),
            dst,
            conf=conf,
        )
    assert server.requests == []
    told = ''.join(traceback.format_exception(caught.value))
    assert 's3cr3t' not in told
    assert 'X-Injected' not in told


# A token


class Keystone:
    """Gives tokens; only the last one is good."""

    def __init__(self, server, path):
        self.valid = set()
        self.given = 0
        server.require_token(path, self.valid)

    def __call__(self):
        self.given += 1
        self.valid.clear()
        self.valid.add(f's3cr3t-{self.given}')
        return f's3cr3t-{self.given}'


def test_token_is_renewed_and_the_request_repeated(conf, server, dst):
    url = server.put('/image', DATA)
    keystone = Keystone(server, '/image')
    credentials = oslo_transfer.TokenCredentials('expired', keystone)
    oslo_transfer.copy(
        oslo_transfer.Location(url, credentials=credentials), dst, conf=conf
    )
    assert dst.read_bytes() == DATA
    assert keystone.given == 1
    tokens = [request.headers['x-auth-token'] for request in server.requests]
    assert tokens == ['expired', 's3cr3t-1']


def test_token_that_is_refused_again_is_final(conf, server, dst):
    given = []

    def renew():
        given.append(None)
        return 's3cr3t-but-wrong'

    url = server.put('/image', DATA)
    server.require_token('/image', {'another'})
    credentials = oslo_transfer.TokenCredentials('expired', renew)
    with pytest.raises(exceptions.AccessDenied) as caught:
        oslo_transfer.copy(
            oslo_transfer.Location(url, credentials=credentials),
            dst,
            conf=conf,
        )
    assert len(given) == 1
    assert len(server.requests) == 2
    assert 's3cr3t' not in ''.join(traceback.format_exception(caught.value))


def test_token_is_renewed_behind_a_redirect_within_the_origin(
    conf, server, dst
):
    server.put('/image', DATA)
    keystone = Keystone(server, '/image')
    url = server.serve(
        '/redirect',
        lambda request, conn: conn.reply(302, b'', {'Location': '/image'}),
    )
    credentials = oslo_transfer.TokenCredentials('expired', keystone)
    oslo_transfer.copy(
        oslo_transfer.Location(url, credentials=credentials), dst, conf=conf
    )
    assert dst.read_bytes() == DATA


def test_another_origin_cannot_have_the_token_renewed(conf, server, dst):
    """It answers 401 in the hope of something new to see."""
    with http.ScriptedHTTPServer() as other:
        for name, value in {
            'untrusted_networks': ['127.0.0.0/8'],
            'untrusted_ports': [other.port],
        }.items():
            conf.set_override(name, value, group='oslo_transfer')
        other.put('/image', DATA)
        keystone = Keystone(other, '/image')
        target = other.url('/image')
        url = server.serve(
            '/redirect',
            lambda request, conn: conn.reply(302, b'', {'Location': target}),
        )
        credentials = oslo_transfer.TokenCredentials('s3cr3t', keystone)
        with pytest.raises(exceptions.AccessDenied):
            oslo_transfer.copy(
                oslo_transfer.Location(url, credentials=credentials),
                dst,
                conf=conf,
            )
        assert keystone.given == 0
        assert 's3cr3t' not in repr(other.requests)


# TLS


@pytest.fixture
def tls(certs):
    with http.ScriptedHTTPServer(certs.server_context()) as running:
        running.put('/image', DATA)
        yield running


@pytest.fixture
def mutual(certs):
    """A server that wants to see a certificate of the client."""
    context = certs.server_context(ask_client=True)
    with http.ScriptedHTTPServer(context) as running:
        running.put('/image', DATA)
        yield running


def test_ca_that_is_configured(conf, tls, certs, dst):
    set_http(conf, ca_file=certs.ca_file)
    oslo_transfer.copy(tls.url('/image'), dst, conf=conf)
    assert dst.read_bytes() == DATA


def test_ca_that_nobody_knows(conf, tls, dst):
    with pytest.raises(exceptions.AccessDenied, match='certificate'):
        oslo_transfer.copy(tls.url('/image'), dst, conf=conf)
    assert tls.requests == []


@pytest.mark.parametrize('name', ['REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE'])
def test_ca_of_the_environment_is_not_used(
    conf, tls, certs, dst, monkeypatch, name
):
    monkeypatch.setenv(name, certs.ca_file)
    with pytest.raises(exceptions.AccessDenied):
        oslo_transfer.copy(tls.url('/image'), dst, conf=conf)


@pytest.mark.parametrize(
    'leaf',
    [
        'expired',
        'not-yet-valid',
        'wrong-host',
        'self-signed',
        'weak-key',
        'nul-name',
    ],
)
def test_certificate_that_is_not_good(conf, certs, dst, leaf):
    set_http(conf, ca_file=certs.ca_file)
    with http.ScriptedHTTPServer(certs.server_context(leaf)) as server:
        server.put('/image', DATA)
        with pytest.raises(oslo_transfer.TransferError) as caught:
            oslo_transfer.copy(server.url('/image'), dst, conf=conf)
        assert server.requests == []
    assert isinstance(
        caught.value, exceptions.AccessDenied | exceptions.Unavailable
    )


def test_login_is_not_sent_before_the_certificate_is_good(conf, certs, dst):
    context = certs.server_context('wrong-host')
    seen = []
    with http.ScriptedHTTPServer(context) as server:
        server.put('/image', DATA)
        set_http(conf, ca_file=certs.ca_file)
        with pytest.raises(exceptions.AccessDenied):
            oslo_transfer.copy(
                oslo_transfer.Location(
                    server.url('/image'),
                    credentials=oslo_transfer.LoginCredentials('u', 's3cr3t'),
                ),
                dst,
                conf=conf,
            )
        seen += server.requests
    assert seen == []


def test_certificate_of_the_client(conf, mutual, certs, dst):
    certificate, key = certs.pair('client')
    set_http(conf, ca_file=certs.ca_file, cert_file=certificate, key_file=key)
    oslo_transfer.copy(mutual.url('/image'), dst, conf=conf)
    assert dst.read_bytes() == DATA


def test_certificate_and_key_in_one_file(conf, mutual, certs, dst, tmp_path):
    both = tmp_path / 'both.pem'
    both.write_text(
        ''.join(pathlib.Path(p).read_text() for p in certs.pair('client'))
    )
    set_http(conf, ca_file=certs.ca_file, cert_file=str(both))
    oslo_transfer.copy(mutual.url('/image'), dst, conf=conf)
    assert dst.read_bytes() == DATA


def test_client_without_the_certificate_that_is_asked_for(
    conf, mutual, certs, dst
):
    set_http(conf, ca_file=certs.ca_file)
    with pytest.raises(oslo_transfer.TransferError):
        oslo_transfer.copy(mutual.url('/image'), dst, conf=conf)
    assert mutual.requests == []


def test_certificate_of_the_client_is_not_shown_to_where_it_is_redirected(
    conf, tls, certs, dst
):
    certificate, key = certs.pair('client')
    set_http(conf, ca_file=certs.ca_file, cert_file=certificate, key_file=key)
    context = certs.server_context()
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(certs.ca_file)
    shown = []
    with http.ScriptedHTTPServer(context) as other:
        for name, value in {
            'untrusted_networks': ['127.0.0.0/8'],
            'untrusted_ports': [other.port],
        }.items():
            conf.set_override(name, value, group='oslo_transfer')
        whole = resource.Resource(DATA, len(DATA))

        def answer(request, conn):
            shown.append(conn.sock.getpeercert())
            whole(request, conn)

        target = other.serve('/image', answer)
        tls.serve(
            '/redirect',
            lambda request, conn: conn.reply(302, b'', {'Location': target}),
        )
        oslo_transfer.copy(tls.url('/redirect'), dst, conf=conf)
        oslo_transfer.copy(target, dst.with_name('direct'), conf=conf)
    assert not shown[0]
    assert shown[1]


@pytest.mark.parametrize('option', ['ca_file', 'cert_file'])
@pytest.mark.parametrize('content', [None, b'', b'nonsense'])
def test_file_of_certificates_that_cannot_be_used_is_told(
    conf, tls, certs, dst, tmp_path, option, content
):
    path = tmp_path / 'file.pem'
    if content is not None:
        path.write_bytes(content)
    set_http(conf, **{'ca_file': certs.ca_file, option: str(path)})
    with pytest.raises(exceptions.ConfigurationError, match=option):
        oslo_transfer.copy(tls.url('/image'), dst, conf=conf)
    assert tls.requests == []


def test_redirect_from_https_to_http_is_never_followed(
    conf, tls, server, certs, dst
):
    set_http(conf, ca_file=certs.ca_file)
    target = server.put('/image', DATA)
    url = tls.serve(
        '/redirect',
        lambda request, conn: conn.reply(302, b'', {'Location': target}),
    )
    with pytest.raises(exceptions.PolicyRefused, match='https to http'):
        oslo_transfer.copy(url, dst, conf=conf)
    assert server.connections.total == 0


# Proxies


class Proxy(http.ScriptedHTTPServer):
    """Answers for every host by itself, and notes what it is asked."""

    def _answer(self, request, conn):
        self._routes.setdefault(
            request.path, resource.Resource(DATA, len(DATA))
        )
        super()._answer(request, conn)


@pytest.fixture
def proxy():
    with Proxy() as running:
        yield running


def test_http_proxy_is_asked_for_the_whole_url(conf, proxy, dst):
    set_http(conf, http_proxy=proxy.origin)
    oslo_transfer.copy(
        'http://user:s3cr3t@host.example:8080/image?key=1', dst, conf=conf
    )
    assert dst.read_bytes() == DATA
    (request,) = proxy.requests
    assert request.target == 'http://host.example:8080/image?key=1'
    assert request.headers['host'] == 'host.example:8080'
    assert request.headers['authorization'] == basic('user', 's3cr3t')
    assert 'proxy-authorization' not in request.headers


def test_login_of_a_proxy(conf, proxy, dst):
    set_http(conf, http_proxy=proxy.origin.replace('//', f'//{QUOTED}@'))
    oslo_transfer.copy('http://host.example/image', dst, conf=conf)
    (request,) = proxy.requests
    assert request.headers['proxy-authorization'] == basic(USER, PASSWORD)
    assert 'authorization' not in request.headers


@pytest.mark.parametrize(
    ('rule', 'host', 'direct'),
    [
        ('127.0.0.1', '127.0.0.1', True),
        ('127.0.0.0/8', '127.0.0.1', True),
        ('127.0.0.1/8', '127.0.0.1', True),
        ('10.0.0.0/8', '127.0.0.1', False),
        ('::1', '127.0.0.1', False),
        ('localhost', 'localhost', True),
        ('LOCALHOST', 'localhost', True),
        (' localhost ', 'localhost', True),
        ('.localhost', 'localhost', True),
        ('host', 'localhost', False),
        ('.host', 'localhost', False),
        ('localhost.example', 'localhost', False),
        ('127.0.0.1', 'localhost', False),
        ('127', '127.0.0.1', False),
        ('*', 'localhost', False),
        ('', 'localhost', False),
    ],
)
def test_no_proxy(conf, proxy, server, dst, rule, host, direct):
    server.put('/image', DATA)
    set_http(conf, http_proxy=proxy.origin, no_proxy=['other.example', rule])
    oslo_transfer.copy(f'http://{host}:{server.port}/image', dst, conf=conf)
    assert len(server.requests) == direct
    assert len(proxy.requests) == (not direct)


@pytest.mark.parametrize(
    ('rule', 'host'),
    [
        ('.example.com', 'a.example.com'),
        ('.example.com', 'a.b.example.com'),
        ('.example.com', 'example.com'),
        ('example.com', 'a.example.com'),
    ],
)
def test_no_proxy_of_a_domain(conf, proxy, dst, monkeypatch, rule, host):
    asked = []

    def resolve(name, port, *args, **kwargs):
        asked.append(name)
        raise socket.gaierror(socket.EAI_NONAME, 'Name not known')

    monkeypatch.setattr(socket, 'getaddrinfo', resolve)
    set_http(conf, http_proxy=proxy.origin, no_proxy=[rule])
    with pytest.raises(exceptions.Unavailable):
        oslo_transfer.copy(f'http://{host}/image', dst, conf=conf)
    assert set(asked) == {host}


def test_no_proxy_of_a_domain_is_not_for_its_namesakes(conf, proxy, dst):
    set_http(conf, http_proxy=proxy.origin, no_proxy=['.example.com'])
    oslo_transfer.copy('http://notexample.com/image', dst, conf=conf)
    assert len(proxy.requests) == 1


def test_https_goes_by_connect(conf, proxy, tls, certs, dst):
    """The proxy sees a name and a port, and none of the rest."""
    tunnels = []

    def tunnel(request, conn):
        tunnels.append(request)
        conn.send_raw(b'HTTP/1.1 200 Go\r\n\r\n')
        splice(conn, tls.port)

    proxy.serve(f'127.0.0.1:{tls.port}', tunnel)
    set_http(
        conf,
        ca_file=certs.ca_file,
        https_proxy=proxy.origin.replace('//', '//user:s3cr3t@'),
    )
    oslo_transfer.copy(
        oslo_transfer.Location(
            tls.url('/image?s3cr3t'),
            credentials=oslo_transfer.TokenCredentials('s3cr3t-token'),
        ),
        dst,
        conf=conf,
    )
    assert dst.read_bytes() == DATA
    (request,) = tunnels
    assert request.method == 'CONNECT'
    assert request.target == f'127.0.0.1:{tls.port}'
    assert request.headers['proxy-authorization'] == basic('user', 's3cr3t')
    assert 'x-auth-token' not in request.headers
    # And the server nothing of what was for the proxy.
    (request,) = tls.requests
    assert 'proxy-authorization' not in request.headers
    assert request.headers['x-auth-token'] == 's3cr3t-token'


def splice(conn, port):
    """Pass bytes on, both ways, until both sides have ended."""
    there = socket.create_connection(('127.0.0.1', port))

    def pump(source, target):
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    thread = threading.Thread(target=pump, args=(there, conn.sock))
    thread.start()
    pump(conn.sock, there)
    thread.join(5)
    there.close()


@pytest.mark.parametrize(
    ('answer', 'error'),
    [
        (b'HTTP/1.1 407 No\r\n\r\n', exceptions.AccessDenied),
        (b'HTTP/1.1 403 No\r\n\r\n', exceptions.TransferError),
        (b'HTTP/1.1 502 No\r\n\r\n', exceptions.Unavailable),
        (
            b'HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1/\r\n\r\n',
            exceptions.TransferError,
        ),
        (b'nonsense\r\n\r\n', exceptions.ProtocolError),
        (b'', exceptions.Unavailable),
    ],
)
def test_proxy_that_refuses_a_tunnel(conf, proxy, dst, answer, error):
    proxy.serve(
        'host.example:443', lambda request, conn: conn.send_raw(answer)
    )
    set_http(conf, https_proxy=proxy.origin)
    with pytest.raises(error):
        oslo_transfer.copy('https://host.example/image', dst, conf=conf)


def test_proxy_that_is_not_there(conf, dst):
    with http.ScriptedHTTPServer() as gone:
        url = gone.origin
    set_http(conf, http_proxy=url, https_proxy=url)
    for scheme in ('http', 'https'):
        with pytest.raises(exceptions.Unavailable):
            oslo_transfer.copy(
                f'{scheme}://host.example/image', dst, conf=conf
            )


@pytest.mark.parametrize('url', ['https://proxy/', 'socks5://proxy/', '/x'])
def test_proxy_of_another_kind_is_refused(conf, dst, url):
    set_http(conf, http_proxy=url)
    with pytest.raises(exceptions.ConfigurationError, match='http_proxy'):
        oslo_transfer.copy('http://host.example/image', dst, conf=conf)


def test_login_of_a_proxy_is_in_no_error(conf, proxy, dst, caplog):
    caplog.set_level(logging.DEBUG)
    set_http(conf, http_proxy=proxy.origin.replace('//', '//user:s3cr3t@'))
    proxy.serve('/image', lambda request, conn: conn.reply(407))
    with pytest.raises(exceptions.AccessDenied, match='proxy') as caught:
        oslo_transfer.copy('http://host.example/image', dst, conf=conf)
    told = ''.join(traceback.format_exception(caught.value)) + caplog.text
    assert 's3cr3t' not in told
    assert basic('user', 's3cr3t') not in told


@functional
def test_http_by_squid(conf, server, dst):
    url = server.put('/image', DATA)
    with squid.Squid('user', 's3cr3t') as running:
        set_http(conf, http_proxy=running.url.replace('//', '//user:s3cr3t@'))
        oslo_transfer.copy(url, dst, conf=conf)
        assert dst.read_bytes() == DATA
        assert any(url in line for line in running.requests())
        set_http(conf, http_proxy=running.url.replace('//', '//user:no@'))
        with pytest.raises(exceptions.AccessDenied):
            oslo_transfer.copy(url, dst.with_name('x'), conf=conf)
    assert 'via' in server.requests[0].headers
    assert len(server.requests) == 1


@functional
def test_https_by_squid(conf, certs, dst, tmp_path):
    (tmp_path / 'image').write_bytes(DATA)
    with (
        nginx.Nginx(tmp_path, certificate=certs.pair()) as web,
        squid.Squid('user', 's3cr3t') as running,
    ):
        set_http(
            conf,
            ca_file=certs.ca_file,
            https_proxy=running.url.replace('//', '//user:s3cr3t@'),
        )
        oslo_transfer.copy(web.url('/image'), dst, conf=conf)
        assert dst.read_bytes() == DATA
        assert any('CONNECT' in line for line in running.requests())
        set_http(conf, https_proxy=running.url)
        with pytest.raises(exceptions.AccessDenied, match='407'):
            oslo_transfer.copy(
                web.url('/image'), dst.with_name('x'), conf=conf
            )


@functional
def test_upload_by_squid(conf, server, tmp_path):
    (tmp_path / 'image').write_bytes(DATA)
    url = server.allow_put('/upload')
    with squid.Squid() as running:
        set_http(conf, http_proxy=running.url)
        oslo_transfer.copy(tmp_path / 'image', url, conf=conf)
    assert server.uploads['/upload'] == DATA
    assert 'via' in server.requests[0].headers
