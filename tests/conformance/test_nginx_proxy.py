# SPDX-License-Identifier: Apache-2.0
"""The HTTP driver keeps the contract through nginx in a proxy's place."""

from __future__ import annotations

import contextlib
import unittest

from oslo_transfer import exceptions
from oslo_transfer.testing import conformance
from oslo_transfer.testing import harness
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

    def test_change_while_a_stream_is_read(self):
        """It ends early: nginx has no other way to say it.

        Who asks again is told that there is another version.
        """
        old = harness.pattern(5 * harness.MIB // 2)
        url = self.put(old)
        source = self.open(url)
        with source.stream(0, None) as stream:
            found = self.take(stream, 64 * harness.KIB)
            self.change(url, harness.pattern(len(old), 'new'))
            with contextlib.suppress(exceptions.Unavailable):
                found += self.drain(stream)
        self.assertEqual(old[: len(found)], found)
        if len(found) < len(old):
            self.assert_fails(
                exceptions.SourceChanged,
                self.read,
                source,
                len(found),
                len(old) - len(found),
            )


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
