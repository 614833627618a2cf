# SPDX-License-Identifier: Apache-2.0
"""Contestants that run in turn, so that noise hits all of them alike."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import os
import pathlib
import shutil
import statistics
import subprocess
import time

from bench import registry


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Something whose time is taken.

    :ivar name: for the report
    :ivar run: does it once; returns seconds
    :ivar result: the file that it makes, removed before each run
    :ivar expected: a file that the result is compared with, once
    :ivar ours: whether it is this library, which has to work
    """

    name: str
    run: Callable[[], float]
    result: pathlib.Path | None = None
    expected: pathlib.Path | None = None
    ours: bool = False

    def timed(self) -> float:
        """Run once, from a clean start."""
        if self.result is not None:
            self.result.unlink(missing_ok=True)
        return self.run()

    def warm_up(self) -> None:
        """Run once, unmeasured, and look at the result.

        :raises Unmeasurable: a peer that is missing or fails
        """
        try:
            self.timed()
            self._check()
        except (OSError, subprocess.CalledProcessError) as error:
            if self.ours:
                raise
            raise registry.Unmeasurable(reason(error)) from error

    def _check(self) -> None:
        if self.result is None or self.expected is None:
            return
        # filecmp would be slow: it reads 8 KiB at a time.
        with (
            open(self.result, 'rb') as mine,
            open(self.expected, 'rb') as right,
        ):
            same = os.fstat(mine.fileno()).st_size == (
                os.fstat(right.fileno()).st_size
            )
            while same and (block := right.read(1 << 20)):
                same = mine.read(1 << 20) == block
        if not same:
            raise OSError(f'{self.name} made another file')


def reason(error: Exception) -> str:
    """Why something failed, in a line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors='replace').split('\n')
        last = [line.strip() for line in lines if line.strip()][-1:]
        return f'exit status {error.returncode}: {"".join(last)}'
    return str(error)


def program(
    *command: str | os.PathLike[str],
    then: Sequence[str | os.PathLike[str]] = (),
) -> Callable[[], float]:
    """A function that runs a program and returns its whole time.

    :param then: a second program, in the same time
    """

    def run() -> float:
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(f'{command[0]} is not installed')
        started = time.perf_counter()
        for each in (command, then):
            if each:
                subprocess.run(
                    each,
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
        return time.perf_counter() - started

    return run


def alternate(
    contestants: Sequence[Contestant], runs: int
) -> Mapping[str, float]:
    """Run all in turn, the other way round in every second round.

    Prints what it finds. A peer that does not work is left out.

    :returns: the median seconds of each that works
    """
    taking_part = []
    for contestant in contestants:
        try:
            contestant.warm_up()
        except registry.Unmeasurable as why:
            print(f'  left out: {contestant.name}: {why}')
            continue
        taking_part.append(contestant)
    times: dict[str, list[float]] = {each.name: [] for each in taking_part}
    for round_ in range(runs):
        for contestant in taking_part[:: -1 if round_ % 2 else 1]:
            times[contestant.name].append(contestant.timed())
    for contestant in contestants:
        if contestant.result is not None:
            with contextlib.suppress(OSError):
                contestant.result.unlink()
    return {name: report(name, found) for name, found in times.items()}


def report(name: str, found: Sequence[float], unit: str = 's') -> float:
    """Print the minimum and the median; return the median."""
    median = statistics.median(found)
    print(
        f'  {name:<42} min {min(found):8.3f}  median {median:8.3f} {unit}',
        flush=True,
    )
    return median
