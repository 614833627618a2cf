# SPDX-License-Identifier: Apache-2.0
"""The in-memory driver keeps the contract, and so do its faults."""

from __future__ import annotations

import itertools
import unittest

from oslo_transfer.drivers import base
from oslo_transfer.testing import conformance
from oslo_transfer.testing import faults
from oslo_transfer.testing import fixtures
from oslo_transfer.testing import memory


class MemoryHooks(conformance.Harness):
    """Objects of a store that the test has for itself."""

    put_options: dict = {}

    def setUp(self):
        self.store = memory.MemoryStore()
        self.driver_class = self.store.driver_class()
        self.names = itertools.count()
        super().setUp()
        self.enterContext(fixtures.registered(self.driver_class))

    def url(self):
        return f'memory://test/{next(self.names)}'

    def put(self, data):
        return self.store.put(self.url(), data, **self.put_options)

    def missing(self):
        return 'memory://test/missing'

    def change(self, url, data):
        self.store.put(url, data, **self.put_options)

    def big_sparse(self, size, runs):
        return self.store.put(
            self.url(), size=size, runs=runs, **self.put_options
        )


class TestMemory(
    MemoryHooks,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """Everything that it can."""

    driver_class = memory.MemoryDriver

    def put(self, data):
        return self.store.put(self.url(), data, piece_bytes=100_000)

    def stalled(self):
        plan = faults.Faults(stall_at=1000)
        return self.store.put(self.url(), bytes(2000), faults=plan)

    def broken(self, data, at):
        return self.store.put(
            self.url(), data, faults=faults.Faults(fail_at=at)
        )

    def sink_url(self):
        self.store.container('test')
        return self.url()

    def read_sink(self, url):
        return self.store.get(url)

    def write_sink(self, url, data):
        self.store.put(url, data)

    def sink_nowhere(self):
        return 'memory://nowhere/name'

    def small_sink(self, capacity):
        small = memory.MemoryStore(capacity)
        small.container('test')
        self.store = small
        self.driver = small.driver_class()(self.conf)
        return self.url()


class TestSequential(
    MemoryHooks, conformance.SourceConformance, unittest.TestCase
):
    """Sources that can be read from their start only."""

    driver_class = memory.MemoryDriver
    put_options = {'ranges': False}
    source_capabilities = (
        base.Capability.READ | base.Capability.EXTENTS
    )


class TestUnsized(
    MemoryHooks, conformance.SourceConformance, unittest.TestCase
):
    """Sources of unknown size."""

    driver_class = memory.MemoryDriver
    put_options = {'sized': False}
    source_capabilities = base.Capability.READ
    sized = False


class TestShort(
    MemoryHooks, conformance.SourceConformance, unittest.TestCase
):
    """Sources that give a few bytes with each read."""

    driver_class = memory.MemoryDriver
    source_capabilities = TestMemory.driver_class.capabilities & ~(
        base.Capability.PIECES
    )

    @property
    def put_options(self):
        return {'faults': faults.Faults(most=10_007)}
