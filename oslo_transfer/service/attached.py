# SPDX-License-Identifier: Apache-2.0
"""What is attached, on disk, so that a restart goes on with it.

A directory for each in ``<state_path>/exports``, named after it. It has the
socket, and a file ``record`` that is written before anything is started::

    {"version": 1, "lun": {...}, "writing": ..., "added": ...}

and a file ``secret`` with the password for CHAP where there is one: after a
restart nobody else is there to give it. Both can be read by the service's
user alone, like those that the initiator of the kernel keeps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import typing

from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import qemunbd
from oslo_transfer.drivers.iscsi import userspace
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors
from oslo_transfer.service import listening
from oslo_transfer import statefile

LOG = logging.getLogger(__name__)

_VERSION = 1
_NAME = re.compile('[0-9a-f]{32}')
_RECORD = 'record'
_SECRET = 'secret'  # noqa: S105 (the name of a file)


@dataclasses.dataclass(frozen=True)
class Record:
    """One attachment.

    :ivar id: its name
    :ivar lun: what is attached, with the password
    :ivar writing: whether it takes writes
    :ivar added: when it was asked for, in seconds of the Unix clock
    """

    id: str
    lun: _lun.Lun
    writing: bool
    added: float


class Records:
    """The records in one directory, which is this process's alone.

    :param directory: is made if needed
    :param gid: whose members may connect to the sockets, or None
    :raises Unavailable: another process uses it
    :raises TransferError: it cannot be used
    """

    def __init__(self, directory: str, gid: int | None) -> None:
        self._directory = directory
        self._gid = gid
        with oserrors.os_errors(f'making {directory}'):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            if gid is not None:
                # The group gets through to the sockets, whatever the umask.
                os.chmod(directory, 0o711)  # noqa: S103 (no listing)
        self._lock = listening.Lock(os.path.join(directory, 'lock'), directory)

    def close(self) -> None:
        """Let another process use the directory."""
        self._lock.close()

    def path(self, identifier: str) -> str:
        """The directory of one attachment."""
        return os.path.join(self._directory, identifier)

    def load(self) -> list[Record]:
        """All records that can be used.

        What was cut short while it was made is removed.

        :raises StorageError: the directory cannot be read
        """
        with oserrors.os_errors(f'reading {self._directory}'):
            names = sorted(os.listdir(self._directory))
        found = []
        for name in names:
            if not _NAME.fullmatch(name):
                continue
            path = self.path(name)
            if not os.path.exists(os.path.join(path, _RECORD)):
                self.remove(name)
                continue
            try:
                found.append(_load(path))
            except (
                exceptions.TransferError,
                OSError,
                ValueError,
                KeyError,
                TypeError,
                RecursionError,
            ) as exc:
                LOG.warning('the record in %s cannot be used: %s', path, exc)
        return found

    def add(self, record: Record) -> None:
        """Make the directory and the record, durably.

        :raises InvalidEndpoint: its name is none
        :raises AlreadyExists: there is one of that name
        :raises TransferError: it cannot be written
        """
        if not _NAME.fullmatch(record.id):
            raise exceptions.InvalidEndpoint('"id" is no attachment')
        path = self.path(record.id)
        with oserrors.os_errors(f'making {path}'):
            os.mkdir(path, 0o700)
        try:
            with oserrors.os_errors(f'writing to {path}'):
                if self._gid is not None:
                    os.chown(path, -1, self._gid)
                    os.chmod(path, 0o710)  # noqa: S103 (no listing)
                if record.lun.password is not None:
                    secret = record.lun.password.encode()
                    statefile.write(os.path.join(path, _SECRET), secret)
                statefile.write(os.path.join(path, _RECORD), _data(record))
                localfs.sync_directory(self._directory)
        except BaseException:
            self.remove(record.id)
            raise

    def save(self, record: Record) -> None:
        """Write a record anew, but for the password; durably.

        :raises TransferError: it cannot be written
        """
        path = self.path(record.id)
        with oserrors.os_errors(f'writing to {path}'):
            statefile.write(os.path.join(path, _RECORD), _data(record))

    def open_up(self, identifier: str) -> None:
        """Let the group connect to the socket, once it is there."""
        path = os.path.join(self.path(identifier), qemunbd.SOCKET)
        with oserrors.os_errors(f'changing {path}'):
            os.chmod(path, 0o600 if self._gid is None else 0o660)
            if self._gid is not None:
                os.chown(path, -1, self._gid)

    def remove(self, identifier: str) -> None:
        """Take a record and its directory away; idempotent.

        :raises TransferError: it cannot be removed
        """
        path = self.path(identifier)
        # The record is the last, so that a restart tries again.
        new = (_SECRET + statefile.NEW, _RECORD + statefile.NEW)
        names = (_SECRET, *new, _RECORD)
        with oserrors.os_errors(f'removing {path}'):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(path, name))
        qemunbd.remove(path)


def _load(path: str) -> Record:
    fields = json.loads(_read(path, _RECORD))
    if not isinstance(fields, dict):
        raise ValueError('it is no JSON object')
    if fields['version'] != _VERSION:
        raise ValueError(f'version {fields["version"]} is not {_VERSION}')
    password = None
    with contextlib.suppress(FileNotFoundError):
        password = _read(path, _SECRET)
    writing, added = fields['writing'], fields['added']
    if not isinstance(writing, bool) or not isinstance(added, float | int):
        raise ValueError('a field is of another kind')
    return Record(
        os.path.basename(path),
        userspace.from_json(fields['lun'], password),
        writing,
        float(added),
    )


def _data(record: Record) -> bytes:
    fields = {
        'version': _VERSION,
        'lun': userspace.as_json(record.lun),
        'writing': record.writing,
        'added': record.added,
    }
    return json.dumps(fields).encode()


def _read(path: str, name: str) -> str:
    with open(os.path.join(path, name)) as file:
        return file.read()


def describe(record: Record) -> dict[str, typing.Any]:
    """A record for those who ask; without a secret."""
    return {
        'id': record.id,
        'source': record.lun.where,
        'read_only': not record.writing,
    }
