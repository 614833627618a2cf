# SPDX-License-Identifier: Apache-2.0
"""The NBD driver keeps the contract with servers of the real world."""

from __future__ import annotations

import itertools
import pathlib
import subprocess
import tempfile
import typing
import unittest
import unittest.mock


from oslo_transfer.drivers.nbd import driver
from oslo_transfer import endpoint
from oslo_transfer.testing import attach_suite
from oslo_transfer.testing import conformance
from oslo_transfer.testing import harness
from oslo_transfer.testing import reading_suite
from oslo_transfer.testing import waiting_suite
from oslo_transfer.testing import writing_suite
from tests import groups
from tests.servers import child
from tests.servers import nbd_session
from tests.servers import nbdkit

pytestmark = groups.marks('nbd', nbdkit.Nbdkit.found() is not None)

# More than what any test writes to a sink.
_CAPACITY = 4 << 20


class NbdkitHooks(conformance.Harness):
    """Files that nbdkit serves, each as an export."""

    driver_class = driver.NBDDriver
    sink_size: typing.ClassVar[int | None] = _CAPACITY
    filters: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()

    root: pathlib.Path
    names: itertools.count

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.root = pathlib.Path(directory)
        cls.names = itertools.count()
        cls.shared = cls.enterClassContext(cls.serve())

    @classmethod
    def serve(cls, **options):
        return nbdkit.Nbdkit(
            'file',
            f'dir={cls.root}',
            *cls.parameters,
            filters=cls.filters,
            **options,
        )

    def setUp(self):
        super().setUp()
        self.server = self.shared

    def url(self):
        return self.server.url(f'file{next(self.names)}')

    def path(self, url):
        return self.root / endpoint.parse(url).path[1:]

    def put(self, data):
        url = self.url()
        self.path(url).write_bytes(data)
        return url

    def missing(self):
        return self.server.url('missing')

    def change(self, url, data):
        self.path(url).write_bytes(data)

    def big_sparse(self, size, runs):
        url = self.url()
        with open(self.path(url), 'xb') as sparse:
            sparse.truncate(size)
            for offset, run in runs.items():
                sparse.seek(offset)
                sparse.write(run)
        return url

    # Sinks

    def sink_url(self):
        url = self.url()
        with open(self.path(url), 'xb') as file:
            file.truncate(_CAPACITY)
        return url

    def read_sink(self, url):
        path = self.path(url)
        return path.read_bytes() if path.exists() else None

    def write_sink(self, url, data):
        with open(self.path(url), 'r+b') as file:
            file.write(data)

    # Attachments

    def attachable(self, data):
        return self.put(data)

    def read_attachment(self, attachment, length):
        self.assertEqual('nbd', attachment.form)
        found = subprocess.run(
            ['nbdcopy', attachment.path, '-'],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        return found.stdout[:length]


class Faults(NbdkitHooks):
    """What a server can do wrong; a real one has to be replaced for it."""

    def scripted(self, data=b'', **replaced):
        session = type('Scripted', (nbd_session.Session,), replaced)
        server = nbd_session.NBDServer(session, data)
        return self.enterContext(server)

    def stalled(self):
        def on_read(session, request):
            head = b'\x66\x8e\x33\xef\0\1\0\1'
            head += request.cookie.to_bytes(8)
            head += (request.length + 8).to_bytes(4)
            head += request.offset.to_bytes(8)
            session.send(head + bytes(session.data[:1000]))
            session.hang()

        data = conformance.pattern(1 << 20)
        return self.scripted(data, on_read=on_read).url()

    def silent(self):
        return self.scripted(run=lambda session: session.hang()).url()

    def unreachable(self):
        return f'nbd://127.0.0.1:{child.free_port()}/'

    def denied(self):
        def on_go(session, _name):
            session.option_reply(nbd_session.GO, nbd_session.ERR_POLICY)
            return False

        return self.scripted(on_go=on_go).url()

    def broken(self, data, at):
        def on_read(session, request):
            end = request.offset + request.length
            if end <= at:
                session.part(request, request.offset, end, nbd_session.DONE)
                return
            if request.offset < at:
                session.part(request, request.offset, at)
            session.reset()

        blocks = (1, 512, 65536)
        return self.scripted(data, on_read=on_read, blocks=blocks).url()

    def nonsense(self):
        def on_read(session, request):
            session.send(b'nonsense' * 100)

        data = conformance.pattern(1 << 20)
        return self.scripted(data, on_read=on_read).url()

    def vanish(self):
        self.server.stop()
        return True

    def sink_nowhere(self):
        return self.missing()

    def denied_sink(self):
        flags = nbd_session.HAS_FLAGS | nbd_session.READ_ONLY
        return self.scripted(bytes(1 << 20), flags=flags).url()

    def small_sink(self, capacity):
        url = self.url()
        self.path(url).write_bytes(bytes(capacity))
        return url

    def stalled_sink(self):
        def on_write(session, request):
            session.hang()

        return self.scripted(bytes(64 << 20), on_write=on_write).url()

    def broken_sink(self):
        def on_write(session, request):
            session.reset()

        return self.scripted(bytes(64 << 20), on_write=on_write).url()


class TestNbdkit(
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
            self.server = self.enterContext(self.serve())


class TestUnix(
    Faults,
    attach_suite.AttachConformance,
    reading_suite.ReadingConformance,
    waiting_suite.WaitingConformance,
    writing_suite.WritingConformance,
    unittest.TestCase,
):
    """Over a unix socket."""

    def setUp(self):
        super().setUp()
        if self._testMethodName == 'test_vanished':
            self.server = self.enterContext(self.serve())

    @classmethod
    def serve(cls, **options):
        return super().serve(unix=True, **options)

    def with_secrets(self, url):
        # The query names the socket, and is no secret.
        user, password, _token = harness.SECRETS
        return url.replace('://', f'://{user}:{password}@')
