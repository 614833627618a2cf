# SPDX-License-Identifier: Apache-2.0
"""fio's files of input and output, versions 2 and 3.

See "Trace file format v2" and "v3" in fio's HOWTO. Version 3 has a time in
each line, in microseconds since the start. In version 2 lines say how long to
wait, by the HOWTO in microseconds since the last one. fio 3.33 takes them for
milliseconds since its start, so they are read, but not written. Reading is
strict: what fio would only complain about is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import re
import typing

from oslo_transfer import exceptions

#: The largest file that is read, in bytes.
MAX_BYTES = 64 << 20
#: The most lines that are read.
MAX_LINES = 1 << 18
#: The versions that are read and written.
VERSIONS = (2, 3)

_HEAD = re.compile(rb'fio version ([0-9]{1,9}) iolog')
# What fio takes in one go, with its end.
_MAX_LINE = 4094
_NAME = re.compile(rb'[^\x00-\x20\x7f]{1,255}')
_NUMBER = re.compile(rb'[0-9]{1,19}')
# An off_t, and the unsigned int in which fio has lengths.
_MAX_OFFSET = (1 << 63) - 1
_MAX_LENGTH = (1 << 32) - 1
# Shorter waits are ignored, in microseconds.
_MIN_WAIT = 100
_FILE_ACTIONS = ('add', 'open', 'close')
_IO_ACTIONS = ('read', 'write', 'trim', 'sync', 'datasync')


class Entry(typing.NamedTuple):
    """Something that was done to a file.

    :ivar time: microseconds since the start
    :ivar name: of the file
    :ivar action: ``read``, ``write``, ``trim``, ``sync`` or ``datasync``
    :ivar offset: in bytes
    :ivar length: in bytes
    """

    time: int
    name: str
    action: str
    offset: int
    length: int


def parse(data: bytes) -> list[Entry]:
    """What was done, in the order of the file.

    :raises ProtocolError: it is no such file, or too large
    :raises CapabilityMissing: it is of another version
    """
    if len(data) > MAX_BYTES:
        raise too_large()
    head, *lines = data.split(b'\n')
    found = _HEAD.fullmatch(head.rstrip())
    if found is None:
        raise exceptions.ProtocolError('this is no iolog of fio')
    version = int(found[1])
    if version not in VERSIONS:
        raise exceptions.CapabilityMissing(
            f'an iolog of version {version}; 2 and 3 can be read'
        )
    if lines and not lines[-1]:
        del lines[-1]
    if len(lines) > MAX_LINES:
        raise exceptions.ProtocolError(
            f'more than the {MAX_LINES} lines that an iolog may have'
        )
    return list(_Parser(version).entries(lines))


class _Parser:
    def __init__(self, version: int) -> None:
        self._version = version
        # In version 2, from the sum of what was waited.
        self._time = 0
        self._line = 1
        # Files that were added, and whether each is open.
        self._files: dict[str, bool] = {}

    def entries(self, lines: list[bytes]) -> Iterator[Entry]:
        for self._line, line in enumerate(lines, 2):
            if len(line) > _MAX_LINE:
                raise self._bad('it is too long')
            words = line.split()
            if self._version == 3:
                if not words:
                    raise self._bad('it is empty')
                self._time = self._number(words.pop(0), _MAX_OFFSET, 'time')
            if len(words) == 2:
                self._manage(*words)
            elif len(words) == 4:
                entry = self._entry(*words)
                if entry is not None:
                    yield entry
            else:
                raise self._bad('it has too few or too many words')

    def _manage(self, raw_name: bytes, raw_action: bytes) -> None:
        name, action = self._name(raw_name), self._word(raw_action)
        if action not in _FILE_ACTIONS:
            raise self._bad(f'{action!r} cannot be done to a file')
        if action != 'add':
            self._known(name)
        self._files[name] = action == 'open'

    def _entry(
        self,
        raw_name: bytes,
        raw_action: bytes,
        raw_offset: bytes,
        raw_length: bytes,
    ) -> Entry | None:
        name, action = self._name(raw_name), self._word(raw_action)
        self._known(name)
        offset = self._number(raw_offset, _MAX_OFFSET, 'offset')
        length = self._number(raw_length, _MAX_LENGTH, 'length')
        if action == 'wait' and self._version == 2:
            self._time += offset if offset >= _MIN_WAIT else 0
            if self._time > _MAX_OFFSET:
                raise self._bad('it waits for too long')
            return None
        if action not in _IO_ACTIONS:
            raise self._bad(
                f'{action!r} is unknown in version {self._version}'
            )
        if not self._files[name]:
            raise self._bad('its file is not open')
        if offset + length > _MAX_OFFSET:
            raise self._bad('it ends behind the end of any file')
        return Entry(self._time, name, action, offset, length)

    def _known(self, name: str) -> None:
        if name not in self._files:
            raise self._bad('its file was not added')

    def _name(self, raw: bytes) -> str:
        if not _NAME.fullmatch(raw):
            raise self._bad('the name of its file is too long, or binary')
        return raw.decode('utf-8', 'surrogateescape')

    def _word(self, raw: bytes) -> str:
        return raw[:16].decode('ascii', 'replace')

    def _number(self, raw: bytes, most: int, what: str) -> int:
        if not _NUMBER.fullmatch(raw) or (value := int(raw)) > most:
            raise self._bad(f'its {what} is no number, or too large')
        return value

    def _bad(self, why: str) -> exceptions.ProtocolError:
        return exceptions.ProtocolError(
            f'line {self._line} of the iolog: {why}'
        )


def too_large() -> exceptions.ProtocolError:
    """What is raised for a file that is too large to be read."""
    return exceptions.ProtocolError(
        f'more than the {MAX_BYTES} bytes that an iolog may have'
    )


def write(entries: Iterable[Entry], version: int = 3) -> bytes:
    """An iolog of entries, that are in the order of their times.

    :param version: 3, or 2 for the order alone
    :raises ValueError: the name of a file cannot be written
    """
    entries = list(entries)
    names = list(dict.fromkeys(entry.name for entry in entries))
    for name in names:
        if not _NAME.fullmatch(name.encode('utf-8', 'surrogateescape')):
            raise ValueError(f'no name for an iolog: {name!r}')
    lines = [f'fio version {version} iolog']

    def add(when: int, *words: str | int) -> None:
        times = [when] if version == 3 else []
        lines.append(' '.join(map(str, [*times, *words])))

    for name in names:
        add(0, name, 'add')
        add(0, name, 'open')
    for entry in entries:
        add(*entry)
    for name in names:
        add(entries[-1].time, name, 'close')
    return ('\n'.join(lines) + '\n').encode('utf-8', 'surrogateescape')
