# SPDX-License-Identifier: Apache-2.0
"""The command line: show all rows, then the table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import shutil
import signal
import subprocess
import sys
import time
import typing

from demo import images
from demo import scene
from demo import show
from oslo_transfer import exceptions

# Modules that register rows, in the order of the table.
_THEMES = (
    *('remote', 'torrents', 'swarm', 'web', 'mirrors', 'local', 'lun'),
    *('boot', 'guest', 'centers'),
)
_HEAD = (
    'protocol',
    'what',
    'strategy',
    'bytes',
    'seconds',
    'MB/s',
    'bytes came from',
    'sha512 verified',
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='tools/demo.sh',
        description='Copies images over every protocol, and shows it.',
    )
    parser.add_argument(
        '--size',
        metavar='MIB',
        type=int,
        default=256,
        help='of the disk, at least 256 (default: 256)',
    )
    arguments = parser.parse_args()
    if arguments.size < 256:
        parser.error('--size must be at least 256')
    return arguments


def _cells(row: scene.Row) -> tuple[str, ...]:
    if row.copied is None:
        return (row.protocol, row.what, '(a plan)', *('' for _ in _HEAD[3:]))
    result = row.result
    strategy = result.strategy or '(nothing to do)'
    if result.method not in ('read', 'reflink'):
        strategy = f'{strategy}, {result.method}'
    verified = 'yes' if result.verified or result.reused else 'NO'
    if result.method == 'attach':
        verified = 'used in place'
    return (
        row.protocol,
        row.what,
        strategy,
        f'{result.size:,}',
        f'{result.seconds:.2f}',
        f'{result.size / result.seconds / 1e6:,.0f}',
        show.origins(result.bytes_by_origin),
        verified,
    )


def _check_qcow2(here: scene.Scene) -> str:
    """Have QEMU look at the image, if it is there."""
    if shutil.which('qemu-img') is None:
        return 'not checked, for qemu-img is not installed'
    for command in (
        ['check', '-q', str(here.qcow2.path)],
        ['compare', '-q', str(here.raw.path), str(here.qcow2.path)],
    ):
        done = subprocess.run(
            ['qemu-img', *command], capture_output=True, text=True
        )
        if done.returncode:
            raise scene.Broken(f'qemu-img: {done.stdout}{done.stderr}')
    return 'qemu-img finds it good and equal to the raw one'


def _stop(number: int, _frame: typing.Any) -> typing.NoReturn:
    sys.exit(128 + number)


def _report(rows: Sequence[scene.Row], waiting: Sequence[str]) -> None:
    print(f'\n{show.table(_HEAD, [_cells(row) for row in rows])}\n')
    for row in rows:
        for note in row.notes:
            print(f'{row.protocol}, {row.what}: {note}')
    for words in waiting:
        print(words)


def _show_page(url: str) -> None:
    """Tell where a page is, and leave time to look at it."""
    print(f'the status page of the far proxy: {url}')
    if sys.stdin.isatty():
        input('It is there until you press Enter. ')


def main() -> None:
    """Show everything; the exit status is 1 if something is broken."""
    arguments = _arguments()
    for theme in _THEMES:
        importlib.import_module(f'demo.{theme}')
    # What was started and made is taken away then, too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    started = time.monotonic()
    rows: list[scene.Row] = []
    waiting, broken = [], []
    with scene.Scene(arguments.size * images.MIB) as here:
        for image in here.images:
            print(
                f'{image.path.name}: {image.size:,} bytes, '
                f'{image.path.stat().st_blocks * 512:,} on disk'
            )
        print(f'{here.qcow2.path.name}: {_check_qcow2(here)}\n')
        for title, function in scene.ACTS:
            try:
                rows.extend(function(here))
            except scene.Waits as why:
                waiting.append(f'{title} wait for {why}')
            except (scene.Broken, exceptions.TransferError) as why:
                broken.append(f'{title}: {why}')
        _report(rows, waiting)
        copies = sum(row.copied is not None for row in rows)
        print(f'\n{copies} copies in {time.monotonic() - started:.0f} s')
        if here.page:
            _show_page(here.page)
    if broken:
        sys.exit('\n'.join(f'BROKEN: {words}' for words in broken))


main()
