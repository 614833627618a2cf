# SPDX-License-Identifier: Apache-2.0
"""Numbers with units, to read and to write."""

from __future__ import annotations

import argparse
import re

_FACTORS = {'': 1, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
_SECONDS = {'': 1, 's': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}


def byte_count(text: str) -> int:
    """Parse bytes: a number, perhaps with K, M, G or T (times 1024 each)."""
    match = re.fullmatch(r'([0-9]{1,18})(?:([KMGT])(?:iB)?)?', text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no number of bytes; for example 1048576, 500M, 2G'
        )
    return int(match[1]) * _FACTORS[match[2] or '']


def seconds(text: str) -> float:
    """Parse a time: a number, perhaps with s, m, h, d or w."""
    match = re.fullmatch(r'([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdw]?)', text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no time; for example 90, 45s, 30m, 12h, 7d'
        )
    return float(match[1]) * _SECONDS[match[2]]


def human_size(count: float) -> str:
    """Write bytes for people."""
    if count < 1024:
        return f'{count:.0f} B'
    for unit in ('KiB', 'MiB', 'GiB', 'TiB'):
        count /= 1024
        if count < 1024:
            return f'{count:.1f} {unit}'
    return f'{count / 1024:.1f} PiB'


def human_time(value: float) -> str:
    """Write seconds as minutes and seconds, or with hours before."""
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours}:{minutes:02}:{rest:02}'
    return f'{minutes}:{rest:02}'


def human_age(value: float) -> str:
    """Write seconds in the largest unit that fits."""
    for unit, length in (('d', 86400), ('h', 3600), ('m', 60)):
        if value >= length:
            return f'{value / length:.0f}{unit}'
    return f'{max(0.0, value):.0f}s'
