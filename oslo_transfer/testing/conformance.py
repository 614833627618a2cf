# SPDX-License-Identifier: Apache-2.0
"""The conformance suite: does a driver, or a strategy, keep the contract?

Mix-ins that know neither a driver nor a test runner. A test class takes
:class:`DriverConformance` and one suite for each thing that its driver
declares, fills in the hooks, and derives from ``unittest.TestCase`` at
last::

    class TestExample(
        conformance.DriverConformance,
        conformance.SourceConformance,
        unittest.TestCase,
    ):
        driver_class = example.ExampleDriver

        def put(self, data): ...
        def missing(self): ...
        def change(self, url, data): ...

A declared capability is asserted; what is not declared has to raise
:class:`~oslo_transfer.exceptions.CapabilityMissing`. No test is skipped.
"""

from __future__ import annotations

from oslo_transfer.testing.attach_suite import AttachConformance
from oslo_transfer.testing.attaching_suite import AttachingConformance
from oslo_transfer.testing.driver_suite import DriverConformance
from oslo_transfer.testing.fill_suite import FillConformance
from oslo_transfer.testing.filling_suite import FillingConformance
from oslo_transfer.testing.harness import Harness
from oslo_transfer.testing.harness import pattern
from oslo_transfer.testing.harness import spread
from oslo_transfer.testing.sink_suite import SinkConformance
from oslo_transfer.testing.source_suite import SourceConformance
from oslo_transfer.testing.strategy_suite import StrategyConformance

__all__ = (
    'AttachConformance',
    'AttachingConformance',
    'DriverConformance',
    'FillConformance',
    'FillingConformance',
    'Harness',
    'SinkConformance',
    'SourceConformance',
    'StrategyConformance',
    'pattern',
    'spread',
)
