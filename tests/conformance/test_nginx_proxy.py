# SPDX-License-Identifier: Apache-2.0
"""The HTTP driver keeps the contract through nginx in a proxy's place."""

from __future__ import annotations

import unittest

from oslo_transfer.testing import conformance
from tests.conformance import test_nginx
from tests import groups
from tests.servers import nginx_proxy

pytestmark = groups.marks('http', nginx_proxy.NginxProxy.found() is not None)


class Through(test_nginx.NginxHooks):
    """Files that nginx serves, by the configuration of the manual."""

    proxy: nginx_proxy.NginxProxy

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.proxy = cls.enterClassContext(
            nginx_proxy.NginxProxy(
                f'{cls.server.host}:{cls.server.port}', '127.0.0.0/8'
            )
        )

    def url(self):
        return self.proxy.of(super().url())

    def missing(self):
        return self.proxy.of(super().missing())

    def denied(self):
        return self.proxy.of(super().denied())


class TestNginxProxy(
    Through, conformance.SourceConformance, unittest.TestCase
):
    """As it comes."""


class TestNginxProxyPiecemeal(
    Through,
    test_nginx.Piecemeal,
    conformance.SourceConformance,
    unittest.TestCase,
):
    """Opened to be read here and there."""
