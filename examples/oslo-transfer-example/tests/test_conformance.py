# SPDX-License-Identifier: Apache-2.0
"""The driver keeps the contract."""

import itertools
import os
import pathlib
import tempfile
import unittest
import zipfile

from oslo_transfer.testing import conformance
import oslo_transfer_example


class ZipHooks(conformance.Harness):
    """Archives in a directory that the test has for itself."""

    driver_class = oslo_transfer_example.ZipDriver
    compression = zipfile.ZIP_DEFLATED

    def setUp(self):
        super().setUp()
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.conf.set_override(
            'directory', directory, group='oslo_transfer_zip'
        )
        self.directory = pathlib.Path(directory)
        self.numbers = itertools.count()

    def put(self, data):
        """Make an archive with a member."""
        url = f'zip://archive{next(self.numbers)}/some/member.raw'
        self.change(url, data)
        return url

    def missing(self):
        """A member that does not exist, of an archive that does."""
        return self.put(b'').replace('member', 'other')

    def change(self, url, data):
        """Replace the archive by another one."""
        path = self.directory / f'{url.split("/")[2]}.zip'
        new = self.directory / 'new'
        with zipfile.ZipFile(new, 'w', self.compression) as archive:
            archive.writestr('some/member.raw', data)
        os.replace(new, path)


class TestCompressed(
    ZipHooks,
    conformance.DriverConformance,
    conformance.SourceConformance,
    unittest.TestCase,
):
    """Members that are compressed."""


class TestStored(ZipHooks, conformance.SourceConformance, unittest.TestCase):
    """Members that are not."""

    compression = zipfile.ZIP_STORED


if __name__ == '__main__':
    unittest.main()
