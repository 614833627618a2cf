# SPDX-License-Identifier: Apache-2.0
"""The completing strategies keep the contract."""

from __future__ import annotations

import itertools
import os
import pathlib
import tempfile
import unittest

from oslo_transfer.drivers import base
from oslo_transfer import oserrors
from oslo_transfer.strategies import clone
from oslo_transfer.strategies import dd
from oslo_transfer.strategies import full_copy
from oslo_transfer.strategies import zero_copy
from oslo_transfer.testing import conformance
from oslo_transfer.testing import fixtures
from oslo_transfer.testing import memory


class ShareDriver(base.Driver):
    """Files of a file system with reflinks, or what looks like one."""

    name = 'share'
    schemes = ('share',)
    capabilities = base.Capability.CLONE | base.Capability.LOCAL_PATH

    def local_path(self, endpoint):
        """The path."""
        return endpoint.path

    def fill(self, endpoint, part_path, ctx):
        """Copy, where a file system of that kind would share."""
        with oserrors.os_errors('cloning'):
            data = pathlib.Path(endpoint.path).read_bytes()
            with open(part_path, 'r+b') as part:
                part.write(data)
                part.truncate()
        return 'reflink'


class FileTarget(conformance.Harness):
    """Files in a directory that the test has for itself."""

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        self.names = itertools.count()

    def target(self):
        return str(self.directory / f'file{next(self.names)}')

    def read_target(self, url):
        try:
            return pathlib.Path(url).read_bytes()
        except FileNotFoundError:
            return None

    def leftovers(self):
        return [each for each in os.listdir(self.directory) if each[0] == '.']


class TestFullCopyToFile(
    FileTarget, conformance.StrategyConformance, unittest.TestCase
):
    """From anywhere to a file."""

    strategy_class = full_copy.FullCopy

    def setUp(self):
        super().setUp()
        self.store = memory.MemoryStore()
        self.enterContext(
            fixtures.registered(self.store.driver_class(), ShareDriver)
        )

    def put(self, data):
        return self.store.put(f'memory://test/{next(self.names)}', data)

    def missing(self):
        return 'memory://test/missing'

    def unservable(self):
        return f'share://local{self.target()}', self.target()


class TestFullCopy(TestFullCopyToFile):
    """From anywhere to anywhere."""

    def target(self):
        self.store.container('test')
        return f'memory://test/{next(self.names)}'

    def read_target(self, url):
        return self.store.get(url)


class TestClone(
    FileTarget, conformance.StrategyConformance, unittest.TestCase
):
    """Within a file system."""

    strategy_class = clone.Clone

    def setUp(self):
        super().setUp()
        self.store = memory.MemoryStore()
        self.enterContext(
            fixtures.registered(self.store.driver_class(), ShareDriver)
        )

    def put(self, data):
        path = self.target()
        pathlib.Path(path).write_bytes(data)
        return f'share://local{path}'

    def missing(self):
        return f'share://local{self.target()}'

    def unservable(self):
        url = self.store.put('memory://test/object', b'data')
        return url, self.target()


class TestDd(FileTarget, conformance.StrategyConformance, unittest.TestCase):
    """From what can be attached to a file."""

    strategy_class = dd.Dd

    def setUp(self):
        super().setUp()
        self.store = memory.MemoryStore()
        self.enterContext(fixtures.registered(self.store.driver_class()))

    def put(self, data):
        path = self.target()
        pathlib.Path(path).write_bytes(data)
        return path

    def missing(self):
        return self.target()

    def unservable(self):
        url = self.store.put('memory://test/object', b'data')
        return url, self.target()


class TestZeroCopy(
    FileTarget, conformance.AttachingConformance, unittest.TestCase
):
    """A link to what is attached; overlays need qemu-img."""

    strategy_class = zero_copy.ZeroCopy

    def setUp(self):
        super().setUp()
        self.conf.set_override('zero_copy_form', 'device', 'oslo_transfer')
        self.store = memory.MemoryStore()
        self.enterContext(fixtures.registered(self.store.driver_class()))

    def put(self, data):
        path = self.target()
        pathlib.Path(path).write_bytes(data)
        return path

    def missing(self):
        return self.target()

    def unservable(self):
        url = self.store.put('memory://test/object', b'data')
        return url, self.target()
