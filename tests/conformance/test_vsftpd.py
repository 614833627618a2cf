# SPDX-License-Identifier: Apache-2.0
"""The FTP driver keeps the contract with a server of the real world."""

from __future__ import annotations

import itertools
import os
import pathlib
import tempfile
import unittest


from oslo_transfer.drivers import base
from oslo_transfer.drivers.ftp import driver
from oslo_transfer.testing import conformance
from tests.conformance import test_http
from tests import groups
from tests.servers import vsftpd

pytestmark = groups.marks('ftp', vsftpd.Vsftpd.found() is not None)


class VsftpdHooks(conformance.Harness):
    """Files in a directory that vsftpd serves."""

    driver_class = driver.FTPDriver
    #: Further lines of its configuration.
    lines: tuple = ()
    tls = False

    root: pathlib.Path
    server: vsftpd.Vsftpd
    names: itertools.count

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.root = pathlib.Path(directory)
        cls.server = cls.enterClassContext(
            vsftpd.Vsftpd(
                directory,
                certificate=test_http.authority().pair() if cls.tls else None,
                lines=('deny_file={*denied*}', *cls.lines),
            )
        )
        cls.names = itertools.count()

    def setUp(self):
        super().setUp()
        if self.tls:
            self.conf.set_override(
                'ca_file',
                test_http.authority().ca_file,
                group='oslo_transfer_ftp',
            )

    def url(self):
        return self.server.url(f'file{next(self.names)}')

    def path(self, url):
        return self.root / url.rpartition('/')[2]

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
        new = self.root / 'new'
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

    def denied(self):
        url = self.server.url('denied')
        self.path(url).write_bytes(b'not for you')
        return url

    def sink_url(self):
        return self.url()

    def read_sink(self, url):
        try:
            return self.path(url).read_bytes()
        except FileNotFoundError:
            return None

    def write_sink(self, url, data):
        self.path(url).write_bytes(data)

    def denied_sink(self):
        return self.server.url('denied')

    def sink_nowhere(self):
        return self.server.url('nowhere/file')


class TestVsftpd(
    VsftpdHooks,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """As it comes."""


class TestVsftpdTLS(
    VsftpdHooks,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """With TLS on both connections, and the same session."""

    tls = True


class TestVsftpdNoREST(
    VsftpdHooks, conformance.SourceConformance, unittest.TestCase
):
    """Without REST."""

    lines = ('cmds_denied=REST',)
    source_capabilities = base.Capability.READ


class TestVsftpdOld(
    VsftpdHooks,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """With nothing that came after RFC 959, and so no size."""

    lines = ('cmds_denied=EPSV,SIZE,MDTM,FEAT,MLSD',)
