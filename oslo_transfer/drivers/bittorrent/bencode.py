# SPDX-License-Identifier: Apache-2.0
"""Bencoding, the format of torrent files (BEP 3), in its canonical form.

What decodes here encodes to the same bytes again: keys are sorted and not
repeated, numbers have no leading zeros. So two readers cannot understand
the same file differently, and a part of it can be hashed by encoding it.
"""

from __future__ import annotations

import re
import typing

from oslo_transfer import exceptions

#: A number, bytes, a list or a dictionary.
Value: typing.TypeAlias = 'int | bytes | list[Value] | dict[bytes, Value]'

_MAX_DEPTH = 32
_MAX_VALUES = 100_000
# All that is sure to fit 64 bits.
_INTEGER = re.compile(rb'i(0|-?[1-9][0-9]{0,17})e')
_LENGTH = re.compile(rb'(0|[1-9][0-9]{0,17}):')


def decode(data: bytes) -> Value:
    """Decode exactly one value.

    :raises ProtocolError: it is not canonical bencoding, or it is nested
        deeper or has more values than any torrent of one file needs
    """
    decoder = _Decoder(data)
    value = decoder.value(_MAX_DEPTH)
    if decoder.position != len(data):
        raise decoder.error('something stands behind the end')
    return value


class _Decoder:
    """One run over the data."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _MAX_VALUES
        self.position = 0

    def value(self, depth: int) -> Value:
        """Decode the value that begins here."""
        self._left -= 1
        if not self._left:
            raise self.error(f'more than {_MAX_VALUES} values')
        if not depth:
            raise self.error(f'nested deeper than {_MAX_DEPTH}')
        start = self._data[self.position : self.position + 1]
        if start == b'i':
            match = _INTEGER.match(self._data, self.position)
            if match is None:
                raise self.error('not a canonical number of at most 18 digits')
            self.position = match.end()
            return int(match[1])
        if start == b'l':
            return self._list(depth)
        if start == b'd':
            return self._dictionary(depth)
        return self._string()

    def _list(self, depth: int) -> list[Value]:
        found = []
        self.position += 1
        while not self._at_end():
            found.append(self.value(depth - 1))
        return found

    def _dictionary(self, depth: int) -> dict[bytes, Value]:
        found: dict[bytes, Value] = {}
        last: bytes | None = None
        self.position += 1
        while not self._at_end():
            key = self._string()
            if last is not None and key <= last:
                raise self.error('keys are repeated or not sorted')
            last = key
            found[key] = self.value(depth - 1)
        return found

    def _at_end(self) -> bool:
        if self._data[self.position : self.position + 1] != b'e':
            return False
        self.position += 1
        return True

    def _string(self) -> bytes:
        match = _LENGTH.match(self._data, self.position)
        if match is None:
            raise self.error('neither a value nor the end of one')
        end = match.end() + int(match[1])
        if end > len(self._data):
            raise self.error('bytes are missing')
        self.position = end
        return self._data[match.end() : end]

    def error(self, text: str) -> exceptions.ProtocolError:
        """An error that says where."""
        return exceptions.ProtocolError(
            f'malformed bencoding at byte {self.position}: {text}'
        )


def encode(value: Value) -> bytes:
    """Encode a value; keys are sorted."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b''.join(parts)


def _encode(value: Value, parts: list[bytes]) -> None:
    if isinstance(value, int):
        parts.append(b'i%de' % value)
    elif isinstance(value, bytes):
        parts.append(b'%d:' % len(value))
        parts.append(value)
    elif isinstance(value, list):
        parts.append(b'l')
        for each in value:
            _encode(each, parts)
        parts.append(b'e')
    else:
        parts.append(b'd')
        for key, each in sorted(value.items()):
            _encode(key, parts)
            _encode(each, parts)
        parts.append(b'e')
