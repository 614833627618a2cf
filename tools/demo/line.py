# SPDX-License-Identifier: Apache-2.0
"""A long line to a server on this host, which the tests have, too."""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys
import typing

_ROOT = pathlib.Path(__file__).parents[2]


def start(*words: str | os.PathLike[str]) -> subprocess.Popen[str]:
    """Start a module of the tests as a program."""
    command: Sequence[str | os.PathLike[str]] = [sys.executable, '-m', *words]
    return subprocess.Popen(
        command,
        cwd=_ROOT,
        env={**os.environ, 'PYTHONPATH': str(_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Line:
    """Passes on what comes, at a rate and later; a context manager.

    :param port: of the server
    :param rate: bits per second each way
    :param round_trip: seconds
    """

    def __init__(self, port: int, rate: int, round_trip: float) -> None:
        self._process = start(
            'tests.servers.farline', str(port), str(rate), str(round_trip)
        )
        assert self._process.stdin and self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout
        #: Its near end.
        self.port = int(self._output.readline())

    def __enter__(self) -> typing.Self:
        return self

    @property
    def sent(self) -> int:
        """Bytes to clients so far."""
        self._input.write('\n')
        self._input.flush()
        return int(self._output.readline())

    def cut(self) -> None:
        """Have nothing come by it any more."""
        self._process.kill()

    def close(self) -> None:
        """End it."""
        self.cut()
        self._process.communicate()

    def __exit__(self, *_error: object) -> None:
        self.close()
