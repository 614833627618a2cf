# SPDX-License-Identifier: Apache-2.0
"""What a proxy has, and the strategy that goes through it."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import time
import unittest

import oslo_transfer
from oslo_transfer import datacenters
from oslo_transfer.drivers import proxy
from oslo_transfer.strategies import proxy_cache
from oslo_transfer.testing import conformance
from tests.conformance import test_strategies
from tests import groups
from tests.servers import dd_lab
from tests.servers import nginx
from tests.servers import proxy_service

pytestmark = groups.marks('proxy', shutil.which('nginx') is not None)


class Proxied(conformance.Harness):
    """A proxy for all tests of a class; files of nginx behind it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with contextlib.ExitStack() as stack:
            cls.files = stack.enter_context(dd_lab.short_directory())
            cls.server = stack.enter_context(nginx.Nginx(cls.files))
            cls.proxy = stack.enter_context(
                proxy_service.ProxyService(
                    stack.enter_context(dd_lab.short_directory()),
                    {
                        'oslo_transfer_proxy': {
                            'origins': cls.server.url('/'),
                            # What changes is noticed at once.
                            'grant_seconds': 0,
                            'stale_seconds': 0,
                        },
                        'oslo_transfer': {'max_retries': 0},
                    },
                )
            )
            cls.names = itertools.count()
            cls.addClassCleanup(stack.pop_all().close)

    def file(self):
        """A new file of the origin."""
        return self.files / f'file{next(self.names)}'

    def origin(self, data):
        """An object of the origin."""
        path = self.file()
        path.write_bytes(data)
        return self.server.url(f'/{path.name}')


class TestDriver(
    Proxied,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.AttachConformance,
    unittest.TestCase,
):
    """Read by HTTP, or attached by NBD, from a proxy of ours."""

    driver_class = proxy.ProxyDriver

    def by_proxy(self, url):
        return f'proxy+{self.proxy.of(url)}'

    def put(self, data):
        url = self.origin(data)
        # What is kept is served on where the origin has another version.
        self.proxy.get(url)
        return self.by_proxy(url)

    def missing(self):
        return self.by_proxy(self.server.url('/missing'))

    def change(self, url, data):
        new = self.file()
        new.write_bytes(data)
        # nginx has seconds and size in its ETag.
        then = time.time() - 1000 * next(self.names)
        os.utime(new, (then, then))
        new.rename(self.files / url.rpartition('/')[2])

    def read_attachment(self, attachment, length):
        self.assertEqual('nbd', attachment.form)
        with (
            oslo_transfer.open_source(
                attachment.path, conf=self.conf
            ) as source,
            source.stream(0, length) as stream,
        ):
            return io.BufferedReader(stream).read()

    def attached(self):
        # Nothing but a record is made, and the suite looks at these.
        return []

    def big_sparse(self, size, runs):
        path = self.file()
        with open(path, 'wb') as file:
            for start, run in runs.items():
                file.seek(start)
                file.write(run)
            file.truncate(size)
        return self.by_proxy(self.server.url(f'/{path.name}'))


class TestStrategy(
    Proxied,
    test_strategies.FileTarget,
    conformance.StrategyConformance,
    unittest.TestCase,
):
    """From another datacenter to a file."""

    strategy_class = proxy_cache.ProxyCache

    def setUp(self):
        super().setUp()
        for name, value in (
            ('datacenter', 'here'),
            ('datacenters', ['here']),
        ):
            self.conf.set_override(name, value, group='oslo_transfer')
        datacenters.from_conf(self.conf)
        self.conf.set_override(
            *('proxies', [self.proxy.url]),
            group='oslo_transfer_datacenter_here',
        )

    def put(self, data):
        return self.origin(data)

    def missing(self):
        return self.server.url('/missing')

    def unservable(self):
        return self.target(), self.target()
