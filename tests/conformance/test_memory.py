# SPDX-License-Identifier: Apache-2.0
"""The in-memory driver keeps the contract, and so do its faults."""

from __future__ import annotations

import itertools
import threading
import time
import types
import unittest

import pytest

import oslo_transfer
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.testing import conformance
from oslo_transfer.testing import faults
from oslo_transfer.testing import fixtures
from oslo_transfer.testing import memory
from oslo_transfer.testing import memory_handles


class MemoryHooks(conformance.Harness):
    """Objects of a store that the test has for itself."""

    def setUp(self):
        self.store = memory.MemoryStore()
        self.driver_class = self.store.driver_class()
        self.names = itertools.count()
        super().setUp()
        self.enterContext(fixtures.registered(self.driver_class))

    def url(self):
        return f'memory://test/{next(self.names)}'

    def options(self):
        """How objects are, see MemoryStore.put()."""
        return {}

    def put(self, data):
        return self.store.put(self.url(), data, **self.options())

    def missing(self):
        return 'memory://test/missing'

    def change(self, url, data):
        self.store.put(url, data, **self.options())

    def big_sparse(self, size, runs):
        return self.store.put(
            self.url(), size=size, runs=runs, **self.options()
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
    source_capabilities = base.Capability.READ | base.Capability.EXTENTS

    def options(self):
        return {'ranges': False}


class TestUnsized(
    MemoryHooks, conformance.SourceConformance, unittest.TestCase
):
    """Sources of unknown size."""

    driver_class = memory.MemoryDriver
    source_capabilities = base.Capability.READ
    sized = False

    def options(self):
        return {'sized': False}


class TestShort(MemoryHooks, conformance.SourceConformance, unittest.TestCase):
    """Sources that give a few bytes with each read."""

    driver_class = memory.MemoryDriver
    source_capabilities = TestMemory.driver_class.capabilities & ~(
        base.Capability.PIECES
    )

    def options(self):
        return {'faults': faults.Faults(most=10_007)}


# What the suite does not use of the faults


def opened(plan):
    """A source of 1000 bytes with faults, and without limits."""
    store = memory.MemoryStore()
    store.put('memory://test/x', bytes(range(250)) * 4)
    ctx = types.SimpleNamespace(check=lambda: None)
    source = memory_handles.MemorySource(store.find('test/x'), ctx)
    return faults.FaultySource(source, plan)


def test_every_kth_read_fails():
    plan = faults.Faults(fail_every=3, times=2)
    failed = []
    with opened(plan).stream(0, None) as stream:
        for number in range(1, 10):
            try:
                assert stream.readinto(bytearray(1)) == 1
            except exceptions.Unavailable:
                failed.append(number)
    assert failed == [3, 6]
    assert (plan.reads, plan.failures) == (9, 2)


def test_fails_at_an_offset():
    plan = faults.Faults(
        fail_at=600, times=1, error=lambda: exceptions.ProtocolError('no')
    )
    source = opened(plan)
    stream = source.stream(500, None)
    assert stream.readinto(bytearray(1000)) == 100
    with pytest.raises(exceptions.ProtocolError):
        stream.readinto(bytearray(1))
    # It was to fail once.
    assert stream.readinto(bytearray(1000)) == 400
    assert source.stream(0, None).readinto(bytearray(1000)) == 1000


def test_takes_its_time():
    plan = faults.Faults(delay=0.05, most=500)
    with opened(plan).stream(0, None) as stream:
        started = time.monotonic()
        assert len(stream.read()) == 1000
        assert time.monotonic() - started > 0.09
        assert stream.waited > 0.09


def test_stalls_until_it_is_closed():
    plan = faults.Faults(stall_at=10)
    stream = opened(plan).stream(0, None)
    assert stream.readinto(bytearray(100)) == 10
    closer = threading.Thread(
        target=lambda: plan.stalled.wait(10) and stream.close()
    )
    closer.start()
    with pytest.raises(exceptions.TransferCancelled):
        stream.readinto(bytearray(100))
    closer.join()


def test_checking_sink():
    sink = faults.CheckingSink(b'data' + bytes(4))
    sink.pwrite(memoryview(b'at'), 1)
    with pytest.raises(exceptions.IntegrityError, match='byte 3 '):
        sink.pwrite(memoryview(b'x'), 3)
    with pytest.raises(exceptions.IntegrityError, match='byte 0 '):
        sink.zero(0, 1)
    with pytest.raises(exceptions.IntegrityError, match='byte 8 '):
        sink.pwrite(memoryview(bytes(5)), 4)
    back = memoryview(bytearray(10))
    assert sink.pread(back, 0) == 8
    assert bytes(back[:8]) == b'\0at\0' + bytes(4)
    with pytest.raises(exceptions.SizeMismatch):
        sink.commit(7)
    with pytest.raises(exceptions.IntegrityError, match='0 to 1 '):
        sink.commit(8)
    sink.pwrite(memoryview(b'data'), 0)
    assert sink.zero(4, 4)
    sink.commit(8)
    assert (sink.written, sink.zeros, sink.committed) == (6, 4, True)
    with pytest.raises(exceptions.TransferCancelled):
        sink.pwrite(memoryview(b'data'), 0)


def test_transfer_fixture(tmp_path):
    """What Nova, Glance and Cinder would write."""
    with fixtures.Transfer(max_retries=1) as transfer:
        transfer.store.put('memory://images/cirros', b'data')
        target = tmp_path / 'disk'
        oslo_transfer.copy(
            'memory://images/cirros', target, conf=transfer.conf
        )
        assert target.read_bytes() == b'data'
        assert transfer.conf.oslo_transfer.max_retries == 1
    with pytest.raises(exceptions.DriverNotFound):
        oslo_transfer.copy(
            'memory://images/cirros', target, conf=transfer.conf
        )
