# SPDX-License-Identifier: Apache-2.0
"""No driver and no strategy goes without the conformance suite."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import unittest

import pytest

from oslo_transfer import _loader
from oslo_transfer.drivers import base
from oslo_transfer.testing import conformance
from tests import conformance as package


def entry_points(group):
    """What this package registers; others test their own."""
    found = importlib.metadata.distribution('oslo.transfer').entry_points
    return sorted(found.select(group=group), key=lambda point: point.name)


def bound_classes():
    """All test classes of this directory that bind a suite."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f'{package.__name__}.{module.name}')
    todo = [conformance.Harness]
    while todo:
        cls = todo.pop()
        todo.extend(cls.__subclasses__())
        if issubclass(cls, unittest.TestCase):
            yield cls


@pytest.mark.parametrize(
    'point', entry_points(_loader.DRIVERS), ids=lambda point: point.name
)
def test_drivers(point):
    driver = point.load()
    bound = [
        cls
        for cls in bound_classes()
        if getattr(cls, 'driver_class', None) is driver
    ]
    suites = {
        conformance.SourceConformance: base.Capability.READ,
        conformance.SinkConformance: base.Capability.WRITE,
        conformance.AttachConformance: base.Capability.ATTACH,
        conformance.FillConformance: (
            base.Capability.CLONE | base.Capability.LOCAL_FILL
        ),
        conformance.FillingConformance: base.Capability.FILL,
    }
    for suite, flags in suites.items():
        if driver.capabilities & flags:
            assert any(issubclass(cls, suite) for cls in bound)
    assert any(issubclass(cls, conformance.DriverConformance) for cls in bound)
    assert point.name in driver.schemes


@pytest.mark.parametrize(
    'point', entry_points(_loader.STRATEGIES), ids=lambda point: point.name
)
def test_strategies(point):
    strategy = point.load()
    assert strategy.name == point.name
    suite = (
        conformance.AttachingConformance
        if strategy.attaching
        else conformance.StrategyConformance
    )
    assert any(
        issubclass(cls, suite)
        and getattr(cls, 'strategy_class', None) is strategy
        for cls in bound_classes()
    )


def test_there_is_something_to_test():
    assert entry_points(_loader.DRIVERS)
    assert entry_points(_loader.STRATEGIES)


def test_suites_are_no_tests():
    """They are collected where they are bound, and nowhere else."""
    for name in conformance.__all__:
        suite = getattr(conformance, name)
        if isinstance(suite, type):
            assert not issubclass(suite, unittest.TestCase)
            assert not name.startswith('Test')
