# SPDX-License-Identifier: Apache-2.0
"""What is seeded, on disk, so that a restart goes on with it.

Two files for each seed in ``<state_path>/seeds``, both named after the
info-hash: the torrent, and a JSON object that is written after it::

    {"version": 1, "path": ..., "added": ..., "uploaded": ...}

They replace their predecessors atomically, so a process that is killed
leaves the old or the new. A record of another version, or one that is
damaged, is reported and left alone; half of one is taken away.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import re

from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer import oserrors
from oslo_transfer.service import listening
from oslo_transfer import statefile

LOG = logging.getLogger(__name__)

_VERSION = 1
_NAME = re.compile(r'([0-9a-f]{40}|[0-9a-f]{64})(\.json|\.torrent)(\.new)?')
_MAX_RECORD = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Record:
    """One seed.

    :ivar meta: its torrent
    :ivar path: its file
    :ivar added: when it was handed over, in seconds of the Unix clock
    :ivar uploaded: bytes that were sent of it
    """

    meta: metainfo.Metainfo
    path: str
    added: float
    uploaded: int = 0


class Records:
    """The records in one directory, which is this process's alone.

    :param directory: is made if needed
    :raises Unavailable: another process uses it
    :raises TransferError: it cannot be used
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        with oserrors.os_errors(f'making {directory}'):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        self._lock = listening.Lock(os.path.join(directory, 'lock'), directory)

    def close(self) -> None:
        """Let another process use the directory."""
        self._lock.close()

    def load(self) -> list[Record]:
        """All records that can be used, oldest first.

        :raises TransferError: the directory cannot be read
        """
        with oserrors.os_errors(f'reading {self._directory}'):
            self._sweep()
            names = sorted(os.listdir(self._directory))
        found = []
        for name in names:
            if not name.endswith('.json') or not _NAME.fullmatch(name):
                continue
            path = os.path.join(self._directory, name)
            try:
                found.append(_load(path))
            except statefile.UNUSABLE as exc:
                LOG.warning('the record %s cannot be used: %s', path, exc)
        return sorted(found, key=lambda record: record.added)

    def save(self, record: Record, *, new: bool) -> None:
        """Write a record.

        :param new: write its torrent too, and make both durable
        :raises TransferError: it cannot be written
        """
        path = self._path(record)
        fields = {
            'version': _VERSION,
            'path': record.path,
            'added': record.added,
            'uploaded': record.uploaded,
        }
        with oserrors.os_errors(f'writing {path}.json'):
            if new:
                statefile.write(f'{path}.torrent', record.meta.data)
            # What is lost of the rest in a power cut is a counter.
            data = json.dumps(fields).encode()
            statefile.write(f'{path}.json', data, durable=new)

    def remove(self, record: Record) -> None:
        """Take a record away.

        :raises TransferError: it cannot be removed
        """
        path = self._path(record)
        for name in (f'{path}.json', f'{path}.torrent'):
            with (
                oserrors.os_errors(f'removing {name}'),
                contextlib.suppress(FileNotFoundError),
            ):
                os.unlink(name)

    def _path(self, record: Record) -> str:
        return os.path.join(self._directory, record.meta.info_hash)

    def _sweep(self) -> None:
        """Remove what a process has left that was killed while it wrote."""
        names = set(os.listdir(self._directory))
        for name in names:
            match = _NAME.fullmatch(name)
            if match and (
                match[3]
                or (match[2] == '.torrent' and f'{match[1]}.json' not in names)
            ):
                os.unlink(os.path.join(self._directory, name))


def _load(path: str) -> Record:
    fields = json.loads(_read(path, _MAX_RECORD))
    if not isinstance(fields, dict):
        raise ValueError('it is no JSON object')
    if fields['version'] != _VERSION:
        raise ValueError(f'version {fields["version"]} is not {_VERSION}')
    file, added, uploaded = (
        fields[name] for name in ('path', 'added', 'uploaded')
    )
    if not (isinstance(file, str) and isinstance(uploaded, int)):
        raise ValueError('a field is of another kind')
    if not (isinstance(added, float | int) and math.isfinite(added)):
        raise ValueError('"added" is no time')
    stem = path.removesuffix('.json')
    meta = metainfo.parse(
        _read(f'{stem}.torrent', metainfo.MAX_BYTES),
        pinned=os.path.basename(stem),
    )
    return Record(meta, file, float(added), max(0, uploaded))


def _read(path: str, most: int) -> bytes:
    with open(path, 'rb') as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError('it is too large')
    return data
