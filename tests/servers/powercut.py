# SPDX-License-Identifier: Apache-2.0
"""What a disk may hold when the power is cut at some operation.

Of a file what was written before its last flush is there; of what was
written later any part, by pieces of 4 KiB, and so with changes of its size
and with holes. Changes of a directory happen in order, but only those that
were flushed need to have happened; a file that is moved is in one directory
or in the other. That is less than the file systems of
Linux promise.
"""

from __future__ import annotations

import os

PIECE = 4096
_NAMES = ('mkdir', 'create', 'unlink', 'rmdir', 'rename')
_CONTENTS = ('write', 'size', 'zero')


class Cut:
    """The power is cut after some operations.

    :param log: the operations, see :mod:`tests.servers.cutfs`
    :param rng: decides what of the rest is there; see also ``odds``
    :param odds: of each part of it to be there, from 0 to 1
    """

    def __init__(self, log, rng, odds):
        self._rng = rng
        self._odds = odds
        self._names = {'/': None}
        self._files = {}
        self._change_names(log)
        self._change_files(log)

    def _change_names(self, log):
        for name, path, *rest in self._changes_of_names(log):
            touched = (path, *rest) if name == 'rename' else (path,)
            if any(
                os.path.dirname(each) not in self._names for each in touched
            ):
                continue  # It was lost with the directory.
            if name == 'mkdir':
                self._names[path] = None
            elif name == 'create':
                self._names[path] = rest[0]
            elif name == 'rename':
                self._names[rest[0]] = self._names.pop(path)
            else:
                # Of a directory that is gone nothing is left.
                self._names = {
                    each: number
                    for each, number in self._names.items()
                    if each != path and not each.startswith(f'{path}/')
                }

    def _changes_of_names(self, log):
        """Those that have happened, in order."""
        flushed = self._flushed_names(log)
        ended = set()
        for index, operation in enumerate(log):
            if operation[0] in _NAMES:
                directory = os.path.dirname(operation[1])
                safe = index < flushed.get(directory, -1)
                if not (safe or self._happens()):
                    ended.add(directory)
                if directory not in ended:
                    yield operation

    def _flushed_names(self, log):
        """Up to where the changes of each directory are safe."""
        flushed = {}
        moved = {}
        for index, (name, path, *rest) in enumerate(log):
            if name == 'rename':
                # It is one change of two directories.
                moved.setdefault(os.path.dirname(rest[0]), []).append(
                    (os.path.dirname(path), index + 1)
                )
            elif name == 'syncdir':
                for directory, end in (*moved.pop(path, ()), (path, index)):
                    flushed[directory] = max(end, flushed.get(directory, 0))
        return flushed

    def _happens(self):
        return self._rng.random() < self._odds

    def _change_files(self, log):
        flushed = {
            operation[1]: index
            for index, operation in enumerate(log)
            if operation[0] == 'sync'
        }
        for index, operation in enumerate(log):
            if operation[0] in _CONTENTS:
                name, number, *rest = operation
                content = self._files.setdefault(number, bytearray())
                safe = index < flushed.get(number, -1)
                getattr(self, f'_{name}')(content, safe, *rest)

    def _write(self, content, safe, offset, data):
        end = offset + len(data)
        for start in range(offset - offset % PIECE, end, PIECE):
            if not (safe or self._happens()):
                continue
            first, last = max(start, offset), min(start + PIECE, end)
            if len(content) < last:
                content.extend(bytes(last - len(content)))
            content[first:last] = data[first - offset : last - offset]

    def _size(self, content, safe, size):
        if safe or self._happens():
            del content[size:]
            content.extend(bytes(size - len(content)))

    def _zero(self, content, safe, offset, length):
        if safe or self._happens():
            end = min(offset + length, len(content))
            content[offset:end] = bytes(max(0, end - offset))

    def build(self, directory):
        """Make the files as they are afterwards."""
        for path, number in self._names.items():
            place = f'{directory}{path}'
            if number is None:
                os.makedirs(place, exist_ok=True)
            else:
                with open(place, 'wb') as file:
                    file.write(self._files.get(number, b''))
