# SPDX-License-Identifier: Apache-2.0
"""What dd reads keeps the contract of sources, and of those that fill."""

from __future__ import annotations

import unittest

from oslo_transfer.drivers import base
from oslo_transfer.drivers import dd
from oslo_transfer.testing import conformance
from tests.conformance import test_file
from tests.servers import dd_lab


class FileDriver(base.Driver):
    """Files as if they had been attached."""

    name = 'ddtest'
    schemes = ('file',)
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.EXTENTS
        | base.Capability.FILL
    )

    def open_source(self, endpoint, ctx):
        return dd.DdSource(
            dd_lab.attachment(endpoint.path, source=str(endpoint)), ctx
        )


class TestFile(
    test_file.FileHooks,
    conformance.SourceConformance,
    conformance.FillingConformance,
    unittest.TestCase,
):
    """Files."""

    driver_class = FileDriver

    def test_filling_does_not_trust(self):
        """What is held is compared with the source where it ends."""
        data = conformance.pattern(3 * (1 << 20))
        wrong = bytearray(data[: 2 * (1 << 20)])
        wrong[-1] ^= 1
        into = self.target(len(data), {0: bytes(wrong)})
        self.fill(self.put(data), into)
        self.assert_same(data, into.content)
        self.assertNotIn('resumed', into.by_origin)
