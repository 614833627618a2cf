# SPDX-License-Identifier: Apache-2.0
"""Ranges of bytes that a request asks for: RFC 9110, section 14."""

from __future__ import annotations

import re

#: The most ranges that are answered one by one.
MAX_RANGES = 16

# More digits than that are no place in any image; int() would take time.
_ONE = re.compile(r'([0-9]{1,30})-([0-9]{0,30})|-([0-9]{1,30})')
_UNIT = 'bytes='
# What nearly all ask for.
_SIMPLE = re.compile(r'bytes=([0-9]{1,18})-([0-9]{1,18})')

#: Bytes of an image: from the first to the one behind the last.
Span = tuple[int, int]


def spans(value: str, size: int) -> list[Span] | None:
    """What a Range header asks for.

    A server may ignore the header (14.2), and does: where it is malformed,
    where nothing can be given because the image is empty, and where its
    ranges are many, overlap or are out of order, for those are a way to
    have the same bytes sent again and again.

    :param size: of the image, in bytes
    :returns: in order and apart; [] where nothing of it is in the image;
        None to ignore it
    """
    simple = _SIMPLE.fullmatch(value)
    if simple is not None:
        start, last = int(simple[1]), int(simple[2])
        if start <= last < size:
            return [(start, last + 1)]
    if value[: len(_UNIT)].lower() != _UNIT or not size:
        return None
    asked = value[len(_UNIT) :].split(',', MAX_RANGES)
    if len(asked) > MAX_RANGES:
        return None
    found: list[Span] = []
    valid = False
    for one in asked:
        one = one.strip(' \t')
        if not one:
            continue
        span = _span(one, size)
        if span is None:
            return None
        valid = True
        if span[0] >= span[1]:
            continue
        if found and span[0] < found[-1][1]:
            return None
        found.append(span)
    return found if valid else None


def _span(one: str, size: int) -> Span | None:
    """Empty where it is not in the image; None where it is malformed."""
    match = _ONE.fullmatch(one)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return max(0, size - int(suffix)), size
    start = int(first)
    if not last:
        return start, size
    end = int(last) + 1
    return None if end <= start else (start, end if end < size else size)
