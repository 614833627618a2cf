# SPDX-License-Identifier: Apache-2.0
"""Locations are led through the proxies of this datacenter, and why not."""

from __future__ import annotations

import pytest

import oslo_transfer
from oslo_transfer import call as _call
from oslo_transfer import datacenters
from oslo_transfer import exceptions
from oslo_transfer import proxied

FAR = 'http://images.fra.example/a/b.raw'


def configure(conf, proxies, **options):
    """This host is in ams, and another datacenter is fra."""
    group = 'oslo_transfer'
    conf.set_override('datacenter', 'ams', group=group)
    conf.set_override('datacenters', ['ams', 'fra'], group=group)
    datacenters.from_conf(conf)
    group = 'oslo_transfer_datacenter_ams'
    given = {'hosts': ['.ams.example'], 'proxies': proxies, **options}
    for name, value in given.items():
        conf.set_override(name, value, group=group)


def expand(conf, *sources):
    """What is asked, in order, and what is not."""
    call = _call.Call(conf, None, None, None)
    given, unusable = call._sources(list(sources))
    assert unusable == ()
    return proxied.expand(given, conf, call.driver)


def urls(conf, *sources):
    return [(end.tier, end.location.url) for end in expand(conf, *sources)[0]]


def test_without_proxies_all_stays_as_it_is(conf):
    given = (FAR, '/a/path', 'ftp://other.example/x')
    assert urls(conf, *given) == [(0, each) for each in given]
    configure(conf, [])
    assert urls(conf, *given) == [(0, each) for each in given]


def test_each_proxy_in_order_and_then_the_origin(conf):
    configure(conf, ['https://p1:8480', 'plain+http://cache/prefix/'])
    assert urls(conf, FAR + '?v=1') == [
        (0, 'proxy+https://p1:8480/http/images.fra.example/a/b.raw?v=1'),
        (1, 'http://cache/prefix/http/images.fra.example/a/b.raw?v=1'),
        (2, FAR + '?v=1'),
    ]


def test_what_is_near_is_read_where_it_is(conf):
    configure(conf, ['http://p1:8480'])
    near = ('http://web.ams.example/i', '/srv/image', 'file:///srv/other')
    assert urls(conf, near[0], FAR, *near[1:]) == [
        (0, near[0]),
        (0, 'proxy+http://p1:8480/http/images.fra.example/a/b.raw'),
        (0, near[1]),
        (0, near[2]),
        (1, FAR),
    ]


@pytest.mark.parametrize(
    ('origin', 'path'),
    [
        ('ftp://h:2121/x', '/ftp/h:2121/x'),
        ('sftp://h/x%20y', '/sftp/h/x%20y'),
        ('nbd://h/name', '/nbd/h/name'),
        ('https://[2001:db8::1]:8443/x', '/https/[2001:db8::1]:8443/x'),
        ('http://h', '/http/h/'),
        ('iscsi://h,g:3261/iqn.a:b/1', '/iscsi/h,g:3261/iqn.a:b/1'),
    ],
)
def test_any_origin_by_a_proxy_of_ours(conf, origin, path):
    configure(conf, ['https://p1'])
    assert urls(conf, origin)[0] == (0, f'proxy+https://p1{path}')


def test_a_plain_cache_has_http_alone(conf):
    configure(conf, ['plain+https://cache'])
    found, passed_over = expand(conf, 'sftp://h/x')
    assert [end.tier for end in found] == [1]
    (attempt,) = passed_over
    assert attempt.location == 'sftp://h/x by https://cache'
    assert 'no sftp URLs' in attempt.reason


@pytest.mark.parametrize(
    'location',
    [
        oslo_transfer.Location(FAR, trusted=False),
        oslo_transfer.Location('iscsi://h/i/1', connection_info={'a': 1}),
        'proxy+http://p9/http/h/x',
        'torrent+http://h/x.torrent',
        'nbd+unix:///x?socket=/run/x',
    ],
)
def test_what_no_proxy_is_asked_for(conf, location):
    """What is checked here only, is here only, or has a way of its own."""
    configure(conf, ['https://p1'])
    (end,), passed_over = expand(conf, location)
    assert end.origin is None and passed_over == ()


