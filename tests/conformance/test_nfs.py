# SPDX-License-Identifier: Apache-2.0
"""The NFS driver keeps the contract, where a link stands for a mount.

With a kernel and a server the guest tests it, see tests/guest.
"""

from __future__ import annotations

import os
import pathlib
import unittest
from unittest import mock
import urllib.parse

from oslo_transfer.drivers.nfs import driver
from oslo_transfer.drivers.nfs import mount
from oslo_transfer import exceptions
from oslo_transfer.testing import conformance
from tests.conformance import test_file

_SERVER = 'nfs://nfs.example.org'


def fake_mount(share, directory, writing, ctx):
    """Make a link to what would be exported."""
    exported = share.export.partition(':')[2]
    os.makedirs(directory)
    if not os.path.isdir(exported):
        raise exceptions.NotFound(f'{share.where}: no such export')
    point = os.path.join(directory, 'point')
    os.symlink(exported, point)
    return point


def fake_mounted(directory):
    point = os.path.join(directory, 'point')
    return [point] if os.path.islink(point) else []


class NFSHooks(test_file.FileHooks):
    """Files in a directory that a server would export."""

    driver_class = driver.NFSDriver

    def setUp(self):
        super().setUp()
        self.conf.set_override(
            'state_path', self.temporary(), group='oslo_transfer'
        )
        for name, fake in {
            'mount': fake_mount,
            '_mounted': fake_mounted,
            '_unmount': lambda point, _ctx, _force: os.unlink(point),
        }.items():
            self.enterContext(mock.patch.object(mount, name, fake))

    def url(self):
        return self.url_of(super().url())

    def url_of(self, path):
        return _SERVER + urllib.parse.quote(os.fspath(path))

    def path(self, url):
        path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
        return pathlib.Path(path)

    def unusable(self):
        return self.url_of(f'{self.directory}/')

    def sink_nowhere(self):
        return self.url_of(self.directory / 'nowhere' / 'file')

    def denied_sink(self):
        return self.url_of('/sys/conformance')

    def attached(self):
        mounts = self.conf.oslo_transfer.state_path + '/mounts'
        return os.listdir(mounts) if os.path.isdir(mounts) else []


class TestNFS(
    NFSHooks,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.SinkConformance,
    conformance.AttachConformance,
    unittest.TestCase,
):
    """Files of a server."""
