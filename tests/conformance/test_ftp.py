# SPDX-License-Identifier: Apache-2.0
"""The FTP driver keeps the contract, whatever the server can do."""

from __future__ import annotations

import itertools
import os
import unittest
import urllib.parse

from oslo_transfer.drivers import base
from oslo_transfer.drivers.ftp import driver
from oslo_transfer.testing import conformance
from tests.conformance import test_http
from tests.servers import child
from tests.servers import evil_ftp_resume
from tests.servers import pyftpd
from tests.servers import scripted_ftp


class FTPHooks(conformance.Harness):
    """Files of a pyftpdlib server that the test has for itself."""

    driver_class = driver.FTPDriver
    #: Commands that the server does not know.
    without: tuple[str, ...] = ()
    host = '127.0.0.1'
    tls = False

    def setUp(self):
        super().setUp()
        self.conf.set_override(
            'ca_file',
            test_http.authority().ca_file,
            group='oslo_transfer_ftp',
        )
        self.server = self.enterContext(
            pyftpd.PyFTPd(
                test_http.authority().pair() if self.tls else None,
                without=self.without,
                host=self.host,
            )
        )
        self.names = itertools.count()

    def url(self):
        return self.server.url(f'file{next(self.names)}')

    def path(self, url):
        return self.server.root / urllib.parse.urlsplit(url).path[1:]

    def put(self, data):
        url = self.url()
        self.path(url).write_bytes(data)
        return url

    def missing(self):
        return self.server.url('missing')

    def change(self, url, data):
        path = self.path(url)
        before = path.stat().st_mtime
        # A new file: what is being sent is the old one to its end.
        new = self.server.root / 'new'
        new.write_bytes(data)
        os.utime(new, (before + 1, before + 1))
        os.replace(new, path)

    def big_sparse(self, size, runs):
        url = self.url()
        with open(self.path(url), 'xb') as sparse:
            sparse.truncate(size)
            for offset, run in runs.items():
                sparse.seek(offset)
                sparse.write(run)
        return url

    # Uploads

    def sink_url(self):
        return self.url()

    def read_sink(self, url):
        try:
            return self.path(url).read_bytes()
        except FileNotFoundError:
            return None

    def write_sink(self, url, data):
        self.path(url).write_bytes(data)

    def sink_nowhere(self):
        return self.server.url('nowhere/file')

    def denied_sink(self):
        return self.server.url('denied/file')


class FTPFaults(FTPHooks):
    """What a server can do wrong: another one, that is told to."""

    def bad(self, verb, step, data=b''):
        """The URL of a file at a server that takes one step badly."""
        context = test_http.authority().server_context() if self.tls else None
        server = self.enterContext(scripted_ftp.ScriptedFTPServer(context))
        server.on(verb, step)
        return server.put('file', data)

    def stalled(self):
        def retrieve(session, _argument):
            conn = session.open_data()
            session.deliver(conn, bytes(1000))
            session.stall()
            conn.release()

        return self.bad('RETR', retrieve, bytes(1_000_000))

    def silent(self):
        return self.bad('CONNECT', lambda session, _argument: session.stall())

    def unreachable(self):
        return f'{self.server.scheme}://127.0.0.1:{child.free_port()}/file'

    def denied(self):
        (self.server.root / 'denied' / 'file').write_bytes(b'secret')
        return self.server.url('denied/file')

    def broken(self, data, at):
        def retrieve(session, _argument):
            evil_ftp_resume.cut(session, data, at, code=0)

        return self.bad('RETR', retrieve, data)

    def nonsense(self):
        def retrieve(session, _argument):
            conn = session.open_data()
            session.deliver(conn, bytes(1000))
            conn.release()
            session.raw(b'nonsense\r\n')

        return self.bad('RETR', retrieve, bytes(1000))

    def vanish(self):
        self.server.close()
        return True

    # Uploads

    def upload(self, step):
        url = self.bad('STOR', step, b'')
        return f'{url}-to-be'

    def stalled_sink(self):
        def store(session, argument):
            conn = session.open_data()
            session.take(conn, argument, 1000)
            session.stall()
            conn.release()

        return self.upload(store)

    def broken_sink(self):
        def store(session, argument):
            conn = session.open_data()
            session.take(conn, argument, 1000)
            conn.reset()
            session.hang_up()

        return self.upload(store)

    def small_sink(self, capacity):
        # The file system of another server is full.
        def store(session, argument):
            conn = session.open_data()
            session.take(conn, argument, capacity)
            session.reply(552, 'The disk is full.')
            conn.release()

        return self.upload(store)

    def read_sink(self, url):
        if urllib.parse.urlsplit(url).port == self.server.port:
            return super().read_sink(url)
        return None


class TestFTP(
    FTPFaults,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """A server that does everything right."""


class TestFTPS(
    FTPFaults,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """The same with TLS."""

    tls = True


class TestIPv6(FTPHooks, conformance.SourceConformance, unittest.TestCase):
    """A server with an IPv6 address."""

    host = '::1'


class TestNoExtensions(
    FTPHooks,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """A server from 1985: no SIZE, MDTM, EPSV or REST of streams."""

    without = ('SIZE', 'MDTM', 'EPSV', 'EPRT', 'REST', 'MLST', 'MLSD', 'FEAT')
    source_capabilities = base.Capability.READ
    sized = False


class TestNoRestart(
    FTPHooks, conformance.SourceConformance, unittest.TestCase
):
    """A server without REST."""

    without = ('REST',)
    source_capabilities = base.Capability.READ


class TestNoTime(FTPHooks, conformance.SourceConformance, unittest.TestCase):
    """A server that gives nothing to tell versions apart by."""

    without = ('MDTM',)