SECRET = oslo_transfer.TokenCredentials('sesame')


@pytest.mark.parametrize(
    'location',
    [
        oslo_transfer.Location('https://h/x', credentials=SECRET),
        'https://h/x?signature=sesame',
        'sftp://me:sesame@h/x',
    ],
)
def test_secrets_of_tls_do_not_go_out_readable(conf, location):
    configure(conf, ['http://p1', 'https://p2'])
    found, passed_over = expand(conf, location)
    assert [end.endpoint.host for end in found] == ['p2', 'h']
    (attempt,) = passed_over
    assert attempt.error == 'PolicyRefused' and 'https' in attempt.reason
    assert 'sesame' not in str(passed_over) + str(found)


def test_who_asks_is_shown_to_both(conf, tmp_path):
    """The origin's header is untouched; the proxy has one of its own."""
    token = tmp_path / 'token'
    token.write_text('open\n')
    configure(conf, ['https://p1'], proxy_token_file=str(token))
    asked = oslo_transfer.Location('https://h/x', credentials=SECRET)
    proxy, origin = expand(conf, asked, 'http://me:pw@h/y')[0][::2]
    assert proxy.location.credentials.headers() == {
        'X-Auth-Token': 'sesame',
        'Proxy-Authorization': 'Bearer open',
    }
    assert origin.location.credentials is SECRET
    second = expand(conf, 'http://me:pw@h/y')[0][0].location.credentials
    assert second.login() == ('me', 'pw')
    # A token that is replaced counts from the next call on.
    token.write_text('changed')
    proxy = expand(conf, FAR)[0][0]
    assert proxy.location.credentials.headers() == {
        'Proxy-Authorization': 'Bearer changed'
    }


@pytest.mark.parametrize('text', [None, '', 'two words', 'é', 'x' * 5000])
def test_a_file_without_a_token(conf, tmp_path, text):
    path = tmp_path / 'token'
    if text is not None:
        path.write_text(text)
    configure(conf, ['https://p1'], proxy_token_file=str(path))
    with pytest.raises(exceptions.ConfigurationError, match='ams') as caught:
        expand(conf, FAR)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    'url',
    [
        'p1:8480',
        'ftp://p1',
        'http://',
        'http://me:pw@p1',
        'http://p1/?x',
        'http://p1/path',
        'plain+ftp://p1',
        'other+http://p1',
    ],
)
def test_a_proxy_that_is_none(conf, url):
    with pytest.raises(exceptions.ConfigurationError, match='ams. proxies'):
        configure(conf, [url])
        expand(conf, FAR)


def test_the_order_holds_whatever_the_selector(conf):
    """Nobody is asked directly before a proxy was, but one that fails."""
    configure(conf, ['http://p1', 'http://p2'])
    conf.set_override('location_selector', 'weight', group='oslo_transfer')
    conf.set_override('driver_order', ['ftp'], group='oslo_transfer')
    light = oslo_transfer.Location('ftp://h/light', weight=1)
    heavy = oslo_transfer.Location(FAR, weight=9)
    call = _call.Call(conf, None, None, None)
    request = call.request(
        [light, heavy],
        '/tmp/nowhere',
        accept=['file'],
        progress=None,
        expected_size=None,
        observers=(),
    )
    ordered, places = call.locate(request)
    assert [(end.tier, end.endpoint.host) for end in ordered.sources] == [
        (0, 'p1'),
        (0, 'p1'),
        (1, 'p2'),
        (1, 'p2'),
        (2, 'h'),
        (2, 'images.fra.example'),
    ]
    assert [end.origin.host for end in ordered.sources[:2]] == [
        'h',
        'images.fra.example',
    ]
    assert 'by a proxy of this datacenter' in places[0].reason
    assert 'if no proxy works' in places[-1].reason
