# SPDX-License-Identifier: Apache-2.0
"""The command line: run benchmarks, print a table, write JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import datetime
import importlib
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import typing

from bench import lab
from bench import measure
from bench import registry

# Modules that register benchmarks, in the order of the report.
_THEMES = (
    'http',
    'ftp',
    'sftp',
    'torrent',
    'swarm',
    'mirrors',
    'file',
    'dd',
    'iscsi',
    'nbd',
    'cache',
    'export_nbd',
    'export_http',
    'boot',
    'promote',
    'wan',
    'proxy',
    'process',
)
_SIZE = 1024
_BUSY = 0.5
_HEAD = ('name', 'ours', 'peer', '', 'ratio', 'target', 'met')


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='tools/bench.sh',
        description='Prints ratios to other tools, measured side by side: '
        'of a cost, so lower is better.',
    )
    parser.add_argument('names', metavar='NAME', nargs='*')
    parser.add_argument(
        '--json', metavar='FILE', type=pathlib.Path, help='also write this'
    )
    parser.add_argument(
        '--runs', type=int, default=5, help='of each contestant (default: 5)'
    )
    parser.add_argument(
        '--size',
        metavar='MIB',
        type=int,
        default=_SIZE,
        help=f'of the image, for quick trials (default: {_SIZE})',
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in registry.BENCHMARKS:
            parser.error(
                f'no benchmark has the name {name}; there are '
                f'{", ".join(registry.BENCHMARKS)}'
            )
    if arguments.runs < 1 or arguments.size < 64:
        parser.error('--runs must be at least 1, --size at least 64')
    return arguments


def _cells(row: registry.Row) -> tuple[str, ...]:
    return (
        row.name,
        f'{row.ours:.3f} {row.unit}',
        f'{row.peer:.3f} {row.unit}',
        row.peer_name,
        f'{row.ratio:.2f}',
        '' if row.target is None else f'{row.target:g}',
        {None: '', True: 'yes', False: 'NO'}[row.met],
    )


def _table(rows: Sequence[registry.Row]) -> str:
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        '  '.join(
            # Numbers to the right, words to the left.
            cell.rjust(width) if index in (1, 2, 4, 5) else cell.ljust(width)
            for index, (cell, width) in enumerate(
                zip(line, widths, strict=True)
            )
        ).rstrip()
        for line in lines
    )


def _machine() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return (
        f'{os.cpu_count()} CPUs, {platform.system()} {platform.release()}, '
        f'Python {platform.python_version()}, {now:%Y-%m-%d %H:%M} UTC'
    )


def _stop(number: int, _frame: typing.Any) -> typing.NoReturn:
    sys.exit(128 + number)


def main() -> None:
    """Run what is asked for."""
    for theme in _THEMES:
        importlib.import_module(f'bench.{theme}')
    arguments = _arguments()
    # What was started and made is taken away then, too.
    signal.signal(signal.SIGTERM, _stop)
    names = arguments.names or list(registry.BENCHMARKS)
    rows: list[registry.Row] = []
    left_out, failed = [], []
    busy = os.getloadavg()[0]
    with lab.Lab(arguments.runs, arguments.size * lab.MIB) as here:
        for name in dict.fromkeys(names):
            print(f'{name}:', flush=True)
            try:
                rows.extend(registry.BENCHMARKS[name](here))
            except registry.Unmeasurable as why:
                print(f'  left out: {why}')
                left_out.append(name)
            except (OSError, subprocess.CalledProcessError) as error:
                print(f'  failed: {measure.reason(error)}')
                failed.append(name)
    print(f'\n{_table(rows)}\n\n{_machine()}')
    # Ours has more threads than some peers, and needs the CPUs for them.
    if busy > _BUSY:
        print(f'the load was {busy:.1f} before: do not trust these ratios')
    if arguments.size != _SIZE:
        print(f'targets are for --size {_SIZE}')
    if left_out:
        print(f'left out: {", ".join(left_out)}')
    missed = [f'{r.name} ({r.peer_name})' for r in rows if r.met is False]
    print(f'missed: {", ".join(missed) or "none"}')
    if arguments.json is not None:
        found = [row.as_json() for row in rows]
        arguments.json.write_text(json.dumps(found, indent=2) + '\n')
    if failed:
        sys.exit(f'this library failed: {", ".join(failed)}')


main()
