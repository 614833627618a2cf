# SPDX-License-Identifier: Apache-2.0
"""The iSCSI driver keeps the contract, in user space and with tgt."""

from __future__ import annotations

import itertools
import pathlib
import subprocess
import tempfile
import typing
import unittest


from oslo_transfer.drivers import base
from oslo_transfer.drivers.iscsi import driver
from oslo_transfer import exceptions
from oslo_transfer.service import attach
from oslo_transfer.service import daemon
from oslo_transfer.testing import conformance
from oslo_transfer.testing import harness
from oslo_transfer.wrappers import base as wrappers
from tests import groups
from tests.servers import child
from tests.servers import dd_lab
from tests.servers import relay
from tests.servers import tgt

pytestmark = groups.marks('iscsi', tgt.Tgt.found() is not None)

# More than what any test writes to a sink.
_CAPACITY = 4 << 20


class Window(wrappers.SourceWrapper):
    """The start of a disk: disks have whole blocks, and tests any size."""

    def __init__(self, source, size):
        super().__init__(source)
        self.size = size

    def stream(self, offset, length):
        length = self.size - offset if length is None else length
        if not 0 <= offset <= offset + length <= self.size:
            raise exceptions.SourceChanged('behind the end of the window')
        return self._source.stream(offset, length)


class TgtHooks(conformance.Harness):
    """Files that tgtd offers as disks, each at a target of its own."""

    driver_class = driver.ISCSIDriver
    smallest = 1
    block = 512
    thin = True
    sink_size: typing.ClassVar[int | None] = _CAPACITY
    host = '127.0.0.1'
    sessions = 4

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.root = pathlib.Path(directory)
        cls.names = itertools.count()
        cls.shared = cls.enterClassContext(tgt.Tgt(cls.host))
        cls.sizes_put = {}

    def setUp(self):
        super().setUp()
        self.server = self.shared
        self.addCleanup(self._check_no_sessions)

    def make_driver(self):
        made = super().make_driver()
        for name, value in (
            ('engine', 'libiscsi'),
            ('sessions', self.sessions),
        ):
            self.conf.set_override(name, value, 'oslo_transfer_iscsi')
        return made

    def _check_no_sessions(self):
        if self.server.process is not None:
            self.assertTrue(
                harness.wait_for(
                    lambda: not self.server.sessions(), harness.PATIENCE
                ),
                'sessions are left',
            )

    def path(self, url):
        return self.root / url.split('/')[3]

    def offer(self, path):
        target = self.server.target(f'{tgt.IQN}-{path.name}')
        self.server.disk(target, path, thin=self.thin, block=self.block)
        named = self.root / target
        path.rename(named)
        return self.server.url(target)

    def new_file(self, size):
        path = self.root / str(next(self.names))
        with open(path, 'xb') as file:
            file.truncate(-(-size // self.block) * self.block)
        return path

    def put(self, data):
        path = self.new_file(len(data) or 1)
        with open(path, 'r+b') as file:
            file.write(data)
        url = self.offer(path)
        self.sizes_put[url] = len(data)
        return url

    def missing(self):
        return f'iscsi://{self.server.portal}/{tgt.IQN}-missing/1'

    def open(self, url, **changes):
        source = super().open(url, **changes)
        size = next(
            (
                found
                for name, found in self.sizes_put.items()
                if name.split('/')[3:] == url.split('?')[0].split('/')[3:]
            ),
            source.size,
        )
        self.assertEqual(
            -(-(size or 1) // self.block) * self.block, source.size
        )
        return Window(source, size)

    def big_sparse(self, size, runs):
        path = self.new_file(size)
        with open(path, 'r+b') as file:
            for offset, run in runs.items():
                file.seek(offset)
                file.write(run)
        url = self.offer(path)
        self.sizes_put[url] = size
        return url

    # Sinks

    def sink_url(self):
        return self.offer(self.new_file(_CAPACITY))

    def read_sink(self, url):
        path = self.path(url)
        return path.read_bytes() if path.exists() else None

    def write_sink(self, url, data):
        with open(self.path(url), 'r+b') as file:
            file.write(data)


class Faults(TgtHooks):
    """What a target and the network can do wrong."""

    open_seconds = 1.0

    def through(self, url, **faults):
        """The same disk behind a relay."""
        way = self.enterContext(relay.Relay(self.server.port, **faults))
        return url.replace(f':{self.server.port}/', f':{way.port}/', 1)

    def spoiled(self, data, **faults):
        """A disk whose relay does something after some bytes of data."""
        url = self.put(data)
        behind = self.through(url, **faults)
        self.sizes_put[behind] = len(data)
        return behind

    def stalled(self):
        return self.spoiled(conformance.pattern(8 << 20), stall_after=300_000)

    def silent(self):
        return self.through(self.put(b'data'), stall_after=0)

    def unreachable(self):
        return f'iscsi://127.0.0.1:{child.free_port()}/{tgt.IQN}/1'

    def denied(self):
        url = self.put(b'data')
        self.server.chap(
            url.split('/')[3], f'user{next(self.names)}', 'x' * 12
        )
        return url

    def broken(self, data, at):
        # What is said before the first byte takes about a kilobyte.
        return self.spoiled(data, cut_after=at + 1500)

    def vanish(self):
        self.server.close()
        return True

    def sink_nowhere(self):
        return self.missing()

    def denied_sink(self):
        url = self.sink_url()
        self.server.configure(url.split('/')[3], 1, 'readonly=1')
        return url

    def small_sink(self, capacity):
        return self.offer(self.new_file(capacity))

    def stalled_sink(self):
        return self.through(
            self.offer(self.new_file(64 << 20)), stall_taken=1_000_000
        )

    def broken_sink(self):
        return self.through(
            self.offer(self.new_file(64 << 20)), cut_taken=1_000_000
        )


class TestTgt(
    Faults,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.SinkConformance,
    conformance.AttachConformance,
    unittest.TestCase,
):
    """As it comes."""

    def setUp(self):
        super().setUp()
        if self._testMethodName == 'test_vanished':
            # That one takes the server away.
            self.server = self.enterContext(tgt.Tgt(self.host))

    # Attachments

    def attachable(self, data):
        return self.put(data + bytes(-len(data) % self.block))

    def read_attachment(self, attachment, length):
        self.assertEqual('nbd', attachment.form)
        found = subprocess.run(
            ['nbdcopy', attachment.path, '-'],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        return found.stdout[:length]

    def test_attach_twice(self):
        """What outlives a call is held by the service of the host."""
        state = self.enterContext(dd_lab.short_directory())
        for option, value, group in (
            ('state_path', state, 'oslo_transfer'),
            ('control_socket', state / 'sock', 'oslo_transfer_service'),
        ):
            self.conf.set_override(option, str(value), group)
        self.enterContext(
            daemon.Service(self.conf, [attach.AttachRole(self.conf)])
        )
        super().test_attach_twice()


class TestThick(
    TgtHooks,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """Without GET LBA STATUS, and large blocks."""

    thin = False
    block = 4096
    source_capabilities = base.Capability.READ | base.Capability.RANDOM_READ


class TestOneSession(
    TgtHooks, conformance.SourceConformance, unittest.TestCase
):
    """A session has to do for all streams."""

    sessions = 1
    host = '::1'
