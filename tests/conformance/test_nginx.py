# SPDX-License-Identifier: Apache-2.0
"""The HTTP driver keeps the contract with a server of the real world."""

from __future__ import annotations

import itertools
import os
import pathlib
import tempfile
import unittest


from oslo_transfer.drivers import base
from oslo_transfer.drivers.http import driver
from oslo_transfer.testing import conformance
from tests.conformance import test_http
from tests import groups
from tests.servers import nginx

pytestmark = groups.marks('http', nginx.Nginx.found() is not None)

# nginx itself does not look at If-None-Match of a PUT.
_LOCATION = """
    set $taken "";
    if (-f $request_filename) {
        set $taken "$request_method$http_if_none_match";
    }
    if ($taken = "PUT*") { return 412; }
    if ($request_uri ~ ^/denied) { return 403; }
"""


class NginxHooks(conformance.Harness):
    """Files in a directory that nginx serves."""

    driver_class = driver.HTTPDriver
    #: See tests.servers.nginx.
    options: dict = {}
    tls = False

    root: pathlib.Path
    server: nginx.Nginx
    names: itertools.count

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.root = pathlib.Path(directory)
        cls.server = cls.enterClassContext(
            nginx.Nginx(
                directory,
                put=True,
                location=_LOCATION,
                certificate=test_http.authority().pair() if cls.tls else None,
                **cls.options,
            )
        )
        cls.names = itertools.count()

    def setUp(self):
        super().setUp()
        if self.tls:
            self.conf.set_override(
                'ca_file',
                test_http.authority().ca_file,
                group='oslo_transfer_http',
            )

    def url(self):
        return self.server.url(f'/file{next(self.names)}')

    def path(self, url):
        return self.root / url.rpartition('/')[2]

    def put(self, data):
        url = self.url()
        self.path(url).write_bytes(data)
        return url

    def missing(self):
        return self.server.url('/missing')

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
        return self.server.url('/denied')

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
        return self.server.url('/denied')


class TestNginx(
    NginxHooks,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """As it comes."""


class Piecemeal(NginxHooks):
    """Opened to be read here and there."""

    def context(self, **changes):
        return super().context(**{'piecemeal': True, **changes})


class TestNginxPiecemeal(
    Piecemeal, conformance.SourceConformance, unittest.TestCase
):
    """Opening it has one byte sent, and no more."""

    def test_opening_has_nothing_sent_in_vain(self):
        url = self.put(conformance.pattern(1 << 20))
        # The one worker writes of the first before it serves the second.
        for each in (url, self.put(b'data')):
            self.open(each).close()
        log = (self.server.directory / 'access.log').read_text().splitlines()
        name = url.rpartition('/')[2]
        (line,) = (each for each in log if f'/{name} ' in each)
        self.assertIn('" 206 1 ', line)


class TestNginxPiecemealNoRanges(
    Piecemeal, conformance.SourceConformance, unittest.TestCase
):
    """Without ranges it can be read as a whole."""

    options = {'ranges': False}
    source_capabilities = base.Capability.READ


class TestNginxTLS(
    NginxHooks,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """With TLS."""

    tls = True


class TestNginxNoRanges(
    NginxHooks, conformance.SourceConformance, unittest.TestCase
):
    """Without ranges."""

    options = {'ranges': False}
    source_capabilities = base.Capability.READ
