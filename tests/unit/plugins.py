# SPDX-License-Identifier: Apache-2.0
"""Packages that offer drivers and strategies, and processes that see them.

The packages are found by way of PYTHONPATH, as if pip had installed them.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[2]


def install(
    directory: pathlib.Path,
    name: str,
    entry_points: dict[str, list[str]],
    source: str = '',
) -> None:
    """Make a package with one module, both of that name.

    :param entry_points: lines of ``entry_points.txt`` by group
    """
    info = directory / f'{name}-1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n'
    )
    lines = []
    for group, points in entry_points.items():
        lines += [f'[{group}]', *points]
    (info / 'entry_points.txt').write_text('\n'.join(lines) + '\n')
    (directory / f'{name}.py').write_text(textwrap.dedent(source))


def run(
    script: str,
    *arguments: object,
    path: pathlib.Path | None = None,
    **environment: str,
) -> str:
    """Run Python code in a process of its own; return what it prints."""
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    if path is not None:
        paths.insert(0, str(path))
    child = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(script), *map(str, arguments)],
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join(filter(None, paths)),
            # stevedore keeps what it finds.
            'XDG_CACHE_HOME': str(path or '/dev/null'),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout
