# SPDX-License-Identifier: Apache-2.0
"""What the service of the host caches: the driver, and the strategy."""

from __future__ import annotations

import itertools
import pathlib
import shutil
import subprocess
import unittest

from oslo_transfer.drivers import cache as cache_driver
from oslo_transfer.service import cache
from oslo_transfer.service import client
from oslo_transfer.service import daemon
from oslo_transfer.strategies import copy_on_read
from oslo_transfer.testing import conformance
from tests import groups
from tests.servers import dd_lab
from tests.servers import nginx

pytestmark = groups.marks(
    'cache', all(map(shutil.which, ('nginx', 'nbdcopy', 'nbdfuse')))
)


class Service:
    """Runs the service; files are the origin."""

    def setUp(self):
        super().setUp()
        self.directory = self.enterContext(dd_lab.short_directory())
        self.names = map(str, itertools.count())
        self.serve(self.directory)

    def serve(self, state):
        """A service with an empty state."""
        for option, value, group in (
            ('state_path', state, 'oslo_transfer'),
            ('control_socket', state / 'sock', 'oslo_transfer_service'),
        ):
            self.conf.set_override(option, str(value), group)
        self.service = daemon.Service(self.conf, [cache.CacheRole(self.conf)])
        self.enterContext(self.service)

    def path(self):
        return self.directory / f'object{next(self.names)}'

    def put(self, data):
        path = self.path()
        path.write_bytes(data)
        return f'cache+file://{path}'

    def missing(self):
        return f'cache+file://{self.path()}'

    def attached(self):
        return [each['id'] for each in self.client().cached()]

    def client(self):
        return client.Client(self.conf)


class TestDriver(
    Service,
    conformance.DriverConformance,
    conformance.AttachConformance,
    unittest.TestCase,
):
    """An export that can be read at once; nginx is the origin."""

    driver_class = cache_driver.CacheDriver

    def setUp(self):
        super().setUp()
        self.server = self.enterContext(nginx.Nginx(self.directory))

    def put(self, data):
        path = self.path()
        path.write_bytes(data)
        return f'cache+{self.server.url(f"/{path.name}")}'

    def missing(self):
        return f'cache+{self.server.url("/missing")}'

    def read_attachment(self, attachment, length):
        self.assertEqual('nbd', attachment.form)
        found = subprocess.run(
            ['nbdcopy', attachment.path, '-'],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        return found.stdout[:length]


class Strategy(Service, conformance.AttachingConformance):
    """Destinations that lead to the cache."""

    strategy_class = copy_on_read.CopyOnRead
    form: str

    def setUp(self):
        super().setUp()
        self.conf.set_override('form', self.form, 'oslo_transfer_cache')

    def put(self, data):
        return super().put(data).removeprefix('cache+')

    def missing(self):
        return super().missing().removeprefix('cache+')

    def target(self):
        return str(self.path())

    def leftovers(self):
        kept = {
            'sock',
            'sock.lock',
            'cache',
            'cached',
            'traces',
            'attachments',
        }
        return [
            path.name
            for path in self.directory.iterdir()
            if path.name not in kept and not path.name.startswith('object')
        ]


class TestPath(Strategy, unittest.TestCase):
    """Files that nbdfuse serves."""

    form = 'path'

    def read_target(self, url):
        path = pathlib.Path(url)
        return path.read_bytes() if path.exists() else None


class TestOverlay(Strategy, unittest.TestCase):
    """Overlays over the NBD export."""

    form = 'overlay'

    def read_target(self, url):
        path = pathlib.Path(url)
        if not path.exists():
            return None
        copied = self.directory / 'object-read'
        subprocess.run(
            ['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', path, copied],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return copied.read_bytes()
