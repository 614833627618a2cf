# SPDX-License-Identifier: Apache-2.0
"""The HTTP driver keeps the contract with the library's own HTTP export."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import tempfile
import unittest

from oslo_transfer.cache import plainfile
from oslo_transfer.drivers.http import driver
from oslo_transfer.export import http_server
from oslo_transfer.export import listening
from oslo_transfer.testing import conformance


class ExportHooks(conformance.Harness):
    """Files that are exported, each for the length of a test."""

    driver_class = driver.HTTPDriver

    def setUp(self):
        super().setUp()
        self.stack = self.enterContext(contextlib.ExitStack())
        self.root = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        self.server = self.enterContext(
            http_server.HttpServer({}, listening.Address())
        )
        self.names = itertools.count()

    def export(self, name, path):
        image = plainfile.PlainFile(os.fspath(path))
        self.stack.callback(image.close)
        self.server.add(name, image)
        return self.server.url_of(name)

    def new(self):
        return f'file{next(self.names)}'

    def put(self, data):
        name = self.new()
        path = self.root / name
        path.write_bytes(data)
        return self.export(name, path)

    def missing(self):
        return self.server.url_of('missing')

    def change(self, url, data):
        name = url.rpartition('/')[2]
        self.server.remove(name)
        path = self.root / self.new()
        path.write_bytes(data)
        self.export(name, path)

    def big_sparse(self, size, runs):
        name = self.new()
        with open(self.root / name, 'xb') as sparse:
            sparse.truncate(size)
            for offset, run in runs.items():
                sparse.seek(offset)
                sparse.write(run)
        return self.export(name, self.root / name)


class TestExport(
    ExportHooks, conformance.SourceConformance, unittest.TestCase
):
    """With all that it can do."""
