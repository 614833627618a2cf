# SPDX-License-Identifier: Apache-2.0
"""An untrusted URL reaches what the operator allows, and nothing else.

The promise is counted in connections: whatever a URL, a redirect or a name
server says, nobody inside sees so much as a SYN.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import selectors
import socket
import threading
import traceback

import pytest

import oslo_transfer
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from oslo_transfer import urlpolicy
from tests.servers import http
from tests.servers import resource

DATA = resource.pattern(256 * 1024, seed=7)
#: The one address that counts as outside; all others of 127/8 are inside.
OUTSIDE = '127.0.0.9'
REFUSED = (
    exceptions.PolicyRefused,
    exceptions.InvalidEndpoint,
    # A redirect to a malformed URL is the fault of the server.
    exceptions.ProtocolError,
    # A name that is none, where the resolver says so.
    exceptions.Unavailable,
)

# {port} is one that something inside listens on.
HOSTS = {
    'dotted': '127.0.0.1',
    'decimal': '2130706433',
    'hex': '0x7f000001',
    'hex in capitals': '0X7F000001',
    'octal': '017700000001',
    'short': '127.1',
    'shorter': '127.0.1',
    'dotted hex': '0x7f.0x0.0x0.0x1',
    'dotted octal': '0177.0.0.01',
    'mixed': '0x7f.1',
    'any': '0.0.0.0',
    'any, short': '0',
    'other loopback': '127.0.0.2',
    'last loopback': '127.255.255.254',
    'v6 any': '[::]',
    'v6 loopback': '[::1]',
    'v6 loopback, long': '[0:0:0:0:0:0:0:1]',
    'v6 loopback, zeros': '[0000::0001]',
    'v4-mapped': '[::ffff:127.0.0.1]',
    'v4-mapped, hex': '[::ffff:7f00:1]',
    'v4-mapped metadata': '[::ffff:a9fe:a9fe]',
    'v4-compatible': '[::127.0.0.1]',
    'NAT64': '[64:ff9b::7f00:1]',
    'local NAT64': '[64:ff9b:1::7f00:1]',
    'translated': '[::ffff:0:7f00:1]',
    '6to4': '[2002:7f00:1::]',
    'Teredo client': '[2001:0:808:808::80ff:fffe]',
    'Teredo server': '[2001:0:7f00:1::f7f7:f7f7]',
    'ULA': '[fd00::1]',
    'site-local': '[fec0::1]',
    'link-local': '[fe80::1]',
    'link-local with a zone': '[fe80::1%25lo]',
    'v6 loopback with a zone': '[::1%lo]',
    'multicast': '224.0.0.1',
    'v6 multicast': '[ff02::1]',
    'broadcast': '255.255.255.255',
    'private 10': '10.0.0.1',
    'private 172': '172.16.0.1',
    'private 192': '192.168.0.1',
    'CGNAT': '100.64.0.1',
    'reserved': '240.0.0.1',
    'documentation': '192.0.2.1',
    'benchmark': '198.18.0.1',
    'metadata': '169.254.169.254',
    'metadata, decimal': '2852039166',
    'metadata, v6': '[fd00:ec2::254]',
    'name': 'localhost',
    'name in capitals': 'LOCALHOST',
    'name with a dot': 'localhost.',
    'name from the hosts file': 'ip6-localhost',
    'name below': 'anything.localhost',
    'name of this host': socket.gethostname(),
    'full-width digits': '１２７.0.0.1',
    'ideographic dots': '127。0。0。1',
    'percent-encoded': '%31%32%37.0.0.1',
    'userinfo': 'example.com@127.0.0.1',
    'userinfo with a password': 'example.com:80@127.0.0.1',
    'userinfo, encoded': 'example.com%40@127.0.0.1',
    'two at signs': 'example.com@example.com@127.0.0.1',
    'dots': '127.0.0.1..',
    'empty': '',
}
URLS = {
    **{name: f'http://{host}:{{port}}/' for name, host in HOSTS.items()},
    'fragment before at': 'http://127.0.0.1:{port}#@example.com/',
    'query before at': 'http://127.0.0.1:{port}?@example.com/',
    'backslash before at': 'http://127.0.0.1:{port}\\@example.com/',
    'backslash behind at': 'http://example.com\\@127.0.0.1:{port}/',
    'backslashes': 'http:\\\\127.0.0.1:{port}\\',
    'no slashes': 'http:127.0.0.1:{port}/',
    'three slashes': 'http:///127.0.0.1:{port}/',
    'tab': 'http://127.0.\t0.1:{port}/',
    'newline': 'http://127.0.\n0.1:{port}/',
    'space in front': ' http://127.0.0.1:{port}/',
    'NUL': 'http://example.com\x00@127.0.0.1:{port}/',
    'scheme in capitals': 'HTTP://127.0.0.1:{port}/',
    'https': 'https://127.0.0.1:{port}/',
    'ftp': 'ftp://127.0.0.1:{port}/',
    'gopher': 'gopher://127.0.0.1:{port}/_',
    'file': 'file:///etc/hostname',
    'file of a host': 'file://127.0.0.1/etc/hostname',
    'path': '/etc/hostname',
    'data': 'data:,hello',
    'unix': 'unix:///run/docker.sock',
    'unix over http': 'http+unix://%2Frun%2Fdocker.sock/',
    'iscsi': 'iscsi://127.0.0.1:{port}/iqn.2026/1',
    'nfs': 'nfs://127.0.0.1/export',
    'nbd': 'nbd://127.0.0.1:{port}/',
    'port 0': 'http://127.0.0.1:0/',
    'port 22': 'http://127.0.0.1:22/',
    'port 65536': 'http://127.0.0.1:65536/',
    'no port': 'http://127.0.0.1/',
}
each_form = pytest.mark.parametrize(
    'form', URLS.values(), ids=[name.replace(' ', '-') for name in URLS]
)


class Inside:
    """Listens on every address of this host, and counts who comes."""

    def __init__(self):
        if socket.has_dualstack_ipv6():
            self._listener = socket.create_server(
                ('::', 0), family=socket.AF_INET6, dualstack_ipv6=True
            )
        else:
            self._listener = socket.create_server(('0.0.0.0', 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._stop, self._stopper = socket.socketpair()
        self.connects = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._stop, selectors.EVENT_READ)
            while True:
                selector.select()
                try:
                    sock, _peer = self._listener.accept()
                except BlockingIOError:
                    return  # Told to stop, and nobody waits any more.
                self.connects += 1
                sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self._stopper.close()
        self._thread.join(5)
        self._listener.close()
        self._stop.close()


class Resolver:
    """Answers for names, differently each time if it is told to.

    Nobody else is asked: tests do not leave this host.
    """

    def __init__(self, answers):
        self._answers = {name: list(each) for name, each in answers.items()}
        self.asked = []
        self._really = socket.getaddrinfo

    def __call__(self, host, port, *args, flags=0, **kwargs):
        if flags & socket.AI_NUMERICHOST:
            return self._really(host, port, *args, flags=flags, **kwargs)
        self.asked.append(host)
        if host not in self._answers:
            raise socket.gaierror(socket.EAI_NONAME, 'Name not known')
        answers = self._answers[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        found = []
        for address in addresses:
            found += self._really(
                address,
                port,
                *args,
                flags=socket.AI_NUMERICHOST,
                **kwargs,
            )
        return found


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    """What a hosts file says."""
    loopback = [['127.0.0.1', '::1']]
    names = ('localhost', 'ip6-localhost', 'anything.localhost')
    resolver = Resolver(
        dict.fromkeys((*names, socket.gethostname()), loopback)
    )
    monkeypatch.setattr(socket, 'getaddrinfo', resolver)


@pytest.fixture
def inside():
    """Fail the test if anybody connects to what is inside."""
    with Inside() as listener:
        yield listener
    assert listener.connects == 0


@pytest.fixture
def outside():
    """A server that untrusted URLs may reach."""
    with http.ScriptedHTTPServer(host=OUTSIDE) as running:
        running.put('/image', DATA)
        yield running


@pytest.fixture
def conf(conf, inside, outside):
    """What an operator might allow: one address, and some ports."""
    for name, value in {
        'untrusted_ports': [80, 443, inside.port, outside.port],
        'untrusted_networks': [f'{OUTSIDE}/32'],
        'connect_timeout': 1.0,
        'max_retries': 0,
    }.items():
        conf.set_override(name, value, group='oslo_transfer')
    return conf


@pytest.fixture
def copy(conf, tmp_path, nothing_left):
    """Copy from an untrusted URL."""

    def run(url, trusted=False, **options):
        dst = tmp_path / 'image'
        oslo_transfer.copy(
            oslo_transfer.Location(url, trusted=trusted),
            dst,
            conf=conf,
            **options,
        )
        data = dst.read_bytes()
        dst.unlink()
        return data

    yield run
    # Nothing shows; what may be gone on with is hidden.
    assert all(name.startswith('.') for name in os.listdir(tmp_path))


@pytest.fixture
def redirect(outside):
    """A URL that is allowed, and leads where it is told to."""

    def serve(target, status=302, path='/redirect'):
        def answer(request, conn):
            conn.send_raw(
                f'HTTP/1.1 {status} Go\r\n'
                f'Location: {target}\r\n'
                'Content-Length: 0\r\n\r\n'.encode()
            )

        return outside.serve(path, answer)

    return serve


def test_the_outside_can_be_reached(copy, outside, redirect):
    """Otherwise all that follows would prove nothing."""
    assert copy(outside.url('/image')) == DATA
    for status in (301, 302, 303, 307, 308):
        assert copy(redirect('/image', status)) == DATA
        assert copy(redirect(outside.url('/image'), status)) == DATA


@each_form
def test_untrusted_url(conf, copy, inside, form):
    url = form.format(port=inside.port)
    errors = (*REFUSED, exceptions.DriverNotFound)
    with pytest.raises(errors):
        copy(url)
    with pytest.raises(errors):
        oslo_transfer.open_source(
            oslo_transfer.Location(url, trusted=False), conf=conf
        )


@each_form
def test_redirect(copy, inside, outside, redirect, form):
    """Trust is in the URL that was given, not in where it leads."""
    url = redirect(form.format(port=inside.port))
    for trusted in (False, True):
        # What counts as relative stays on the server, without such a path.
        with pytest.raises((*REFUSED, exceptions.NotFound)):
            copy(url, trusted)
    assert len(outside.seen('/redirect')) == 2
    assert outside.seen('/image') == []


@pytest.mark.parametrize('status', [301, 302, 303, 307, 308])
def test_redirect_of_each_kind(copy, inside, redirect, status):
    with pytest.raises(exceptions.PolicyRefused):
        copy(redirect(f'http://127.0.0.1:{inside.port}/', status))


def test_second_redirect(copy, inside, redirect):
    """Each hop is looked at, not the first alone."""
    last = redirect(f'http://127.0.0.1:{inside.port}/', path='/last')
    with pytest.raises(exceptions.PolicyRefused):
        copy(redirect(last))


@pytest.mark.parametrize('trusted', [False, True])
def test_redirect_of_an_upload(conf, inside, outside, tmp_path, trusted):
    outside._puts['/upload'] = lambda request, conn: conn.reply(
        307, b'', {'Location': f'http://127.0.0.1:{inside.port}/'}
    )
    (tmp_path / 'image').write_bytes(DATA)
    with pytest.raises(exceptions.PolicyRefused):
        oslo_transfer.copy(
            tmp_path / 'image',
            oslo_transfer.Location(outside.url('/upload'), trusted=trusted),
            conf=conf,
        )


def test_redirect_of_a_later_range(conf, copy, inside, outside):
    """The first answer is honest, the one that goes on with it is not."""
    conf.set_override('max_retries', 2, group='oslo_transfer')
    whole = resource.Resource(DATA, len(DATA))

    def answer(request, conn):
        if request.nth:
            target = f'http://127.0.0.1:{inside.port}/'
            conn.reply(302, b'', {'Location': target})
        else:
            whole.answer(request, conn, 100_000)
            conn.reset()

    with pytest.raises(exceptions.PolicyRefused):
        copy(outside.serve('/image', answer))
    assert len(outside.seen('/image')) == 2


# Names


@pytest.fixture
def resolve(monkeypatch):
    """Let names lead to addresses: a list for each time they are asked."""

    def use(**answers):
        resolver = Resolver(
            {name.replace('_', '.'): each for name, each in answers.items()}
        )
        monkeypatch.setattr(socket, 'getaddrinfo', resolver)
        return resolver

    return use


def test_name_of_the_outside(copy, outside, resolve):
    resolver = resolve(mirror_example=[[OUTSIDE]])
    assert copy(f'http://mirror.example:{outside.port}/image') == DATA
    assert resolver.asked == ['mirror.example']


@pytest.mark.parametrize(
    'addresses',
    [
        ['127.0.0.1'],
        ['::1'],
        ['169.254.169.254'],
        ['::ffff:127.0.0.1'],
        # One that is good does not make up for one that is bad.
        [OUTSIDE, '127.0.0.1'],
        ['127.0.0.1', OUTSIDE],
        [OUTSIDE, '::1'],
        [OUTSIDE, '::ffff:127.0.0.1'],
        # Nor do many, behind which more would not be looked at.
        [OUTSIDE] * 20 + ['127.0.0.1'],
    ],
    ids=lambda addresses: ','.join(addresses)[:40],
)
@pytest.mark.parametrize('trusted', [False, True])
def test_name_of_the_inside(
    copy, inside, outside, resolve, redirect, addresses, trusted
):
    resolve(mirror_example=[addresses])
    urls = [
        redirect(f'http://mirror.example:{port}/image')
        for port in (inside.port, outside.port)
    ]
    if not trusted:
        urls += [
            f'http://mirror.example:{port}/image'
            for port in (inside.port, outside.port)
        ]
    for url in urls:
        with pytest.raises(exceptions.PolicyRefused):
            copy(url, trusted)
    assert outside.seen('/image') == []


def test_alias_of_the_inside(copy, inside, resolve, monkeypatch):
    """Whatever the chain of names, its end is what is looked at."""
    resolve(www_example=[['127.0.0.1']])
    really = socket.getaddrinfo

    def with_alias(*args, **kwargs):
        return [
            (*info[:3], 'outside.example', info[4])
            for info in really(*args, **kwargs)
        ]

    monkeypatch.setattr(socket, 'getaddrinfo', with_alias)
    with pytest.raises(exceptions.PolicyRefused):
        copy(f'http://www.example:{inside.port}/')


def test_rebinding_between_check_and_connect(copy, outside, resolve):
    """A name is asked for once, and the answer that was checked is used."""
    resolver = resolve(mirror_example=[[OUTSIDE], ['127.0.0.1']])
    assert copy(f'http://mirror.example:{outside.port}/image') == DATA
    assert resolver.asked == ['mirror.example']


def test_rebinding_between_requests(conf, copy, inside, outside, resolve):
    """The next request asks again, and the answer is checked again."""
    resolver = resolve(mirror_example=[[OUTSIDE], ['127.0.0.1']])
    conf.set_override('max_retries', 2, group='oslo_transfer')
    whole = resource.Resource(DATA, len(DATA))

    def cut(request, conn):
        whole.answer(request, conn, 100_000)
        conn.reset()

    outside.serve('/cut', cut)
    with pytest.raises(exceptions.PolicyRefused):
        copy(f'http://mirror.example:{outside.port}/cut')
    assert resolver.asked == ['mirror.example'] * 2


def test_rebinding_between_redirects(copy, inside, outside, resolve):
    resolver = resolve(mirror_example=[[OUTSIDE], ['127.0.0.1']])
    target = f'http://mirror.example:{outside.port}/image'
    outside.serve(
        '/redirect',
        lambda request, conn: conn.reply(302, b'', {'Location': target}),
    )
    with pytest.raises(exceptions.PolicyRefused):
        copy(f'http://mirror.example:{outside.port}/redirect')
    assert resolver.asked == ['mirror.example'] * 2


def test_error_does_not_tell_what_a_name_leads_to(
    copy, inside, resolve, caplog
):
    caplog.set_level(logging.DEBUG)
    resolve(mirror_example=[['10.11.12.13']])
    with pytest.raises(exceptions.PolicyRefused) as caught:
        copy(f'http://mirror.example:{inside.port}/')
    told = ''.join(traceback.format_exception(caught.value)) + caplog.text
    assert 'mirror.example' in told
    assert '10.11.12.13' not in told
    assert '10.11.12.13' not in repr(caught.value.attempts)


def test_error_is_the_same_for_all_addresses_inside(copy, inside, resolve):
    """It is no means of telling which of them exist."""
    told = set()
    for address in ('127.0.0.1', '10.0.0.1', '169.254.169.254', '::1'):
        resolve(mirror_example=[[address]])
        with pytest.raises(exceptions.PolicyRefused) as caught:
            copy(f'http://mirror.example:{inside.port}/')
        told.add(str(caught.value))
    assert len(told) == 1


# What the operator decides


def test_trusted_url_reaches_the_inside(copy, server):
    assert copy(server.put('/image', DATA), trusted=True) == DATA


def test_redirect_reaches_what_is_allowed(conf, copy, server, redirect):
    server.put('/image', DATA)
    url = redirect(server.url('/image'))
    for name, value in {
        'untrusted_networks': ['127.0.0.0/8'],
        'untrusted_ports': [server.port],
    }.items():
        conf.set_override(name, value, group='oslo_transfer')
    assert copy(url, trusted=True) == DATA


def test_redirect_within_the_origin_of_a_trusted_url(copy, server):
    server.put('/image', DATA)
    url = server.serve(
        '/redirect',
        lambda request, conn: conn.reply(302, b'', {'Location': '/image'}),
    )
    assert copy(url, trusted=True) == DATA


def test_ports(conf, copy, outside):
    conf.set_override('untrusted_ports', [80, 443], group='oslo_transfer')
    with pytest.raises(exceptions.PolicyRefused, match='untrusted_ports'):
        copy(outside.url('/image'))
    assert outside.connections.total == 0


def test_schemes(conf, copy, outside):
    conf.set_override('untrusted_schemes', ['https'], group='oslo_transfer')
    with pytest.raises(exceptions.PolicyRefused, match='untrusted_schemes'):
        copy(outside.url('/image'))
    assert outside.connections.total == 0


def test_hosts(conf, copy, outside, resolve):
    resolve(mirror_example=[[OUTSIDE]])
    conf.set_override(
        'untrusted_hosts', ['Mirror.Example'], group='oslo_transfer'
    )
    assert copy(f'http://mirror.example:{outside.port}/image') == DATA
    with pytest.raises(exceptions.PolicyRefused, match='untrusted_hosts'):
        copy(outside.url('/image'))


def test_allowed_host_does_not_open_the_inside(conf, copy, inside):
    conf.set_override(
        'untrusted_hosts', ['127.0.0.1', 'localhost'], group='oslo_transfer'
    )
    for host in ('127.0.0.1', 'localhost'):
        with pytest.raises(exceptions.PolicyRefused):
            copy(f'http://{host}:{inside.port}/')


@pytest.mark.parametrize(
    'host', ['mirror.example', 'MIRROR.example', 'mirror.example.']
)
def test_refused_hosts(conf, copy, outside, resolve, host):
    resolve(mirror_example=[[OUTSIDE]])
    conf.set_override(
        'untrusted_refused_hosts', ['mirror.example'], group='oslo_transfer'
    )
    with pytest.raises(exceptions.PolicyRefused):
        copy(f'http://{host}:{outside.port}/image')
    assert outside.connections.total == 0


def test_refused_networks_win(conf, copy, outside):
    conf.set_override(
        'untrusted_refused_networks', [f'{OUTSIDE}/32'], group='oslo_transfer'
    )
    with pytest.raises(exceptions.PolicyRefused):
        copy(outside.url('/image'))
    assert outside.connections.total == 0


@pytest.mark.parametrize('scheme', ['file', 'shelf'])
def test_local_schemes_are_refused_whatever_is_allowed(conf, tmp_path, scheme):
    """A driver has to say that it asks before it connects."""

    class Shelf(drivers_base.Driver):
        name = 'shelf'
        schemes = ('shelf',)
        capabilities = (
            drivers_base.Capability.READ
            | drivers_base.Capability.WRITE
            | drivers_base.Capability.ATTACH
        )

        def _never(self, *args, **kwargs):
            raise AssertionError('it was opened')

        open_source = open_sink = attach = detach = _never

    conf.set_override('untrusted_schemes', [scheme], group='oslo_transfer')
    location = oslo_transfer.Location(
        f'{scheme}:///etc/hostname'
        if scheme == 'file'
        else 'shelf://host/image',
        trusted=False,
    )
    with fixtures.registered(Shelf):
        for call in (
            lambda: oslo_transfer.copy(location, tmp_path / 'x', conf=conf),
            lambda: oslo_transfer.open_source(location, conf=conf),
            lambda: oslo_transfer.attach(location, conf=conf),
        ):
            with pytest.raises(exceptions.PolicyRefused):
                call()
    assert os.listdir(tmp_path) == []


# Addresses one by one


@pytest.mark.parametrize(
    'address', ['8.8.8.8', '1.1.1.1', '2606:4700::1111', '2a00:1450::1']
)
def test_public_addresses_are_allowed(address):
    urlpolicy.UrlPolicy().check_address('host', address)


@pytest.mark.parametrize(
    'address',
    [
        '0.0.0.0',
        '0.1.2.3',
        '10.255.255.255',
        '100.64.0.1',
        '100.127.255.255',
        '127.0.0.1',
        '169.254.169.254',
        '172.31.255.255',
        '192.0.0.1',
        '192.0.0.170',
        '192.168.255.255',
        '198.19.0.1',
        '203.0.113.1',
        '224.0.0.1',
        '239.255.255.255',
        '255.255.255.255',
        '::',
        '::1',
        '::ffff:8.8.8.8',
        '::ffff:10.0.0.1',
        '::8.8.8.8',
        '64:ff9b::10.0.0.1',
        '64:ff9b:1::10.0.0.1',
        '100::1',
        '2001::1',
        '2001:db8::1',
        '2002:a00:1::1',
        '2002:a9fe:a9fe::',
        'fc00::1',
        'fdff::1',
        'fe80::1',
        'fe80::1%eth0',
        '2606:4700::1111%eth0',
        'fec0::1',
        'ff02::1',
        'ff0e::1',
    ],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(exceptions.PolicyRefused):
        urlpolicy.UrlPolicy().check_address('host', address)


def test_own_address_is_refused_though_it_is_public(monkeypatch):
    monkeypatch.setattr(urlpolicy, '_is_ours', lambda address: True)
    with pytest.raises(exceptions.PolicyRefused):
        urlpolicy.UrlPolicy().check_address('host', '8.8.8.8')


def test_own_addresses_are_known():
    ours = {
        info[4][0]
        for info in socket.getaddrinfo(
            socket.gethostname(), 80, type=socket.SOCK_STREAM
        )
    }
    for text in ours | {'127.0.0.1'}:
        assert urlpolicy._is_ours(ipaddress.ip_address(text))
    for text in ('8.8.8.8', '2606:4700::1111', '192.0.2.77'):
        assert not urlpolicy._is_ours(ipaddress.ip_address(text))


def test_endpoint_without_a_port_is_judged_by_its_scheme():
    policy = urlpolicy.UrlPolicy(ports=frozenset({443}))
    policy.check_endpoint(_endpoint.parse('https://host/'))
    with pytest.raises(exceptions.PolicyRefused):
        policy.check_endpoint(_endpoint.parse('http://host/'))


# Proxies, and the environment


@pytest.mark.parametrize('scheme', ['http', 'https'])
def test_untrusted_url_never_goes_by_a_proxy(
    conf, copy, inside, outside, scheme
):
    """A proxy resolves the name itself: nothing could be checked."""
    for each in ('http', 'https'):
        conf.set_override(
            f'{each}_proxy',
            f'http://127.0.0.1:{inside.port}',
            group='oslo_transfer_http',
        )
    with pytest.raises(exceptions.PolicyRefused, match='proxy'):
        copy(f'{scheme}://{OUTSIDE}:{outside.port}/image')
    assert outside.connections.total == 0


def test_redirect_never_goes_by_a_proxy(conf, copy, inside, redirect):
    url = redirect('http://mirror.example/')
    for name, value in {
        'http_proxy': f'http://127.0.0.1:{inside.port}',
        'no_proxy': [OUTSIDE],
    }.items():
        conf.set_override(name, value, group='oslo_transfer_http')
    with pytest.raises(exceptions.PolicyRefused, match='proxy'):
        copy(url, trusted=True)


@pytest.fixture
def environment(monkeypatch, inside, tmp_path_factory):
    """What other clients would take from the environment."""
    home = tmp_path_factory.mktemp('home')
    netrc = home / '.netrc'
    netrc.write_text(
        f'default login netrc-user password netrc-s3cr3t\n'
        f'machine {OUTSIDE} login netrc-user password netrc-s3cr3t\n'
    )
    netrc.chmod(0o600)
    (home / '_netrc').write_text(netrc.read_text())
    proxy = f'http://proxy-user:proxy-s3cr3t@127.0.0.1:{inside.port}'
    values = dict.fromkeys(
        ('http_proxy', 'https_proxy', 'all_proxy', 'ftp_proxy'), proxy
    )
    values['HOME'] = str(home)
    values['NETRC'] = str(netrc)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.delenv('no_proxy', raising=False)
    monkeypatch.delenv('NO_PROXY', raising=False)


@pytest.mark.parametrize('trusted', [False, True])
def test_environment_is_not_looked_at(copy, outside, environment, trusted):
    assert copy(outside.url('/image'), trusted) == DATA
    (request,) = outside.requests
    assert 'authorization' not in request.headers
    assert 'proxy-authorization' not in request.headers
    assert 's3cr3t' not in repr(request)


def test_environment_is_not_looked_at_for_an_upload(
    conf, outside, environment, tmp_path
):
    (tmp_path / 'image').write_bytes(DATA)
    oslo_transfer.copy(
        tmp_path / 'image', outside.allow_put('/upload'), conf=conf
    )
    assert outside.uploads['/upload'] == DATA
    assert 's3cr3t' not in repr(outside.requests)


# Credentials stay with their origin


class AllKinds(oslo_transfer.Credentials):
    """Headers and a login at once."""

    def headers(self):
        return {
            'X-Auth-Token': 's3cr3t-token',
            'Cookie': 's3cr3t-cookie',
            'X-Custom': 's3cr3t-custom',
        }

    def login(self):
        return 'user', 's3cr3t-password'


@pytest.fixture(params=['credentials', 'userinfo', 'netrc'])
def located(request, conf, outside, tmp_path_factory):
    """A location with a secret, however it was given."""

    def make(url):
        if request.param == 'credentials':
            return oslo_transfer.Location(url, credentials=AllKinds())
        if request.param == 'userinfo':
            return oslo_transfer.Location(
                url.replace('//', '//user:s3cr3t-password@')
            )
        netrc = tmp_path_factory.mktemp('netrc') / 'netrc'
        netrc.write_text(
            f'machine {OUTSIDE} login user password s3cr3t-password\n'
        )
        netrc.chmod(0o600)
        conf.set_override('netrc_file', str(netrc), group='oslo_transfer_http')
        return oslo_transfer.Location(url)

    return make


def secrets(server):
    """What a server was shown that it should not have seen."""
    return [
        (name, value)
        for request in server.requests
        for name, value in request.headers.items()
        if name in ('authorization', 'x-auth-token', 'cookie', 'x-custom')
        or 's3cr3t' in value
    ]


@pytest.mark.parametrize('host', [OUTSIDE, '127.0.0.10'])
@pytest.mark.parametrize('status', [301, 302, 303, 307, 308])
def test_credentials_never_reach_another_origin(
    conf, outside, redirect, located, tmp_path, host, status
):
    with http.ScriptedHTTPServer(host=host) as other:
        conf.set_override(
            'untrusted_networks', ['127.0.0.0/8'], group='oslo_transfer'
        )
        conf.set_override(
            'untrusted_ports',
            [other.port, outside.port],
            group='oslo_transfer',
        )
        other.serve(
            '/there',
            lambda request, conn: conn.reply(
                302, b'', {'Location': outside.url('/image')}
            ),
        )
        url = redirect(other.url('/there'), status)
        oslo_transfer.copy(located(url), tmp_path / 'image', conf=conf)
        assert (tmp_path / 'image').read_bytes() == DATA
        assert len(other.requests) == 1
        assert secrets(other) == []
        # They were shown to their own origin, and not on the way back.
        first, last = outside.requests
        assert 's3cr3t' in repr(first) or 'authorization' in first.headers
        assert 's3cr3t' not in repr(last)
        assert 'authorization' not in last.headers


def test_login_in_a_redirect_is_not_used(copy, outside, redirect):
    target = outside.url('/image').replace('//', '//user:s3cr3t@')
    assert copy(redirect(target)) == DATA
    assert 'authorization' not in outside.requests[-1].headers


def test_credentials_follow_a_redirect_within_their_origin(
    conf, outside, redirect, tmp_path
):
    outside.require_token('/image', {'s3cr3t'})
    oslo_transfer.copy(
        oslo_transfer.Location(
            redirect('/image'),
            credentials=oslo_transfer.TokenCredentials('s3cr3t'),
        ),
        tmp_path / 'image',
        conf=conf,
    )
    assert (tmp_path / 'image').read_bytes() == DATA
