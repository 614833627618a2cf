# SPDX-License-Identifier: Apache-2.0
"""The iscsi driver keeps the contract with the kernel's initiator."""

from __future__ import annotations

import unittest

import pytest

from oslo_transfer.drivers.iscsi import driver
from oslo_transfer.testing import attach_suite
from oslo_transfer.testing import harness
from tests.guest import kernel

pytestmark = pytest.mark.functional

_SECTOR = 512


class TestKernelAttachments(attach_suite.AttachConformance, unittest.TestCase):
    """LUNs of LIO as block devices."""

    driver_class = driver.ISCSIDriver

    @pytest.fixture(autouse=True)
    def _targets(self, lio):
        self.lio = lio

    def make_driver(self):
        made = super().make_driver()
        self.conf.set_override('connect_timeout', 5.0, group='oslo_transfer')
        for name, value in kernel.OPTIONS.items():
            self.conf.set_override(name, value, group='oslo_transfer_iscsi')
        return made

    def put(self, data):
        size = -(-len(data) // _SECTOR) * _SECTOR
        return self.lio.lun(content=data, size=size).url()

    def missing(self):
        return self.put(bytes(_SECTOR)).replace('/iqn.', '/iqn.none.')

    def with_secrets(self, url):
        """A URL of this scheme has no query; os-brick logs user names."""
        _user, password, _token = harness.SECRETS
        return url.replace('://', f'://reader:{password}@')

    def attached(self):
        return [str(each) for each in kernel.sessions()] + kernel.disks()

    def hold(self, attachment):
        file = open(attachment.path, 'rb')
        return file.close
