# SPDX-License-Identifier: Apache-2.0
"""The HTTP driver keeps the contract, whatever the server can do."""

from __future__ import annotations

import atexit
import functools
import itertools
import tempfile
import unittest
import urllib.parse

from oslo_transfer.drivers import base
from oslo_transfer.drivers.http import driver
from oslo_transfer.testing import conformance
from tests.servers import certs
from tests.servers import child
from tests.servers import http
from tests.servers import resource


class Upload(resource.Upload):
    """Takes a PUT, and minds If-None-Match."""

    def __call__(self, request, conn):
        exists = request.path in self.server.uploads
        if {'content-length', 'transfer-encoding'} <= request.headers.keys():
            conn.reply(400)  # As others do: two lengths are one too many.
        elif exists and request.headers.get('if-none-match') == '*':
            conn.reply(412)
        else:
            super().__call__(request, conn)


@functools.cache
def authority():
    """A CA, made once; its directory goes with the process."""
    directory = tempfile.TemporaryDirectory()
    atexit.register(directory.cleanup)
    return certs.Certs(directory.name)


class HTTPHooks(conformance.Harness):
    """Objects of a server that the test has for itself."""

    driver_class = driver.HTTPDriver
    #: How the server serves them, see Resource.
    options: dict = {}
    tls = False

    def setUp(self):
        super().setUp()
        tls = None
        if self.tls:
            tls = authority().server_context()
            self.conf.set_override(
                'ca_file', authority().ca_file, group='oslo_transfer_http'
            )
        self.server = self.enterContext(http.ScriptedHTTPServer(tls))
        self.names = itertools.count()

    def path(self):
        return f'/file{next(self.names)}'

    def serve(self, path, data, size=None):
        options = {'etag': f'"{next(self.names)}"', **self.options}
        if options['etag'] == 'weak':
            options['etag'] = f'W/"{next(self.names)}"'
        return self.server.put(path, data, size, **options)

    def put(self, data):
        return self.serve(self.path(), data)

    def missing(self):
        return self.server.url('/missing')

    def change(self, url, data):
        self.serve(urllib.parse.urlsplit(url).path, data)

    def big_sparse(self, size, runs):
        def content(offset, length):
            data = bytearray(length)
            for start, run in runs.items():
                first = max(start, offset)
                last = min(start + len(run), offset + length)
                if first < last:
                    data[first - offset : last - offset] = run[
                        first - start : last - start
                    ]
            return bytes(data)

        return self.serve(self.path(), content, size)

    # Uploads

    def accept(self, handler):
        path = self.path()
        self.server._puts[path] = handler
        return self.server.url(path)

    def sink_url(self):
        return self.accept(Upload(self.server))

    def read_sink(self, url):
        return self.server.uploads.get(urllib.parse.urlsplit(url).path)

    def write_sink(self, url, data):
        self.server.uploads[urllib.parse.urlsplit(url).path] = data

    def sink_nowhere(self):
        return self.server.url('/nowhere/file')

    def denied_sink(self):
        url = self.sink_url()
        path = urllib.parse.urlsplit(url).path
        self.server.require_token(path, {'token'})
        return url

    def small_sink(self, capacity):
        return self.accept(Upload(self.server, early_error=(413, capacity)))


class HTTPFaults(HTTPHooks):
    """What a server can do wrong."""

    def stalled(self):
        def answer(_request, conn):
            conn.send_head(200, {'Content-Length': '1000000'})
            conn.send(bytes(1000))
            conn.stall()

        return self.server.serve(self.path(), answer)

    def silent(self):
        return self.server.serve(
            self.path(), lambda _request, conn: conn.stall()
        )

    def unreachable(self):
        return f'http://127.0.0.1:{child.free_port()}/file'

    def denied(self):
        url = self.put(b'secret')
        path = urllib.parse.urlsplit(url).path
        self.server.require_token(path, {'token'})
        return url

    def broken(self, data, at):
        path = self.path()
        whole = resource.Resource(data, len(data), **self.options)

        def answer(request, conn):
            whole.answer(request, conn, stop_at=at)
            conn.reset()

        return self.server.serve(path, answer)

    def nonsense(self):
        def answer(_request, conn):
            conn.send_head(200, {'Transfer-Encoding': 'chunked'})
            conn.send_chunk(bytes(1000))
            conn.send_raw(b'nonsense\r\n')

        return self.server.serve(self.path(), answer)

    def vanish(self):
        self.server.close()
        return True

    def stalled_sink(self):
        def take(request, conn):
            request.body.read(1000)
            conn.stall()

        return self.accept(take)

    def broken_sink(self):
        def take(request, conn):
            request.body.read(1000)
            conn.reset()

        return self.accept(take)


class TestHTTP(
    HTTPFaults,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """A server that does everything right."""


class TestHTTPS(
    HTTPFaults,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """The same with TLS."""

    tls = True


class TestWeak(HTTPHooks, conformance.SourceConformance, unittest.TestCase):
    """A server with weak entity tags."""

    options = {'etag': 'weak'}


class TestNoValidator(
    HTTPHooks, conformance.SourceConformance, unittest.TestCase
):
    """A server that gives nothing to tell versions apart by."""

    options = {'etag': None}


class TestNoRanges(
    HTTPHooks, conformance.SourceConformance, unittest.TestCase
):
    """A server that says that it has no ranges."""

    options = {'ranges': False, 'headers': {'Accept-Ranges': 'none'}}
    source_capabilities = base.Capability.READ


class TestRangesIgnored(
    HTTPHooks, conformance.SourceConformance, unittest.TestCase
):
    """A server that has no ranges and does not say so."""

    options = {'ranges': False}
    source_capabilities = base.Capability.READ


class TestChunked(HTTPHooks, conformance.SourceConformance, unittest.TestCase):
    """A server that does not know the size before the end."""

    options = {'chunked': True, 'ranges': False}
    source_capabilities = base.Capability.READ
    sized = False

    def stalled(self):
        def answer(_request, conn):
            conn.send_head(200, {'Transfer-Encoding': 'chunked'})
            # The end of the chunk is not needed to read what is in it.
            conn.send_raw(b'3e8\r\n')
            conn.send(bytes(1000))
            conn.stall()

        return self.server.serve(self.path(), answer)

    broken = HTTPFaults.broken


class TestUntilClose(
    HTTPHooks, conformance.SourceConformance, unittest.TestCase
):
    """A server that ends a body by hanging up."""

    options = {'content_length': False, 'ranges': False}
    source_capabilities = base.Capability.READ
    sized = False

    broken = HTTPFaults.broken
