# SPDX-License-Identifier: Apache-2.0
"""Wrong versions of the in-memory driver."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import typing
import unittest

from oslo_transfer.testing import harness
from tests.conformance import test_memory

# What takes away what mutants leave behind on purpose.
LEFT: list[Callable[[], object]] = []


@dataclasses.dataclass
class Mutant:
    """A method that does something wrong, and the test that tells."""

    owner: type
    method: str
    test: str
    wrong: typing.Callable
    case: type[unittest.TestCase]

    def check(self, monkeypatch):
        """See that the test passes, and fails with the mutant."""
        right = getattr(self.owner, self.method)

        def method(this, *args, **kwargs):
            return self.wrong(right, this, *args, **kwargs)

        result = unittest.TestResult()
        self.case(self.test).run(result)
        assert result.wasSuccessful(), result.failures + result.errors
        monkeypatch.setattr(self.owner, self.method, method)
        monkeypatch.setattr(harness, 'PATIENCE', 0.5)
        self.case(self.test).run(result)
        while LEFT:
            LEFT.pop()()
        assert not result.wasSuccessful()


def collector(mutants):
    """A decorator that puts mutants into a list."""

    def mutant(owner, method, test, case=test_memory.TestMemory):
        def register(wrong):
            mutants.append(Mutant(owner, method, test, wrong, case))
            return wrong

        return register

    return mutant


def name(mutant):
    """For pytest."""
    return mutant.wrong.__name__
