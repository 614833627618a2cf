# SPDX-License-Identifier: Apache-2.0
"""Guests read through proxies, and go on when these fail."""

from __future__ import annotations

import contextlib
import shutil

from oslo_config import cfg
import pytest

import oslo_transfer
from tests.functional import test_copy_on_read as guests
from tests import groups
from tests.servers import dd_lab
from tests.servers import http
from tests.servers import nginx
from tests.servers import proxy_service
from tests.unit import test_proxied

MIB = guests.MIB
DATA = guests.DATA

pytestmark = groups.marks(
    'proxy', all(map(shutil.which, ('nginx', 'qemu-img', 'qemu-io')))
)


@pytest.fixture
def here():
    with dd_lab.short_directory() as path:
        yield path


@pytest.fixture
def servers():
    """Two proxies, and the origin: each with what stops it."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(3):
            each = stack.enter_context(contextlib.ExitStack())
            found.append((each.enter_context(http.ScriptedHTTPServer()), each))
        yield found


def host(here, servers, **options):
    """A host whose datacenter has the first two."""
    *proxies, (origin, _) = servers
    url = origin.put('/image', DATA)
    for each, _ in proxies:
        each.put(f'/http/{url.removeprefix("http://")}', DATA, **options)
    listed = ', '.join(f'plain+{each.origin}' for each, _ in proxies)
    return url, guests.Host(
        here,
        {
            'oslo_transfer_cache': {'hydrate': False},
            'oslo_transfer': {
                'datacenter': 'ams',
                'datacenters': 'ams',
                'retry_delay': 0.05,
            },
            'oslo_transfer_datacenter_ams': {'proxies': listed},
        },
    )


def asked(servers):
    return [len(each.requests) for each, _ in servers]


def test_each_in_turn(here, servers):
    """The same version: what is here stays, and the rest comes from others."""
    url, service = host(here, servers)
    with service:
        service.copy(url)
        with guests.Guest(here / 'disk') as guest:
            assert guest.read(MIB, 4096) == DATA[MIB:][:4096]
            first = asked(servers)
            assert first[0] and first[1:] == [0, 0]
            servers[0][1].close()
            assert guest.read(3 * MIB, 4096) == DATA[3 * MIB :][:4096]
            second = asked(servers)
            assert second[1] and not second[2]
            servers[1][1].close()
            assert guest.read(15 * MIB, 4096) == DATA[15 * MIB :][:4096]
            assert asked(servers)[2]
            # What was fetched is not fetched again, whoever had it.
            servers[2][1].close()
            for start in (MIB, 3 * MIB, 15 * MIB):
                assert guest.read(start, 4096) == DATA[start:][:4096]


def test_a_proxy_with_another_version(here, servers):
    """It is passed over, for what is here is not to be mixed with that."""
    url, service = host(here, servers)
    with service:
        service.copy(url)
        with guests.Guest(here / 'disk') as guest:
            assert guest.read(MIB, 4096) == DATA[MIB:][:4096]
            path = f'/http/{url.removeprefix("http://")}'
            servers[0][1].close()
            servers[1][0].put(path, bytes(len(DATA)), etag='"other"')
            assert guest.read(3 * MIB, 4096) == DATA[3 * MIB :][:4096]
            assert asked(servers)[2]


def test_in_place(here, tmp_path):
    """A guest reads from the proxy by NBD, and nothing is kept here."""
    (tmp_path / 'image').write_bytes(DATA)
    with (
        nginx.Nginx(tmp_path) as origin,
        proxy_service.ProxyService(
            here, {'oslo_transfer_proxy': {'origins': origin.url('/')}}
        ) as proxy,
    ):
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
        oslo_transfer.register_opts(conf)
        conf.set_override('state_path', str(here), group='oslo_transfer')
        test_proxied.configure(conf, [proxy.url])
        result = oslo_transfer.copy(
            origin.url('/image'), here / 'disk', 'zero_copy', conf=conf
        )
        assert result.source == f'proxy+{proxy.of(origin.url("/image"))}'
        with guests.Guest(here / 'disk') as guest:
            assert guest.read(15 * MIB, 4096) == DATA[15 * MIB :][:4096]
        (image,) = proxy.ask('GET', '/v1/proxy/images')['images']
        assert 0 < image['bytes_here'] < 3 * MIB
        result.attachment.detach()


def test_an_origin_that_tells_versions_weakly(here, tmp_path, servers):
    """The proxy and the origin name them alike for a guest."""
    origin, _ = servers[-1]
    url = origin.put('/image', DATA, etag='W/"1"')
    with dd_lab.short_directory() as there:
        proxy = proxy_service.ProxyService(
            there, {'oslo_transfer_proxy': {'origins': f'{origin.origin}/'}}
        )
        host = guests.Host(
            here,
            {
                'oslo_transfer_cache': {'hydrate': False},
                'oslo_transfer': {'datacenter': 'ams', 'datacenters': 'ams'},
                'oslo_transfer_datacenter_ams': {'proxies': proxy.url},
            },
        )
        with proxy, host:
            host.copy(url)
            with guests.Guest(here / 'disk') as guest:
                assert guest.read(MIB, 4096) == DATA[MIB:][:4096]
                proxy.stop()
                assert guest.read(15 * MIB, 4096) == DATA[15 * MIB :][:4096]
