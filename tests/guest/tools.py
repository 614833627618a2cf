# SPDX-License-Identifier: Apache-2.0
"""Commands of the guest, and waiting."""

from __future__ import annotations

from collections.abc import Callable
import os
import subprocess
import time

_SECONDS = 60.0


def run(
    *command: str | os.PathLike[str], check: bool = True, given: str = ''
) -> str:
    """Run a command to its end; returns what it prints.

    :param given: its standard input
    :raises RuntimeError: it fails
    """
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        errors='replace',
        check=False,
        timeout=_SECONDS,
    )
    if check and done.returncode:
        raise RuntimeError(
            f'{command} ended with {done.returncode}: '
            f'{done.stdout}{done.stderr}'
        )
    return done.stdout


def until(
    condition: Callable[[], object], what: str, seconds: float = 30.0
) -> None:
    """Wait until something is the case.

    :raises TimeoutError: it is not
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f'{what}: not within {seconds:.0f} s')
        time.sleep(0.05)
