# SPDX-License-Identifier: Apache-2.0
"""Progress bars, and the table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import sys
import time

_WIDTH = 30
_LABEL = 34


class Bar:
    """One line that shows a copy as it goes; nothing if not on a terminal.

    :param label: what is copied
    :param size: all bytes
    """

    def __init__(self, label: str, size: int) -> None:
        self._label = label.ljust(_LABEL)
        self._size = size
        self._started = time.monotonic()
        self._live = sys.stdout.isatty()
        self(0, 0)

    def __call__(self, _chunk: int, total: int) -> None:
        """Show so many bytes; fits ``copy(progress=)``."""
        if not self._live:
            return
        share = min(1.0, total / self._size)
        full = round(share * _WIDTH)
        rate = total / max(0.001, time.monotonic() - self._started) / 1e6
        print(
            f'\r{self._label} [{"#" * full:{_WIDTH}}] {share:4.0%} '
            f'{rate:6.0f} MB/s',
            end='',
            flush=True,
        )

    def end(self, words: str) -> None:
        """Put words in the place of the bar."""
        if self._live:
            print('\r\x1b[K', end='')
        print(f'{self._label} {words}', flush=True)


def origins(found: Mapping[str, int]) -> str:
    """Where bytes came from."""
    return ', '.join(
        f'{name} {count / 1e6:.0f} MB' for name, count in found.items()
    )


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as needed; those with numbers to the right."""
    columns = list(zip(head, *lines, strict=True))
    padded = []
    for column in columns:
        width = max(map(len, column))
        numbers = all(
            cell.replace('.', '').replace(',', '').isdigit()
            for cell in column[1:]
            if cell
        )
        padded.append(
            [
                cell.rjust(width) if numbers else cell.ljust(width)
                for cell in column
            ]
        )
    rows = ['  '.join(row).rstrip() for row in zip(*padded, strict=True)]
    return '\n'.join([rows[0], '-' * max(map(len, rows)), *rows[1:]])
