# SPDX-License-Identifier: Apache-2.0
"""The file driver keeps the contract."""

from __future__ import annotations

import fcntl
import itertools
import os
import pathlib
import tempfile
import unittest

from oslo_transfer.drivers import base
from oslo_transfer.drivers import file
from oslo_transfer.testing import conformance

_FICLONE = 0x40049409  # linux/fs.h


def has_reflinks(directory):
    """Whether files in a directory can share blocks."""
    with (
        tempfile.TemporaryFile(dir=directory) as source,
        tempfile.TemporaryFile(dir=directory) as target,
    ):
        source.write(bytes(1 << 16))
        source.flush()
        try:
            fcntl.ioctl(target, _FICLONE, source.fileno())
        except OSError:
            return False
    return True


class FileHooks(conformance.Harness):
    """Files in a directory that the test has for itself."""

    driver_class: type[base.Driver] = file.FileDriver
    # That is up to the file system; the functional tests make their own.
    fills = has_reflinks(tempfile.gettempdir())

    def setUp(self):
        super().setUp()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.names = itertools.count()
        self.addCleanup(self.check_directory)

    def check_directory(self):
        """Nothing is left but what was kept on purpose."""
        left = [each for each in os.listdir(self.directory) if each[0] == '.']
        if 'test_abort' not in self.id():
            self.assertEqual([], left)

    def url(self):
        return str(self.directory / f'file {next(self.names)}')

    def path(self, url):
        return pathlib.Path(url)

    def put(self, data):
        url = self.url()
        self.path(url).write_bytes(data)
        return url

    def missing(self):
        return self.url()

    def change(self, url, data):
        path = self.path(url)
        before = path.stat().st_mtime_ns
        path.write_bytes(data)
        # The kernel's clock ticks slowly.
        os.utime(path, ns=(before + 10**9, before + 10**9))

    def big_sparse(self, size, runs):
        url = self.url()
        with open(self.path(url), 'xb') as sparse:
            sparse.truncate(size)
            for offset, run in runs.items():
                sparse.seek(offset)
                sparse.write(run)
        return url

    def unusable(self):
        return f'{self.directory}/'

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
        return str(self.directory / 'nowhere' / 'file')

    def denied(self):
        if os.geteuid() == 0:
            return None  # Nothing is denied.
        url = self.put(b'secret')
        self.path(url).chmod(0)
        return url

    def denied_sink(self):
        return '/sys/conformance'  # Not even root makes files there.

    def part_path(self):
        return f'{self.url()}.part'


class TestFile(
    FileHooks,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.SinkConformance,
    conformance.AttachConformance,
    conformance.FillConformance,
    unittest.TestCase,
):
    """Paths."""


class TestFileURL(
    FileHooks,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """URLs of paths."""

    def url(self):
        return pathlib.Path(super().url()).as_uri()

    def path(self, url):
        return pathlib.Path(url.removeprefix('file://').replace('%20', ' '))

    def missing(self):
        return 'file://localhost/nonexistent/file'

    def sink_nowhere(self):
        return 'file:///nonexistent/file'


class TestSymbolicLink(
    FileHooks, conformance.SourceConformance, unittest.TestCase
):
    """Sources may be named by symbolic links."""

    def put(self, data):
        link = self.url()
        os.symlink(super().put(data), link)
        return link

    def missing(self):
        link = self.url()
        os.symlink(self.url(), link)
        return link
