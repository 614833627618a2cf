# SPDX-License-Identifier: Apache-2.0
"""The benchmarks by name, and what each of them gives."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import typing

if typing.TYPE_CHECKING:
    from bench import lab

Benchmark = Callable[['lab.Lab'], Iterator['Row']]

#: All benchmarks, in the order in which they run.
BENCHMARKS: dict[str, Benchmark] = {}


class Unmeasurable(Exception):  # noqa: N818
    """A row that this machine cannot give; says why."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One ratio of a cost: lower is better, whatever is measured.

    :ivar name: the benchmark's
    :ivar ours: what it costs with this library
    :ivar peer: what it costs with the peer
    :ivar peer_name: what is compared with
    :ivar target: the ratio that is to be reached, if one is
    :ivar unit: of both costs
    """

    name: str
    ours: float
    peer: float
    peer_name: str
    target: float | None = None
    unit: str = 's'

    @property
    def ratio(self) -> float:
        """Ours / peer."""
        return self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        return None if self.target is None else self.ratio <= self.target

    def as_json(self) -> dict[str, object]:
        """The fields that a reader of the file relies on."""
        return {
            'name': self.name,
            'ours': self.ours,
            'peer': self.peer,
            'peer_name': self.peer_name,
            'ratio': self.ratio,
            'target': self.target,
            'met': self.met,
        }


def benchmark(name: str) -> Callable[[Benchmark], Benchmark]:
    """Register a generator of rows under a name."""

    def register(function: Benchmark) -> Benchmark:
        BENCHMARKS[name] = function
        return function

    return register
