# SPDX-License-Identifier: Apache-2.0
"""A server that is a module of the demonstration."""

from __future__ import annotations

import os
import subprocess
import sys


class Program:
    """Runs it in a process of its own.

    It prints its port and serves until its input ends, so that it cannot
    outlive the demonstration.

    :param module: of this package
    :param arguments: those of the program
    """

    def __init__(
        self, module: str, *arguments: str | os.PathLike[str]
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-m', f'demo.{module}', *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        #: Where it listens, on ``localhost``.
        self.port = int(self._process.stdout.readline())

    def close(self) -> str:
        """End the process; returns what it prints in the end."""
        return self._process.communicate()[0]
