# SPDX-License-Identifier: Apache-2.0
"""Rows of a guest: os-brick and the initiator of the kernel.

This host's kernel may have none, and what it has should be left alone. So
it happens in a virtual machine, that of the tests (tests/guest_lab).
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
import pathlib
import subprocess
import sys
import typing

from demo import scene
from demo import show
import oslo_transfer

_ROOT = pathlib.Path(__file__).parents[2]
# Longer than it takes to see that it was built before.
_PATIENCE = 5.0


@scene.act('LUNs of a guest with os-brick')
def inside(here: scene.Scene) -> Iterator[scene.Row]:
    """Boot it, and have it show what :mod:`demo.inside` does."""
    _build()
    program = pathlib.Path(__file__).with_name('inside.py').read_text()
    process = _lab('run', f"python3 - <<'PROGRAM'\n{program}\nPROGRAM")
    bar = show.Bar('iscsi, in a guest', 1)
    bar.end('boots')
    assert process.stdout
    told: list[dict[str, typing.Any]] = []
    other = []
    with process:
        for line in process.stdout:
            if not line.startswith('{'):
                other.append(line)
                continue
            told.append(json.loads(line))
            bar.end(told[-1]['what'])
    rows = [each for each in told if 'result' in each]
    if process.returncode or not rows:
        raise scene.Broken(''.join(other))
    for each in rows:
        result = oslo_transfer.TransferResult(
            **{**each['result'], 'attachment': None, 'attempts': ()}
        )
        yield scene.Row(
            'iscsi, guest', each['what'], result, tuple(each['notes'])
        )


def _build() -> None:
    """Make it, if it is not there.

    :raises Waits: that cannot be done here
    """
    process = _lab('build')
    try:
        output, _ = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        print('making the guest, once; that takes some minutes', flush=True)
        output, _ = process.communicate()
    if process.returncode:
        reason = output.strip().rpartition('\n')[2].rpartition('error: ')[2]
        raise scene.Waits(f'a virtual machine: {reason}')


def _lab(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-m', 'tests.guest_lab', *words],
        cwd=_ROOT,
        env={**os.environ, 'PYTHONPATH': str(_ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
